"""Reading pictures and masks from files: every way of storing them that users have, one clear error for the rest."""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from torch import Tensor

from segweave.data.colours import Colour
from segweave.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""The file names' endings that are taken for images, in lower case; upper case counts too."""

ImageLike = str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Tensor

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_INTEGER_MODES = ("1", "L", "P", "I", *_SIXTEEN_BIT_MODES)
_ON_ITS_SIDE = (5, 6, 7, 8)
"""The EXIF orientations in which width and height change places."""


def list_images(folder: str | Path) -> list[Path]:
    """The image files of a folder (not of its subfolders), sorted by name; hidden files are left out.

    Raises:
        InputError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def image_size(path: str | Path) -> tuple[int, int]:
    """The size of a picture as it is meant to be seen (upright, as `read_image` gives it), from its header alone.

    No pixel is decoded: this is quick, and doesn't notice that a file breaks off later on.

    Returns:
        Width and height in pixels.

    Raises:
        InputError: The file is missing, empty, a folder, or not an image.
    """
    with _opened(path) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):  # by Pillow's version, its `size` is upright already or isn't
            width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        turned = _orientation(image, Path(path)) in _ON_ITS_SIDE
    return (height, width) if turned else (width, height)


def read_image(path: str | Path) -> Image.Image:
    """Reads a picture as it is meant to be seen: RGB, upright (its EXIF orientation is applied).

    Raises:
        InputError: The file is missing, not an image, truncated, or of a kind that has no 8-bit RGB counterpart.
    """
    image = _load(path)
    try:
        return to_rgb(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a picture of any mode to 8-bit RGB and turns it upright.

    Transparency is dropped, not blended. 16-bit grey keeps its full range: 0 to 65535 becomes 0 to 255.

    Args:
        image: Grey, grey with alpha, RGB, RGBA, palette, 1-bit, CMYK or 16-bit grey.

    Raises:
        InputError: The picture is of floating point, or holds integers beyond 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in (*_SIXTEEN_BIT_MODES, "I"):
        image = _sixteen_to_eight_bits(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns about the transparency that it drops
    if image.mode == "F":
        raise InputError("a floating-point image (mode F): expected 8 or 16 bits a channel")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(f"an image of mode {image.mode}: expected grey, RGB, palette or CMYK ({error})") from None


def read_mask(path: str | Path, palette: Sequence[Colour] | None = None) -> npt.NDArray[np.int64]:
    """Reads a mask: the value of each pixel, which is a class or a value to ignore.

    Grey, 1-bit, 16-bit and palette masks give their values (indices) as they are. A mask stored in colour is looked up
    in `palette`; without one it must be grey in colour's clothes (red = green = blue everywhere).

    Args:
        path: The mask's file.
        palette: The colour of each value: colour k stands for the value k. Only masks stored as RGB(A) use it.

    Returns:
        (H, W), the values.

    Raises:
        InputError: The file cannot be read, or has a colour that stands for no value.
    """
    image = _load(path)
    if image.mode == "LA":
        image = image.getchannel("L")
    if image.mode in _INTEGER_MODES:
        return np.asarray(image).astype(np.int64)
    if image.mode not in ("RGB", "RGBA"):
        raise InputError(f"{path}: a mask of mode {image.mode}: expected grey, palette or RGB")
    colours = np.asarray(image)[..., :3].astype(np.int64)  # (H, W, 3)
    if palette is not None:
        return _look_up(colours, palette, path)
    if (colours == colours[..., :1]).all():
        return colours[..., 0]
    y, x = np.argwhere((colours != colours[..., :1]).any(axis=-1))[0]
    raise InputError(
        f"{path}: a mask in colour, {_as_text(colours[y, x])} at x={x}, y={y}: expected one value a pixel, "
        "or a palette in dataset.yaml (palette: [[r, g, b], ...], one colour for each class)"
    )


def _load(path: str | Path) -> Image.Image:
    """Decodes all of a file, not only its header, and turns the picture upright."""
    with _opened(path) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file of which the header has been read; what is wrong with it, now or in the block, is an InputError."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder: expected an image file")
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        cause = "an empty file" if path.stat().st_size == 0 else "not an image, or of an unknown format"
        raise InputError(f"{path}: {cause}") from None
    except Exception as error:  # PIL's decoders answer broken files with errors of many types
        raise InputError(f"{path}: cannot be read as an image: {' '.join(str(error).split())}") from error


def _orientation(image: Image.Image, path: Path) -> int | None:
    """The EXIF orientation of an image of which only the header has been read."""
    exif = Image.Image.getexif(image)  # a PNG's own method decodes the pixels, to find what stands behind them
    if isinstance(image, PngImageFile) and ExifTags.Base.Orientation not in exif:
        exif.load(_png_exif(path))
    return exif.get(ExifTags.Base.Orientation)


def _png_exif(path: Path) -> bytes:
    """The EXIF block of a PNG file, before its pixels or behind them; empty if there is none."""
    with path.open("rb") as file:
        file.seek(8)  # past the signature
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(length)
            file.seek(length + 4, os.SEEK_CUR)  # past the chunk and its checksum
    return b""


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise InputError(f"grey values from {values.min()} to {values.max()}: expected 8 or 16 bits a channel")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 * 257


def _look_up(colours: npt.NDArray[np.int64], palette: Sequence[Colour], path: str | Path) -> npt.NDArray[np.int64]:
    """(H, W, 3) colours -> (H, W) their places in the palette."""
    weights = np.array([1 << 16, 1 << 8, 1])
    keys = np.array(palette, dtype=np.int64).reshape(-1, 3) @ weights
    order = np.argsort(keys, kind="stable")
    if len(repeated := np.flatnonzero(np.diff(keys[order]) == 0)):
        first, second = order[repeated[0]], order[repeated[0] + 1]
        colour = _as_text(palette[first])
        raise InputError(
            f"{path}: a mask in colour, but {first} and {second} have the same colour {colour} in the palette"
        )
    codes = colours @ weights  # (H, W)
    places = np.searchsorted(keys[order], codes).clip(max=len(keys) - 1)
    values: npt.NDArray[np.int64] = order[places]
    if len(unknown := np.argwhere(keys[values] != codes)):
        y, x = unknown[0]
        colour = _as_text(colours[y, x])
        raise InputError(
            f"{path}: colour {colour} at x={x}, y={y}: expected one of the palette's {len(palette)} colours"
        )
    return values


def _as_text(colour: Sequence[int] | npt.NDArray[np.int64]) -> str:
    red, green, blue = (int(channel) for channel in colour)
    return f"({red}, {green}, {blue})"


def to_array(image: ImageLike) -> npt.NDArray[np.uint8]:
    """An image however it is given, as (H, W, 3), uint8, RGB.

    Args:
        image: A file's path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16, or a tensor (3,
            H, W) of uint8, or of floats in [0, 1].

    Raises:
        InputError: It is none of these, or can't be read.
    """
    if isinstance(image, str | os.PathLike):
        return np.array(read_image(Path(image)))
    if isinstance(image, Image.Image):
        return np.array(to_rgb(image))
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3:
            raise InputError(f"a tensor of shape {tuple(image.shape)}: expected (3, H, W)")
        if image.is_floating_point():
            if image.numel() and not (float(image.min()) >= 0 and float(image.max()) <= 1):
                raise InputError(
                    f"a tensor of floats from {float(image.min()):.3g} to {float(image.max()):.3g}: "
                    "expected 0 to 1, or uint8"
                )
            image = (image * 255).round()
        elif image.dtype != torch.uint8:
            raise InputError(f"a tensor of {image.dtype}: expected uint8, or floats in [0, 1]")
        return np.array(image.to(torch.uint8).permute(1, 2, 0).cpu())
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
        raise InputError(
            f"an array of {image.dtype} and shape {image.shape}: "
            "expected uint8 or uint16, (H, W), (H, W, 3) or (H, W, 4)"
        )
    if image.dtype == np.uint16 and image.ndim == 3:
        image = ((image.astype(np.int64) + 128) // 257).astype(np.uint8)
    return np.array(to_rgb(Image.fromarray(image)))
