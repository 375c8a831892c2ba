"""What every data set for segmentation is: images with masks of classes."""

from typing import NamedTuple

from torchvision import tv_tensors

from segweave.data.dataset import SplitDataset


class Sample(NamedTuple):
    """An image and its mask, both at the image's own size."""

    image: tv_tensors.Image
    """(3, H, W), uint8, RGB."""
    mask: tv_tensors.Mask
    """(H, W), int64: the class of each pixel, 255 (`segweave.networks.losses.IGNORE_INDEX`) where none counts."""


class SegmentationDataset(SplitDataset[Sample]):
    """A split of a data set for segmentation: class k has the value k in the masks."""
