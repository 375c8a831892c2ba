"""Masks as COCO's files write them: polygons, or run lengths, plain or compressed to text.

Run lengths go down the columns, from left to right: the number of pixels outside, then inside, then outside again.
The text has 6 bits a character, from "0" on: 5 of the number, and one that tells whether it goes on; from the fourth
number on it is the difference to the last but one.

pycocotools draws the polygons, so that masks are what COCO's own figures are computed with. It trusts what it is given
(text that ends within a number, or lengths that don't fill the image, make it read or leave memory that isn't its
own), so all of it is checked here first.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_api

from segweave.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_FARTHEST = 100_000
"""How far from the image's corner a polygon may reach, in pixels: pycocotools walks along all of its outline."""
_LONGEST_NUMBER = 7
"""Characters: 35 bits are more than the pixels of any image."""


class RunLengths(NamedTuple):
    """A mask as run lengths."""

    height: int
    width: int
    counts: str | IntArray
    """Compressed, or plain."""


Segmentation = list[FloatArray] | RunLengths
"""Polygons (x1, y1, x2, y2, ...) that together cover the object, or run lengths."""


def parse_segmentation(value: Any) -> Segmentation | None:
    """Reads an annotation's "segmentation", without yet looking into the run lengths.

    Args:
        value: From JSON: a list of polygons, or `size` (height and width) and `counts`.

    Returns:
        The mask, or None where there is none: the value is None or an empty list, as tools write it that know boxes
        alone.

    Raises:
        InputError: It has another form; the message gives the value and what was expected.
    """
    if value is None or value == []:
        return None
    if isinstance(value, list):
        return [_parse_polygon(each) for each in value]
    if not isinstance(value, dict) or "counts" not in value or "size" not in value:
        raise InputError(f"segmentation {_shortened(value)}: expected polygons, or size and counts")
    size, counts = _numbers(value["size"]), value["counts"]
    if size is None or len(size) != 2 or size.dtype.kind != "i" or size.min() < 1:
        raise InputError(f"segmentation: size {_shortened(value['size'])}: expected [height, width]")
    if not isinstance(counts, str):
        plain = _numbers(counts)
        if plain is None or plain.dtype.kind != "i" or plain.min(initial=0) < 0:
            raise InputError(f"segmentation: counts {_shortened(counts)}: expected text, or a list of numbers from 0")
        counts = plain.astype(np.int64)
    return RunLengths(int(size[0]), int(size[1]), counts)


def run_lengths(segmentation: Segmentation, height: int, width: int) -> IntArray:
    """The run lengths of a mask, which fill the image.

    Args:
        segmentation: The mask.
        height: The image's.
        width: The image's.

    Returns:
        (R,): pixels outside, inside, outside, ... whose sum is `height * width`.

    Raises:
        InputError: They are broken, or belong to an image of another size; the message gives the value and what was
            expected.
    """
    if not isinstance(segmentation, RunLengths):
        return _decompress(_draw(segmentation, height, width)["counts"])
    if (segmentation.height, segmentation.width) != (height, width):
        raise InputError(
            f"run lengths of {segmentation.width}x{segmentation.height} pixels: expected {width}x{height}, as the image"
        )
    counts = segmentation.counts
    lengths = _decompress(_as_bytes(counts)) if isinstance(counts, str) else counts
    if lengths.min(initial=0) < 0:
        raise InputError(f"run lengths with {lengths.min()} among them: expected 0 and above")
    if lengths.sum() != height * width:
        raise InputError(f"run lengths with the sum {lengths.sum()}: expected {height * width}, as {width}x{height}")
    return lengths


def as_coco(lengths: IntArray, height: int, width: int) -> dict[str, Any]:
    """A mask from what `run_lengths` gives, in COCO's compressed form: `size` and `counts`, text that JSON can hold."""
    packed = coco_api.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def encode(mask: npt.NDArray[np.uint8 | np.bool_]) -> dict[str, Any]:
    """A mask (H, W), 0 outside, in the same form as `as_coco`."""
    packed = coco_api.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": packed["counts"].decode("ascii")}


def decode(masks: Sequence[IntArray], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draws masks from what `run_lengths` gives.

    Only the columns that a mask reaches are written: objects are small, and images hold hundreds of them.

    Returns:
        (N, height, width): 1 inside.
    """
    drawn = np.zeros((len(masks), height, width), np.uint8)
    for mask, lengths in zip(drawn, masks, strict=True):
        inside = 2 * np.flatnonzero(lengths[1::2]) + 1  # the runs inside the mask
        if len(inside) == 0:
            continue
        ends = np.cumsum(lengths)
        start, end = int(ends[inside[0] - 1]), int(ends[inside[-1]])
        left, right = start // height, -(-end // height)
        columns = np.zeros((right - left) * height, np.uint8)
        runs = lengths[inside[0] : inside[-1] + 1]
        columns[start - left * height : end - left * height] = np.repeat(1 - np.arange(len(runs)) % 2, runs)
        mask[:, left:right] = columns.reshape(-1, height).T
    return drawn


def area(lengths: IntArray) -> int:
    """The number of pixels inside."""
    return int(lengths[1::2].sum())


def extent(lengths: IntArray, height: int) -> tuple[int, int, int, int]:
    """The smallest box around a mask with at least one pixel: left, top, right, bottom, the last two exclusive."""
    ends = np.cumsum(lengths)
    inside = 2 * np.flatnonzero(lengths[1::2]) + 1
    first, last = ends[inside - 1], ends[inside] - 1  # the first and the last pixel of each run
    left, right = int(first[0] // height), int(last[-1] // height) + 1
    if (
        first // height != last // height
    ).any():  # a run over two columns holds the foot of one and the head of another
        return left, 0, right, height
    return left, int((first % height).min()), right, int((last % height).max()) + 1


def _draw(polygons: list[FloatArray], height: int, width: int) -> dict[str, Any]:
    drawn: dict[str, Any] = coco_api.merge(coco_api.frPyObjects(polygons, height, width))
    return drawn


def _parse_polygon(value: Any) -> FloatArray:
    points = _numbers(value)
    if points is None or len(points) < 6 or len(points) % 2:
        raise InputError(f"polygon {_shortened(value)}: expected [x1, y1, x2, y2, x3, y3, ...], at least three points")
    if not np.abs(points).max() <= _FARTHEST:  # nor is NaN
        raise InputError(f"polygon {_shortened(value)}: expected pixels from -{_FARTHEST} to {_FARTHEST}")
    return points.astype(np.float64)


def _numbers(value: Any) -> npt.NDArray[Any] | None:
    """A list of numbers, (N,); None if it is anything else."""
    if not isinstance(value, list):
        return None
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return None
    return numbers if numbers.ndim == 1 and numbers.dtype.kind in "if" else None


def _as_bytes(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise InputError(f"run lengths {_shortened(text)}: expected COCO's compressed text") from None


def _decompress(text: bytes) -> IntArray:
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    goes_on = codes & 32 > 0
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or goes_on[-1]:
        raise InputError(f"run lengths {_shortened(text.decode('ascii'))}: expected COCO's compressed text")
    last = np.flatnonzero(~goes_on)  # each number's last character
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise InputError(f"run lengths {_shortened(text.decode('ascii'))}: expected numbers below the image's pixels")
    place = np.arange(len(codes)) - np.repeat(first, lengths)  # of a character within its number
    values = np.add.reduceat((codes & 31) << (5 * place), first)
    values -= np.where(codes[last] & 16, 1 << (5 * lengths), 0)  # two's complement
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _shortened(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
