"""Augmentation of images with objects: boxes and masks are changed together with the image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from segweave.data.instances import InstanceTarget
from segweave.data.transforms import RandomScale


def instance_transform(
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
        long_edge: The length in pixels that the image's long edge may have at most, which goes before the short edge
            (FPT: 1000). None: any.
        scale_range: The range of a random factor, by which the short edge is multiplied.
        flip_probability: Of mirroring left to right.
        brightness: The image is multiplied by a factor from [1 - brightness, 1 + brightness].

    Returns:
        A transform of (image, target): (3, H, W) uint8 to float32 in [0, 1] of its new size, and `InstanceTarget` to
        the same with boxes and masks at that size. `area` is multiplied by the factor of the image's area. Objects
        whose box has no area left, or whose mask has no pixel left, are left out.
    """
    steps: list[nn.Module] = [v2.ColorJitter(brightness=brightness)] if brightness else []
    return _InstanceTransform(
        v2.Compose(
            [
                *steps,
                RandomScale(scale_range, short_edges, long_edge),
                v2.RandomHorizontalFlip(flip_probability),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            ]
        )
    )


def select(target: InstanceTarget, chosen: Tensor) -> InstanceTarget:
    """Some of the objects.

    Args:
        target: N objects.
        chosen: (N,), bool.
    """
    return InstanceTarget(
        boxes=tv_tensors.wrap(target["boxes"][chosen], like=target["boxes"]),
        labels=target["labels"][chosen],
        masks=tv_tensors.wrap(target["masks"][chosen], like=target["masks"]),
        iscrowd=target["iscrowd"][chosen],
        area=target["area"][chosen],
        image_id=target["image_id"],
    )


class _InstanceTransform(nn.Module):
    """torchvision's transforms, which change image, boxes and masks, and what follows from them for the rest."""

    def __init__(self, geometry: nn.Module) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, image: tv_tensors.Image, target: InstanceTarget) -> tuple[tv_tensors.Image, InstanceTarget]:
        before = image.shape[-2] * image.shape[-1]
        image, target = self.geometry(image, target)
        left, top, right, bottom = target["boxes"].as_subclass(Tensor).unbind(1)
        has_pixels = target["masks"].as_subclass(Tensor).flatten(1).any(1).bool()  # of bytes, `any` gives bytes
        seen = (left < right) & (top < bottom) & has_pixels
        target = {**target, "area": target["area"] * (image.shape[-2] * image.shape[-1] / before)}
        return image, target if bool(seen.all()) else select(target, seen)
