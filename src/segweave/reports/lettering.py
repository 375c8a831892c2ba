"""Lettering of pictures: the font, texts that are cut where there is no room, and legends."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from segweave.data.colours import Colour

FONT_SIZE = 13
CHIP, LINE, SPACE = 16, 24, 18
"""Of a legend, in pixels: the side of a chip, the height of a line and the distance of neighbours."""
INSET = 12


@cache
def text_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font knows ASCII only."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def shortened(text: str, font: ImageFont.FreeTypeFont, room: float, keep: Literal["start", "end"] = "start") -> str:
    """A text in one line, cut where it is too long, with an ellipsis in place of what is missing.

    Args:
        text: The text; a line break becomes a space.
        font: What it is set in.
        room: The length in pixels that it may have; one letter and the ellipsis always stay.
        keep: Which of its ends stays; of a path the end tells more.
    """
    text = " ".join(text.splitlines())
    if font.getlength(text) <= room:
        return text
    length = len(text)
    while True:
        length -= 1
        cut = text[:length] + "…" if keep == "start" else "…" + text[-length:]
        if length <= 1 or font.getlength(cut) <= room:
            return cut


def legend(entries: Sequence[tuple[str, Colour]], width: int, inset: int = INSET) -> Image.Image:
    """A white strip of colour chips with names, in as many lines as they need; without entries, of no height.

    Args:
        entries: The names, in the order drawn, and their colours; a name that is longer than a line is shortened.
        width: The strip's width in pixels.
        inset: The width in pixels of its margins.
    """
    font = text_font(FONT_SIZE)
    room = max(width - 2 * inset, CHIP)
    left, top, placed = 0.0, 0, []
    for name, colour in entries:
        name = shortened(name, font, room - CHIP - 6)
        length = CHIP + 6 + font.getlength(name)
        if left > 0 and left + length > room:
            left, top = 0.0, top + LINE
        placed.append((inset + left, inset + top, name, colour))
        left += length + SPACE
    strip = Image.new("RGB", (width, 2 * inset + top + CHIP if placed else 0), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, name, colour in placed:
        chip = (x, y, x + CHIP - 1, y + CHIP - 1)
        draw.rounded_rectangle(chip, radius=3, fill=tuple(colour), outline=(190, 190, 190))
        draw.text((x + CHIP + 6, y + CHIP / 2), name, fill=(30, 34, 40), font=font, anchor="lm")
    return strip
