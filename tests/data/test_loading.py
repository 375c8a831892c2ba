"""Who draws what, in which order, on which process: chance depends on (seed, epoch, index) alone."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from segweave.data.loading import TrainingOrder
from segweave.segmentation.dataset import Sample, SegmentationDataset
from segweave.segmentation.samples import (
    LabelledImage,
    SegmentationEvaluationSamples,
    SegmentationTrainingSamples,
    training_transform,
)

KEYS = [(epoch, index) for epoch in (0, 3) for index in (4, 0, 2, 1, 3)]


class Noise(SegmentationDataset):
    """Images of noise and masks of three classes, the same at every look."""

    classes = ("a", "b", "c")
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))

    def __init__(self, length: int = 5) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 40, 48), generator=generator, dtype=torch.uint8)
        return Sample(tv_tensors.Image(image), tv_tensors.Mask(torch.randint(0, 3, (40, 48), generator=generator)))

    def name(self, index: int) -> str:
        return f"noise {index}"


def samples(seed: int = 1) -> SegmentationTrainingSamples:
    transform = training_transform(crop_size=(32, 40), mean=(0.5,) * 3, std=(0.2,) * 3, brightness=0.3)
    return SegmentationTrainingSamples(Noise(), transform, seed=seed)


def assert_same(first: LabelledImage, second: LabelledImage) -> None:
    assert first.name == second.name
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.mask, second.mask)


def test_training_sample_is_what_the_loader_promises() -> None:
    sample = samples()[0, 2]
    assert sample.image.shape == (3, 32, 40)
    assert sample.image.dtype == torch.float32
    assert sample.mask.shape == (32, 40)
    assert sample.mask.dtype == torch.int64
    assert sample.name == "noise 2"
    assert set(sample.mask.unique().tolist()) <= {0, 1, 2, 255}
    assert type(sample.image) is type(sample.mask) is Tensor


def test_same_key_gives_the_same_sample_whatever_the_global_state() -> None:
    expected = samples()[3, 2]
    for state in range(3):
        torch.manual_seed(state)
        random.seed(state)
        np.random.seed(state)
        assert_same(samples()[3, 2], expected)


def test_global_state_is_not_disturbed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    samples()[1, 1]
    list(TrainingOrder(10, 2, seed=3))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])


def test_seed_epoch_and_index_each_change_what_is_drawn() -> None:
    images = [samples(seed)[epoch, index].image for seed in (0, 1) for epoch in (0, 1, 2) for index in (0, 1)]
    assert not any(torch.equal(images[i], images[j]) for i in range(len(images)) for j in range(i))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_and_order_do_not_matter(workers: int) -> None:
    torch.manual_seed(workers)
    loader = DataLoader(samples(), batch_size=None, sampler=KEYS, num_workers=workers)
    for key, sample in zip(KEYS, loader, strict=True):
        assert_same(sample, samples()[key])
    for key in reversed(KEYS):
        assert_same(samples()[key], samples()[key])


def test_batches_gather_images_masks_and_names() -> None:
    batch = next(iter(DataLoader(samples(), batch_size=3, sampler=KEYS)))
    assert isinstance(batch, LabelledImage)
    assert batch.image.shape == (3, 3, 32, 40)
    assert batch.mask.shape == (3, 32, 40)
    assert list(batch.name) == ["noise 4", "noise 0", "noise 2"]


def order_of(length: int, batch_size: int, epoch: int = 0, seed: int = 0, **share: int) -> list[int]:
    order = TrainingOrder(length, batch_size, seed=seed, **share)
    order.set_epoch(epoch)
    keys = list(order)
    assert len(keys) == len(order)
    assert {key[0] for key in keys} <= {epoch}
    return [index for _, index in keys]


@pytest.mark.parametrize(("length", "batch_size", "expected"), [(21, 4, 20), (20, 4, 20), (3, 4, 3), (7, 1, 7)])
def test_each_index_comes_at_most_once_and_the_rest_is_left_out(length: int, batch_size: int, expected: int) -> None:
    for epoch in range(4):
        indices = order_of(length, batch_size, epoch)
        assert len(indices) == len(set(indices)) == expected
        assert set(indices) <= set(range(length))


def test_order_changes_with_epoch_and_seed_and_is_otherwise_the_same() -> None:
    orders = {tuple(order_of(20, 4, epoch, seed)) for epoch in range(4) for seed in range(3)}
    assert len(orders) == 12
    assert order_of(20, 4, epoch=2) == order_of(20, 4, epoch=2)


def test_the_rest_that_is_left_out_is_not_always_the_same() -> None:
    left_out = {index for epoch in range(30) for index in set(range(9)) - set(order_of(9, 4, epoch))}
    assert len(left_out) > 5


@pytest.mark.parametrize(("length", "batch_size", "processes"), [(21, 4, 2), (8, 8, 2), (30, 6, 3)])
def test_shares_of_a_step_make_the_one_process_batch(length: int, batch_size: int, processes: int) -> None:
    whole = order_of(length, batch_size, epoch=1)
    shares = [order_of(length, batch_size, epoch=1, rank=rank, processes=processes) for rank in range(processes)]
    share = TrainingOrder(length, batch_size, seed=0, processes=processes).share
    assert share == batch_size // processes
    assert all(len(each) * processes == len(whole) for each in shares)
    for step in range(length // batch_size):
        together = [index for each in shares for index in each[step * share : (step + 1) * share]]
        assert sorted(together) == sorted(whole[step * batch_size : (step + 1) * batch_size])


def test_data_smaller_than_the_batch_makes_one_batch_of_its_own_length() -> None:
    order = TrainingOrder(3, 16, seed=0)
    assert order.share == 3
    assert sorted(index for _, index in order) == [0, 1, 2]
    shares = [order_of(6, 16, rank=rank, processes=2) for rank in (0, 1)]
    assert [len(share) for share in shares] == [3, 3]
    assert sorted(shares[0] + shares[1]) == list(range(6))


@pytest.mark.parametrize("length", [1, 2])
def test_fewer_samples_than_processes_still_give_every_process_a_step(length: int) -> None:
    shares = [order_of(length, 6, rank=rank, processes=3) for rank in range(3)]
    assert [len(share) for share in shares] == [1, 1, 1]
    assert {index for share in shares for index in share} == set(range(length))


def test_order_drives_a_loader_over_epochs() -> None:
    order = TrainingOrder(5, 2, seed=0)
    loader = DataLoader(samples(), batch_size=order.share, sampler=order, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        order.set_epoch(epoch)
        keys = list(order)
        batches = list(loader)
        assert len(batches) == 2
        expected = torch.stack([samples()[key].image for key in keys])
        assert torch.equal(torch.cat([batch.image for batch in batches]), expected)


@pytest.mark.parametrize(("length", "processes"), [(7, 3), (6, 3), (7, 1), (2, 3)])
def test_evaluation_counts_each_sample_once_and_fills_with_what_does_not_count(length: int, processes: int) -> None:
    dataset = Noise(length)
    names: Counter[str] = Counter()
    shares = [SegmentationEvaluationSamples(dataset, rank=rank, processes=processes) for rank in range(processes)]
    assert {len(share) for share in shares} == {-(-length // processes)}
    for share in shares:
        for position in range(len(share)):
            image, mask, name, index, counted = share[position]
            assert index == int(name.split()[1])
            expected = dataset[index]
            assert torch.equal(image, expected.image.as_subclass(Tensor))
            assert torch.equal(mask, expected.mask.as_subclass(Tensor))
            names[name] += counted
            assert image.dtype == torch.uint8
            assert mask.dtype == torch.int64
            assert type(image) is type(mask) is Tensor
        with pytest.raises(IndexError):
            share[len(share)]
    assert names == {f"noise {index}": 1 for index in range(length)}
