"""What every semantic-segmentation data set is: samples, class names and a palette."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch.utils.data import Dataset
from torchvision import tv_tensors

Colour = tuple[int, int, int]


class Sample(NamedTuple):
    """An image and its mask, both at the image's own size."""

    image: tv_tensors.Image
    """(3, H, W), uint8, RGB."""
    mask: tv_tensors.Mask
    """(H, W), int64: the class of each pixel, 255 (`segweave.losses.IGNORE_INDEX`) where none counts."""


class SegmentationDataset(Dataset[Sample], ABC):
    """A split of a data set for semantic segmentation.

    Attributes:
        classes: The names of the K classes; class k has the value k in the masks.
        palette: K colours (red, green, blue), 0 to 255, in which predictions are drawn and saved.
    """

    classes: Sequence[str]
    palette: Sequence[Colour]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """A name that is unique within the split, by which messages and reports call the sample: its image's path."""
