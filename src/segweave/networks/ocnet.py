"""OCNet: object context pooling, which is self-attention over all positions of the map.

Yuan and Wang, "OCNet: Object Context Network for Scene Parsing", arXiv 1809.00916, with its plainest module, Base-OC:
RANet's "non-local attention" (Table 1). Choices: query and key are one transform, computed once, and value is as wide
as they are, 256 channels, as in the network that the authors released. Deviations from it: ReLU for leaky ReLU, the
project's dropout (0.1 for 0.05), and the transform of the context starts from random weights, not from zero.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segweave.networks.backbones import Backbone
from segweave.networks.fcn import FullyConvolutionalHead
from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.losses import pixel_cross_entropy
from segweave.networks.network import SegmentationNetwork, position_of

# Shapes: B images, C channels of the reduced map, D of query, key and value, K classes, N = h w positions


class OCNet(SegmentationNetwork):
    """Object context network.

    Args:
        backbone: The source of the feature maps; the last is used, and the one before it by the auxiliary loss.
        num_classes: K.
        channels: C, what a 3x3 convolution brings the last map to.
        key_channels: D, the width of query, key and value.
        dropout: Probability with which the heads' input channels are dropped in training.
        auxiliary_weight: Weight of the auxiliary loss on res4; 0 leaves its head out.
    """

    default_output_stride: ClassVar[int] = 8

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.1,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        *_, auxiliary_channels, in_channels = backbone.channels
        self.reduce = ConvNormAct(in_channels, channels, 3)
        self.context = ObjectContextPooling(channels, key_channels)
        self.head = nn.Sequential(
            ConvNormAct(2 * channels, channels),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, kernel_size=1),
        )
        self.auxiliary_weight = auxiliary_weight
        if auxiliary_weight:
            self.auxiliary_head = FullyConvolutionalHead(
                auxiliary_channels, auxiliary_channels // 4, num_classes, dropout=dropout
            )

    def forward(self, images: Tensor) -> Tensor:
        return resize_like(self._logits(self.backbone(images)[-1]), images)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        *_, res4, res5 = self.backbone(images)
        losses = {"segmentation": pixel_cross_entropy(resize_like(self._logits(res5), images), labels)}
        if self.auxiliary_weight:
            auxiliary_logits = resize_like(self.auxiliary_head(res4), images)
            losses["auxiliary"] = self.auxiliary_weight * pixel_cross_entropy(auxiliary_logits, labels)
        return losses

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """The context, before it is concatenated with the map that it was made from: (B, C, h, w).

        Args:
            images: (B, 3, H, W), normalised.
            at: A pixel (x, y) of the images. If it is given, there is `attention_at` too: how much the position of the
                map that the pixel lies in attends to each position, (B, 1, h, w), which sums to 1.

        Raises:
            InputError: The images have no such pixel.
        """
        x = self.reduce(self.backbone(images)[-1])  # (B, C, h, w)
        explained = {"context": self.context(x)}
        if at is not None:
            row, column = position_of(at, images, x)
            explained["attention_at"] = self.context.attention_at(x, row, column)
        return explained

    def _logits(self, res5: Tensor) -> Tensor:
        x = self.reduce(res5)  # (B, C, h, w)
        return self.head(torch.cat([self.context(x), x], dim=1))  # (B, K, h, w)


class ObjectContextPooling(nn.Module):
    """Object context pooling: each position gets the mean of all positions' values, weighted by likeness to them.

    The weights are a softmax over all positions of query . key / sqrt(D). Their N x N table is never made: fused
    attention goes through it block by block. torch has a fused kernel on a CPU only where query, key and value are
    equally wide and the channels of a position lie side by side, and falls back to the table without a word elsewhere.

    Args:
        channels: C, of the map and of the context.
        key_channels: D, of query, key and value.
    """

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.query_and_key = ConvNormAct(channels, key_channels)
        # Without biases: the batch norm that follows the context would take away what they add
        self.value = nn.Conv2d(channels, key_channels, kernel_size=1, bias=False)
        self.project = nn.Conv2d(key_channels, channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        query = key = _positions(self.query_and_key(x))  # (B, 1, N, D)
        value = _positions(self.value(x))  # (B, 1, N, D)
        context = F.scaled_dot_product_attention(query, key, value)  # (B, 1, N, D)
        return self.project(context.squeeze(1).mT.unflatten(2, x.shape[-2:]))

    def attention_at(self, x: Tensor, row: int, column: int) -> Tensor:
        """How much one position attends to each: (B, C, h, w) -> (B, 1, h, w), which sums to 1."""
        key = self.query_and_key(x)  # (B, D, h, w)
        similarity = torch.einsum("bd,bdhw->bhw", key[:, :, row, column], key) / math.sqrt(key.shape[1])
        return similarity.flatten(1).softmax(dim=1).view_as(similarity)[:, None]


def _positions(x: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, 1, N, D), one head of attention, the channels of a position side by side."""
    return x.flatten(2).mT.contiguous()[:, None]
