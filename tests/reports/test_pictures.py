"""Pictures, pixel by pixel where they are exact."""

import io

import numpy as np
import pytest
from PIL import Image

from segweave.errors import InputError
from segweave.reports.pictures import (
    CORRECT_COLOUR,
    DARK,
    IGNORE_COLOUR,
    LEGIBLE_WIDTH,
    LIGHT,
    WRONG_COLOUR,
    colour_mask,
    difference,
    dotted,
    heat_colours,
    heat_map,
    is_uniform,
    overlay,
    palette_png,
    ringed,
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


@pytest.mark.parametrize(
    "values", [[0.001, 0.001005], [-70.0, -70.5], [0.0, 0.0], [np.nan, 3.0, 3.01], [np.inf]], ids=str
)
def test_values_that_hardly_differ_are_uniform(values):
    assert is_uniform(np.array(values))


@pytest.mark.parametrize(
    "values", [[0.001, 0.00102], [-70.0, -71.0], [0.0, 1e-30], [-1.0, 1.0], [np.nan, 3.0, 3.1]], ids=str
)
def test_values_that_differ_are_not(values):
    assert not is_uniform(np.array(values))


@pytest.mark.parametrize("values", [np.full((2, 2), 3.0), np.array([[0.0123, 0.01231]]), np.full((1, 1), np.nan)])
def test_uniform_values_are_in_the_middle_colour(values):
    middle = heat_colours(np.array([[0.0, 0.5, 1.0]]), (3, 1))[0, 1]
    assert (heat_colours(values, (20, 10)) == middle).all()


@pytest.mark.parametrize("ground", [LIGHT, DARK, (128, 128, 128)], ids=str)
def test_dots_are_light_with_a_dark_rim_and_stand_where_positions_are(ground):
    picture = np.full((60, 100, 3), ground, np.uint8)
    positions = np.zeros((3, 5), bool)
    positions[0, 1] = positions[2, 4] = True
    marked = dotted(picture, positions)
    rows, columns = np.mgrid[:60, :100] + 0.5
    nearest = np.minimum(np.hypot(rows - 10, columns - 30), np.hypot(rows - 50, columns - 90))
    assert (marked[nearest < 4] == LIGHT).all()
    assert (marked[(nearest > 7)] == ground).all()
    rim = marked[(nearest > 5.1) & (nearest < 5.9)].astype(int)
    assert rim.max() < 130


def test_no_position_changes_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    assert np.array_equal(dotted(picture, np.zeros((4, 5), bool)), picture)


def test_every_dot_is_seen_where_there_are_many():
    marked = dotted(np.full((120, 160, 3), 128, np.uint8), np.ones((12, 16), bool))
    cells = marked.reshape(12, 10, 16, 10, 3).swapaxes(1, 2)  # (12, 16, 10, 10, 3)
    assert (cells[:, :, 4:6, 4:6] == LIGHT).all()
    assert (cells.min(axis=(2, 3, 4)) < 60).all(), "a rim between dots"


@pytest.mark.parametrize("ground", [LIGHT, DARK, (128, 128, 128)], ids=str)
@pytest.mark.parametrize("centre", [(0.5, 0.25), (0.0, 0.0), (1.0, 1.0)], ids=str)
def test_a_ring_is_light_and_dark_around_a_point_that_stays_visible(ground, centre):
    marked = ringed(np.full((60, 100, 3), ground, np.uint8), centre)
    rows, columns = np.mgrid[:60, :100] + 0.5
    distance = np.hypot(rows - 60 * centre[1], columns - 100 * centre[0])
    assert (marked[distance < 3] == ground).all()
    assert (marked[distance > 11] == ground).all()
    ring = marked[(distance > 4) & (distance < 10)]
    assert (ring.min(axis=1) > 220).any()
    assert (ring.max(axis=1) < 50).any()


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
