"""Images with their objects on their way to the network: as `segweave.data.loading`, in batches of different sizes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from segweave.data.instance_transforms import select
from segweave.data.instances import InstanceDataset, InstanceTarget
from segweave.data.transforms import seed_of


class InstanceItem(NamedTuple):
    """One sample."""

    image: Tensor
    """(3, H, W), float32 in [0, 1]."""
    target: dict[str, Any]
    """`InstanceTarget` in plain tensors."""
    name: str
    """What the data set calls the sample."""
    number: int
    """Its index in the data set."""


class InstanceBatch(NamedTuple):
    """Several samples, each at its own size."""

    images: list[Tensor]
    targets: list[dict[str, Any]]
    names: list[str]
    numbers: list[int]


class InstanceTrainingSamples(Dataset[InstanceItem]):
    """A data set seen through a random transform. It is asked for (epoch, index), as `TrainingOrder` gives them.

    Groups of objects (`iscrowd`) are left out: as one object each, they would teach the wrong boxes.

    Args:
        dataset: Where the samples come from.
        transform: Of (image, target); may use torch's global generator, which is seeded for the one sample and put
            back.
        seed: The run's.
    """

    def __init__(self, dataset: InstanceDataset, transform: nn.Module, *, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> InstanceItem:
        epoch, index = key
        image, target = self.dataset[index]
        target = select(target, target["iscrowd"] == 0)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed_of(self.seed, epoch, index))
            image, target = self.transform(image, target)
        return InstanceItem(image.as_subclass(Tensor), _plain(target), self.dataset.name(index), index)


class InstanceEvaluationSamples(Dataset[InstanceItem]):
    """This process's share of a split, at the images' own sizes, groups of objects included.

    Every process gets equally many samples, since processes wait for each other at every step. Where that takes one
    sample more than there are, it has no objects, no name, and the image_id -1.

    Args:
        dataset: Where the samples come from.
        rank: Number of this process.
        processes: How many share the split.
    """

    def __init__(self, dataset: InstanceDataset, *, rank: int = 0, processes: int = 1) -> None:
        self.dataset = dataset
        self.rank = rank
        self.processes = processes

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.processes)

    def __getitem__(self, position: int) -> InstanceItem:
        if position >= len(self):
            raise IndexError(position)
        index = position * self.processes + self.rank
        fills = index >= len(self.dataset)
        image, target = self.dataset[0 if fills else index]
        pixels = v2.functional.to_dtype(image.as_subclass(Tensor), torch.float32, scale=True)
        if fills:
            nothing = select(target, torch.zeros(len(target["labels"]), dtype=torch.bool))
            return InstanceItem(pixels, {**_plain(nothing), "image_id": -1}, "", 0)
        return InstanceItem(pixels, _plain(target), self.dataset.name(index), index)


def collate(items: Sequence[InstanceItem]) -> InstanceBatch:
    """Gathers samples to a batch; nothing is stacked or padded, since their sizes differ."""
    images, targets, names, numbers = (list(field) for field in zip(*items, strict=True))
    return InstanceBatch(images, targets, names, numbers)


def _plain(target: InstanceTarget) -> dict[str, Any]:
    return {key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for key, value in target.items()}
