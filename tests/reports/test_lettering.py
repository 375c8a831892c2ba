"""Texts that are cut where there is no room, and legends."""

import numpy as np
import pytest

from segweave.reports.lettering import CHIP, INSET, LINE, legend, shortened, text_font

CLASSES = ["road", "façade", "tree"]
PALETTE = [(10, 20, 30), (200, 0, 0), (0, 0, 255)]
FONT = text_font(13)


@pytest.mark.parametrize("room", [1000, 150, 80, 30])
def test_a_text_keeps_the_end_that_is_asked_for(room):
    text = "/a/long/path/to/an/image.png"
    start, end = shortened(text, FONT, room), shortened(text, FONT, room, keep="end")
    assert max(FONT.getlength(start), FONT.getlength(end)) <= room
    if room == 1000:
        assert start == end == text
    else:
        assert start.endswith("…")
        assert text.startswith(start[:-1])
        assert end.startswith("…")
        assert text.endswith(end[1:])
        assert FONT.getlength(start + "mm") > room, "no more is cut than need be"


def test_one_letter_stays_however_little_room_there_is():
    assert shortened("road", FONT, 0) == "r…"
    assert shortened("road", FONT, 0, keep="end") == "…d"
    assert shortened("", FONT, 0) == ""


def test_a_text_of_several_lines_becomes_one():
    assert shortened("two\nlines", FONT, 500) == "two lines"


def test_legend_wraps_to_its_width():
    entries = list(zip(CLASSES, PALETTE, strict=True))
    wide, narrow = legend(entries, 600), legend(entries, 110)
    assert wide.width == 600
    assert narrow.width == 110
    assert narrow.height > wide.height
    for strip in (wide, narrow):
        colours = {tuple(colour) for colour in np.asarray(strip).reshape(-1, 3).tolist()}
        assert set(PALETTE) <= colours


def test_a_name_longer_than_the_line_stays_inside():
    strip = np.asarray(legend([("a very long name of a class " * 5, PALETTE[0])], 150))
    assert (strip[:, -8:] == 255).all()


def test_a_legend_of_nothing_takes_no_room():
    assert legend([], 300).size == (300, 0)


def test_the_inset_is_the_width_of_all_margins():
    for inset in (INSET, 40):
        strip = np.asarray(legend([(name, colour) for name, colour in zip(CLASSES, PALETTE, strict=True)], 90, inset))
        rows, columns = np.nonzero((strip != 255).any(axis=-1))
        assert rows.min() == columns.min() == inset
        assert strip.shape[0] == 2 * inset + 2 * LINE + CHIP
