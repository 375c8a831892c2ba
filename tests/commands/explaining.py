"""What the tests of `explain` share: narrow networks, and one that tells which pixel it was given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segweave.networks.backbones import Backbone
from segweave.networks.network import SegmentationNetwork

CLASSES = ("road", "tree", "sky")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
OPTIONS: dict[str, dict[str, Any]] = {
    "fcn": {},
    "fpn": {"channels": 16, "head_channels": 16},
    "pspnet": {},
    "deeplabv3": {"context_channels": 16},
    "ocnet": {"channels": 16, "key_channels": 8},
    "ranet": {"channels": 16, "representatives": 2},
    "ufp": {"channels": 8, "head_channels": 16},
    "fpt": {"channels": 8, "head_channels": 16},
    "pan": {"decoder_channels": 16},
    "agln": {"channels": 16, "head_channels": 16, "descriptors": 4},
}

MakeRun = Callable[..., Path]


class Pointing(SegmentationNetwork):
    """Its maps are of its images' own size, and tell which pixel it was given.

    Args:
        general: Whether there are maps where no pixel is chosen.
    """

    def __init__(self, *, backbone: Backbone, num_classes: int, general: bool = True) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.general = general
        self.head = nn.Conv2d(3, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images)

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        brightness = images.mean(dim=1, keepdim=True)
        explained = {"regions": (4 * brightness).round().long(), "bright": brightness > 0} if self.general else {}
        if at is not None:
            explained["pointed"] = torch.zeros_like(brightness)
            explained["pointed"][..., at[1], at[0]] = 1
        return explained
