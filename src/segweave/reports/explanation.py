"""The sheet of `segweave explain`: an image, what a network saw in it, and the maps it used on the way."""

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segweave.data.colours import Colour
from segweave.networks.losses import IGNORE_INDEX
from segweave.reports.pictures import (
    dotted,
    heat_colours,
    heat_map,
    legend,
    overlay,
    region_colours,
    region_map,
    ringed,
    text_font,
)

Map = NDArray[np.float32]
Point = tuple[float, float]
"""Of a picture: the distances from the left and from the top, as parts of the width and of the height."""

COLUMNS = 7
"""Pictures in a row: principal components, mean, single channels."""
SINGLE_CHANNELS = COLUMNS - 2
TILE = 208
"""Width of a picture; one so tall that it would be higher than `TALLEST` widths is narrower."""
TALLEST = 1.5
GAP, MARGIN = 12, 28
ROOM = COLUMNS * TILE + (COLUMNS - 1) * GAP
"""Width between the margins."""
WIDE = 2 * TILE + GAP
"""Width of a picture over two columns."""
BAR_HEIGHT, AXIS_WIDTH = 84, 64

TITLE_SIZE, NAME_SIZE, TEXT_SIZE, SMALLEST_SIZE = 19, 15, 12, 10
INK, FAINT, RULE, BAR = (24, 28, 34), (98, 104, 114), (222, 225, 230), (37, 99, 235)
NEGLIGIBLE = 1e-4
"""A principal component of a smaller share of the variance is left out: it may be a rounding error, enlarged."""


def explanation_sheet(
    maps: Mapping[str, NDArray[Any]],
    *,
    image: NDArray[np.uint8],
    predicted: NDArray[Any] | Image.Image,
    classes: Sequence[str],
    palette: Sequence[Colour],
    title: str,
    at: tuple[int, int] | None = None,
    of_pixel: Collection[str] = (),
) -> Image.Image:
    """Draws maps under the image and what was predicted, a row each, in the order given.

    A map of several channels is drawn as its three strongest principal components (as red, green and blue), as the mean
    over its channels, laid over the image, and as the channels that vary most. A map of one channel is laid over the
    image; of a map of one pixel (a gate) the channels' values are drawn as bars, in descending order. A map of labels
    is drawn as regions, each in a colour of its own. Positions are drawn as dots on the image, and on `regions` too.

    Args:
        maps: By name, each (C, h, w) of floats, or (1, h, w) of integers, labels that are equal within a region, or (1,
            h, w) of booleans, true at single positions. Values that aren't finite count as the least. Neighbours whose
            names end alike (`encoder_res4`, `refined_res4`) stand together.
        image: (H, W, 3).
        predicted: The class of each pixel, (H, W), integers; or a picture of the objects that were found.
        classes: The names of the K classes.
        palette: Their colours.
        title: What the sheet is of.
        at: A pixel (x, y) of the image, which is ringed.
        of_pixel: The names of the maps that tell of this pixel; it is ringed on them too.
    """
    centre = None if at is None else ((at[0] + 0.5) / image.shape[1], (at[1] + 0.5) / image.shape[0])
    dots = {name: values[0] for name, values in maps.items() if values.dtype == np.bool_}
    rows = [_heading(image, predicted, classes, palette, title, _notes(maps, at), centre)]
    groups = [None, *(name.rpartition("_")[2] for name in maps)]
    for (group_above, group), (name, values) in zip(pairwise(groups), maps.items(), strict=True):
        if group != group_above:
            rows.append(_rule())
        rows.append(_row(name, values, image, dots, centre if name in of_pixel else None))
    page = Image.new("RGB", (ROOM + 2 * MARGIN, sum(row.height for row in rows) + 2 * MARGIN), "white")
    top = MARGIN
    for row in rows:
        page.paste(row, (MARGIN, top))
        top += row.height
    return page


def principal_components(values: Map) -> tuple[Map, Map]:
    """Projects each pixel's vector of channels onto the three directions in which these vary most.

    Each direction's sign is such that the channel with the greatest weight in it counts positively.

    Args:
        values: (C, h, w), C from 3 up.

    Returns:
        (3, h, w): the components, of mean 0, the strongest first; 0 where a map has fewer. And (3,): their shares of
        the map's variance, in [0, 1].
    """
    pixels = values.reshape(len(values), -1)
    pixels = pixels - pixels.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)  # a constant becomes 0
    covariance = (pixels @ pixels.T / pixels.shape[1]).astype(np.float64)
    variances, directions = np.linalg.eigh(covariance)  # ascending
    variances, directions = variances[:-4:-1].clip(min=0), directions[:, :-4:-1]
    shares = variances / (np.trace(covariance) or 1.0)
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), range(3)])
    directions[:, shares < NEGLIGIBLE] = 0
    components = directions.T.astype(np.float32) @ pixels
    return components.reshape(3, *values.shape[1:]), shares.astype(np.float32)


def most_varying(values: Map, count: int) -> list[int]:
    """The channels of (C, h, w) with the greatest variance over the pixels, that first."""
    variances = values.reshape(len(values), -1).astype(np.float64).var(axis=1)
    return [int(channel) for channel in np.argsort(-variances, kind="stable")[:count]]


def _heading(
    image: NDArray[np.uint8],
    predicted: NDArray[Any] | Image.Image,
    classes: Sequence[str],
    palette: Sequence[Colour],
    title: str,
    notes: Sequence[tuple[str, str]],
    centre: Point | None,
) -> Image.Image:
    """The title, the image, what was predicted, and beside them the legend and how to read the rows."""
    size = _size(image, WIDE)
    enlarged = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    if isinstance(predicted, Image.Image):
        shown, shown_caption = predicted.resize(size, Image.Resampling.LANCZOS), "objects"
        present: list[int] = []
    else:
        enlarged_mask = Image.fromarray(predicted.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        shown = Image.fromarray(overlay(np.asarray(enlarged), np.asarray(enlarged_mask), palette))
        shown_caption = "segmentation"
        present = [int(k) for k in np.unique(predicted) if k != IGNORE_INDEX]
    if centre is not None:
        enlarged = Image.fromarray(ringed(np.asarray(enlarged), centre))
    left = 2 * (WIDE + GAP)
    key = _key([classes[k] for k in present], [palette[k] for k in present], notes, ROOM - left)
    top = TITLE_SIZE + 22
    strip = _strip(top + max(size[1] + TEXT_SIZE + 10, key.height) + GAP)
    draw = ImageDraw.Draw(strip)
    draw.text((0, 0), title, fill=INK, font=text_font(TITLE_SIZE, bold=True))
    for column, (picture, caption) in enumerate([(enlarged, "image"), (shown, shown_caption)]):
        x = column * (WIDE + GAP)
        strip.paste(picture, (x, top))
        draw.text((x, top + size[1] + 5), caption, fill=FAINT, font=text_font(TEXT_SIZE))
    strip.paste(key, (left, top))
    return strip


def _notes(maps: Mapping[str, NDArray[Any]], at: tuple[int, int] | None) -> list[tuple[str, str]]:
    """How to read the rows: terms, and what they mean."""
    notes = [
        ("components", "the three directions in which a map's features vary most, as red, green, blue:"),
        ("", "alike in colour, alike in features; and their shares of the variance"),
        ("mean", "over a map's channels, laid over the image"),
        ("channel", "one of those that vary most over the image, and its least and greatest value"),
    ]
    kinds = {values.dtype.kind for values in maps.values()}
    if kinds & set("iu"):
        notes.append(("regions", "each in a colour of its own, which means nothing else"))
    if "b" in kinds:
        notes.append(("dots", "on the single positions that a map marks"))
    if at is not None:
        notes.append(("ring", f"around the chosen pixel, x {at[0]}, y {at[1]}; also on the maps that tell of it"))
    return notes


def _key(
    classes: Sequence[str], palette: Sequence[Colour], notes: Sequence[tuple[str, str]], width: int
) -> Image.Image:
    """The legend of the classes given, and what the colours of the rows mean."""
    chips = legend(classes, palette, width)
    inset = 12  # of the legend
    line = TEXT_SIZE + 7
    page = Image.new("RGB", (width, chips.height + 48 + line * len(notes)), "white")
    page.paste(chips, (0, 0))
    draw = ImageDraw.Draw(page)
    top = chips.height + 4
    _draw_colour_bar(page, inset, top)
    top += 32
    for term, text in notes:
        draw.text((inset, top), term, fill=INK, font=text_font(TEXT_SIZE, bold=True))
        draw.text((inset + 94, top), text, fill=FAINT, font=text_font(TEXT_SIZE))
        top += line
    return page


def _draw_colour_bar(page: Image.Image, left: int, top: int) -> None:
    draw, font = ImageDraw.Draw(page), text_font(TEXT_SIZE)
    draw.text((left, top), "least", fill=FAINT, font=font)
    bar = Image.fromarray(heat_colours(np.linspace(0, 1, 160)[None], (160, 14)))
    page.paste(bar, (left + 42, top + 1))
    draw.text((left + 42 + 160 + 8, top), "greatest value of each picture", fill=FAINT, font=font)


def _row(
    name: str,
    values: NDArray[Any],
    image: NDArray[np.uint8],
    dots: Mapping[str, NDArray[np.bool_]],
    centre: Point | None,
) -> Image.Image:
    """One map: its name and shape, and under them pictures that suit its kind and shape."""
    channels, height, width = values.shape
    size = f"{height} \N{MULTIPLICATION SIGN} {width}"
    if values.dtype == np.bool_:
        shape, body = f"positions of {size}", _positions(values, image, centre)
    elif np.issubdtype(values.dtype, np.integer):
        shape, body = f"labels of {size}", _regions(values, image, dots if name == "regions" else {}, centre)
    elif height == width == 1:
        shape, body = f"{_counted(channels, 'channel')}, one value each", _bars(_finite(values)[:, 0, 0])
    else:
        shape, body = f"{_counted(channels, 'channel')} of {size}", _heat(_finite(values), image, centre)
    top = NAME_SIZE + 11
    strip = _strip(top + body.height + GAP)
    draw = ImageDraw.Draw(strip)
    draw.text((0, NAME_SIZE), name, fill=INK, font=text_font(NAME_SIZE, bold=True), anchor="ls")
    indent = text_font(NAME_SIZE, bold=True).getlength(name) + 10
    draw.text((indent, NAME_SIZE), shape, fill=FAINT, font=text_font(TEXT_SIZE), anchor="ls")
    strip.paste(body, (0, top))
    return strip


def _heat(values: Map, image: NDArray[np.uint8], centre: Point | None) -> Image.Image:
    """A map of floats, (C, h, w)."""
    return _attention(values[0], image, centre) if len(values) == 1 else _features(values, image, centre)


def _attention(values: Map, image: NDArray[np.uint8], centre: Point | None) -> Image.Image:
    """A map (h, w) of one channel: over the image and alone, each as large as the image in the heading."""
    resized = _resized(image, WIDE)
    pictures = [heat_map(values, resized), heat_colours(values, _size(image, WIDE))]
    return _captioned(pictures, ["over the image", _range(values)], WIDE, centre)


def _regions(
    values: NDArray[np.integer], image: NDArray[np.uint8], dots: Mapping[str, NDArray[np.bool_]], centre: Point | None
) -> Image.Image:
    """Labels, (1, h, w): over the image, alone, and where there are maps of positions with their dots."""
    (labels,) = values
    over = region_map(labels, _resized(image, WIDE))
    pictures = [over, region_colours(labels, _size(image, WIDE))]
    captions = ["over the image", _counted(len(np.unique(labels)), "region")]
    if dots:
        pictures.append(reduce(dotted, dots.values(), over))
        captions.append(f"with {' and '.join(dots)}")
    return _captioned(pictures, captions, WIDE, centre)


def _positions(values: NDArray[np.bool_], image: NDArray[np.uint8], centre: Point | None) -> Image.Image:
    """Positions, true in (1, h, w), as dots on the image."""
    (positions,) = values
    picture = dotted(_resized(image, WIDE), positions)
    return _captioned([picture], [_counted(int(positions.sum()), "position")], WIDE, centre)


def _features(values: Map, image: NDArray[np.uint8], centre: Point | None) -> Image.Image:
    """A map of several channels, (C, h, w)."""
    size = _size(image, TILE)
    pictures, captions = [], []
    if len(values) >= 3:
        components, shares = principal_components(values)
        pictures.append(_components_picture(components, size))
        captions.append("components: {:.0f}, {:.0f} and {:.0f} %".format(*(100 * shares)))
    mean = values.mean(axis=0)
    pictures.append(heat_map(mean, _resized(image, TILE)))
    captions.append(f"mean: {_range(mean)}")
    for channel in most_varying(values, SINGLE_CHANNELS):
        pictures.append(heat_colours(values[channel], size))
        captions.append(f"channel {channel}: {_range(values[channel])}")
    return _captioned(pictures, captions, TILE, centre)


def _components_picture(components: Map, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Components (3, h, w) as red, green and blue, 0 as middle grey."""
    spread = np.abs(components).max(axis=(1, 2), keepdims=True)
    unit = 0.5 + 0.5 * components / np.maximum(spread, np.finfo(np.float32).tiny)
    bands = [Image.fromarray(np.rint(255 * band).astype(np.uint8)) for band in unit]
    return np.asarray(Image.merge("RGB", bands).resize(size, Image.Resampling.BILINEAR))


def _bars(values: Map) -> Image.Image:
    """The values (C,) as bars from zero, in descending order, with an axis on the left."""
    ordered = np.sort(values)[::-1].astype(float)
    greatest, least = max(ordered[0], 0.0), min(ordered[-1], 0.0)
    scale = BAR_HEIGHT / (greatest - least or 1.0)
    heights = {value: round((greatest - value) * scale) for value in (0.0, greatest, least)}
    strip = _strip(TEXT_SIZE + BAR_HEIGHT + TEXT_SIZE + 12)
    draw, font, top = ImageDraw.Draw(strip), text_font(TEXT_SIZE), TEXT_SIZE // 2
    edges = np.linspace(AXIS_WIDTH, ROOM, len(ordered) + 1).round().astype(int).tolist()
    for value, (left, right) in zip(ordered, pairwise(edges), strict=True):
        ends = sorted((top + heights[0.0], top + round((greatest - value) * scale)))
        spaced = right - 2 if right - left > 3 else right - 1
        draw.rectangle((left, ends[0], max(spaced, left), ends[1]), fill=BAR)
    for value, height in heights.items():
        draw.line((AXIS_WIDTH - 6, top + height, ROOM, top + height), fill=RULE if value else FAINT)
        if not value or abs(height - heights[0.0]) > TEXT_SIZE:  # else the two numbers would overlap
            draw.text((AXIS_WIDTH - 10, top + height), _number(value), fill=FAINT, font=font, anchor="rm")
    caption = f"channels in descending order: {_range(values)}, mean {_number(values.mean())}"
    draw.text((AXIS_WIDTH, top + BAR_HEIGHT + 6), caption, fill=FAINT, font=font)
    return strip


def _captioned(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], pitch: int, centre: Point | None
) -> Image.Image:
    """Pictures side by side, a column of `pitch` pixels each, ringed where there is a centre, captions under them."""
    height = max(len(picture) for picture in pictures)
    strip = _strip(height + TEXT_SIZE + 10)
    draw = ImageDraw.Draw(strip)
    for column, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = column * (pitch + GAP)
        strip.paste(Image.fromarray(picture if centre is None else ringed(picture, centre)), (x, 0))
        size = next(
            (size for size in range(TEXT_SIZE, SMALLEST_SIZE, -1) if text_font(size).getlength(caption) <= pitch),
            SMALLEST_SIZE,
        )
        draw.text((x, height + 4), caption, fill=FAINT, font=text_font(size))
    return strip


def _rule() -> Image.Image:
    strip = _strip(2 * GAP)
    ImageDraw.Draw(strip).line((0, GAP - 4, ROOM, GAP - 4), fill=RULE)
    return strip


def _strip(height: int) -> Image.Image:
    return Image.new("RGB", (ROOM, height), "white")


def _resized(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(_size(image, width), Image.Resampling.BICUBIC))


def _size(image: NDArray[np.uint8], width: int) -> tuple[int, int]:
    """Width and height of a picture of the image's proportions."""
    scale = min(width / image.shape[1], TALLEST * width / image.shape[0])
    return max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)


def _finite(values: Map) -> Map:
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, values[finite].min() if finite.any() else 0)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _range(values: Map) -> str:
    return f"{_number(values.min())} to {_number(values.max())}"


def _number(value: float | np.floating) -> str:
    return f"{value + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")
