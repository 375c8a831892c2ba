"""Rows of an explanation sheet: one map each, drawn in the way that suits its kind and shape."""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segweave.reports.lettering import shortened, text_font
from segweave.reports.pictures import UNIFORM, Picture, dotted, heat_colours, heat_map, is_uniform, ringed
from segweave.reports.region_pictures import region_colours, region_map

Map = NDArray[np.float32]
AnyMap = NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_]
Point = tuple[float, float]
"""Of a picture: the distances from the left and from the top, as parts of the width and of the height."""

COLUMNS = 7
"""Pictures in a row: principal components, mean, single channels."""
SINGLE_CHANNELS = COLUMNS - 2
TILE = 208
"""Width of a picture; one so tall that it would be higher than `TALLEST` widths is narrower."""
TALLEST = 1.5
GAP = 12
ROOM = COLUMNS * TILE + (COLUMNS - 1) * GAP
"""Width between the margins."""
WIDE = 2 * TILE + GAP
"""Width of a picture over two columns."""
BAR_HEIGHT, AXIS_WIDTH = 84, 64

NAME_SIZE, TEXT_SIZE, SMALLEST_SIZE = 15, 12, 10
INK, FAINT, RULE, BAR = (24, 28, 34), (98, 104, 114), (222, 225, 230), (37, 99, 235)
NEGLIGIBLE = 1e-4
"""A principal component of a smaller share of the variance is left out: it may be a rounding error, enlarged."""


class Row(NamedTuple):
    """What is drawn of a map."""

    strip: Image.Image
    """As wide as the room between the margins."""
    terms: frozenset[str]
    """What a reader must know to read it: keys of `segweave.reports.explanation.MEANINGS`, "heat" and "ring"."""


class _Panel(NamedTuple):
    picture: Picture
    caption: str
    terms: tuple[str, ...] = ()


def map_row(
    name: str, values: AnyMap, image: Picture, dots: Mapping[str, NDArray[np.bool_]], centre: Point | None
) -> Row:
    """Draws a map: its name and shape, and under them its pictures.

    Args:
        name: What the network calls it.
        values: (C, h, w), of floats, or with C = 1 of labels or booleans.
        image: (H, W, 3): what it is a map of.
        dots: The positions (h, w) that maps of booleans mark, by their names, which the map `regions` shows too.
        centre: A point that is ringed on its pictures; bars have none.
    """
    channels, height, width = values.shape
    size = f"{height} \N{MULTIPLICATION SIGN} {width}"
    if values.dtype == np.bool_:
        shape, body = f"positions of {size}", _positions(values[0], image, centre)
    elif np.issubdtype(values.dtype, np.integer):
        shape, body = f"labels of {size}", _regions(values[0], image, dots if name == "regions" else {}, centre)
    elif height == width == 1:
        shape, body = f"{_counted(channels, 'channel')}, one value each", _bars(_finite(values)[:, 0, 0])
    elif channels == 1:
        shape, body = f"1 channel of {size}", _attention(_finite(values)[0], image, centre)
    else:
        shape, body = f"{channels} channels of {size}", _features(_finite(values), image, centre)
    top = NAME_SIZE + 11
    strip = blank(top + body.strip.height + GAP)
    draw = ImageDraw.Draw(strip)
    draw.text((0, NAME_SIZE), name, fill=INK, font=text_font(NAME_SIZE, bold=True), anchor="ls")
    indent = text_font(NAME_SIZE, bold=True).getlength(name) + 10
    draw.text((indent, NAME_SIZE), shape, fill=FAINT, font=text_font(TEXT_SIZE), anchor="ls")
    strip.paste(body.strip, (0, top))
    return Row(strip, body.terms)


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


def fitted(image: Picture, width: int) -> tuple[int, int]:
    """Width and height of a picture of the image's proportions."""
    scale = min(width / image.shape[1], TALLEST * width / image.shape[0])
    return max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)


def blank(height: int) -> Image.Image:
    """A white strip, as wide as the room between the margins."""
    return Image.new("RGB", (ROOM, height), "white")


def _attention(values: Map, image: Picture, centre: Point | None) -> Row:
    """A map (h, w) of one channel: over the image and alone, each as large as the image in the heading."""
    over = _Panel(heat_map(values, _resized(image, WIDE)), "over the image", _heat_terms(values))
    alone = _Panel(heat_colours(values, fitted(image, WIDE)), _range(values), _heat_terms(values))
    return _side_by_side([over, alone], WIDE, centre)


def _regions(
    labels: NDArray[np.integer], image: Picture, dots: Mapping[str, NDArray[np.bool_]], centre: Point | None
) -> Row:
    """Labels (h, w): over the image, alone, and where there are maps of positions with their dots."""
    over = region_map(labels, _resized(image, WIDE))
    panels = [
        _Panel(over, "over the image", ("regions",)),
        _Panel(region_colours(labels, fitted(image, WIDE)), _counted(len(np.unique(labels)), "region"), ("regions",)),
    ]
    if dots:
        panels.append(_Panel(reduce(dotted, dots.values(), over), f"with {' and '.join(dots)}", ("regions",)))
    return _side_by_side(panels, WIDE, centre)


def _positions(positions: NDArray[np.bool_], image: Picture, centre: Point | None) -> Row:
    """Positions, true in (h, w), as dots on the image."""
    count = int(positions.sum())
    picture = dotted(_resized(image, WIDE), positions)
    return _side_by_side([_Panel(picture, _counted(count, "position"), ("dots",) if count else ())], WIDE, centre)


def _features(values: Map, image: Picture, centre: Point | None) -> Row:
    """A map of several channels, (C, h, w)."""
    size = fitted(image, TILE)
    panels = [_components(values, size)] if len(values) >= 3 else []
    mean = values.mean(axis=0)
    over = heat_map(mean, _resized(image, TILE))
    panels.append(_Panel(over, f"mean: {_range(mean)}", ("mean", *_heat_terms(mean))))
    for channel in most_varying(values, SINGLE_CHANNELS):
        picture = heat_colours(values[channel], size)
        caption = f"channel {channel}: {_range(values[channel])}"
        panels.append(_Panel(picture, caption, ("channel", *_heat_terms(values[channel]))))
    return _side_by_side(panels, TILE, centre)


def _components(values: Map, size: tuple[int, int]) -> _Panel:
    """The principal components of (C, h, w) as red, green and blue, 0 as middle grey; only grey if the pixels' vectors
    lie as close together, for their length, as uniform values do."""
    components, shares = principal_components(values)
    longest = float(np.linalg.norm(values.astype(np.float64), axis=0).max())
    if float(np.ptp(components[0])) <= UNIFORM * longest:
        return _Panel(np.full((size[1], size[0], 3), 128, np.uint8), "components: uniform", ("components", "uniform"))
    spread = np.abs(components).max(axis=(1, 2), keepdims=True)
    unit = 0.5 + 0.5 * components / np.maximum(spread, np.finfo(np.float32).tiny)
    bands = [Image.fromarray(np.rint(255 * band).astype(np.uint8)) for band in unit]
    picture = np.asarray(Image.merge("RGB", bands).resize(size, Image.Resampling.BILINEAR))
    return _Panel(picture, "components: {:.0f}, {:.0f} and {:.0f} %".format(*(100 * shares)), ("components",))


def _bars(values: Map) -> Row:
    """The values (C,) as bars from zero, in descending order, with an axis on the left."""
    ordered = np.sort(values)[::-1].astype(float)
    greatest, least = max(ordered[0], 0.0), min(ordered[-1], 0.0)
    scale = BAR_HEIGHT / (greatest - least or 1.0)
    heights = {value: round((greatest - value) * scale) for value in (0.0, greatest, least)}
    strip = blank(TEXT_SIZE + BAR_HEIGHT + TEXT_SIZE + 12)
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
    caption = f"channels in descending order: {_range(values)}"
    if not is_uniform(values):
        caption += f", mean {_number(values.mean())}"
    draw.text((AXIS_WIDTH, top + BAR_HEIGHT + 6), caption, fill=FAINT, font=font)
    return Row(strip, frozenset({"uniform"} if is_uniform(values) else ()))


def _side_by_side(panels: Sequence[_Panel], pitch: int, centre: Point | None) -> Row:
    """Pictures in columns of `pitch` pixels, ringed where there is a centre, captions under them."""
    height = max(len(panel.picture) for panel in panels)
    strip = blank(height + TEXT_SIZE + 10)
    draw = ImageDraw.Draw(strip)
    for column, panel in enumerate(panels):
        x = column * (pitch + GAP)
        picture = panel.picture if centre is None else ringed(panel.picture, centre)
        strip.paste(Image.fromarray(picture), (x, 0))
        fitting = (n for n in range(TEXT_SIZE, SMALLEST_SIZE, -1) if text_font(n).getlength(panel.caption) <= pitch)
        font = text_font(next(fitting, SMALLEST_SIZE))
        draw.text((x, height + 4), shortened(panel.caption, font, pitch + GAP - 2), fill=FAINT, font=font)
    terms = frozenset(term for panel in panels for term in panel.terms)
    return Row(strip, terms if centre is None else terms | {"ring"})


def _heat_terms(values: Map) -> tuple[str, ...]:
    return ("heat", "uniform") if is_uniform(values) else ("heat",)


def _resized(image: Picture, width: int) -> Picture:
    return np.asarray(Image.fromarray(image).resize(fitted(image, width), Image.Resampling.BICUBIC))


def _finite(values: AnyMap) -> Map:
    """As float32; what isn't finite counts as the least."""
    values = values.astype(np.float32)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, values[finite].min() if finite.any() else 0)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _range(values: Map) -> str:
    """Of values that aren't uniform the least and the greatest; of others the one in the middle, and how far they go
    from it, if that can be told."""
    least, greatest = float(values.min()), float(values.max())
    if not is_uniform(values):
        return f"{_number(least)} to {_number(greatest)}"
    middle = (least + greatest) / 2
    reach = 50 * (greatest - least) / abs(middle) if middle else 0.0
    return f"uniform, {_number(middle)}" + (f" ±{reach:.1f} %" if reach >= 0.05 else "")


def _number(value: float | np.floating) -> str:
    return f"{value + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")
