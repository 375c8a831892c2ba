"""What looks at a pyramid's levels in Faster and Mask R-CNN: region proposals, and the heads of the proposed boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from segweave.networks.augmented_head import (
    AdaptiveFeaturePooling,
    AugmentedMaskHead,
    FullyConnectedFusion,
    HeavierBoxHead,
)
from segweave.networks.necks import Neck
from segweave.networks.network import Options
from segweave.networks.rcnn_parts import BoxPredictor, MaskPredictor, ProposalHead, PyramidAnchors, PyramidRoIAlign

# Shapes: B images, L levels that boxes are pooled from, D channels of a level, S positions along a side of what is
# pooled, K classes

BOX_SIZE, MASK_SIZE = 7, 14
"""Positions along a side of what is pooled for a box and for its mask."""

ANCHORS_PER_IMAGE = 256
"""How many anchors of an image the region proposals are trained on, half of them on objects if there are so many."""


def _require_positive(name: str, numbers: Sequence[float]) -> None:
    if not numbers or min(numbers) <= 0:
        raise ValueError(f"{name} {list(numbers)}: expected numbers above 0")


@dataclass(frozen=True)
class ProposalOptions(Options):
    """How regions are proposed.

    Attributes:
        anchor_sizes: The root of an anchor's area in pixels for each of the five levels, the finest first. They should
            span the sizes of the objects, in the pixels that the network sees.
        aspect_ratios: Height to width of the anchors.
        training_proposals: How many proposals are kept in training: of each level before non-maximum suppression, and
            of an image after it.
        test_proposals: How many proposals are kept in evaluation, as in training.

    Raises:
        ValueError: A number isn't positive.
    """

    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    training_proposals: tuple[int, int] = (2000, 2000)
    test_proposals: tuple[int, int] = (1000, 1000)

    def __post_init__(self) -> None:
        _require_positive("anchor_sizes", self.anchor_sizes)
        _require_positive("aspect_ratios", self.aspect_ratios)
        _require_positive("training_proposals", self.training_proposals)
        _require_positive("test_proposals", self.test_proposals)


@dataclass(frozen=True)
class HeadOptions(Options):
    """What looks at the proposed boxes, and which detections are kept.

    Attributes:
        head_channels: Width of the box head's fully-connected layers.
        augmented_head: Whether the heads are PANet's: every box is pooled from every level, and both heads are heavier.
        rois_per_image: Boxes of an image that the heads are trained on.
        positive_share: The largest share of these boxes that may lie on objects.
        detections_per_image: How many detections are kept, those of the highest scores.
        score_threshold: The score that a detection must exceed.

    Raises:
        ValueError: A number isn't positive, or a share or a score isn't one.
    """

    head_channels: int = 1024
    augmented_head: bool = False
    rois_per_image: int = 512
    positive_share: float = 0.25
    detections_per_image: int = 100
    score_threshold: float = 0.05

    def __post_init__(self) -> None:
        _require_positive("rois_per_image", (self.rois_per_image,))
        _require_positive("detections_per_image", (self.detections_per_image,))
        if not 0 < self.positive_share <= 1:
            raise ValueError(f"positive_share {self.positive_share}: expected one above 0, and 1 at most")
        if not 0 <= self.score_threshold < 1:
            raise ValueError(f"score_threshold {self.score_threshold}: expected 0 or more, and less than 1")


USUAL_PROPOSALS, USUAL_HEADS = ProposalOptions(), HeadOptions()


class PyramidProposals(RegionProposalNetwork):
    """torchvision's region proposals, with anchors of one size on each level.

    Args:
        neck: The pyramid.
        options: How they are proposed.

    Attributes:
        most_proposals: The most proposals that an image has in evaluation.

    Raises:
        ValueError: There isn't a size of anchors for each level, or they are so small that they vanish.
    """

    def __init__(self, neck: Neck, options: ProposalOptions = USUAL_PROPOSALS) -> None:
        sizes, ratios = options.anchor_sizes, options.aspect_ratios
        if len(sizes) != len(neck.strides):
            raise ValueError(f"{len(sizes)} anchor_sizes: expected one for each of {len(neck.strides)} levels")
        training, test = options.training_proposals, options.test_proposals
        super().__init__(
            PyramidAnchors(sizes, ratios, neck.strides),
            ProposalHead(neck.channels, len(ratios)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=ANCHORS_PER_IMAGE,
            positive_fraction=0.5,
            pre_nms_top_n={"training": training[0], "testing": test[0]},
            post_nms_top_n={"training": training[1], "testing": test[1]},
            nms_thresh=0.7,
        )
        self.most_proposals = test[1]


class PyramidHeads(RoIHeads):
    """torchvision's heads of the proposed boxes, on the levels of a pyramid but the last.

    Args:
        neck: The pyramid.
        num_classes: K, without the background.
        options: What the heads are, and which detections are kept.
        masks: Whether there is a mask head beside the box head.

    Attributes:
        pooled_for_box: What the box head is given for a box: (D, S, S), or (L, D, S, S) if every level is pooled.
        pooled_for_mask: The same of the mask head.
    """

    def __init__(
        self, neck: Neck, num_classes: int, options: HeadOptions = USUAL_HEADS, *, masks: bool = False
    ) -> None:
        levels, channels, strides = len(neck.strides) - 1, neck.channels, neck.strides[:-1]
        parts: dict[str, nn.Module]
        if options.augmented_head:
            parts = _augmented_parts(channels, options.head_channels, num_classes + 1, strides, masks=masks)
        else:
            parts = _plain_parts(channels, options.head_channels, num_classes + 1, strides, masks=masks)
        super().__init__(
            **parts,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=options.rois_per_image,
            positive_fraction=options.positive_share,
            bbox_reg_weights=None,
            score_thresh=options.score_threshold,
            nms_thresh=0.5,
            detections_per_img=options.detections_per_image,
        )
        pooled = (levels, channels) if options.augmented_head else (channels,)
        self.pooled_for_box = (*pooled, BOX_SIZE, BOX_SIZE)
        self.pooled_for_mask = (*pooled, MASK_SIZE, MASK_SIZE)


class FixedBoxes(nn.Module):
    """A detector's layers for as many boxes as it looks at in evaluation at most, whatever the image: what costs the
    same for all images of a size.

    Pooling and choosing boxes are left out: they have neither convolutions nor matrix products.

    Args:
        backbone: Images to maps.
        neck: Maps to levels.
        rpn: Whose head looks at each level.
        roi_heads: Of which the box head looks at as many boxes as there are proposals at most, the mask head at as many
            as there are detections.
    """

    def __init__(self, backbone: nn.Module, neck: Neck, rpn: PyramidProposals, roi_heads: PyramidHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.roi_heads = roi_heads

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> what the layers give."""
        levels: list[Tensor] = self.neck(self.backbone(images))
        logits, offsets = self.rpn.head(levels)
        heads = self.roi_heads
        proposals = self.rpn.most_proposals
        boxes = images.new_zeros(len(images) * proposals, *heads.pooled_for_box)
        outputs = [*logits, *offsets, *heads.box_predictor(heads.box_head(boxes))]
        if heads.has_mask():
            detections = min(heads.detections_per_img, proposals)
            masks = images.new_zeros(len(images) * detections, *heads.pooled_for_mask)
            outputs.append(heads.mask_predictor(heads.mask_head(masks)))
        return outputs


def _plain_parts(
    channels: int, head_channels: int, num_classes: int, strides: Sequence[int], *, masks: bool
) -> dict[str, nn.Module]:
    """Of `RoIHeads`: each box is pooled from the level that fits its size."""
    parts: dict[str, nn.Module] = {
        "box_roi_pool": PyramidRoIAlign(strides, BOX_SIZE),
        "box_head": TwoMLPHead(channels * BOX_SIZE**2, head_channels),
        "box_predictor": BoxPredictor(head_channels, num_classes),
    }
    if masks:
        parts["mask_roi_pool"] = PyramidRoIAlign(strides, MASK_SIZE)
        parts["mask_head"] = MaskRCNNHeads(channels, (channels,) * 4, 1)
        parts["mask_predictor"] = MaskPredictor(channels, num_classes)
    return parts


def _augmented_parts(
    channels: int, head_channels: int, num_classes: int, strides: Sequence[int], *, masks: bool
) -> dict[str, nn.Module]:
    """Of `RoIHeads`: each box is pooled from every level, whatever its size."""
    levels = len(strides)
    parts: dict[str, nn.Module] = {
        "box_roi_pool": AdaptiveFeaturePooling(strides, BOX_SIZE),
        "box_head": HeavierBoxHead(levels, channels, BOX_SIZE, head_channels),
        "box_predictor": BoxPredictor(head_channels, num_classes),
    }
    if masks:
        parts["mask_roi_pool"] = AdaptiveFeaturePooling(strides, MASK_SIZE)
        parts["mask_head"] = AugmentedMaskHead(levels, channels)
        parts["mask_predictor"] = FullyConnectedFusion(channels, MASK_SIZE, num_classes)
    return parts
