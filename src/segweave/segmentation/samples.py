"""Images with their masks on their way to the network: augmented for training, as they are for evaluation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from segweave.data.loading import Share, chance_of
from segweave.data.transforms import RandomScale
from segweave.networks.losses import IGNORE_INDEX
from segweave.segmentation.dataset import SegmentationDataset


class LabelledImage(NamedTuple):
    """One sample."""

    image: Tensor
    """(3, H, W), float32 and normalised for training, uint8 for evaluation."""
    mask: Tensor
    """(H, W), int64."""
    name: str
    """What the data set calls the sample."""
    number: int
    """Its index in the data set."""
    counted: bool = True
    """Whether it counts in evaluation; else it is only there so that every process has equally many."""


class LabelledBatch(NamedTuple):
    """B samples of one size."""

    images: Tensor
    """(B, 3, H, W), float32 and normalised for training, uint8 for evaluation."""
    masks: Tensor
    """(B, H, W), int64."""
    names: list[str]
    numbers: Tensor
    """(B,), int64: their indices in the data set."""
    counted: Tensor
    """(B,), bool."""


def collate(items: list[LabelledImage]) -> LabelledBatch:
    """Stacks samples to a batch."""
    return LabelledBatch(*default_collate(items))


class SegmentationTrainingSamples(Dataset[LabelledImage]):
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
        with chance_of(self.seed, epoch, index):
            # one byte a pixel is enough for 256 values, and eight times as fast to resize
            image, mask = self.transform(image, tv_tensors.Mask(mask.to(torch.uint8)))
        name = self.dataset.name(index)
        return LabelledImage(image.as_subclass(Tensor), mask.as_subclass(Tensor).long(), name, index)


class SegmentationEvaluationSamples(Dataset[LabelledImage]):
    """This process's share of a split, unchanged: image (3, H, W) uint8, mask (H, W).

    Args:
        dataset: Where the samples come from.
        rank: Number of this process.
        processes: How many share the split.
    """

    def __init__(self, dataset: SegmentationDataset, *, rank: int = 0, processes: int = 1) -> None:
        self.dataset = dataset
        self.share = Share(len(dataset), rank=rank, processes=processes)

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, position: int) -> LabelledImage:
        index, counted = self.share[position]
        image, mask = (part.as_subclass(Tensor) for part in self.dataset[index])
        return LabelledImage(image, mask, self.dataset.name(index), index, counted)


def training_transform(
    *,
    crop_size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    scale_range: tuple[float, float] = (0.5, 2.0),
    flip_probability: float = 0.5,
    brightness: float = 0.0,
    short_edges: Sequence[int] | None = None,
) -> nn.Module:
    """The augmentation of training: scale, crop, flip, brightness, then normalisation.

    Args:
        crop_size: (height, width) of the result in pixels. What the scaled image lacks is padded: `mean` in the image,
            255 in the mask.
        mean: (red, green, blue) to subtract, for intensities in [0, 1].
        std: (red, green, blue) to divide by.
        scale_range: The range of the random scale.
        flip_probability: Of mirroring left to right.
        brightness: The image is multiplied by a factor from [1 - brightness, 1 + brightness].
        short_edges: Lengths in pixels, each as likely as the others: the image's short edge is resized to one of them
            before the random scale (FPT, Section 4.2: {269, 369, 469, 569} for ADE20K). None for its own.

    Returns:
        A transform of (image, mask): (3, H, W) uint8 and (H, W) to (3, *crop_size) float32 and (*crop_size).
    """
    padding = {tv_tensors.Image: [round(255 * value) for value in mean], tv_tensors.Mask: IGNORE_INDEX}
    # brightness comes first, so that it doesn't change the padding
    steps: list[nn.Module] = [v2.ColorJitter(brightness=brightness)] if brightness else []
    steps += [
        RandomScale(scale_range, short_edges),
        v2.RandomCrop(crop_size, pad_if_needed=True, fill=padding),
        v2.RandomHorizontalFlip(flip_probability),
    ]
    return v2.Compose(
        [*steps, v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True), v2.Normalize(mean, std)]
    )
