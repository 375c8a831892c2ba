"""Objects on their way to the network: chance depends on (seed, epoch, index) alone, and nothing is counted twice."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segweave.data.loading import TrainingOrder
from segweave.detection.coco import CocoDataset
from segweave.detection.samples import (
    DetectionBatch,
    DetectionEvaluationSamples,
    DetectionItem,
    DetectionTrainingSamples,
    collate,
    training_transform,
)
from segweave.detection.shapes import ShapesDetectionDataset
from tests.data.coco_files import write

KEYS = [(epoch, index) for epoch in (0, 3) for index in (4, 0, 2, 1, 3)]


def dataset(length: int = 5) -> ShapesDetectionDataset:
    return ShapesDetectionDataset("val", size=(40, 48), length=length)


def samples(seed: int = 1) -> DetectionTrainingSamples:
    transform = training_transform(short_edges=(32, 40, 56), long_edge=60, scale_range=(0.8, 1.2), brightness=0.3)
    return DetectionTrainingSamples(dataset(), transform, seed=seed)


def assert_same(first: DetectionItem, second: DetectionItem) -> None:
    assert (first.name, first.number) == (second.name, second.number)
    assert torch.equal(first.image, second.image)
    assert first.target.keys() == second.target.keys()
    for key, value in first.target.items():
        other = second.target[key]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


def test_a_training_sample_is_what_the_loader_promises() -> None:
    item = samples()[0, 2]
    assert item.image.dtype == torch.float32
    assert (item.name, item.number) == ("shapes/val/000002", 2)
    assert item.target["image_id"] == 3
    count, size = len(item.target["labels"]), item.image.shape[-2:]
    assert count > 2
    shapes = {key: tuple(value.shape) for key, value in item.target.items() if isinstance(value, Tensor)}
    assert shapes == {
        "boxes": (count, 4), "labels": (count,), "masks": (count, *size), "iscrowd": (count,), "area": (count,),
    }  # fmt: skip
    assert {type(each) for each in (item.image, *item.target.values())} == {Tensor, int}


def test_same_key_gives_the_same_sample_whatever_the_global_state() -> None:
    expected = samples()[3, 2]
    for state in range(3):
        torch.manual_seed(state)
        random.seed(state)
        np.random.seed(state)
        assert_same(samples()[3, 2], expected)


def test_global_state_is_not_disturbed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    samples()[1, 1]
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_epoch_and_index_each_change_what_is_drawn() -> None:
    images = [samples(seed)[epoch, index].image for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    assert not any(torch.equal(images[i], images[j]) for i in range(len(images)) for j in range(i))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_order_do_not_matter(workers: int) -> None:
    torch.manual_seed(workers)
    loader: Any = DataLoader(samples(), batch_size=None, sampler=KEYS, num_workers=workers)
    for key, sample in zip(KEYS, loader, strict=True):
        assert_same(sample, samples()[key])


def test_groups_are_not_trained_on_but_evaluated(tmp_path: Path) -> None:
    coco = CocoDataset(write(tmp_path), "train")
    trained = DetectionTrainingSamples(coco, training_transform(flip_probability=0.0), seed=0)[0, 1]
    assert trained.target["labels"].tolist() == [1]
    assert trained.target["masks"].shape == (1, 30, 40)
    evaluated = DetectionEvaluationSamples(coco)[1]
    assert evaluated.target["iscrowd"].tolist() == [0, 1]
    assert len(DetectionTrainingSamples(coco, training_transform(), seed=0)[0, 2].target["labels"]) == 0


def test_batches_keep_each_sample_as_it_is() -> None:
    order = TrainingOrder(5, 2, seed=0)
    loader: Any = DataLoader(samples(), batch_size=order.share, sampler=order, num_workers=1, collate_fn=collate)
    keys = list(order)
    batches = list(loader)
    assert [len(batch.images) for batch in batches] == [2, 2]
    sizes = set()
    for position, batch in enumerate(batches):
        assert isinstance(batch, DetectionBatch)
        for place in range(2):
            item = DetectionItem(*(field[place] for field in batch))
            assert_same(item, samples()[keys[2 * position + place]])
            sizes.add(item.image.shape)
    assert len(sizes) > 1


@pytest.mark.parametrize(("length", "processes"), [(7, 3), (6, 3), (2, 3), (4, 1)])
def test_evaluation_counts_each_sample_once_and_fills_with_what_does_not_count(length: int, processes: int) -> None:
    data = dataset(length)
    names: Counter[str] = Counter()
    shares = [DetectionEvaluationSamples(data, rank=rank, processes=processes) for rank in range(processes)]
    assert {len(share) for share in shares} == {-(-length // processes)}
    for share in shares:
        for position in range(len(share)):
            image, target, name, number, counted = share[position]
            assert (type(image), image.dtype) == (Tensor, torch.float32)
            assert target["masks"].shape[1:] == image.shape[1:]
            expected = data[number]
            assert data.name(number) == name
            assert torch.equal((image * 255).round().byte(), expected.image.as_subclass(Tensor))
            assert torch.equal(target["masks"], expected.target["masks"].as_subclass(Tensor))
            assert target["image_id"] == expected.target["image_id"]
            names[name] += counted
        with pytest.raises(IndexError):
            share[len(share)]
    assert names == {data.name(index): 1 for index in range(length)}
