"""What is chosen for a run that finds objects: much of it follows the objects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segweave import InputError
from segweave.data.colours import Colour
from segweave.detection.choices import ObjectSizes, anchor_sizes, detections_per_image, measure_objects
from segweave.detection.dataset import DetectionDataset, DetectionSample
from segweave.tasks import TASKS, task_of_data
from segweave.training.configuration import MOST_EPOCHS, RunConfiguration, configure, resolve


class SquareObjects(DetectionDataset):
    """Images of one size, of which only the annotations can be read: `most` objects in one, of `side` pixels a side."""

    classes = ("a",)
    palette: tuple[Colour, ...] = ((255, 0, 0),)
    category_ids = (1,)
    split = "train"

    def __init__(self, count: int, size: tuple[int, int], *, side: float = 30.0, most: int = 1) -> None:
        self.count = count
        self.size = size
        self.side = side
        self.most = most

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> DetectionSample:
        raise AssertionError("an image is read")

    def name(self, index: int) -> str:
        return str(index)

    def image_id(self, index: int) -> int:
        return index + 1

    def ground_truth(self, *, masks: bool = True) -> dict[str, Any]:
        assert not masks
        height, width = self.size
        box = [0.0, 0.0, self.side, self.side]
        return {
            "images": [{"id": index + 1, "height": height, "width": width} for index in range(self.count)],
            "annotations": [
                {"id": number + 1, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0}
                for number in range(self.most)
            ],
            "categories": [{"id": 1, "name": "a"}],
        }


def chosen(train: DetectionDataset | None = None, **settings: Any) -> RunConfiguration:
    """The configuration of a run on the CPU; 400 images of 480x640 if nothing else is said."""
    train = train or SquareObjects(400, (480, 640))
    given = configure({"data": "mine", "model": "mask_rcnn", "device": "cpu", **settings})
    return resolve(given, TASKS["detection"].choose(given, train, "cpu"), images=len(train))


def test_what_is_left_open_is_chosen() -> None:
    plain = chosen()
    assert (plain.short_edge, plain.long_edge, plain.batch_size, plain.learning_rate) == (320, 533, 4, 0.001)
    assert (plain.optimizer, plain.epochs, plain.crop_size) == ("adamw", 8, None)
    assert plain.scale_range == (0.8, 1.25)
    assert {"channels": 64, "head_channels": 256, "rois_per_image": 128}.items() <= plain.options.items()
    assert torch.tensor(plain.options["anchor_sizes"]).diff().gt(0).all()
    assert "test_proposals" not in plain.options


def test_crowded_images_get_more_proposals() -> None:
    crowded = chosen(SquareObjects(400, (480, 640), most=375))
    assert (crowded.options["detections_per_image"], crowded.options["test_proposals"]) == (600, (2400, 2400))


def test_edges_follow_the_images() -> None:
    wide = SquareObjects(400, (256, 2048))
    assert chosen(wide).long_edge == 2560  # scaled up by 1.25
    assert chosen(wide, scale_range=(0.5, 1.0)).long_edge == 2048
    assert chosen(SquareObjects(400, (28, 28))).short_edge == 32
    assert chosen(short_edges=(400, 600, 800)).short_edge == 600
    assert chosen(short_edges=(400, 600, 800)).long_edge == 1333


def test_the_optimiser_follows_what_the_run_starts_from() -> None:
    assert chosen(optimizer="sgd").learning_rate == 0.01
    assert (chosen(pretrained=True).optimizer, chosen(pretrained=True).learning_rate) == ("sgd", 0.005)


def test_what_is_given_is_kept() -> None:
    assert chosen(options={"anchor_sizes": [8, 16, 32, 64, 128]}).options["anchor_sizes"][0] == 8
    assert chosen(long_edge=0, short_edge=0).long_edge == 0


def test_twenty_four_images_are_seen_no_more_often_than_is_of_use() -> None:
    assert chosen(SquareObjects(24, (480, 640))).epochs <= MOST_EPOCHS
    assert chosen(SquareObjects(3, (480, 640))).epochs == MOST_EPOCHS  # a step each


@pytest.mark.parametrize(("masks", "model"), [(True, "mask_rcnn"), (False, "faster_rcnn")])
def test_the_model_follows_the_masks(coco_folder: Path, boxes_folder: Path, masks: bool, model: str) -> None:
    folder = coco_folder if masks else boxes_folder
    task = task_of_data(folder)
    assert task is TASKS["detection"]
    assert task.default_model(task.open_folder(folder, "train")) == model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_size": (32, 32)}, r"crop_size \[32, 32\]: mask_rcnn sees whole images"),
        ({"compile": True}, "compile: not for mask_rcnn"),
    ],
)
def test_what_is_for_pixels_alone(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen(**settings)


def sizes_of(*sizes: float, most: int = 1, short_edge: float = 100) -> ObjectSizes:
    return ObjectSizes(np.array(sizes), np.full(len(sizes), short_edge), np.full(len(sizes), 2 * short_edge), most)


def test_objects_are_measured_without_an_image() -> None:
    objects = measure_objects(SquareObjects(3, (480, 640), side=30.0, most=2).ground_truth(masks=False))
    assert objects.most == 2
    assert objects.sizes.tolist() == [30.0, 30.0]
    assert (objects.short_edges.tolist(), objects.long_edges.tolist()) == ([480.0] * 2, [640.0] * 2)


def test_anchors_double_from_the_small_objects_on() -> None:
    objects = sizes_of(*range(10, 111))  # a tenth is smaller than 20
    assert anchor_sizes(objects, 100, 0) == (23.0, 46.0, 92.0, 184.0, 368.0)
    assert anchor_sizes(objects, 0, 0) == anchor_sizes(objects, 100, 200) == anchor_sizes(objects, 100, 0)
    assert anchor_sizes(objects, 50, 0) == anchor_sizes(objects, 100, 100) == (11.0, 22.0, 44.0, 88.0, 176.0)
    assert anchor_sizes(sizes_of(0.5), 100, 0) == (4.0, 8.0, 16.0, 32.0, 64.0)
    assert anchor_sizes(sizes_of(), 100, 0) is None


def test_anchors_reach_the_large_objects() -> None:
    objects = sizes_of(*[10.0] * 20, *[405.0] * 80)
    assert anchor_sizes(objects, 100, 0) == (11.0, 27.0, 67.0, 164.0, 405.0)


@pytest.mark.parametrize(("most", "expected"), [(0, 100), (66, 100), (67, 150), (100, 150), (375, 600)])
def test_the_limit_on_detections(most: int, expected: int) -> None:
    assert detections_per_image(sizes_of(most=most)) == expected
