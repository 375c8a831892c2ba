"""FPN: feature pyramid network for semantic segmentation, the baseline that AGLN builds on.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, in the form that is the baseline of Tables IV to
VIII of "Attention Guided Global Enhancement and Local Refinement Network for Semantic Segmentation" (IEEE TIP 2022;
Sections III-D and IV-A). What that text leaves open, and how we read it:

- Section IV-A says that 3x3 convolutions bring the encoder's maps to 256 channels; the parameters and multiply-adds of
  Table VIII say 1x1, and 3x3 on the last map only. `lateral_kernel_size=3` follows the text.
- A decoder stage is the sum of the encoder's map and the upsampled stage before it. Each stage after the first passes a
  3x3 convolution before all four are upsampled to the finest and concatenated.
- The head is a 3x3 convolution to 512 channels, batch norm, ReLU, dropout 0.1 and a 1x1 convolution.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from segweave.networks.backbones import Backbone
from segweave.networks.fcn import FullyConvolutionalHead
from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.network import SegmentationNetwork


class FPN(SegmentationNetwork):
    """Feature pyramid network.

    Args:
        backbone: The source of res2 to res5.
        num_classes: K.
        channels: Width of the decoder.
        head_channels: Width of the head's 3x3 convolution.
        lateral_kernel_size: Of the convolutions on res2 to res4; res5 always has 3.
        dropout: Probability with which the head's input channels are dropped in training.
    """

    default_output_stride: ClassVar[int] = 32

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        channels: int = 256,
        head_channels: int = 512,
        lateral_kernel_size: Literal[1, 3] = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.laterals = Laterals(backbone.channels, channels, kernel_size=lateral_kernel_size)
        self.head = DecoderHead(len(backbone.channels), channels, head_channels, num_classes, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        *encoder_maps, x = self.laterals(self.backbone(images))
        stages = [x]
        for encoder_map in reversed(encoder_maps):
            x = encoder_map + resize_like(x, encoder_map)  # (B, C, size of encoder_map)
            stages.append(x)
        return resize_like(self.head(stages), images)


class Laterals(nn.ModuleList):
    """Brings the encoder's maps to the decoder's width: convolution, batch norm, ReLU.

    Args:
        in_channels: Of the encoder's maps, from fine to coarse.
        channels: C, the width of the decoder.
        kernel_size: Of all but the coarsest map, which has 3.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, kernel_size: int = 1) -> None:
        *fine, coarsest = in_channels
        super().__init__(
            [*(ConvNormAct(width, channels, kernel_size) for width in fine), ConvNormAct(coarsest, channels, 3)]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, in_channels[i], H_i, W_i) -> (B, C, H_i, W_i)."""
        return [lateral(x) for lateral, x in zip(self, maps, strict=True)]


class DecoderHead(nn.Module):
    """Logits from all stages of a decoder (AGLN, Section III-D): upsampled to the finest, concatenated, classified.

    Args:
        stages: How many there are.
        channels: C, the width of each.
        head_channels: Width of the 3x3 convolution on all of them.
        num_classes: K.
        dropout: Probability with which channels are dropped before the logits, in training.
    """

    def __init__(self, stages: int, channels: int, head_channels: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.smooth = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in range(stages - 1))
        self.classify = FullyConvolutionalHead(stages * channels, head_channels, num_classes, dropout=dropout)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Stages (B, C, h_i, w_i) from coarse to fine -> logits (B, K, h, w) at the size of the finest."""
        first, *others = stages
        maps = [first, *(smooth(x) for smooth, x in zip(self.smooth, others, strict=True))]
        return self.classify(torch.cat([resize_like(x, maps[-1]) for x in maps], dim=1))
