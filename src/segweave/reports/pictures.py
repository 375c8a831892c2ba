"""Pictures of masks, errors, attention maps and positions, as uint8 arrays (H, W, 3) and Pillow images."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segweave.data.colours import Colour
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX
from segweave.reports.lettering import legend

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
MAGNIFICATION = 4
"""Dots and rings are drawn on a picture so many times as large, for smooth edges."""
UNIFORM = 0.01
"""Values that lie closer together, as a part of the greatest magnitude among them, are drawn as one."""

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
    weights = np.where(contours(mask), max(opacity, 0.95), opacity)
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
            take the two ends of the colour map, unless they are `is_uniform`: then all is in its middle colour. Values
            that are not finite count as the least.
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
    colours: Picture = matplotlib.colormaps["inferno"](np.asarray(scaled), bytes=True)[..., :3]
    return colours


def is_uniform(values: NDArray[np.floating]) -> bool:
    """Whether values of any shape are equal or nearly so: their range is at most 1 % of the greatest magnitude.

    Stretched to full contrast, such values would show a pattern that the network hardly made use of. Values that are
    not finite don't count.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return True
    least, greatest = float(finite.min()), float(finite.max())
    return greatest - least <= UNIFORM * max(abs(least), abs(greatest))


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
    strip = legend([(classes[k], palette[k]) for k in numbers], enlarged.width)
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


def contours(mask: Mask) -> NDArray[np.bool_]:
    """Of (H, W), (H, W): the pixels whose right or lower neighbour is of another class."""
    edges = np.zeros(mask.shape, dtype=bool)
    edges[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edges[:-1, :] |= mask[:-1, :] != mask[1:, :]
    return edges


def blend(below: Picture, above: Picture, weight: NDArray[np.floating] | float) -> Picture:
    """Lays one picture over another: at weight 0 the lower one stays, at 1 only the upper one is seen."""
    blended: Picture = np.rint(below * (1.0 - weight) + above * weight).astype(np.uint8)
    return blended


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
    """The values from 0 for the least to 1 for the greatest; a half everywhere if they are uniform."""
    values = np.asarray(values, dtype=np.float32)
    if is_uniform(values):
        return np.full_like(values, 0.5)
    finite = np.isfinite(values)
    least, greatest = values[finite].min(), values[finite].max()
    scaled: NDArray[np.float32] = (np.where(finite, values, least) - least) / (greatest - least)
    return scaled
