"""Regions: one colour each, neighbours in colours that differ."""

import numpy as np
import pytest

from segweave.reports.region_pictures import region_colours, region_map

LABELS = np.array([[4, 4, 9], [4, -2, 9]])


def test_a_region_is_in_one_colour_that_no_other_has():
    picture = region_colours(LABELS, (30, 20))
    assert picture.shape == (20, 30, 3)
    cells = picture.reshape(2, 10, 3, 10, 3).swapaxes(1, 2)  # (2, 3, 10, 10, 3)
    assert (cells == cells[:, :, :1, :1]).all(), "enlarged without new colours"
    colours = cells[:, :, 0, 0]
    same = (colours[:, :, None, None] == colours).all(axis=-1)
    assert np.array_equal(same, LABELS[:, :, None, None] == LABELS)


def test_colours_of_regions_depend_on_where_they_are_not_on_their_labels():
    order = {4: 100, 9: 1000, -2: 7}
    assert np.array_equal(
        region_colours(LABELS, (9, 6)), region_colours(np.vectorize(order.__getitem__)(LABELS), (9, 6))
    )


def scattered(share: float) -> np.ndarray:
    """(30, 40): regions of one position each, on a single ground."""
    single = np.random.default_rng(0).random((30, 40)) < share
    return np.where(single, np.arange(1, 1201).reshape(30, 40), 0)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(1200).reshape(30, 40),
        np.arange(1190).reshape(-1, 34),  # rows of a Fibonacci number: hues in golden steps nearly repeat after it
        scattered(0.3),
        np.random.default_rng(1).integers(0, 2, (30, 40)).cumsum().reshape(30, 40),
        np.add.outer(np.arange(30) // 7, 10 * (np.arange(40) // 9)),
    ],
    ids=["single", "fibonacci", "scattered", "runs", "blocks"],
)
def test_colours_of_neighbouring_regions_differ(labels):
    colours = region_colours(labels, labels.shape[::-1]).astype(float)
    for first, second in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1]), (np.s_[1:, 1:], np.s_[:-1, :-1])):
        distances = np.linalg.norm(colours[first] - colours[second], axis=-1)
        assert distances[labels[first] != labels[second]].min() > 55


def test_a_region_map_shows_the_image_in_grey_under_colours_with_a_contour():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = (0, 200, 0)
    labels = np.array([[0, 0, 1]])
    picture, colours = region_map(labels, image).astype(float), region_colours(labels, (30, 20)).astype(float)
    grey = np.full(3, round(0.587 * 200))
    np.testing.assert_allclose(picture[5, 5], 0.45 * grey + 0.55 * colours[5, 5], atol=1)
    np.testing.assert_allclose(picture[5, 17], 0.55 * colours[5, 17], atol=1)
    np.testing.assert_allclose(picture[5, 19], 0.95 * colours[5, 19], atol=1)
