"""Samples on their way to the network: who draws what, in which order, on which process.

What is random in a sample comes from (seed, epoch, index) alone, never from a worker's or a process's own state. So a
step sees the same data whatever the number of workers or processes, and after a resume.
"""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from segweave.errors import InputError


def seed_of(*numbers: int) -> int:
    """A seed made from `numbers`, such as (seed, epoch, index); other numbers give an unrelated one."""
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def chance_of(*numbers: int) -> Iterator[None]:
    """Within it, what torch draws depends on `numbers` alone; afterwards torch's generator is as it was before."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed_of(*numbers))
        yield


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
        """Lightning calls this before each epoch."""
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


class Share:
    """One process's share of a split in evaluation.

    Every process gets equally many samples, since processes wait for each other at every step. A process
    that would be one short gets the first sample again, which doesn't count.

    Args:
        length: Of the split.
        rank: Number of this process.
        processes: How many share the split.
    """

    def __init__(self, length: int, *, rank: int = 0, processes: int = 1) -> None:
        self.length = length
        self.rank = rank
        self.processes = processes

    def __len__(self) -> int:
        return -(-self.length // self.processes)

    def __getitem__(self, position: int) -> tuple[int, bool]:
        """The index of the sample at a position of the share, and whether it counts."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        index = position * self.processes + self.rank
        return (index, True) if index < self.length else (0, False)


class _Guarded(Dataset[object]):
    """Samples, or in place of one that can't be read the error that says so."""

    def __init__(self, samples: Dataset[object]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        assert isinstance(self.samples, Sized)
        return len(self.samples)

    def __getitem__(self, key: Any) -> object:
        try:
            return self.samples[key]
        except InputError as error:
            return error


class _Gathered:
    """Samples to a batch; an error among them takes its place."""

    def __init__(self, collate: Callable[[list[Any]], object]) -> None:
        self.collate = collate

    def __call__(self, items: list[object]) -> object:
        faults = [item for item in items if isinstance(item, InputError)]
        return faults[0] if faults else self.collate(items)


def loader_of(
    samples: Dataset[object], collate: Callable[[list[Any]], object] | None = None, **options: Any
) -> DataLoader[object]:
    """A loader that gives the error of a sample that can't be read in place of its batch.

    torch would pass it on from a process that loads data as the text of a traceback; whoever takes the batches raises
    it instead (see `segweave.training.steps.EvaluationSteps`).

    Args:
        samples: Where the samples come from.
        collate: From samples to a batch; None for torch's own way.
        options: Of torch's `DataLoader`.
    """
    return DataLoader(_Guarded(samples), collate_fn=_Gathered(collate or default_collate), **options)
