"""Masks as COCO writes them: pycocotools reads the same, and nothing broken reaches it."""

import numpy as np
import pytest
from pycocotools import mask as coco_api

from segweave.detection.coco_masks import area, as_coco, decode, encode, extent, parse_segmentation, run_lengths
from segweave.errors import InputError
from tests.detection.coco_files import compressed, disc, plain


def random_masks() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    masks = [np.zeros((4, 5), np.uint8), np.ones((4, 5), np.uint8), np.ones((1, 1), np.uint8), disc(8, 9, 5, 200, 300)]
    for share in (0.02, 0.3, 0.9) * 20:
        height, width = random.integers(1, 40, 2)
        masks.append((random.random((height, width)) < share).astype(np.uint8))
    return masks


@pytest.mark.parametrize("form", [compressed, plain])
def test_run_lengths_of_any_mask(form) -> None:
    for mask in random_masks():
        segmentation = parse_segmentation(form(mask))
        assert segmentation is not None
        lengths = run_lengths(segmentation, *mask.shape)
        assert lengths.tolist() == plain(mask)["counts"]
        np.testing.assert_array_equal(decode([lengths], *mask.shape)[0], mask)
        assert area(lengths) == mask.sum()
        assert as_coco(lengths, *mask.shape) == encode(mask) == compressed(mask)
        if mask.any():
            rows, columns = np.nonzero(mask)
            assert extent(lengths, mask.shape[0]) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_polygons_are_drawn_as_pycocotools_draws_them() -> None:
    random = np.random.default_rng(1)
    for _ in range(100):
        height, width = (int(size) for size in random.integers(1, 40, 2))
        polygons = [(random.random(2 * int(random.integers(3, 8))) * 60 - 10).tolist() for _ in range(2)]
        segmentation = parse_segmentation(polygons)
        assert segmentation is not None
        drawn = decode([run_lengths(segmentation, height, width)], height, width)[0]
        expected = coco_api.decode(coco_api.merge(coco_api.frPyObjects(polygons, height, width)))
        np.testing.assert_array_equal(drawn, expected)


def test_many_masks_at_once() -> None:
    masks = [disc(x, 9, 5) for x in (5, 12, 30)]
    lengths = [np.array(plain(mask)["counts"]) for mask in masks]
    np.testing.assert_array_equal(decode(lengths, 30, 40), np.stack(masks))
    assert decode([], 30, 40).shape == (0, 30, 40)


@pytest.mark.parametrize("value", [None, []])
def test_no_mask(value) -> None:
    assert parse_segmentation(value) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "segmentation 'text': expected polygons, or size and counts"),
        ({"counts": "04"}, "expected polygons, or size and counts"),
        ([1, 2, 3, 4, 5, 6], "polygon 1: expected .*at least three points"),
        ([[1, 2, 3, 4]], r"polygon \[1, 2, 3, 4\]: expected .*at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three points"),
        ([[1, 2, 3, 4, 5, "6"]], "at least three points"),
        ([[[1, 2], [3, 4], [5, 6]]], "at least three points"),
        ([[]], "at least three points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "expected pixels from -100000 to 100000"),
        ([[1, 2, 3, 4, 5, 1e9]], "expected pixels from -100000 to 100000"),
        ({"size": [4], "counts": "04"}, r"size \[4\]: expected \[height, width\]"),
        ({"size": [4.5, 3], "counts": "04"}, r"expected \[height, width\]"),
        ({"size": [4, 3], "counts": []}, r"counts \[\]: expected text, or a list"),
        ({"size": [4, 3], "counts": {}}, "counts {}: expected text, or a list"),
        ({"size": [4, 3], "counts": [5, -1, 8]}, r"counts \[5, -1, 8\]: expected"),
        ({"size": [4, 3], "counts": [5, 0.5, 6.5]}, "expected text, or a list"),
    ],
)
def test_other_forms_are_refused(value, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_segmentation(value)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([5, 8], "run lengths with the sum 13: expected 12, as 3x4"),
        ([5, 6], "run lengths with the sum 11: expected 12"),
        ([0, 0], "run lengths with the sum 0: expected 12"),
        ("", "expected COCO's compressed text"),
        ("<<0\x1f", "expected COCO's compressed text"),
        ("ü0", "expected COCO's compressed text"),
        ("5P", "expected COCO's compressed text"),  # ends within a number
        ("PPPPPPPP0", "expected numbers below the image's pixels"),
        ("5L;", "run lengths with -4 among them: expected 0 and above"),  # 5 - 4 + 11 are 12 pixels
        ("58", "sum 13"),
    ],
)
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts, message: str) -> None:
    segmentation = parse_segmentation({"size": [4, 3], "counts": counts})
    assert segmentation is not None
    with pytest.raises(InputError, match=message):
        run_lengths(segmentation, 4, 3)


def test_run_lengths_of_another_image_are_refused() -> None:
    segmentation = parse_segmentation(compressed(disc(3, 3, 2, 8, 9)))
    assert segmentation is not None
    with pytest.raises(InputError, match="run lengths of 9x8 pixels: expected 8x9, as the image"):
        run_lengths(segmentation, 9, 8)
