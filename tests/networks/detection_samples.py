"""Images with objects for the tests of detectors."""

from typing import Any

import torch
from torch import Tensor


def some_objects(size: tuple[int, int], count: int, *, num_classes: int, seed: int = 3) -> dict[str, Tensor]:
    """A target with `count` boxes of 8 pixels a side or more in an image of this height and width, filled by their
    masks."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    extent = torch.tensor([width, height]) - 8
    corner = (torch.rand(count, 2, generator=generator) * extent).floor()
    sides = 8 + (torch.rand(count, 2, generator=generator) * (extent - corner)).floor()
    boxes = torch.cat([corner, corner + sides], dim=1)
    masks = torch.zeros(count, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.randint(1, num_classes + 1, (count,), generator=generator)
    return {"boxes": boxes, "labels": labels, "masks": masks}


def some_images(*sizes: tuple[int, int], seed: int = 2) -> list[Tensor]:
    """Noise in [0, 1], of these heights and widths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def narrow(**options: Any) -> dict[str, Any]:
    """Options of a detector that costs little."""
    return {
        "channels": 16,
        "head_channels": 32,
        "anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0),
        "rois_per_image": 32,
        "training_proposals": (100, 60),
        "test_proposals": (60, 40),
        "detections_per_image": 10,
        **options,
    }
