"""The sheet of `segweave explain`: an image, what a network saw in it, and the maps it used on the way."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from segweave.data.colours import Colour
from segweave.reports.lettering import INSET, legend, shortened, text_font
from segweave.reports.map_rows import (
    FAINT,
    GAP,
    INK,
    ROOM,
    RULE,
    TEXT_SIZE,
    WIDE,
    AnyMap,
    Point,
    blank,
    fitted,
    map_row,
)
from segweave.reports.pictures import UNIFORM, Picture, heat_colours, ringed

MARGIN = 28
TITLE_SIZE = 19
MEANINGS = {
    "components": (
        "the three directions in which a map's features vary most, as red, green, blue:",
        "alike in colour, alike in features; and their shares of the variance",
    ),
    "mean": ("over a map's channels, laid over the image",),
    "channel": ("one of those that vary most over the image, and its least and greatest value",),
    "uniform": (f"values no more than {100 * UNIFORM:g} % apart, drawn in one colour",),
    "regions": ("each in a colour of its own, which means nothing else",),
    "dots": ("on the single positions that a map marks",),
}
"""What the terms of the rows mean, in lines."""


class Heading(NamedTuple):
    """What stands at the top of a sheet."""

    image: Picture
    """(H, W, 3)."""
    predicted: Image.Image
    """What the network saw in the image, in its proportions; best drawn at `heading_size`, else it is resized."""
    caption: str
    """What `predicted` shows, such as "segmentation"."""
    legend: Sequence[tuple[str, Colour]]
    """The names and colours of what is to be told apart in it."""


def heading_size(image: Picture) -> tuple[int, int]:
    """Width and height in pixels of an image at the top of a sheet."""
    return fitted(image, WIDE)


def explanation_sheet(
    maps: Mapping[str, AnyMap],
    *,
    heading: Heading,
    title: str,
    at: tuple[int, int] | None = None,
    of_pixel: Collection[str] = (),
) -> Image.Image:
    """Draws maps under the image and what was predicted, a row each, in the order given.

    A map of several channels is drawn as its three strongest principal components (as red, green and blue), as the mean
    over its channels, laid over the image, and as the channels that vary most. A map of one channel is laid over the
    image; of a map of one pixel (a gate) the channels' values are drawn as bars, in descending order. A map of labels
    is drawn as regions, each in a colour of its own. Positions are drawn as dots on the image, and on `regions` too.
    Every picture has its own range of colours, which its caption tells; values that hardly differ are drawn in one
    colour and called uniform.

    Args:
        maps: By name, each (C, h, w) of floats, or (1, h, w) of integers, labels that are equal within a region, or (1,
            h, w) of booleans, true at single positions. Values that aren't finite count as the least. Neighbours whose
            names end alike (`encoder_res4`, `refined_res4`) stand together.
        heading: The image and what was predicted.
        title: What the sheet is of.
        at: A pixel (x, y) of the image, which is ringed.
        of_pixel: The names of the maps that tell of this pixel; it is ringed on them too.
    """
    image = heading.image
    centre = None if at is None else ((at[0] + 0.5) / image.shape[1], (at[1] + 0.5) / image.shape[0])
    dots = {name: values[0] for name, values in maps.items() if values.dtype == np.bool_}
    rows = {
        name: map_row(name, values, image, dots, centre if name in of_pixel else None) for name, values in maps.items()
    }
    key = _key(heading.legend, frozenset().union(*(row.terms for row in rows.values())), at)
    strips = [_heading(heading, title, key, centre)]
    groups = [None, *(name.rpartition("_")[2] for name in maps)]
    for (group_above, group), row in zip(pairwise(groups), rows.values(), strict=True):
        if group != group_above:
            strips.append(_rule())
        strips.append(row.strip)
    page = Image.new("RGB", (ROOM + 2 * MARGIN, sum(strip.height for strip in strips) + 2 * MARGIN), "white")
    top = MARGIN
    for strip in strips:
        page.paste(strip, (MARGIN, top))
        top += strip.height
    return page


def _heading(heading: Heading, title: str, key: Image.Image, centre: Point | None) -> Image.Image:
    """The title, the image, what was predicted, and beside them how to read the rows."""
    size = heading_size(heading.image)
    image = Image.fromarray(heading.image).resize(size, Image.Resampling.BICUBIC)
    if centre is not None:
        image = Image.fromarray(ringed(np.asarray(image), centre))
    predicted = heading.predicted.resize(size, Image.Resampling.LANCZOS)  # a copy where it has that size
    top = TITLE_SIZE + 22
    strip = blank(top + max(size[1] + TEXT_SIZE + 10, key.height) + GAP)
    draw = ImageDraw.Draw(strip)
    font = text_font(TITLE_SIZE, bold=True)
    draw.text((0, 0), shortened(title, font, ROOM), fill=INK, font=font)
    for column, (picture, caption) in enumerate([(image, "image"), (predicted, heading.caption)]):
        x = column * (WIDE + GAP)
        strip.paste(picture, (x, top))
        draw.text((x, top + size[1] + 5), caption, fill=FAINT, font=text_font(TEXT_SIZE))
    strip.paste(key, (ROOM - key.width, top))
    return strip


def _key(entries: Sequence[tuple[str, Colour]], terms: frozenset[str], at: tuple[int, int] | None) -> Image.Image:
    """The legend, and what the colours and terms of the rows mean."""
    notes = {term: lines for term, lines in MEANINGS.items() if term in terms}
    if at is not None:
        more = "; also on the maps that tell of it" if "ring" in terms else ""
        notes["ring"] = (f"around the chosen pixel, x {at[0]}, y {at[1]}{more}",)
    width = ROOM - 2 * (WIDE + GAP)
    chips = legend(entries, width)
    line = TEXT_SIZE + 7
    page = Image.new("RGB", (width, chips.height + 48 + line * sum(map(len, notes.values()))), "white")
    page.paste(chips, (0, 0))
    draw = ImageDraw.Draw(page)
    top = chips.height + 4
    if "heat" in terms:
        _draw_colour_bar(page, INSET, top)
        top += 32
    for term, lines in notes.items():
        draw.text((INSET, top), term, fill=INK, font=text_font(TEXT_SIZE, bold=True))
        for text in lines:
            draw.text((INSET + 94, top), text, fill=FAINT, font=text_font(TEXT_SIZE))
            top += line
    return page


def _draw_colour_bar(page: Image.Image, left: int, top: int) -> None:
    draw, font = ImageDraw.Draw(page), text_font(TEXT_SIZE)
    draw.text((left, top), "least", fill=FAINT, font=font)
    bar = Image.fromarray(heat_colours(np.linspace(0, 1, 160)[None], (160, 14)))
    page.paste(bar, (left + 42, top + 1))
    draw.text((left + 42 + 160 + 8, top), "greatest value of each picture", fill=FAINT, font=font)


def _rule() -> Image.Image:
    strip = blank(2 * GAP)
    ImageDraw.Draw(strip).line((0, GAP - 4, ROOM, GAP - 4), fill=RULE)
    return strip
