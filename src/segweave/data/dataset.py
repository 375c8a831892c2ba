"""What every split of a data set is, whatever is to be predicted."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from torch.utils.data import Dataset

from segweave.data.colours import Colour

Sample = TypeVar("Sample", covariant=True)


class SplitDataset(Dataset[Sample], ABC):
    """A split of a data set: samples, class names and a palette.

    Attributes:
        classes: The names of the K classes.
        palette: K colours (red, green, blue), 0 to 255, in which predictions are drawn and saved.
        split: The split's name.
    """

    classes: Sequence[str]
    palette: Sequence[Colour]
    split: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages and reports call a sample: its image's path. No two samples of the split share a name."""
