"""Pictures, pixel by pixel where they are exact."""

import io

import numpy as np
import pytest
from PIL import Image

from segweave.errors import InputError
from segweave.reports.pictures import (
    CORRECT_COLOUR,
    IGNORE_COLOUR,
    LEGIBLE_WIDTH,
    WRONG_COLOUR,
    colour_mask,
    difference,
    heat_map,
    legend,
    overlay,
    palette_png,
    with_legend,
)

PALETTE = [(10, 20, 30), (200, 0, 0), (0, 0, 255)]
CLASSES = ["road", "façade", "tree"]
MASK = np.array([[0, 1, 2], [255, 2, 0]])


def test_colour_mask_is_exact():
    expected = [[PALETTE[0], PALETTE[1], PALETTE[2]], [IGNORE_COLOUR, PALETTE[2], PALETTE[0]]]
    picture = colour_mask(MASK, PALETTE)
    assert picture.dtype == np.uint8
    assert picture.tolist() == np.array(expected).tolist()


@pytest.mark.parametrize("value", [3, 254, -1, 256])
def test_a_value_without_a_colour_is_named(value):
    with pytest.raises(InputError, match=rf"value {value}, expected 0 to 2 or 255"):
        colour_mask(np.array([[0, value]]), PALETTE)


def test_palette_png_round_trip():
    stream = io.BytesIO()
    palette_png(MASK, PALETTE).save(stream, "PNG")
    read = Image.open(stream)
    assert read.mode == "P"
    assert np.asarray(read).tolist() == MASK.tolist()
    assert np.asarray(read.convert("RGB")).tolist() == colour_mask(MASK, PALETTE).tolist()


def test_palette_png_keeps_150_classes_and_ignore():
    mask = np.append(np.arange(150), 255)[None]
    picture = palette_png(mask, [(k, 255 - k, 7) for k in range(150)])
    assert np.asarray(picture).tolist() == mask.tolist()


def test_difference_is_exact():
    prediction = np.array([[0, 1, 1], [2, 2, 255]])
    expected = [[CORRECT_COLOUR, CORRECT_COLOUR, WRONG_COLOUR], [IGNORE_COLOUR, CORRECT_COLOUR, WRONG_COLOUR]]
    assert difference(prediction, MASK).tolist() == np.array(expected).tolist()


def test_difference_of_two_sizes_is_refused():
    with pytest.raises(InputError, match="same size"):
        difference(MASK, MASK.T)


def test_overlay_blends_inside_and_leaves_ignored_pixels():
    image = np.full((6, 6, 3), 100, np.uint8)
    mask = np.full((6, 6), 1)
    mask[:, 4:] = 255
    picture = overlay(image, mask, PALETTE, opacity=0.5)
    assert picture[0, 0].tolist() == [150, 50, 50]
    assert (picture[:, 4:] == 100).all()
    assert picture[0, 3, 0] > 190, "the contour is in the class's own colour"


def test_overlay_without_opacity_still_draws_only_contours():
    image = np.full((4, 4, 3), 100, np.uint8)
    assert (overlay(image, np.zeros((4, 4), int), PALETTE, opacity=0.0) == image).all()


def test_heat_map_is_brightest_where_attention_is_greatest():
    values = np.zeros((3, 4), np.float32)
    values[0, 3] = 5.0
    picture = heat_map(values, np.full((31, 45, 3), 128, np.uint8))
    assert picture.shape == (31, 45, 3)
    brightness = picture.sum(axis=2, dtype=int)
    assert brightness[0, 44] == brightness.max()
    assert brightness[:8, 38:].min() > brightness[20:, :20].max()


@pytest.mark.parametrize("values", [np.full((2, 2), 3.0), np.full((2, 2), np.nan), np.array([[np.inf, 1.0]])])
def test_heat_map_of_constant_or_broken_values(values):
    picture = heat_map(values, np.full((8, 8, 3), 90, np.uint8))
    assert (picture == picture[0, 0]).all()


def test_legend_wraps_to_its_width():
    wide, narrow = legend(CLASSES, PALETTE, 600), legend(CLASSES, PALETTE, 110)
    assert wide.width == 600
    assert narrow.width == 110
    assert narrow.height > wide.height
    for strip in (wide, narrow):
        colours = {tuple(colour) for colour in np.asarray(strip).reshape(-1, 3).tolist()}
        assert set(PALETTE) <= colours


def test_a_name_longer_than_the_line_stays_inside():
    strip = np.asarray(legend(["a very long name of a class " * 5], PALETTE[:1], 150))
    assert (strip[:, -8:] == 255).all()


def test_with_legend_enlarges_small_pictures_by_a_whole_factor():
    picture = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    page = np.asarray(with_legend(picture, np.array([[0, 2, 255]]), CLASSES, PALETTE))
    factor = page.shape[1] // 160
    assert page.shape[1] == 160 * factor >= LEGIBLE_WIDTH
    assert (page[: 128 * factor : factor, ::factor] == picture).all()
    below = {tuple(colour) for colour in page[128 * factor :].reshape(-1, 3).tolist()}
    assert PALETTE[0] in below
    assert PALETTE[1] not in below, "a class that doesn't occur is not named"
    assert PALETTE[2] in below


def test_with_legend_of_an_all_ignored_mask_is_the_picture():
    picture = np.zeros((10, 500, 3), np.uint8)
    assert with_legend(picture, np.array([255]), CLASSES, PALETTE).size == (500, 10)
