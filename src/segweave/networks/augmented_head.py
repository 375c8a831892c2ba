"""PANet's augmented head: every box sees every level (FPT, Section 4.1: "AH").

Liu, Qi, Qin, Shi, Jia, "Path Aggregation Network for Instance Segmentation", CVPR 2018, Sections 3.3, 3.4 and 4.3:
adaptive feature pooling, fully-connected fusion and the heavier box head. What the text leaves open, and how we read
it:

- The layer before the maximum is each level's own ("independently"), a 3x3 convolution in both heads: the first of the
  heavier box head's four, and the first of the mask head's four.
- Pooled are the levels that boxes are pooled from without it, not the fifth.
- ReLU follows every convolution of the short path; its fully-connected layer gives logits, which are added to those of
  every class.
- No layer of a head has a norm.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import roi_align

from segweave.networks.rcnn_parts import SAMPLES, MaskPredictor, start_small

# Shapes: R boxes of all images, L levels, D channels of a level, S positions along a side of what is pooled


class AdaptiveFeaturePooling(nn.Module):
    """Pools each box from every level (PANet, Section 3.3), and not from the one level that fits its size.

    Args:
        strides: Of the levels that are pooled from, the first ones of the pyramid.
        output_size: S.
    """

    def __init__(self, strides: Sequence[int], output_size: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.output_size = output_size

    def forward(self, levels: Mapping[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        """Levels (B, D, H, W) by name, from fine to coarse, and each image's boxes (n, 4), XYXY in pixels of the padded
        images -> (R, L, D, S, S). The sizes of the images don't matter."""
        pooled = [
            roi_align(x, boxes, self.output_size, spatial_scale=1 / stride, sampling_ratio=SAMPLES)
            for x, stride in zip(levels.values(), self.strides, strict=False)
        ]
        return torch.stack(pooled, dim=1)


class FusionByMaximum(nn.Module):
    """A 3x3 convolution and ReLU for each level, then the maximum over them (PANet, Section 3.3).

    Args:
        levels: L.
        channels: D.
    """

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(MaskRCNNHeads(channels, (channels,), 1) for _ in range(levels))

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, L, D, S, S) -> (R, D, S, S)."""
        fused: Tensor | None = None
        for x, adapt in zip(pooled.unbind(dim=1), self.adapt, strict=True):
            adapted = adapt(x)
            fused = adapted if fused is None else torch.maximum(fused, adapted)
        assert fused is not None
        return fused


class HeavierBoxHead(nn.Sequential):
    """Four 3x3 convolutions, the levels fused after the first, and a fully-connected layer (PANet, Section 4.3).

    It takes (R, L, D, S, S) and gives (R, `out_channels`).

    Args:
        levels: L.
        channels: D.
        size: S.
        out_channels: Width of the fully-connected layer.
    """

    def __init__(self, levels: int, channels: int, size: int, out_channels: int = 1024) -> None:
        super().__init__(
            FusionByMaximum(levels, channels),
            FastRCNNConvFCHead((channels, size, size), [channels] * 3, [out_channels]),
        )


class AugmentedMaskHead(nn.Sequential):
    """The first three of the mask head's four 3x3 convolutions, the levels fused after the first (PANet, Section 3.4).

    It takes (R, L, D, S, S) and gives (R, D, S, S); `FullyConnectedFusion` goes on.

    Args:
        levels: L.
        channels: D.
    """

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__(FusionByMaximum(levels, channels), MaskRCNNHeads(channels, (channels, channels), 1))


class FullyConnectedFusion(nn.Module):
    """The rest of the mask head in two paths, whose logits are added (PANet, Section 3.4, Figure 4).

    The long path is the fourth 3x3 convolution, the upsampling by 2 and a 1x1 convolution, with logits for each class.
    The short one leaves after the third: two 3x3 convolutions, the second of half the channels, and a fully-connected
    layer, which tells object from background whatever the class.

    Args:
        channels: D.
        size: S.
        num_classes: K and the background.
    """

    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        self.mask_size = 2 * size
        self.convolutional = nn.Sequential(
            MaskRCNNHeads(channels, (channels,), 1), MaskPredictor(channels, num_classes)
        )
        half = max(channels // 2, 1)
        foreground = nn.Linear(half * size**2, self.mask_size**2)
        start_small(foreground, 0.001)
        self.fully_connected = nn.Sequential(MaskRCNNHeads(channels, (channels, half), 1), nn.Flatten(), foreground)

    def forward(self, x: Tensor) -> Tensor:
        """(R, D, S, S) -> logits (R, K + 1, 2 S, 2 S)."""
        foreground = self.fully_connected(x).unflatten(1, (1, self.mask_size, self.mask_size))
        return self.convolutional(x) + foreground
