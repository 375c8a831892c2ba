"""What is chosen for a run that labels pixels."""

from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from segweave import InputError
from segweave.data.colours import Colour
from segweave.segmentation.dataset import Sample, SegmentationDataset
from segweave.tasks import TASKS
from segweave.training.configuration import MOST_EPOCHS, RunConfiguration, configure, resolve


class BlankImages(SegmentationDataset):
    """Images of one size."""

    classes = ("a", "b")
    palette: tuple[Colour, ...] = ((255, 0, 0), (0, 255, 0))
    split = "train"

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.count = count
        self.size = size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        image = torch.zeros(3, *self.size, dtype=torch.uint8)
        return Sample(tv_tensors.Image(image), tv_tensors.Mask(torch.zeros(self.size, dtype=torch.int64)))

    def name(self, index: int) -> str:
        return str(index)


def chosen(images: int, image_size: tuple[int, int], **settings: Any) -> RunConfiguration:
    """The configuration of a run on the CPU."""
    task = TASKS["segmentation"]
    train = BlankImages(images, image_size)
    given = configure({"data": "mine", "model": task.default_model(train), "device": "cpu", **settings})
    return resolve(given, task.choose(given, train, "cpu"), images=images)


def test_what_is_left_open_is_chosen() -> None:
    run = chosen(400, (480, 960))
    assert run.model == "pan"
    assert run.short_edge == 240
    assert run.crop_size == (240, 320)
    assert run.epochs == 40  # 2,000 steps of 8 images
    assert run.validate_every == 2
    assert (run.optimizer, run.learning_rate, run.scale_range) == ("sgd", 0.02, (0.5, 2.0))
    assert run.long_edge is None


@pytest.mark.parametrize(
    ("settings", "learning_rate"),
    [
        ({"pretrained": True}, 0.002),
        ({"init_from": "run"}, 0.002),
        ({"batch_size": 16, "pretrained": True}, 0.004),  # PAN, Section 4
        ({"optimizer": "adamw"}, 0.001),
        ({"optimizer": "adamw", "pretrained": True}, 0.0001),
    ],
)
def test_the_learning_rate_follows_the_batch_and_what_it_starts_from(
    settings: dict[str, Any], learning_rate: float
) -> None:
    assert chosen(400, (480, 960), **settings).learning_rate == learning_rate


def test_what_is_given_is_kept() -> None:
    given = {"epochs": 3, "crop_size": (64, 64), "short_edge": 0, "learning_rate": 1.0}
    run = chosen(10, (480, 960), **given)
    assert {name: getattr(run, name) for name in given} == given


def test_twenty_four_images_are_seen_no_more_often_than_is_of_use() -> None:
    assert chosen(24, (128, 160)).epochs <= MOST_EPOCHS


def test_small_images_are_not_enlarged() -> None:
    run = chosen(10, (128, 160))
    assert (run.short_edge, run.crop_size) == (0, (128, 160))


@pytest.mark.parametrize(
    ("short_edges", "middle"), [((96,), 96), ((269, 369, 469, 569), 469), ((80, 48, 64), 64), ((48, 80), 80)]
)
def test_the_middle_short_edge_is_evaluated(short_edges: tuple[int, ...], middle: int) -> None:
    run = chosen(10, (512, 512), short_edges=short_edges)
    assert (run.short_edge, run.short_edges) == (middle, short_edges)
    assert run.training_short_edges == short_edges
    assert run.crop_size == (min(middle, 320), min(middle, 320))


@pytest.mark.parametrize("short_edge", [0, 200])
def test_training_may_have_other_short_edges_than_evaluation(short_edge: int) -> None:
    run = chosen(10, (480, 960), short_edge=short_edge, short_edges=(64, 96, 128))
    assert run.short_edge == short_edge
    assert run.training_short_edges == (64, 96, 128)
    assert run.crop_size == (96, 192)  # what is trained on, not what is evaluated


def test_what_is_for_objects_alone() -> None:
    with pytest.raises(InputError, match="long_edge 640: for objects alone: expected none with pan"):
        chosen(10, (48, 64), long_edge=640)
