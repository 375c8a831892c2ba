"""The sheet of maps: what is computed exactly, what is drawn by the pixels that tell it."""

from typing import Any

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segweave.reports.explanation import MARGIN, Heading, explanation_sheet
from segweave.reports.map_rows import BAR, ROOM, TILE, WIDE
from segweave.segmentation.pictures import segmentation_heading

CLASSES = ["road", "tree"]
PALETTE = [(200, 0, 0), (0, 0, 255)]
GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (40, 56, 3), dtype=np.uint8)
MASK = np.repeat([0, 1], 20)[:, None].repeat(56, axis=1).astype(np.uint8)


def sheet(
    image: NDArray[np.uint8] = IMAGE,
    mask: NDArray[Any] = MASK,
    *,
    at: tuple[int, int] | None = None,
    of_pixel: tuple[str, ...] = (),
    **maps: NDArray[Any],
) -> Image.Image:
    return explanation_sheet(
        {name: values.astype(np.float32) if values.dtype.kind == "f" else values for name, values in maps.items()},
        heading=segmentation_heading(image, mask, CLASSES, PALETTE),
        title="a.png",
        at=at,
        of_pixel=of_pixel,
    )


def row(*, image: NDArray[np.uint8] = IMAGE, mask: NDArray[Any] = MASK, **maps: NDArray[Any]) -> NDArray[Any]:
    """What maps add to the sheet: (H, W, 3), without the margins."""
    start = sheet(image, mask).height - MARGIN
    return np.asarray(sheet(image, mask, **maps))[start:-MARGIN, MARGIN:-MARGIN].astype(int)


def noise(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=shape)


def test_the_heading_shows_the_image_and_the_segmentation():
    black = np.zeros_like(IMAGE)
    page = np.asarray(sheet(black)).astype(int)
    assert page.shape[1] == ROOM + 2 * MARGIN
    middle = MARGIN + 41 + WIDE * 40 // 56 // 2
    assert page[middle, MARGIN + 10].tolist() == [0, 0, 0]
    column = page[:, MARGIN + WIDE + 100]
    red, blue = (column[:, 0] > 90) & (column[:, 2] == 0), (column[:, 2] > 90) & (column[:, 0] == 0)
    assert red.sum() == pytest.approx(blue.sum(), abs=8)
    assert np.flatnonzero(red).max() < np.flatnonzero(blue).max(), "the upper half is of class 0"
    for colour in PALETTE:  # the legend's chips
        assert (page[:, MARGIN + 2 * WIDE :] == colour).all(axis=-1).sum() > 100


def test_the_legend_names_only_classes_that_occur():
    chips = (np.asarray(sheet(mask=np.zeros_like(MASK))) == PALETTE[1]).all(axis=-1)
    assert not chips.any()


def tile(picture: NDArray[Any], column: int, *, width: int = TILE) -> NDArray[Any]:
    """The inner part of a row's picture in a column."""
    left = column * (width + 12)
    height = width * 40 // 56
    top = next(y for y in range(25, len(picture)) if (picture[y : y + 20, left + width // 2] != 255).any(axis=-1).all())
    return picture[top + 5 : top + height - 5, left + 5 : left + width - 5]


def test_a_map_of_channels_is_drawn_in_seven_pictures():
    picture = row(map=noise(16, 10, 14))
    for column in range(7):
        assert len(np.unique(tile(picture, column).reshape(-1, 3), axis=0)) > 100
    pairs = {(a, b) for a in range(7) for b in range(a) if np.array_equal(tile(picture, a), tile(picture, b))}
    assert not pairs


def test_components_colour_a_map_by_its_regions():
    values = np.zeros((8, 10, 14))
    values[:4, :, :7] = 1
    picture = tile(row(map=values), 0)
    left, right = picture[:, :40].reshape(-1, 3), picture[:, -40:].reshape(-1, 3)
    assert left.std(axis=0).max() == right.std(axis=0).max() == 0
    assert np.abs(left[0] - right[0]).max() > 200


def test_single_channels_run_from_dark_to_light():
    values = np.zeros((4, 10, 14))
    values[2] = np.linspace(-3, 5, 14)
    channel = tile(row(map=values), 2)
    colours = matplotlib.colormaps["inferno"]([0, 255], bytes=True)[:, :3]
    np.testing.assert_array_equal(channel[:, 0], np.broadcast_to(colours[0], channel[:, 0].shape))
    np.testing.assert_array_equal(channel[:, -1], np.broadcast_to(colours[1], channel[:, -1].shape))


@pytest.mark.parametrize(("channels", "pictures"), [(2, 3), (3, 5), (4, 6), (5, 7), (6, 7)])
def test_few_channels_need_fewer_pictures(channels, pictures):
    picture = row(map=noise(channels, 10, 14))
    shown = [(picture[40:120, column * (TILE + 12) : column * (TILE + 12) + TILE] < 250).any() for column in range(7)]
    assert sum(shown) == pictures
    assert shown == sorted(shown, reverse=True)


def test_a_map_of_one_channel_is_drawn_twice_and_large():
    values = np.zeros((1, 10, 14))
    values[..., 10:] = 1
    picture = row(map=values)
    over, alone = tile(picture, 0, width=WIDE), tile(picture, 1, width=WIDE)
    assert (picture[60:200, 2 * (WIDE + 12) :] == 255).all()
    assert over[:, :100].std() > 5, "the image shows through"
    assert alone[:, :100].std(axis=(0, 1)).max() == 0
    for heat in (over, alone):
        assert heat[:, -60:, 0].mean() > heat[:, :200, 0].mean() + 80


def test_a_gate_is_drawn_as_bars_in_descending_order():
    gate = np.array([0.25, 1.0, 0.0, 0.5]).reshape(4, 1, 1)
    bars = (row(gate=gate) == BAR).all(axis=-1)
    heights = bars.sum(axis=0)
    step = (ROOM - 64) // 4
    seen = heights[[64 + step // 2 + step * bar for bar in range(4)]]
    assert seen[:3] == pytest.approx([84, 42, 21], abs=2)
    assert seen[3] <= 1


def test_negative_values_of_a_gate_hang_from_zero():
    bars = (row(gate=np.array([1.0, -1.0]).reshape(2, 1, 1)) == BAR).all(axis=-1)
    above, below = (np.flatnonzero(bars[:, column]) for column in (200, ROOM - 200))
    assert above.max() <= below.min() + 2
    assert len(above) == pytest.approx(len(below), abs=2)


def test_gates_of_more_channels_than_pixels_are_drawn():
    bars = (row(gate=np.linspace(0, 1, 3000).reshape(-1, 1, 1)) == BAR).all(axis=-1)
    assert bars[:, 64:-50].any(axis=0).all()


def test_maps_whose_names_end_alike_stand_together():
    values = noise(4, 10, 14)
    together, apart = row(encoder_res2=values, refined_res2=values), row(encoder_res2=values, encoder_res3=values)
    assert len(apart) - len(together) == 24


LABELS = np.zeros((1, 10, 14), np.int64)
LABELS[:, :, 7:] = 60
LABELS[:, 5:, 7:] = 7
POSITIONS = np.zeros((1, 10, 14), bool)
POSITIONS[0, 2, 3] = POSITIONS[0, 7, 10] = True


def columns_in_use(picture: NDArray[Any]) -> int:
    """How many of three columns of large pictures hold one."""
    middles = [column * (WIDE + 12) + WIDE // 2 for column in range(3)]
    return sum((picture[40:200, middle - 20 : middle + 20] < 250).any() for middle in middles)


def test_labels_are_drawn_as_regions_over_the_image_and_alone():
    picture = row(regions=LABELS)
    assert columns_in_use(picture) == 2
    over, alone = tile(picture, 0, width=WIDE), tile(picture, 1, width=WIDE)
    assert len(np.unique(alone.reshape(-1, 3), axis=0)) == 3
    assert alone[:, :150].std(axis=(0, 1)).max() == 0
    assert over[:, :150].std() > 5, "the image shows through"


def test_the_caption_of_regions_counts_them():
    two = np.where(LABELS == 7, 60, LABELS)
    changed = (row(regions=LABELS) != row(regions=two)).any(axis=(1, 2))
    assert changed[28 + WIDE * 40 // 56 :].any()


@pytest.mark.parametrize("name", ["regions", "other"])
def test_positions_are_dots_on_the_image_and_on_the_regions(name):
    alone, both = row(**{name: LABELS}), row(**{name: LABELS, "representatives": POSITIONS})
    over, dots = both[: len(alone)], both[len(alone) :]
    columns = slice(2 * (WIDE + 12), None)
    assert np.array_equal(over[:, : columns.start], alone[:, : columns.start]), "regions stay legible"
    assert columns_in_use(over) == 2 + (name == "regions")
    assert columns_in_use(dots) == 1
    pictures = [tile(dots, 0, width=WIDE), *([tile(over[:, columns], 0, width=WIDE)] if name == "regions" else [])]
    for picture in pictures:
        for y, x in ((2, 3), (7, 10)):
            middle = (round((y + 0.5) / 10 * WIDE * 40 / 56) - 5, round((x + 0.5) / 14 * WIDE) - 5)
            assert (picture[middle] == 255).all()
            patch = picture[middle[0] - 7 : middle[0] + 8, middle[1] - 7 : middle[1] + 8]
            assert (patch.max(axis=-1) < 90).any(), "a dark rim"


def test_notes_are_of_what_the_sheet_has():
    plain, whole = np.asarray(sheet()), np.asarray(sheet(regions=LABELS, representatives=POSITIONS, at=(3, 5)))
    notes = np.s_[60:, MARGIN + 2 * (WIDE + 12) :]
    below = [(page[notes][: WIDE * 40 // 56 - 20] < 200).any(axis=(1, 2)).sum() for page in (plain, whole)]
    assert below[1] >= below[0] + 3 * 8


def test_a_chosen_pixel_is_ringed_on_the_image_and_on_its_own_maps_alone():
    maps = {"attention": noise(1, 10, 14), "features": noise(4, 10, 14), "attention_at": noise(1, 10, 14)}
    plain, ringed = sheet(**maps), sheet(at=(14, 30), of_pixel=("features", "attention_at"), **maps)
    assert plain.size == ringed.size
    left_half = np.s_[:, : MARGIN + 2 * (WIDE + 12)]
    changed = (np.asarray(plain)[left_half] != np.asarray(ringed)[left_half]).any(axis=-1)
    rows = np.flatnonzero(changed.any(axis=1))
    bands = np.split(rows, np.flatnonzero(np.diff(rows) > 30) + 1)
    assert len(bands) == 3, "the heading, two of three maps"
    heading, features, attention = (changed[band[0] : band[-1] + 1] for band in bands)
    for band, middles in (
        (heading, [MARGIN + WIDE * 14.5 / 56]),
        (features, [MARGIN + column * (TILE + 12) + TILE * 14.5 / 56 for column in range(4)]),
        (attention, [MARGIN + column * (WIDE + 12) + WIDE * 14.5 / 56 for column in range(2)]),
    ):
        assert 17 <= len(band) <= 21
        seen = np.flatnonzero(band.any(axis=0))
        rings = np.split(seen, np.flatnonzero(np.diff(seen) > 30) + 1)
        assert [ring.mean() for ring in rings] == pytest.approx(middles, abs=1)
    assert bands[0].mean() == pytest.approx(MARGIN + 41 + WIDE * 40 / 56 * 30.5 / 40, abs=1)


@pytest.mark.parametrize("size", [(40, 56), (400, 30), (20, 900), (1, 1)], ids=str)
def test_regions_and_positions_of_every_shape_are_drawn(size):
    image = np.full((*size, 3), 90, np.uint8)
    for shape in [(1, 1, 1), (1, 1, 5), (1, 30, 40), (1, 3, 3)]:
        kinds = {"uint8": np.zeros(shape, np.uint8), "regions": np.arange(np.prod(shape)).reshape(shape) - 5}
        dots = {"none": np.zeros(shape, bool), "every": np.ones(shape, bool)}
        page = sheet(image, np.zeros(size, np.uint8), at=(size[1] - 1, 0), of_pixel=("uint8", "every"), **kinds, **dots)
        assert page.width == ROOM + 2 * MARGIN
        assert page.height < 800 * 5


@pytest.mark.parametrize("size", [(40, 56), (400, 30), (20, 900), (1, 1)], ids=str)
def test_every_shape_and_value_is_drawn(size):
    image = np.full((*size, 3), 90, np.uint8)
    maps = {
        f"{value}_{shape}": np.full(shape, value)
        for shape in [(1, 1, 1), (2, 1, 5), (7, 1, 1), (7, 2, 3), (1, 3, 3)]
        for value in (0.0, -2.5, 1e-30, 1e18, np.nan, np.inf)
    }
    page = sheet(image, np.zeros(size, np.uint8), **maps)
    assert page.mode == "RGB"
    assert page.height < 800 * len(maps)


def test_values_that_are_not_finite_count_as_the_least():
    values = noise(5, 4, 6)
    holed, filled = values.copy(), values.copy()
    holed[0, 0, 0], filled[0, 0, 0] = np.nan, values.min()
    np.testing.assert_array_equal(row(map=holed), row(map=filled))


def test_captions_tell_the_range():
    first, second = noise(1, 4, 6), 10 * noise(1, 4, 6)
    difference = (row(map=first) != row(map=second)).any(axis=-1)
    assert difference.any()
    assert np.flatnonzero(difference.any(axis=1)).min() > WIDE * 40 // 56, "below the pictures"


NEARLY = 0.5 + 0.001 * noise(8, 10, 14).clip(-1, 1)
"""Around 0.5, with a range of 0.4 %."""
MIDDLE = matplotlib.colormaps["inferno"]([127, 128], bytes=True)[:, :3].tolist()


def caption_of(values: NDArray[Any], like: NDArray[Any]) -> bool:
    """Whether two maps have the same caption under their pictures."""
    first, second = row(map=values), row(map=like)
    return np.array_equal(first[-40:], second[-40:])


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_nearly_uniform_map_is_drawn_in_one_colour(channels):
    picture = row(map=NEARLY[:channels])
    if channels == 1:
        panels = [tile(picture, 1, width=WIDE)]
    else:
        first = 2 if channels > 2 else 1  # after the components and the mean
        panels = [tile(picture, column) for column in range(first, first + min(channels, 5))]
    for panel in panels:
        assert (panel == panel[0, 0]).all()
        assert panel[0, 0].tolist() in MIDDLE
    if channels == 8:
        assert (tile(picture, 0) == 128).all(), "no components"


def test_a_map_with_a_tenth_more_range_than_uniform_ones_keeps_its_contrast():
    values = np.linspace(0.989, 1.0, 140).reshape(1, 10, 14)
    assert tile(row(map=values), 1, width=WIDE).std(axis=(0, 1)).max() > 50


def test_the_caption_of_a_uniform_map_tells_its_value():
    same = np.full((1, 10, 14), 0.25)
    assert caption_of(same, same + 1e-6), "a rounding error"
    assert not caption_of(same, same + 0.01)
    spread = same.copy()
    spread[0, 0, 0] += 0.002
    assert not caption_of(same, spread), "how far the values go from the middle"


def test_components_of_features_that_hardly_differ_for_their_length_are_grey():
    values = np.full((4, 10, 14), 5.0)
    values[3] = 0.01 * noise(10, 14).clip(-1, 1)  # varies on its own, but is next to nothing beside the others
    picture = row(map=values)
    assert (tile(picture, 0) == 128).all()
    assert tile(picture, 2).std() > 20, "the channel alone, with a range of its own"


def notes(**arguments: Any) -> NDArray[np.bool_]:
    """Which lines of pixels beside the heading have ink."""
    page = np.asarray(sheet(**arguments))
    return (page[MARGIN + 80 : MARGIN + 40 + WIDE * 40 // 56, MARGIN + 2 * (WIDE + 12) :] < 200).any(axis=(1, 2))


def colour_bar(**arguments: Any) -> bool:
    bright = matplotlib.colormaps["inferno"](255, bytes=True)[:3]
    beside = np.asarray(sheet(**arguments))[: MARGIN + WIDE * 40 // 56, MARGIN + 2 * (WIDE + 12) :]
    return bool((beside == bright).all(axis=-1).any())


def test_the_notes_explain_nothing_that_is_not_there():
    gate = np.linspace(0, 1, 5).reshape(5, 1, 1)
    assert not notes().any()
    assert not notes(gate=gate).any()
    assert not any(colour_bar(**maps) for maps in ({}, {"gate": gate}, {"regions": LABELS}, {"dots": POSITIONS}))
    for maps in ({"attention": noise(1, 10, 14)}, {"features": noise(4, 10, 14)}):
        assert colour_bar(**maps)
    assert notes(features=noise(4, 10, 14)).sum() > notes(attention=noise(1, 10, 14)).sum() + 4 * 8


def test_the_note_on_the_ring_tells_of_maps_only_where_there_are_some_that_have_it():
    gate = np.linspace(0, 1, 5).reshape(5, 1, 1)
    alone = np.asarray(sheet(at=(3, 5), gate=gate))
    of_gate = np.asarray(sheet(at=(3, 5), gate=gate, of_pixel=("gate", "absent")))
    assert np.array_equal(alone, of_gate), "bars have no ring"
    attention = {"attention": noise(1, 10, 14)}
    height = MARGIN + WIDE * 40 // 56
    without = np.asarray(sheet(at=(3, 5), **attention))[:height]
    ringed = np.asarray(sheet(at=(3, 5), of_pixel=("attention",), **attention))[:height]
    assert (ringed < 200).sum() > (without < 200).sum() + 100


def test_a_picture_of_another_size_is_fitted_into_the_heading():
    heading = Heading(IMAGE, Image.new("RGB", (560, 400), (0, 90, 0)), "objects", [("cell", (1, 2, 250))])
    page = np.asarray(explanation_sheet({}, heading=heading, title="a\nb " * 200))
    top, left = MARGIN + 41, MARGIN + WIDE + 12
    assert (page[top : top + WIDE * 40 // 56, left : left + WIDE] == (0, 90, 0)).all()
    assert (page[:, left + WIDE :] == (1, 2, 250)).all(axis=-1).sum() > 100, "the legend's chip"
    assert (page[:, -MARGIN + 4 :] == 255).all(), "the title stays inside"
