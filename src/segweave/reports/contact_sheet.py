"""A picture of a data set at a glance: images beside their masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from segweave.data.colours import Colour
from segweave.data.images import read_image
from segweave.detection.coco import CocoDataset
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX
from segweave.segmentation.folder import FolderDataset

_BOX = (240, 240)  # what an image is made to fit into, in pixels
_GAP = 3  # between an image and its overlay
_MARGIN = 20
_CAPTION = 22  # height of the line under a pair
_LEGEND_ROW = 26
_BACKGROUND, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)
_IGNORED = (60, 60, 60)
_STRENGTH = 0.6  # of the class's colour in the overlay


Files = FolderDataset | CocoDataset


class _Pair(NamedTuple):
    picture: Image.Image
    """The image and the overlay side by side."""
    caption: str
    labels: set[int]
    """The labels that occur in it, invalid ones aside."""


def draw_contact_sheet(datasets: Sequence[Files], path: str | Path, *, most_images: int = 12, columns: int = 3) -> None:
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
    legend = _legend(pairs, datasets[0])
    columns = max(min(columns, len(pairs)), 1)
    cell = 2 * _BOX[0] + _GAP
    width = 2 * _MARGIN + columns * cell + (columns - 1) * _MARGIN
    places = _legend_places([name for name, _ in legend], width)
    legend_height = (places[-1][1] + _LEGEND_ROW) if places else 0
    heights = [max(pair.picture.height for pair in row) + _CAPTION for row in rows]
    header = _MARGIN + 24
    sheet = Image.new("RGB", (width, header + sum(heights) + legend_height + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN // 2), _title(datasets), fill=_INK, font=ImageFont.load_default(16))
    top = header
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            left = _MARGIN + column * (cell + _MARGIN)
            sheet.paste(pair.picture, (left, top))
            caption = _shorten(pair.caption, cell)
            draw.text((left, top + pair.picture.height + 3), caption, fill=_FAINT, font=_small_font())
        top += height
    _draw_legend(draw, legend, places, top + _MARGIN // 2)
    _save(sheet, Path(path))


def _choose_pairs(datasets: Sequence[Files], most_images: int) -> list[_Pair]:
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


def _draw_pair(dataset: Files, index: int) -> _Pair:
    image, labels, boxes = _read(dataset, index)
    scale = min(_BOX[0] / image.width, _BOX[1] / image.height)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    # Each pixel's colour is blended before it is made smaller: thin things keep their share.
    overlay = Image.fromarray(_overlay(np.asarray(image), labels, dataset)).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(overlay)
    for label, corners in boxes:
        left, top, right, bottom = (scale * edge for edge in corners)
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=dataset.palette[label])
    picture = Image.new("RGB", (2 * _BOX[0] + _GAP, size[1]), _BACKGROUND)
    picture.paste(image.resize(size, Image.Resampling.LANCZOS), (0, 0))
    picture.paste(overlay, (size[0] + _GAP, 0))
    valid = labels[(labels >= 0) & ((labels < len(dataset.classes)) | (labels == IGNORE_INDEX))]
    return _Pair(picture, dataset.name(index), set(np.unique(valid).tolist()))


def _read(dataset: Files, index: int) -> tuple[Image.Image, npt.NDArray[np.int64], list[tuple[int, Sequence[float]]]]:
    """An image, its labels (H, W), which are -1 where there is no object, and each object's label and box."""
    if isinstance(dataset, FolderDataset):
        image, labels = read_image(dataset.image_paths[index]), dataset.read_labels(index)
        dataset.require_same_size(index, image, labels)
        return image, labels, []
    image, target = read_image(dataset.image_path(index)), dataset.target(index)
    dataset.require_size(index, image)
    classes = (target["labels"] - 1).tolist()
    labels = np.full((image.height, image.width), -1, np.int64)
    for k, mask in zip(classes, target["masks"].numpy(), strict=True):
        labels[mask > 0] = k
    return image, labels, list(zip(classes, target["boxes"].tolist(), strict=True))


def _overlay(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], dataset: Files) -> npt.NDArray[np.uint8]:
    """(H, W, 3) image and (H, W) labels -> (H, W, 3): the classes' colours over the image in grey."""
    grey = pixels.mean(axis=-1, keepdims=True)
    known = (labels >= 0) & (labels < len(dataset.classes))
    colours = np.array(dataset.palette, dtype=np.float64)[np.where(known, labels, 0)]  # (H, W, 3)
    blended = _STRENGTH * colours + (1 - _STRENGTH) * grey
    return np.where(known[..., None], blended, 0.35 * grey).astype(np.uint8)


def _title(datasets: Sequence[Files]) -> str:
    counts = ", ".join(f"{len(dataset)} {dataset.split}" for dataset in datasets)
    return f"{datasets[0].root.resolve().name}: {counts}"


def _small_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)


def _shorten(text: str, width: int) -> str:
    """Cuts the beginning of a text that is too long: the end of a path tells more."""
    if _small_font().getlength(text) <= width:
        return text
    while text and _small_font().getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


def _legend(pairs: Sequence[_Pair], dataset: Files) -> list[tuple[str, Colour]]:
    """The names and colours of what occurs in the pairs."""
    present: set[int] = set().union(*(pair.labels for pair in pairs))
    legend = [(dataset.classes[k], dataset.palette[k]) for k in sorted(present - {IGNORE_INDEX})]
    return [*legend, ("ignored", _IGNORED)] if IGNORE_INDEX in present else legend


def _legend_places(names: Sequence[str], width: int) -> list[tuple[int, int]]:
    """Where each entry of the legend stands: (left, top), row by row."""
    places = []
    left, top = _MARGIN, 0
    for name in names:
        length = 22 + round(_small_font().getlength(name)) + 24
        if left > _MARGIN and left + length > width - _MARGIN:
            left, top = _MARGIN, top + _LEGEND_ROW
        places.append((left, top))
        left += length
    return places


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    legend: Sequence[tuple[str, Colour]],
    places: Sequence[tuple[int, int]],
    top: int,
) -> None:
    for (name, colour), (left, offset) in zip(legend, places, strict=True):
        y = top + offset
        draw.rectangle((left, y, left + 15, y + 15), fill=colour, outline=_FAINT)
        draw.text((left + 22, y), name, fill=_INK, font=_small_font())


def _save(sheet: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from None
