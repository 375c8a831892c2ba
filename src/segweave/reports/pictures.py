"""Pictures of masks, errors, attention maps, regions and positions, as uint8 arrays (H, W, 3) and Pillow images."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segweave.data.colours import Colour
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX

IGNORE_COLOUR: Colour = (214, 214, 214)
"""Pixels that no metric counts, in every picture."""
CORRECT_COLOUR: Colour = (229, 240, 235)
WRONG_COLOUR: Colour = (214, 32, 80)

LIGHT: Colour = (255, 255, 255)
DARK: Colour = (10, 14, 20)
"""Dots and rings are light with a dark rim: one of the two stands out on any ground."""
RING_RADIUS = 8.25

LEGIBLE_WIDTH = 400
"""Narrower pictures are enlarged before a legend is set under them."""
FONT_SIZE = 13
CHIP = 14
LINE = 24
MARGIN = 12
MAGNIFICATION = 4
"""Dots and rings are drawn on a picture so many times as large, for smooth edges."""
CHOICE, APART = 8, 80.0
"""How many colours are tried for a region, and how far they should be from its neighbours' (of 255 a channel)."""

Picture = NDArray[np.uint8]
Mask = NDArray[Any]


def colour_mask(mask: Mask, palette: Sequence[Colour]) -> Picture:
    """Draws every pixel in its class's colour.

    Args:
        mask: (H, W), integers: the class of each pixel, or 255 for "ignore".
        palette: The colour of each of the K classes.

    Returns:
        (H, W, 3); ignored pixels are light grey.

    Raises:
        InputError: The mask holds a value that is neither a class nor 255.
    """
    return _colour_table(palette)[_checked(mask, len(palette))]


def palette_png(mask: Mask, palette: Sequence[Colour]) -> Image.Image:
    """The mask as an indexed image: its pixel values are the classes (and 255), its palette is their colours.

    Args:
        mask: (H, W), integers: the class of each pixel, or 255 for "ignore".
        palette: The colour of each of the K classes.

    Raises:
        InputError: The mask holds a value that is neither a class nor 255.
    """
    picture = Image.fromarray(_checked(mask, len(palette)))
    picture.putpalette(_colour_table(palette).tobytes())  # turns "L" into "P", pixel values unchanged
    return picture


def overlay(image: Picture, mask: Mask, palette: Sequence[Colour], opacity: float = 0.55) -> Picture:
    """Lays the classes' colours over the image, with a thin contour in full colour where two classes meet.

    Args:
        image: (H, W, 3).
        mask: (H, W), integers: the class of each pixel, or 255, where the image shows through unchanged.
        palette: The colour of each of the K classes.
        opacity: 0 leaves the image, 1 hides it.

    Returns:
        (H, W, 3).

    Raises:
        InputError: The mask is not of the image's size, or holds a value that is neither a class nor 255.
    """
    _check_same_size(image, mask)
    weights = np.where(_contours(mask), max(opacity, 0.95), opacity)
    weights[mask == IGNORE_INDEX] = 0
    return blend(image, colour_mask(mask, palette), weights[..., None])


def difference(prediction: Mask, truth: Mask) -> Picture:
    """Shows where a prediction is wrong: right pixels pale, wrong ones red, ignored ones grey.

    Args:
        prediction: (H, W), integers.
        truth: (H, W), integers; 255 where no pixel counts.

    Returns:
        (H, W, 3).

    Raises:
        InputError: The two are not of one size.
    """
    _check_same_size(prediction, truth)
    picture = np.where(
        (prediction == truth)[..., None], np.array(CORRECT_COLOUR, np.uint8), np.array(WRONG_COLOUR, np.uint8)
    )
    picture[truth == IGNORE_INDEX] = IGNORE_COLOUR
    return picture


def heat_map(values: NDArray[np.floating], image: Picture) -> Picture:
    """Lays an attention map over the image, in a perceptually uniform colour map from dark (least) to light (most).

    Args:
        values: (h, w), of any range and size; enlarged bilinearly to the image. Their least and greatest finite values
            take the two ends of the colour map; values that are not finite count as the least.
        image: (H, W, 3); shown in grey, so that colour means attention alone.

    Returns:
        (H, W, 3).
    """
    height, width = image.shape[:2]
    grey = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
    return blend(grey, heat_colours(values, (width, height)), 0.6)


def heat_colours(values: NDArray[np.floating], size: tuple[int, int]) -> Picture:
    """The colours of `heat_map` alone.

    Args:
        values: (h, w), as there.
        size: Width and height of the picture.

    Returns:
        (height, width, 3).
    """
    scaled = Image.fromarray(_to_unit_range(values)).resize(size, Image.Resampling.BILINEAR)
    return matplotlib.colormaps["inferno"](np.asarray(scaled), bytes=True)[..., :3]


def region_map(labels: NDArray[np.integer], image: Picture) -> Picture:
    """Lays regions over the image, each in its own colour, with a thin contour in full colour where two meet.

    Args:
        labels: (h, w): the positions of equal labels are a region. Enlarged to the image without new values.
        image: (H, W, 3); shown in grey, so that colour means region alone.

    Returns:
        (H, W, 3).
    """
    height, width = image.shape[:2]
    grey = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
    ranks, palette = _ranked_regions(labels)
    enlarged = _enlarged(ranks, (width, height))
    return blend(grey, palette[enlarged], np.where(_contours(enlarged), 0.95, 0.55)[..., None])


def region_colours(labels: NDArray[np.integer], size: tuple[int, int]) -> Picture:
    """The colours of `region_map` alone.

    Args:
        labels: (h, w), as there.
        size: Width and height of the picture.

    Returns:
        (height, width, 3).
    """
    ranks, palette = _ranked_regions(labels)
    return palette[_enlarged(ranks, size)]


def dotted(picture: Picture, positions: NDArray[np.bool_]) -> Picture:
    """Sets a dot on the middle of each of a map's positions that is marked.

    Args:
        picture: (H, W, 3).
        positions: (h, w), a map of the same view as the picture.

    Returns:
        (H, W, 3).
    """
    (height, width), (rows, columns) = picture.shape[:2], positions.shape
    radius = min(max(0.4 * min(height / rows, width / columns), 3.0), 6.0)
    canvas = _magnified(picture)
    draw = ImageDraw.Draw(canvas)
    for row, column in np.argwhere(positions):
        centre = ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
        _draw_circle(draw, centre, radius, DARK)
        _draw_circle(draw, centre, radius - 1.1, LIGHT)
    return np.asarray(canvas.reduce(MAGNIFICATION))


def ringed(picture: Picture, centre: tuple[float, float]) -> Picture:
    """Draws a ring around a point.

    Args:
        picture: (H, W, 3).
        centre: The point: its distances from the left and from the top, as parts of the width and of the height.

    Returns:
        (H, W, 3).
    """
    height, width = picture.shape[:2]
    canvas = _magnified(picture)
    draw = ImageDraw.Draw(canvas)
    middle = (centre[0] * width, centre[1] * height)
    _draw_circle(draw, middle, RING_RADIUS + 1.25, DARK, 5.0)
    _draw_circle(draw, middle, RING_RADIUS, LIGHT, 2.5)
    return np.asarray(canvas.reduce(MAGNIFICATION))


def legend(classes: Sequence[str], palette: Sequence[Colour], width: int) -> Image.Image:
    """A white strip of colour chips with names, in as many lines as they need.

    Args:
        classes: The names, in the order drawn; one that is longer than a line is shortened.
        palette: The colour of each.
        width: The strip's width in pixels.
    """
    font = text_font(FONT_SIZE)
    room = max(width - 2 * MARGIN, CHIP)
    left, top, entries = 0.0, 0, []
    for name, colour in zip(classes, palette, strict=True):
        name = _shortened(name, font, room - CHIP - 6)
        length = CHIP + 6 + font.getlength(name)
        if left > 0 and left + length > room:
            left, top = 0.0, top + LINE
        entries.append((MARGIN + left, MARGIN + top, name, colour))
        left += length + 18
    strip = Image.new("RGB", (width, 2 * MARGIN + top + CHIP if entries else 0), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, name, colour in entries:
        draw.rounded_rectangle(
            (x, y, x + CHIP - 1, y + CHIP - 1), radius=3, fill=tuple(colour), outline=(190, 190, 190)
        )
        draw.text((x + CHIP + 6, y + CHIP / 2), name, fill=(30, 34, 40), font=font, anchor="lm")
    return strip


def with_legend(picture: Picture, present: Mask, classes: Sequence[str], palette: Sequence[Colour]) -> Image.Image:
    """Sets the legend of the classes that occur under a picture.

    Args:
        picture: (H, W, 3). One narrower than `LEGIBLE_WIDTH` is enlarged by a whole factor first.
        present: The mask that the picture shows, or the numbers of the classes to name; 255 is left out.
        classes: The names of all K classes.
        palette: The colour of each.
    """
    numbers = np.unique(_checked(present, len(classes)))
    numbers = numbers[numbers != IGNORE_INDEX]
    factor = math.ceil(LEGIBLE_WIDTH / picture.shape[1])
    enlarged = Image.fromarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))
    strip = legend([classes[k] for k in numbers], [palette[k] for k in numbers], enlarged.width)
    page = Image.new("RGB", (enlarged.width, enlarged.height + strip.height), "white")
    page.paste(enlarged, (0, 0))
    page.paste(strip, (0, enlarged.height))
    return page


def _checked(mask: Mask, num_classes: int) -> NDArray[np.uint8]:
    """The mask as uint8, once every value is known to be a class or 255."""
    mask = np.asarray(mask)
    unknown = ((mask < 0) | (mask >= num_classes)) & (mask != IGNORE_INDEX)
    if unknown.any():
        raise InputError(
            f"mask holds the value {mask[unknown][0]}, expected 0 to {num_classes - 1} or {IGNORE_INDEX} (ignore)"
        )
    return mask.astype(np.uint8)


def _check_same_size(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise InputError(f"pictures of {first.shape[:2]} and {second.shape[:2]} pixels, expected the same size")


def _colour_table(palette: Sequence[Colour]) -> NDArray[np.uint8]:
    if len(palette) > IGNORE_INDEX:
        raise InputError(f"palette of {len(palette)} colours, expected at most {IGNORE_INDEX}")
    table = np.full((256, 3), IGNORE_COLOUR, dtype=np.uint8)
    table[: len(palette)] = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
    return table


def _contours(mask: Mask) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class."""
    edges = np.zeros(mask.shape, dtype=bool)
    edges[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edges[:-1, :] |= mask[:-1, :] != mask[1:, :]
    return edges


def blend(below: Picture, above: Picture, weight: NDArray[np.floating] | float) -> Picture:
    return np.rint(below * (1.0 - weight) + above * weight).astype(np.uint8)


def _ranked_regions(labels: NDArray[np.integer]) -> tuple[NDArray[np.int32], Picture]:
    """The labels (h, w) as numbers from 0 up, and the colour of each, (R, 3): neighbours' are far from each other.

    The largest region is given the first colour of a sequence that spreads evenly, and so on; colours too near to a
    neighbour's are left out. (Thousands of regions have colours that can hardly be told apart, but neighbours' can.)
    """
    values, ranks = np.unique(labels, return_inverse=True)
    ranks = ranks.reshape(labels.shape).astype(np.int32)
    neighbours = _neighbours(ranks, len(values))
    sequence, start = spread_colours(len(values) * CHOICE), 0
    palette = np.full((len(values), 3), np.inf)  # infinitely far from all: no colour yet
    for region in np.argsort(-np.bincount(ranks.ravel()), kind="stable"):
        choice = sequence[start : start + CHOICE]
        differences = choice[:, None] - palette[neighbours[region]]  # (CHOICE, T, 3)
        distances = np.sqrt((differences**2).sum(axis=-1)).min(axis=1, initial=np.inf)
        chosen = int((distances >= min(APART, distances.max())).argmax())  # the first far enough, or the farthest
        palette[region] = choice[chosen]
        start += chosen + 1
    return ranks, palette.astype(np.uint8)


def _neighbours(ranks: NDArray[np.int32], count: int) -> list[NDArray[np.int64]]:
    """For each region of (h, w), those that it touches: side by side or at a corner."""
    pairs = [
        np.stack([first.ravel(), second.ravel()], axis=1)
        for first, second in (
            (ranks[:, :-1], ranks[:, 1:]),
            (ranks[:-1], ranks[1:]),
            (ranks[:-1, :-1], ranks[1:, 1:]),
            (ranks[:-1, 1:], ranks[1:, :-1]),
        )
    ]
    both = np.concatenate([*pairs, *(pair[:, ::-1] for pair in pairs)]).astype(np.int64)
    both = np.unique(both[both[:, 0] != both[:, 1]], axis=0)  # (E, 2), sorted
    return np.split(both[:, 1], np.searchsorted(both[:, 0], np.arange(1, count)))


def spread_colours(count: int) -> Picture:
    """(count, 3): hues a golden section of the circle apart, saturation and lightness in other irrational steps."""
    steps = np.arange(1, count + 1)[:, None] * np.array([math.sqrt(5) / 2 - 0.5, math.sqrt(2), math.sqrt(3)])
    hue, saturation, value = np.modf(steps)[0].T
    hsv = np.stack([hue, 0.95 - 0.5 * saturation, 1.0 - 0.5 * value], axis=1)
    return np.rint(255 * matplotlib.colors.hsv_to_rgb(hsv)).astype(np.uint8)


def _enlarged(ranks: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    return np.asarray(Image.fromarray(ranks).resize(size, Image.Resampling.NEAREST))


def _magnified(picture: Picture) -> Image.Image:
    """To draw on: Pillow's edges are jagged, and smooth once the picture is back at its size."""
    height, width = picture.shape[:2]
    return Image.fromarray(picture).resize((MAGNIFICATION * width, MAGNIFICATION * height), Image.Resampling.NEAREST)


def _draw_circle(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: Colour, thickness: float = 0.0
) -> None:
    """On a magnified picture, a disc or, with a thickness, a ring; measured in pixels of the picture itself."""
    x, y, radius, width = (MAGNIFICATION * length for length in (*centre, radius, thickness))
    style: dict[str, Any] = {"outline": colour, "width": round(width)} if thickness else {"fill": colour}
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), **style)


def _to_unit_range(values: NDArray[np.floating]) -> NDArray[np.float32]:
    values = np.asarray(values, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros_like(values)
    least, greatest = values[finite].min(), values[finite].max()
    values = np.where(finite, values, least)
    return (values - least) / max(greatest - least, np.finfo(np.float32).tiny)


@cache
def text_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font knows ASCII only."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _shortened(name: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    if font.getlength(name) <= room:
        return name
    while len(name) > 1 and font.getlength(name + "…") > room:
        name = name[:-1]
    return name + "…"
