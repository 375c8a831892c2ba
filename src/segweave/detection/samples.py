"""Images with their objects on their way to the network: augmented for training, as they are for evaluation.

Boxes and masks are changed together with the image. A batch has images of different sizes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from segweave.data.loading import Share, chance_of
from segweave.data.transforms import RandomScale
from segweave.detection.dataset import DetectionDataset, DetectionTarget


class DetectionItem(NamedTuple):
    """One sample."""

    image: Tensor
    """(3, H, W), float32 in [0, 1]."""
    target: dict[str, Any]
    """`DetectionTarget` in plain tensors."""
    name: str
    """What the data set calls the sample."""
    number: int
    """Its index in the data set."""
    counted: bool = True
    """Whether it counts in evaluation; else it is only there so that every process has equally many."""


class DetectionBatch(NamedTuple):
    """Several samples, each at its own size."""

    images: list[Tensor]
    targets: list[dict[str, Any]]
    names: list[str]
    numbers: list[int]
    counted: list[bool]


class DetectionTrainingSamples(Dataset[DetectionItem]):
    """A data set seen through a random transform. It is asked for (epoch, index), as `TrainingOrder` gives them.

    Groups of objects (`iscrowd`) are left out: as one object each, they would teach the wrong boxes.

    Args:
        dataset: Where the samples come from.
        transform: Of (image, target); may use torch's global generator, which is seeded for the one sample and put
            back.
        seed: The run's.
    """

    def __init__(self, dataset: DetectionDataset, transform: nn.Module, *, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> DetectionItem:
        epoch, index = key
        image, target = self.dataset[index]
        target = select(target, target["iscrowd"] == 0)
        with chance_of(self.seed, epoch, index):
            image, target = self.transform(image, target)
        return DetectionItem(image.as_subclass(Tensor), _plain(target), self.dataset.name(index), index)


class DetectionEvaluationSamples(Dataset[DetectionItem]):
    """This process's share of a split, at the images' own sizes, groups of objects included.

    Args:
        dataset: Where the samples come from.
        rank: Number of this process.
        processes: How many share the split.
    """

    def __init__(self, dataset: DetectionDataset, *, rank: int = 0, processes: int = 1) -> None:
        self.dataset = dataset
        self.share = Share(len(dataset), rank=rank, processes=processes)

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, position: int) -> DetectionItem:
        index, counted = self.share[position]
        image, target = self.dataset[index]
        pixels = v2.functional.to_dtype(image.as_subclass(Tensor), torch.float32, scale=True)
        return DetectionItem(pixels, _plain(target), self.dataset.name(index), index, counted)


def collate(items: Sequence[DetectionItem]) -> DetectionBatch:
    """Gathers samples into a batch; nothing is stacked or padded, since their sizes differ."""
    return DetectionBatch(*(list(field) for field in zip(*items, strict=True)))


def _plain(target: DetectionTarget) -> dict[str, Any]:
    return {key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for key, value in target.items()}


def training_transform(
    *,
    short_edges: Sequence[int] | None = None,
    long_edge: int | None = None,
    scale_range: tuple[float, float] = (1.0, 1.0),
    flip_probability: float = 0.5,
    brightness: float = 0.0,
) -> nn.Module:
    """The augmentation of training: brightness, scale, flip. Detection networks normalise and pad for themselves.

    Args:
        short_edges: Lengths in pixels, each as likely as the others: the image's short edge is resized to one of them
            (FPT, Section 4.1: 800). None for its own.
        long_edge: The greatest length in pixels of the image's long edge, which goes before the short edge (FPT: 1000).
            None for no limit.
        scale_range: The range of a random factor, by which the short edge is multiplied.
        flip_probability: Of mirroring left to right.
        brightness: The image is multiplied by a factor from [1 - brightness, 1 + brightness].

    Returns:
        A transform of (image, target): (3, H, W) uint8 to float32 in [0, 1] of its new size, and `DetectionTarget` to
        the same with boxes and masks at that size. `area` is multiplied by the factor of the image's area. Objects
        whose box has no area left, or whose mask has no pixel left, are left out.
    """
    steps: list[nn.Module] = [v2.ColorJitter(brightness=brightness)] if brightness else []
    return _DetectionTransform(
        v2.Compose(
            [
                *steps,
                RandomScale(scale_range, short_edges, long_edge),
                v2.RandomHorizontalFlip(flip_probability),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            ]
        )
    )


def select(target: DetectionTarget, chosen: Tensor) -> DetectionTarget:
    """Some of the objects.

    Args:
        target: N objects.
        chosen: (N,), bool.
    """
    return DetectionTarget(
        boxes=tv_tensors.wrap(target["boxes"][chosen], like=target["boxes"]),
        labels=target["labels"][chosen],
        masks=tv_tensors.wrap(target["masks"][chosen], like=target["masks"]),
        iscrowd=target["iscrowd"][chosen],
        area=target["area"][chosen],
        image_id=target["image_id"],
    )


class _DetectionTransform(nn.Module):
    """torchvision's transforms, which change image, boxes and masks, and what follows from them for the rest."""

    def __init__(self, geometry: nn.Module) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, image: tv_tensors.Image, target: DetectionTarget) -> tuple[tv_tensors.Image, DetectionTarget]:
        before = image.shape[-2] * image.shape[-1]
        image, target = self.geometry(image, target)
        left, top, right, bottom = target["boxes"].as_subclass(Tensor).unbind(1)
        has_pixels = target["masks"].as_subclass(Tensor).flatten(1).any(1).bool()  # of bytes, `any` gives bytes
        seen = (left < right) & (top < bottom) & has_pixels
        target = {**target, "area": target["area"] * (image.shape[-2] * image.shape[-1] / before)}
        return image, target if bool(seen.all()) else select(target, seen)
