"""The things of the embedded data set as objects."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_api
from torch import Tensor

from segweave.data.shapes_scene import CLASSES, PALETTE, THINGS
from segweave.detection.shapes import ShapesDetectionDataset
from segweave.errors import InputError
from segweave.segmentation.shapes import ShapesSegmentationDataset


def test_classes_are_the_things_alone() -> None:
    dataset = ShapesDetectionDataset()
    assert list(dataset.classes) == ["tree", "pole", "ball", "buoy", "house", "car", "cone", "sail"]
    assert list(dataset.palette) == [PALETTE[k] for k in THINGS]
    assert list(dataset.category_ids) == list(range(1, 9))
    assert (len(dataset), len(ShapesDetectionDataset("val")), dataset.split, dataset.has_masks) == (
        600,
        100,
        "train",
        True,
    )


@pytest.mark.parametrize("options", [{}, {"size": (64, 90), "seed": 3, "length": 12}])
def test_samples_show_what_the_semantic_ones_show(options) -> None:
    dataset, drawn = ShapesDetectionDataset("val", **options), ShapesSegmentationDataset("val", **options)
    assert len(dataset) == len(drawn)
    for index in (0, 5):
        image, target = dataset[index]
        semantic = drawn[index]
        assert torch.equal(image, semantic.image)
        assert dataset.name(index) == drawn.name(index)
        assert dataset.image_id(index) == target["image_id"] == index + 1
        assert target["boxes"].canvas_size == image.shape[-2:]
        seen = torch.zeros_like(semantic.mask, dtype=torch.bool)
        for label, mask in zip(target["labels"], target["masks"], strict=True):
            values = semantic.mask[mask.bool()].unique().tolist()
            assert [CLASSES[value] for value in values] == [dataset.classes[int(label) - 1]]
            seen |= mask.as_subclass(Tensor).bool()
        assert torch.equal(seen, torch.isin(semantic.mask.as_subclass(Tensor), torch.tensor(THINGS)))
        assert target["area"].tolist() == target["masks"].sum((1, 2)).tolist()
        assert target["iscrowd"].tolist() == [0] * len(target["labels"])


def test_ground_truth_agrees_with_the_samples() -> None:
    dataset = ShapesDetectionDataset("val", size=(64, 90), length=6)
    truth = dataset.ground_truth()
    json.dumps(truth)
    assert [each["file_name"] for each in truth["images"]] == [dataset.name(index) for index in range(6)]
    assert {(each["height"], each["width"]) for each in truth["images"]} == {(64, 90)}
    assert [each["name"] for each in truth["categories"]] == list(dataset.classes)
    assert [each["id"] for each in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    for index in range(6):
        target = dataset[index].target
        found = [each for each in truth["annotations"] if each["image_id"] == dataset.image_id(index)]
        assert [each["category_id"] for each in found] == target["labels"].tolist()
        assert [each["area"] for each in found] == target["area"].tolist()
        for each, box, mask in zip(found, target["boxes"].tolist(), target["masks"].numpy(), strict=True):
            left, top, width, height = each["bbox"]
            assert [left, top, left + width, top + height] == box
            np.testing.assert_array_equal(coco_api.decode(each["segmentation"]), mask)
            assert each["iscrowd"] == 0
    for each in truth["annotations"]:
        del each["segmentation"]
    assert dataset.ground_truth(masks=False) == truth


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="unknown split 'test'"):
        ShapesDetectionDataset("test")
    with pytest.raises(IndexError):
        ShapesDetectionDataset("val")[100]
