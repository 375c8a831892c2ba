"""What detectors on a pyramid need otherwise than torchvision has it: images, anchors and RoIAlign of any sizes, and
heads that start from small weights and give float32."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

# Shapes: B images, R boxes of all images, D channels of a level, S positions along a side of what is pooled, K classes

SAMPLES = 2
"""Points that RoIAlign takes along a side of each of its bins, as torchvision's detectors do."""

MASK_THRESHOLD = 0.5
"""A pixel belongs to a detection if its mask is above this."""

PASTED_AT_ONCE = 8
"""Masks that are float32 at the size of the image at a time."""

CANONICAL_SIZE = 224
"""Root of the area in pixels from which a box is pooled at stride 16 (FPN, Section 4.2)."""


class Preparation(GeneralizedRCNNTransform):
    """Images to a batch: normalised, resized in evaluation alone, padded with the mean colour to multiples of 32.

    Args:
        mean: Of each channel, for intensities in [0, 1].
        std: The same.
        short_edge: Pixels of the short edge in evaluation; None for the image's own size.
        long_edge: Pixels of the long edge at most; None for no limit.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], short_edge: int | None, long_edge: int | None
    ) -> None:
        super().__init__(min_size=0, max_size=0, image_mean=list(mean), image_std=list(std), size_divisible=32)
        self.short_edge = short_edge
        self.long_edge = long_edge

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(3, H, W) -> (3, h, w); in training an image stays as it is."""
        height, width = image.shape[-2:]
        scale = 1.0 if self.short_edge is None else self.short_edge / min(height, width)
        if self.long_edge is not None:
            scale = min(scale, self.long_edge / max(height, width))
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        if self.training or size == (height, width):
            return image, target
        return F.interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)[0], target


def paste_masks(masks: Tensor, boxes: Tensor, seen: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Masks of boxes as masks of the image: linear between the positions of a box's mask, 0 outside the box.

    A pixel is read where the training's targets were, which RoIAlign takes from the image that the network sees with
    the pixel of index i at i, not i + 0.5. (torchvision rounds boxes to whole pixels, and makes objects of a few pixels
    one larger.)

    Args:
        masks: (R, 1, S, S) in [0, 1].
        boxes: (R, 4), XYXY in pixels of the image.
        seen: (height, width) at which the network saw the image.
        size: (height, width) of the image.

    Returns:
        (R, 1, height, width) of `size`, in [0, 1].
    """
    left, top, right, bottom = boxes.unbind(1)
    rows = _interpolation(top, bottom, masks.shape[-2], seen[0], size[0])
    columns = _interpolation(left, right, masks.shape[-1], seen[1], size[1])
    with torch.autocast(masks.device.type, enabled=False):  # bfloat16 has steps of 1/256 at the threshold
        return (rows @ masks[:, 0].float() @ columns.mT)[:, None]


def paste_cut_masks(masks: Tensor, boxes: Tensor, seen: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """As `paste_masks`, but cut at `MASK_THRESHOLD`: (R, 1, height, width), bool. Few at a time are made in float32."""
    inside = torch.empty(len(masks), 1, *size, dtype=torch.bool, device=masks.device)
    for start in range(0, len(masks), PASTED_AT_ONCE):
        few = slice(start, start + PASTED_AT_ONCE)
        torch.gt(paste_masks(masks[few], boxes[few], seen, size), MASK_THRESHOLD, out=inside[few])
    return inside


def _interpolation(low: Tensor, high: Tensor, positions: int, seen: int, size: int) -> Tensor:
    """(R, size, S): what each pixel of a side takes from each of S positions between `low` and `high`, (R,) each."""
    centres = torch.arange(size, device=low.device, dtype=low.dtype) + 0.5
    shares = (centres - 0.5 * size / seen - low[:, None]) / (high - low).clamp(min=1e-6)[:, None]
    at = (shares * positions - 0.5).clamp(0, positions - 1)
    weights = (1 - (at[..., None] - torch.arange(positions, device=low.device)).abs()).clamp(min=0)
    inside = (centres >= low[:, None]) & (centres < high[:, None])
    return weights * inside[..., None]


class PyramidAnchors(AnchorGenerator):
    """Anchors of one size for each level, in float32, as far apart as the level's stride.

    torchvision's takes the strides from the sizes of image and level, which a level of one or three positions doesn't
    tell, and the precision from the level.

    Args:
        sizes: Roots of the anchors' areas in pixels, of each level.
        aspect_ratios: Height to width.
        strides: Of each level.

    Raises:
        ValueError: A size is so small that an anchor has no width or no height, rounded as torchvision does.
    """

    def __init__(self, sizes: Sequence[float], aspect_ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__(tuple((size,) for size in sizes), (tuple(aspect_ratios),) * len(sizes))
        self.strides = [(stride, stride) for stride in strides]
        for size, anchors in zip(sizes, self.cell_anchors, strict=True):
            if (anchors[:, 2:] <= anchors[:, :2]).any():
                raise ValueError(f"anchors of {size} pixels: expected larger ones for {list(aspect_ratios)}")

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each image, XYXY: the same for all."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        anchors = torch.cat(self.grid_anchors([x.shape[-2:] for x in feature_maps], self.strides))
        return [anchors] * len(image_list.image_sizes)


class PyramidRoIAlign(MultiScaleRoIAlign):
    """RoIAlign from the level that fits a box's size (FPN, Eq. 1), for levels of known strides.

    Args:
        strides: Of the levels that are pooled from, the first ones of the pyramid.
        output_size: Positions along a side of what is pooled.
    """

    def __init__(self, strides: Sequence[int], output_size: int) -> None:
        super().__init__([str(number) for number in range(len(strides))], output_size, SAMPLES)
        self.scales = [1 / stride for stride in strides]
        self.map_levels = LevelMapper(2, 1 + len(strides), canonical_scale=CANONICAL_SIZE)


class ProposalHead(RPNHead):
    """torchvision's head of the region proposals, whose logits and offsets are float32 in mixed precision too."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Levels (B, D, h, w) -> of each the logits (B, A, h, w) of A anchors, and their offsets (B, 4 A, h, w)."""
        logits, offsets = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in offsets]


class BoxPredictor(FastRCNNPredictor):
    """torchvision's last layers of the box head, which give float32, with Fast R-CNN's first weights (Section 2.3).

    Args:
        in_channels: Width of what the box head gives.
        num_classes: K and the background.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        start_small(self.cls_score, 0.01)
        start_small(self.bbox_pred, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C) -> logits (R, K + 1) and offsets (R, 4 (K + 1))."""
        logits, offsets = super().forward(x)
        return logits.float(), offsets.float()


class MaskPredictor(MaskRCNNPredictor):
    """torchvision's last layers of the mask head, which give float32; their first weights leave every pixel undecided.

    torchvision draws them the wider, the fewer classes there are: with few, the first losses are several times ln 2.

    Args:
        channels: D.
        num_classes: K and the background.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, channels, num_classes)
        start_small(self.mask_fcn_logits, 0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(R, D, S, S) -> logits (R, K + 1, 2 S, 2 S)."""
        return super().forward(x).float()


def start_small(layer: nn.Conv2d | nn.Linear, deviation: float) -> None:
    """Draws a layer's first weights from a normal distribution around 0, as wide as its outputs should be small."""
    nn.init.normal_(layer.weight, std=deviation)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
