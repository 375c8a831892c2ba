"""A picture of a data set at a glance: images beside their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segweave.data.colours import Colour
from segweave.data.labelled import LabelledSplit
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX
from segweave.reports.lettering import FONT_SIZE, legend, shortened, text_font

_BOX = (240, 240)  # what an image is made to fit into, in pixels
_GAP = 3  # between an image and its overlay
_MARGIN = 20
_CAPTION = 22  # height of the line under a pair
_TITLE_SIZE = 16
_INK, _FAINT = (30, 30, 30), (110, 110, 110)
_IGNORED: Colour = (60, 60, 60)
_STRENGTH = 0.6  # of the class's colour in the overlay


class _Pair(NamedTuple):
    picture: Image.Image
    """The image and the overlay side by side."""
    caption: str
    labels: set[int]
    """The labels that occur in it, invalid ones and "no object" aside."""


def draw_contact_sheet(
    datasets: Sequence[LabelledSplit], path: str | Path, *, most_images: int = 12, columns: int = 3
) -> None:
    """Saves a picture of images, spread evenly over the splits, each with its mask laid over it, and a legend.

    What is ignored is drawn dark grey, and so is what belongs to no object; objects have their boxes around them.
    Files that cannot be read, or do not fit together, are left out.

    Args:
        datasets: Splits of one data set, at least one.
        path: The PNG to write; its folder is made if need be.
        most_images: How many images to draw at most.
        columns: How many pairs of image and overlay stand in a row.

    Raises:
        InputError: The picture cannot be written.
    """
    pairs = _choose_pairs(datasets, most_images)
    rows = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    heights = [max(pair.picture.height for pair in row) + _CAPTION for row in rows]
    columns = max(min(columns, len(pairs)), 1)
    cell = 2 * _BOX[0] + _GAP
    width = 2 * _MARGIN + columns * cell + (columns - 1) * _MARGIN
    key = legend(_present(pairs, datasets[0]), width, inset=_MARGIN)
    header = _MARGIN + 24
    sheet = Image.new("RGB", (width, header + sum(heights) + (key.height or _MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    title_font, caption_font = text_font(_TITLE_SIZE, bold=True), text_font(FONT_SIZE)
    title = shortened(_title(datasets), title_font, width - 2 * _MARGIN)
    draw.text((_MARGIN, _MARGIN // 2), title, fill=_INK, font=title_font)
    top = header
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            left = _MARGIN + column * (cell + _MARGIN)
            sheet.paste(pair.picture, (left, top))
            caption = shortened(pair.caption, caption_font, cell, keep="end")
            draw.text((left, top + pair.picture.height + 3), caption, fill=_FAINT, font=caption_font)
        top += height
    sheet.paste(key, (0, top))
    _save(sheet, Path(path))


def _choose_pairs(datasets: Sequence[LabelledSplit], most_images: int) -> list[_Pair]:
    """Pairs spread evenly over all splits; one that cannot be drawn is replaced by the next."""
    candidates = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    pairs: list[_Pair] = []
    step = max(len(candidates) / most_images, 1)
    starts = [int(number * step) for number in range(min(most_images, len(candidates)))]
    for start, end in zip(starts, [*starts[1:], len(candidates)], strict=True):
        for dataset, index in candidates[start:end]:
            try:
                pairs.append(_draw_pair(dataset, index))
                break
            except InputError:
                continue
    return pairs


def _draw_pair(dataset: LabelledSplit, index: int) -> _Pair:
    image, labels, boxes = dataset.labelled(index)
    scale = min(_BOX[0] / image.width, _BOX[1] / image.height)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    # Each pixel's colour is blended before it is made smaller: thin things keep their share.
    overlay = Image.fromarray(_overlay(np.asarray(image), labels, dataset)).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(overlay)
    for label, corners in boxes:
        left, top, right, bottom = (scale * edge for edge in corners)
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=dataset.palette[label])
    picture = Image.new("RGB", (2 * _BOX[0] + _GAP, size[1]), "white")
    picture.paste(image.resize(size, Image.Resampling.LANCZOS), (0, 0))
    picture.paste(overlay, (size[0] + _GAP, 0))
    valid = labels[(labels >= 0) & ((labels < len(dataset.classes)) | (labels == IGNORE_INDEX))]
    present = {*np.unique(valid).tolist(), *(label for label, _ in boxes)}  # an object may lie behind others
    return _Pair(picture, dataset.name(index), present)


def _overlay(pixels: NDArray[np.uint8], labels: NDArray[np.int64], dataset: LabelledSplit) -> NDArray[np.uint8]:
    """(H, W, 3) image and (H, W) labels -> (H, W, 3): the classes' colours over the image in grey."""
    grey = pixels.mean(axis=-1, keepdims=True)
    known = (labels >= 0) & (labels < len(dataset.classes))
    colours = np.array(dataset.palette, dtype=np.float64)[np.where(known, labels, 0)]  # (H, W, 3)
    blended = _STRENGTH * colours + (1 - _STRENGTH) * grey
    overlay: NDArray[np.uint8] = np.where(known[..., None], blended, 0.35 * grey).astype(np.uint8)
    return overlay


def _title(datasets: Sequence[LabelledSplit]) -> str:
    counts = ", ".join(f"{len(dataset)} {dataset.split}" for dataset in datasets)
    return f"{datasets[0].root.resolve().name}: {counts}"


def _present(pairs: Sequence[_Pair], dataset: LabelledSplit) -> list[tuple[str, Colour]]:
    """The names and colours of what occurs in the pairs."""
    present: set[int] = set().union(*(pair.labels for pair in pairs))
    entries = [(dataset.classes[k], dataset.palette[k]) for k in sorted(present - {IGNORE_INDEX})]
    return [*entries, ("ignored", _IGNORED)] if IGNORE_INDEX in present else entries


def _save(sheet: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from None
