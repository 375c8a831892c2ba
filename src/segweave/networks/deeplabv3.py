"""DeepLabv3: atrous spatial pyramid pooling.

Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 1706.05587. PAN
compares with it at output stride 16 (Table 2). Deviation: no multi-grid rates inside the last block, which timm's
backbones don't have.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from segweave.networks.backbones import Backbone
from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.network import SegmentationNetwork

# Shapes: B images, C channels of res5, h x w its size


class DeepLabV3(SegmentationNetwork):
    """DeepLabv3.

    Args:
        backbone: The source of the feature maps; the last is used.
        num_classes: K.
        rates: Dilations of the three 3x3 convolutions; if not given the paper's: (6, 12, 18) at output stride 16,
            doubled at 8, halved at 32.
        context_channels: Width of the atrous spatial pyramid pooling.
        dropout: Probability with which the head's input channels are dropped in training.
    """

    default_output_stride: ClassVar[int] = 16

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        rates: tuple[int, ...] | None = None,
        context_channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        rates = rates or tuple(rate * 16 // backbone.output_stride for rate in (6, 12, 18))
        self.context = AtrousSpatialPyramidPooling(backbone.channels[-1], context_channels, rates)
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(context_channels, num_classes, kernel_size=1))

    def forward(self, images: Tensor) -> Tensor:
        return resize_like(self.head(self.context(self.backbone(images)[-1])), images)

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """ASPP's branches before they are concatenated, by name; `at` adds nothing."""
        return self.context.branches(self.backbone(images)[-1])


class AtrousSpatialPyramidPooling(nn.Module):
    """ASPP: a 1x1 convolution, 3x3 convolutions of several dilations and a global average, concatenated and projected.

    Args:
        in_channels: C.
        channels: Width of each branch and of the output.
        rates: Dilations of the 3x3 convolutions.
    """

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.point = ConvNormAct(in_channels, channels)
        self.rates = tuple(rates)
        self.atrous = nn.ModuleList(ConvNormAct(in_channels, channels, 3, dilation=rate) for rate in rates)
        self.image_level = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(in_channels, channels))
        self.project = ConvNormAct(channels * (2 + len(rates)), channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, channels, h, w)."""
        return self.project(torch.cat([resize_like(branch, x) for branch in self.branches(x).values()], dim=1))

    def branches(self, x: Tensor) -> dict[str, Tensor]:
        """The branches before they are concatenated, by name, the image-level one as a map of one pixel."""
        atrous = {f"rate_{rate}": conv(x) for rate, conv in zip(self.rates, self.atrous, strict=True)}
        return {"point": self.point(x), **atrous, "image_level": self.image_level(x)}
