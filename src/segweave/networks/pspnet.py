"""PSPNet: pyramid pooling.

Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017. PAN compares with its pyramid pooling module on
PAN's own backbone (Table 2, output stride 16); RANet calls it SPP.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segweave.networks.backbones import Backbone
from segweave.networks.fcn import FullyConvolutionalHead
from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.losses import pixel_cross_entropy
from segweave.networks.network import SegmentationNetwork

# Shapes: B images, C channels of res5, K classes, h x w its size


class PSPNet(SegmentationNetwork):
    """Pyramid scene parsing network.

    Args:
        backbone: The source of the feature maps; the last is used, and the one before it by the auxiliary loss.
        num_classes: K.
        bins: The sides of the grids that the map is pooled to.
        head_channels: Width of the head; a quarter of the last map's channels if not given.
        dropout: Probability with which the heads' input channels are dropped in training.
        auxiliary_weight: Weight of the auxiliary loss on res4 (the paper's Section 3.3: 0.4); 0 leaves its head out.
    """

    default_output_stride: ClassVar[int] = 8

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        head_channels: int | None = None,
        dropout: float = 0.1,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        *_, auxiliary_channels, channels = backbone.channels
        self.context = PyramidPooling(channels, bins)
        self.head = FullyConvolutionalHead(
            self.context.out_channels, head_channels or channels // 4, num_classes, dropout=dropout
        )
        self.auxiliary_weight = auxiliary_weight
        if auxiliary_weight:
            self.auxiliary_head = FullyConvolutionalHead(
                auxiliary_channels, auxiliary_channels // 4, num_classes, dropout=dropout
            )

    def forward(self, images: Tensor) -> Tensor:
        return resize_like(self.head(self.context(self.backbone(images)[-1])), images)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        *_, res4, res5 = self.backbone(images)
        logits = resize_like(self.head(self.context(res5)), images)
        losses = {"segmentation": pixel_cross_entropy(logits, labels)}
        if self.auxiliary_weight:
            auxiliary_logits = resize_like(self.auxiliary_head(res4), images)
            losses["auxiliary"] = self.auxiliary_weight * pixel_cross_entropy(auxiliary_logits, labels)
        return losses

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """The pooled levels before they are upsampled, `pooled_1x1` and so on; `at` adds nothing."""
        res5 = self.backbone(images)[-1]
        pooled = self.context.pool(res5)
        return {f"pooled_{bins}x{bins}": x for bins, x in zip(self.context.bins, pooled, strict=True)}


class PyramidPooling(nn.Module):
    """The pyramid pooling module: the map, and its averages over grids of several sizes, concatenated.

    Args:
        in_channels: C.
        bins: The sides of the grids; each level gets C / len(bins) channels.
    """

    def __init__(self, in_channels: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.bins = tuple(bins)
        level_channels = in_channels // len(bins)
        self.levels = nn.ModuleList(ConvNormAct(in_channels, level_channels) for _ in bins)
        self.out_channels = in_channels + level_channels * len(bins)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, out_channels, h, w)."""
        return torch.cat([x, *(resize_like(level, x) for level in self.pool(x))], dim=1)

    def pool(self, x: Tensor) -> list[Tensor]:
        """The pooled levels before they are upsampled: (B, C / len(bins), bin, bin) for each bin."""
        return [level(F.adaptive_avg_pool2d(x, bins)) for level, bins in zip(self.levels, self.bins, strict=True)]
