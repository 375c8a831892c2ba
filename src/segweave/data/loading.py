"""Samples on their way to the network: who draws what, in which order, on which process.

What is random in a sample comes from (seed, epoch, index) alone, never from a worker's or a process's own state. So a
step sees the same data whatever the number of workers or processes, and after a resume.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors

from segweave.data.dataset import SegmentationDataset
from segweave.data.transforms import seed_of
from segweave.losses import IGNORE_INDEX


class LabelledImage(NamedTuple):
    """What a loader gives: one sample, or with a leading axis B a batch of them."""

    image: Tensor
    """(3, H, W), float32 and normalised for training, uint8 for evaluation."""
    mask: Tensor
    """(H, W), int64."""
    name: str
    """What the data set calls the sample."""
    number: int
    """Its index in the data set."""


class TrainingSamples(Dataset[LabelledImage]):
    """A data set seen through a random transform. It is asked for (epoch, index), since both decide what is drawn.

    Args:
        dataset: Where the samples come from.
        transform: Of (image, mask); may use torch's global generator, which is seeded for the one sample and put back.
        seed: The run's.
    """

    def __init__(self, dataset: SegmentationDataset, transform: nn.Module, *, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> LabelledImage:
        epoch, index = key
        image, mask = self.dataset[index]
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed_of(self.seed, epoch, index))
            # one byte a pixel is enough for 256 values, and eight times as fast to resize
            image, mask = self.transform(image, tv_tensors.Mask(mask.to(torch.uint8)))
        name = self.dataset.name(index)
        return LabelledImage(image.as_subclass(Tensor), mask.as_subclass(Tensor).long(), name, index)


class TrainingOrder(Sampler[tuple[int, int]]):
    """The order of an epoch as (epoch, index): a new one each epoch, each process its share of every batch.

    A rest that fills no batch is left out. A data set smaller than the batch makes a batch of its own length.

    Args:
        length: Of the data set.
        batch_size: Of all processes together, a multiple of their number.
        seed: The run's.
        rank: Number of this process.
        processes: How many share each batch.

    Attributes:
        share: How many samples of each batch this process gets.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, rank: int = 0, processes: int = 1) -> None:
        self.length = length
        self.batch_size = max(min(batch_size, length) // processes, 1) * processes
        self.share = self.batch_size // processes
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Is called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(self.length // self.batch_size, 1) * self.share

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for position in range(len(self)):
            step, place = divmod(position, self.share)
            # processes take turns, so that a batch is the same whatever their number; fewer samples than processes wrap
            # around
            yield self.epoch, order[(step * self.batch_size + place * self.processes + self.rank) % self.length]


class EvaluationSamples(Dataset[LabelledImage]):
    """This process's share of a split, unchanged: image (3, H, W) uint8, mask (H, W).

    Every process gets equally many samples, since processes wait for each other at every step. Where that takes one
    sample more than there are, it has a mask that is ignored all over and no name, so that nothing is counted twice.

    Args:
        dataset: Where the samples come from.
        rank: Number of this process.
        processes: How many share the split.
    """

    def __init__(self, dataset: SegmentationDataset, *, rank: int = 0, processes: int = 1) -> None:
        self.dataset = dataset
        self.rank = rank
        self.processes = processes

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.processes)

    def __getitem__(self, position: int) -> LabelledImage:
        index = position * self.processes + self.rank
        if position >= len(self):
            raise IndexError(position)
        if index >= len(self.dataset):
            image, mask = self.dataset[0]
            ignored = torch.full_like(mask, IGNORE_INDEX).as_subclass(Tensor)
            return LabelledImage(image.as_subclass(Tensor), ignored, "", 0)
        image, mask = self.dataset[index]
        return LabelledImage(image.as_subclass(Tensor), mask.as_subclass(Tensor), self.dataset.name(index), index)
