"""What a check of a data set gives, whatever the data set is of."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from segweave.data.colours import Colour

Size = tuple[int, int]


@dataclass(frozen=True)
class CheckedSplit(ABC):
    """What a split holds, and what is wrong with it. Files that could not be read are not counted."""

    split: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    images: int
    """The number of images with annotations."""
    sizes: tuple[Size, Size, Size] | None
    """(width, height) of the smallest, the median and the largest image by area; None if no image could be read."""
    problems: list[str]
    """One line each: the file, what was found and what was expected. A last line counts those that were left out."""
    problem_count: int
    """The number of problems, those that were left out among them."""
    warnings: list[str]
    """One line each: what is allowed but probably not meant. A last line counts those that were left out."""

    @property
    @abstractmethod
    def contents(self) -> str:
        """What a run prints of the split before it trains on it."""

    @property
    @abstractmethod
    def counted(self) -> dict[str, int]:
        """What it holds beside images, by what it is called."""

    @classmethod
    @abstractmethod
    def tables(cls, splits: "Sequence[CheckedSplit]") -> list[Table]:
        """The splits of one data set side by side."""


@dataclass(frozen=True)
class DatasetCheck:
    """What a data set holds, and what is wrong with it."""

    root: Path
    splits: list[CheckedSplit]
    """The splits that could be opened."""
    problems: list[str]
    """One line each: the file, what was found and what was expected. Training refuses a data set that has any."""
    problem_count: int
    """The number of problems, those that were left out of the lines among them."""

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    @property
    def warnings(self) -> list[str]:
        """One line each: what is allowed but probably not meant."""
        return [warning for split in self.splits for warning in split.warnings]


def cut(lines: list[str], most: int, where: Path, noun: str) -> list[str]:
    """The first lines, and one that counts the rest as so many more of `noun`."""
    return lines if len(lines) <= most else [*lines[:most], f"{where}: and {len(lines) - most} more {noun}"]


def typical_sizes(sizes: Sequence[Size]) -> tuple[Size, Size, Size] | None:
    """The smallest, the median and the largest by area; None of none."""
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return (ordered[0], ordered[len(ordered) // 2], ordered[-1]) if ordered else None


def size_cells(split: CheckedSplit) -> list[str]:
    """The smallest, the median and the largest size, for a table."""
    return [f"{width}x{height}" for width, height in split.sizes] if split.sizes else ["-"] * 3


def problem_cell(split: CheckedSplit) -> Text:
    """The number of problems, for a table."""
    return Text(str(split.problem_count), style="red" if split.problems else "green")


def colour_cell(colour: Colour) -> Text:
    """A class's colour, for a table."""
    red, green, blue = colour
    return Text("██", style=f"rgb({red},{green},{blue})")


def unseen(classes: Sequence[str], counts: npt.NDArray[np.int64]) -> list[str]:
    """The names of the classes whose count is 0."""
    return [name for name, count in zip(classes, counts, strict=True) if count == 0]


def unseen_warning(where: Path, classes: Sequence[str], counts: npt.NDArray[np.int64], noun: str) -> list[str]:
    """A line about the classes of which there is no `noun`, if there are any."""
    names = unseen(classes, counts)
    if not names:
        return []
    first = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return [f"{where}: {len(names)} of {len(classes)} classes have no {noun}: {first}"]
