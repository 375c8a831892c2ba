"""Augmentation of objects: image, boxes and masks stay together, and what can no longer be seen goes."""

import collections
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from segweave.detection.dataset import DetectionTarget, detection_target
from segweave.detection.samples import select, training_transform
from segweave.detection.shapes import ShapesDetectionDataset

COLOURS = torch.tensor([[250, 10, 20], [15, 240, 30], [25, 35, 245]])


def target_of(masks: np.ndarray, **changes: Any) -> DetectionTarget:
    """Objects with the boxes and areas of their masks."""
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    made: dict[str, Any] = {
        "boxes": boxes, "labels": [k + 1 for k in range(len(masks))], "masks": masks, "crowd": [False] * len(masks),
        "areas": masks.sum((1, 2)).tolist(), "image_id": 5,
    }  # fmt: skip
    return detection_target(**{**made, **changes})


def scene(height: int = 96, width: int = 120) -> tuple[tv_tensors.Image, DetectionTarget]:
    """Three rectangles, each in a colour of its own, on black."""
    masks = np.zeros((3, height, width), np.uint8)
    masks[0, 5:40, 10:35] = 1
    masks[1, 50:90, 8:70] = 1
    masks[2, 20:80, 80:119] = 1
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    for mask, colour in zip(masks, COLOURS, strict=True):
        pixels[:, torch.from_numpy(mask).bool()] = colour[:, None].to(torch.uint8)
    return tv_tensors.Image(pixels), target_of(masks)


def plain(**changes: Any) -> torch.nn.Module:
    """A transform that changes nothing but what is asked for."""
    return training_transform(**{"flip_probability": 0.0, **changes})


def boxes_of(masks: Tensor) -> Tensor:
    boxes = []
    for mask in masks.as_subclass(Tensor).bool():
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
    return torch.tensor(boxes, dtype=torch.float32)


def eroded(mask: Tensor, by: int) -> Tensor:
    padded = torch.nn.functional.pad(mask.as_subclass(Tensor)[None, None].float(), (by, by, by, by))
    return -torch.nn.functional.max_pool2d(-padded, 2 * by + 1, stride=1)[0, 0] > 0


SETTINGS = [
    {"scale_range": (0.4, 2.5), "flip_probability": 0.5},
    {"short_edges": (40, 77, 150), "long_edge": 140, "scale_range": (0.8, 1.3), "flip_probability": 0.5},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_image_boxes_and_masks_stay_together(settings: dict[str, Any]) -> None:
    transform = training_transform(**settings)
    left_of_the_middle = set()
    for draw in range(40):
        torch.manual_seed(draw)
        image, target = transform(*scene())
        height, width = image.shape[-2:]
        assert (image.dtype, target["masks"].dtype) == (torch.float32, torch.uint8)
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        assert target["masks"].shape == (3, height, width)
        assert target["boxes"].canvas_size == (height, width)
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].tolist() == [1, 2, 3]
        assert target["image_id"] == 5
        assert (boxes_of(target["masks"]) - target["boxes"].as_subclass(Tensor)).abs().max() <= 1
        for mask, colour in zip(target["masks"], COLOURS, strict=True):
            inside = (image.as_subclass(Tensor) * 255)[:, eroded(mask, 3)]
            assert inside.shape[1] > 0
            assert (inside - colour[:, None]).abs().max() <= 1.5
        left_of_the_middle.add(bool(target["boxes"][0, 0] < width / 2))
    assert left_of_the_middle == {False, True}


def test_boxes_are_scaled_not_taken_from_the_masks() -> None:
    image, target = scene()
    target["boxes"][0] = torch.tensor([8.5, 3.25, 37.0, 44.0])  # wider than the mask, as annotators draw
    _, doubled = plain(scale_range=(2.0, 2.0))(image, target)
    assert doubled["boxes"][0].tolist() == [17, 6.5, 74, 88]
    _, flipped = plain(flip_probability=1.0)(image, target)
    assert flipped["boxes"][0].tolist() == [120 - 37, 3.25, 120 - 8.5, 44]


@pytest.mark.parametrize("index", range(5))
def test_boxes_of_real_shapes_agree_with_their_masks(index: int) -> None:
    dataset = ShapesDetectionDataset("val")
    for draw in range(4):
        torch.manual_seed(draw)
        _, target = training_transform(scale_range=(1.0, 2.5))(*dataset[index])  # smaller, tips of a pixel may vanish
        assert len(target["labels"]) > 2
        assert (boxes_of(target["masks"]) - target["boxes"].as_subclass(Tensor)).abs().max() <= 1


def test_borders_of_masks_stay_in_place() -> None:
    """Nearest-neighbour resizing can shift masks by half a pixel against boxes and image."""
    differences = []
    for size in range(51, 200, 7):
        _, target = plain(scale_range=(size / 100, size / 100))(*scene())
        differences.append((boxes_of(target["masks"]) - target["boxes"].as_subclass(Tensor)).mean())
    assert abs(float(torch.stack(differences).mean())) < 0.06


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (96, 120)),
        ({"short_edges": (48,)}, (48, 60)),
        ({"short_edges": (48,), "scale_range": (2.0, 2.0)}, (96, 120)),
        ({"short_edges": (800,), "long_edge": 1000}, (800, 1000)),
        ({"short_edges": (800,), "long_edge": 500}, (400, 500)),
        ({"short_edges": (80,), "scale_range": (3.0, 3.0), "long_edge": 150}, (120, 150)),
        ({"long_edge": 60}, (48, 60)),
        ({"long_edge": 600}, (96, 120)),
    ],
)
def test_sizes(settings: dict[str, Any], expected: tuple[int, int]) -> None:
    image, target = plain(**settings)(*scene())
    assert image.shape[-2:] == target["masks"].shape[-2:] == expected


def test_each_short_edge_is_as_likely() -> None:
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.zeros(3, 20, 30, dtype=torch.uint8))
    target = target_of(np.ones((1, 20, 30), np.uint8))
    transform = plain(short_edges=(10, 15, 24))
    counts = collections.Counter(transform(image, target)[0].shape[-2] for _ in range(300))
    assert set(counts) == {10, 15, 24}
    assert all(abs(count - 100) < 35 for count in counts.values())  # the standard deviation is 8


def test_areas_follow_the_image() -> None:
    _, target = plain(scale_range=(2.0, 2.0))(*scene())
    assert target["area"].tolist() == [4 * 35 * 25, 4 * 40 * 62, 4 * 60 * 39]


def test_brightness_changes_the_image_alone() -> None:
    torch.manual_seed(0)
    image, target = scene()
    values = set()
    for _ in range(5):
        brighter, same = plain(brightness=0.4)(image, target)
        assert torch.equal(same["masks"], target["masks"])
        assert torch.equal(same["boxes"], target["boxes"])
        values.add(round(255 * float(brighter[1, 50, 90])))
    assert len(values) >= 4
    assert 0.6 * 35 - 1 <= min(values) < max(values) <= 1.4 * 35 + 1


def test_what_cannot_be_seen_any_more_is_left_out_with_all_that_belongs_to_it() -> None:
    masks = np.zeros((4, 100, 100), np.uint8)
    masks[0, 10:50, 10:50] = 1
    masks[1, 60, 60] = 1  # no pixel of the image that is a tenth as large
    masks[2, 70:90, 70:90] = 1
    masks[3, 5:95, 62:68] = 1
    target = target_of(masks, crowd=[False, False, False, True])
    target["boxes"][2, 2] = target["boxes"][2, 0]  # a box without area
    image = tv_tensors.Image(torch.zeros(3, 100, 100, dtype=torch.uint8))
    _, small = plain(scale_range=(0.1, 0.1))(image, target)
    assert small["labels"].tolist() == [1, 4]
    assert small["iscrowd"].tolist() == [0, 1]
    assert small["boxes"].tolist() == [pytest.approx([1, 1, 5, 5]), pytest.approx([6.2, 0.5, 6.8, 9.5])]
    assert small["masks"].shape == (2, 10, 10)
    assert small["area"].tolist() == pytest.approx([16, 5.4])
    assert isinstance(small["boxes"], tv_tensors.BoundingBoxes)
    assert isinstance(small["masks"], tv_tensors.Mask)


def test_images_without_objects() -> None:
    image = tv_tensors.Image(torch.zeros(3, 40, 60, dtype=torch.uint8))
    target = target_of(np.zeros((0, 40, 60), np.uint8))
    image, target = training_transform(short_edges=(80,), brightness=0.2)(image, target)
    assert image.shape == (3, 80, 120)
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 80, 120)
    assert [len(target[key]) for key in ("labels", "iscrowd", "area")] == [0, 0, 0]


def test_select() -> None:
    target = scene()[1]
    some = select(target, torch.tensor([True, False, True]))
    assert some["labels"].tolist() == [1, 3]
    assert some["boxes"].canvas_size == (96, 120)
    assert torch.equal(some["masks"], target["masks"][[0, 2]])
    assert target["labels"].tolist() == [1, 2, 3]


def test_the_given_sample_is_not_changed() -> None:
    image, target = scene()
    torch.manual_seed(3)
    training_transform(scale_range=(0.5, 2.0), flip_probability=1.0, brightness=0.3)(image, target)
    expected_image, expected = scene()
    assert torch.equal(image, expected_image)
    assert all(torch.equal(target[key], expected[key]) for key in ("boxes", "masks", "labels", "area"))
