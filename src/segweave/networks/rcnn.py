"""Faster R-CNN and Mask R-CNN on a feature pyramid (FPT, Sections 3.5 and 4.1).

Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015; He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017; on
pyramids as in Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017. The region proposals, the heads,
their losses and how detections are chosen are torchvision's; `segweave.networks.necks` has the pyramids,
`segweave.networks.augmented_head` PANet's heads. Where we do otherwise than torchvision's detectors:

- The strides of the levels are told, not guessed from the first images: small and odd sizes work.
- What is computed from anchors, offsets and logits is float32 in mixed precision too: bfloat16 has steps of 4 pixels
  at 1,000.
- The last layers start from small weights, as in Fast R-CNN, so that training can start from random ones.
- A batch of images of several sizes is padded, and FPT's transformers see the padding as they see the rest; train one
  image a process, as the paper does, where that matters.
- Images are resized with antialiasing, as they are in training, and only in evaluation.
- Masks are pasted into the image to the fraction of a pixel.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import resize_boxes

from segweave.errors import InputError
from segweave.networks.augmented_head import (
    AdaptiveFeaturePooling,
    AugmentedMaskHead,
    FullyConnectedFusion,
    HeavierBoxHead,
)
from segweave.networks.backbones import Backbone
from segweave.networks.fpt import Grounding
from segweave.networks.fpt_transformers import Normaliser, Scaling
from segweave.networks.necks import NeckName, make_neck
from segweave.networks.network import DetectionNetwork
from segweave.networks.rcnn_parts import (
    BoxPredictor,
    MaskPredictor,
    Preparation,
    ProposalHead,
    PyramidAnchors,
    PyramidRoIAlign,
    paste_cut_masks,
    paste_masks,
)
from segweave.ops.mixture_of_softmaxes import Similarity

# Shapes: B images, N objects of an image, R boxes of all images, K classes

Size = tuple[int, int]
PasteMasks = Callable[[Tensor, Tensor, Size, Size], Tensor]
"""See `paste_masks`."""

BOX_SIZE, MASK_SIZE = 7, 14
"""Positions along a side of what is pooled for a box and for its mask."""

ANCHORS_PER_IMAGE = 256
"""How many anchors of an image the region proposals are trained on, half of them on objects if there are so many."""


class FasterRCNN(DetectionNetwork):
    """Faster R-CNN on a pyramid: boxes and classes.

    Rows of FPT's Tables 1 and 3 are arguments.

    Args:
        backbone: The source of the feature maps.
        num_classes: K, without the background.
        neck: The pyramid: plain laterals ("bfp"), FPN, PANet's bottom-up path ("bpa"), or FPT on plain laterals.
        channels: Width of the levels and of the heads' convolutions.
        self_transformer: Of "fpt", as all up to `keep_probability`: whether levels attend to themselves (ST).
        grounding: Whether levels attend to coarser ones: everywhere (GT), in a square (LGT), or not.
        rendering: Whether levels are rendered by finer ones (RT).
        self_parts: N of Eq. 2 in ST.
        grounding_parts: N of Eq. 2 in GT and LGT.
        self_similarity: Of ST.
        grounding_similarity: Of GT and LGT; "euclidean" in the paper.
        normaliser: A mixture of softmaxes over the parts (Eq. 2), or one plain softmax.
        distance_scaling: What squared distances are divided by: the root of a part's channels, or nothing (as printed).
        square_size: Positions along a side of LGT's square.
        activated_levels: Whether batch norm and ReLU follow the 3x3 convolution of a transformed level.
        drop_block_size: Side of the squares that are dropped from the transformed levels in training.
        keep_probability: Of a position of the transformed levels in training; 1 leaves DropBlock out.
        anchor_sizes: The root of an anchor's area in pixels for each of the five levels, the finest first. They should
            span the sizes of the objects, in the pixels that the network sees.
        aspect_ratios: Of anchors, height to width.
        head_channels: Width of the box head's fully-connected layers.
        augmented_head: Whether the heads are PANet's: every box is pooled from every level, and both heads are heavier.
        rois_per_image: Boxes of an image that the heads are trained on.
        positive_share: The share of them that are on objects, at most.
        training_proposals: How many proposals are kept in training: of each level before non-maximum suppression, and
            of an image after it.
        test_proposals: The same in evaluation.
        detections_per_image: How many detections are kept, those of the highest scores.
        score_threshold: The score that a detection must exceed.

    Raises:
        ValueError: There aren't five sizes of anchors, a number isn't positive, or as in the pyramid.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        neck: NeckName = "fpn",
        channels: int = 256,
        self_transformer: bool = True,
        grounding: Grounding = "global",
        rendering: bool = True,
        self_parts: int = 2,
        grounding_parts: int = 4,
        self_similarity: Similarity = "dot",
        grounding_similarity: Similarity = "euclidean",
        normaliser: Normaliser = "mixture",
        distance_scaling: Scaling = "none",
        square_size: int = 5,
        activated_levels: bool = False,
        drop_block_size: int = 5,
        keep_probability: float = 0.9,
        anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0),
        aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        head_channels: int = 1024,
        augmented_head: bool = False,
        rois_per_image: int = 512,
        positive_share: float = 0.25,
        training_proposals: tuple[int, int] = (2000, 2000),
        test_proposals: tuple[int, int] = (1000, 1000),
        detections_per_image: int = 100,
        score_threshold: float = 0.05,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes, detections_per_image=detections_per_image)
        if not 0 <= score_threshold < 1:
            raise ValueError(f"score_threshold {score_threshold}: expected 0 or more, and less than 1")
        _require_positive("anchor_sizes", anchor_sizes)
        _require_positive("aspect_ratios", aspect_ratios)
        _require_positive("rois_per_image", (rois_per_image,))
        _require_positive("training_proposals", training_proposals)
        _require_positive("test_proposals", test_proposals)
        _require_positive("detections_per_image", (detections_per_image,))
        self.test_proposals = test_proposals
        if not 0 < positive_share <= 1:
            raise ValueError(f"positive_share {positive_share}: expected one above 0, and 1 at most")
        self.neck = make_neck(
            neck,
            backbone,
            channels,
            self_transformer=self_transformer,
            grounding=grounding,
            rendering=rendering,
            self_parts=self_parts,
            grounding_parts=grounding_parts,
            self_similarity=self_similarity,
            grounding_similarity=grounding_similarity,
            normaliser=normaliser,
            distance_scaling=distance_scaling,
            square_size=square_size,
            activated_levels=activated_levels,
            drop_block_size=drop_block_size,
            keep_probability=keep_probability,
        )
        if len(anchor_sizes) != len(self.neck.strides):
            raise ValueError(
                f"{len(anchor_sizes)} anchor_sizes: expected one for each of {len(self.neck.strides)} levels"
            )
        self.rpn = RegionProposalNetwork(
            PyramidAnchors(anchor_sizes, aspect_ratios, self.neck.strides),
            ProposalHead(channels, len(aspect_ratios)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=ANCHORS_PER_IMAGE,
            positive_fraction=0.5,
            pre_nms_top_n={"training": training_proposals[0], "testing": test_proposals[0]},
            post_nms_top_n={"training": training_proposals[1], "testing": test_proposals[1]},
            nms_thresh=0.7,
        )
        make_parts = self._augmented_parts if augmented_head else self._plain_parts
        self.roi_heads = RoIHeads(
            **make_parts(channels, head_channels, self.neck.strides[:-1]),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=rois_per_image,
            positive_fraction=positive_share,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=0.5,
            detections_per_img=detections_per_image,
        )

    def forward(
        self, images: list[Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self._detections(images, paste_masks)
        batch, used = self._preparation()(images, self._checked(images, targets))
        levels = self.levels(batch.tensors)
        proposals, proposal_losses = self.rpn(batch, levels, used)
        _, losses = self.roi_heads(levels, proposals, batch.image_sizes, used)
        return {**proposal_losses, **losses}

    def find(self, images: list[Tensor], *, score: float = 0.0) -> list[dict[str, Tensor]]:
        """See `DetectionNetwork.find`.

        Raises:
            RuntimeError: The network is in training mode.
        """
        if self.training:
            raise RuntimeError("the network is in training mode: expected eval() before objects are found")
        return self._detections(images, paste_cut_masks, score)

    def prepared(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (1, 3, h, w); see `Network.prepared`."""
        preparation = self._preparation().eval()
        resized, _ = preparation.resize(preparation.normalize(image))
        return resized[None]

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid's levels, "0" to "4": (B, 3, H, W), normalised -> (B, channels, h, w) each, the finest first."""
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return {str(number): level for number, level in enumerate(self.neck(maps))}

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What FPT made of each level, and why: see `FeaturePyramidTransformer.explain`. Other necks give nothing."""
        return self.neck.explain(self.backbone(images), images, at)

    def _detections(self, images: list[Tensor], paste: PasteMasks, score: float = 0.0) -> list[dict[str, Tensor]]:
        """What is found, in the images' own pixels."""
        batch, _ = self._preparation()(images)
        levels = self.levels(batch.tensors)
        proposals, _ = self.rpn(batch, levels)
        detections, _ = self.roi_heads(levels, proposals, batch.image_sizes)
        kept = []
        for found, seen, image in zip(detections, batch.image_sizes, images, strict=True):
            size, sure = (image.shape[-2], image.shape[-1]), found["scores"] >= score
            found = {name: values[sure] for name, values in found.items()}
            found["boxes"] = resize_boxes(found["boxes"], seen, size)
            if self.has_masks:
                found["masks"] = paste(found["masks"], found["boxes"], seen, size)
            kept.append(found)
        return kept

    def _preparation(self) -> Preparation:
        edges = (self.labelling.short_edge, self.labelling.long_edge) if self.labelling is not None else (None, None)
        return Preparation(self.backbone.mean, self.backbone.std, *edges).train(self.training)

    def _checked(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None
    ) -> list[dict[str, Tensor]]:
        if targets is None or len(targets) != len(images):
            given = "None" if targets is None else f"of {len(targets)} images"
            raise InputError(f"targets {given}: expected those of each image, of {len(images)}, in training")
        names = ("boxes", "labels", *(["masks"] if self.has_masks else []))
        checked = []
        for number, (image, target) in enumerate(zip(images, targets, strict=True)):
            if missing := [name for name in names if name not in target]:
                raise InputError(f"targets of image {number} of the batch: expected {' and '.join(missing)} too")
            counted = {name: target[name] for name in names}
            boxes, labels = counted["boxes"], counted["labels"]
            expected = {"boxes": (len(labels), 4), "labels": (len(labels),)}
            expected["masks"] = (len(labels), *image.shape[-2:])
            for name, values in counted.items():
                if tuple(values.shape) != expected[name]:
                    raise InputError(
                        f"{name} {tuple(values.shape)} of image {number} of the batch: expected {expected[name]}"
                    )
            if not (boxes[:, :2] < boxes[:, 2:]).all():
                raise InputError(f"a box of image {number} of the batch has no area: expected x1 < x2 and y1 < y2")
            if ((labels < 1) | (labels > self.num_classes)).any():
                raise InputError(f"a label of image {number} of the batch: expected 1 to {self.num_classes}")
            checked.append(counted)
        return checked

    def _plain_parts(self, channels: int, head_channels: int, strides: Sequence[int]) -> dict[str, nn.Module]:
        """Of `RoIHeads`: each box is pooled from the level that fits its size."""
        parts: dict[str, nn.Module] = {
            "box_roi_pool": PyramidRoIAlign(strides, BOX_SIZE),
            "box_head": TwoMLPHead(channels * BOX_SIZE**2, head_channels),
            "box_predictor": BoxPredictor(head_channels, self.num_classes + 1),
        }
        if self.has_masks:
            parts["mask_roi_pool"] = PyramidRoIAlign(strides, MASK_SIZE)
            parts["mask_head"] = MaskRCNNHeads(channels, (channels,) * 4, 1)
            parts["mask_predictor"] = MaskPredictor(channels, self.num_classes + 1)
        return parts

    def _augmented_parts(self, channels: int, head_channels: int, strides: Sequence[int]) -> dict[str, nn.Module]:
        """Of `RoIHeads`: each box is pooled from every level, whatever its size."""
        levels = len(strides)
        parts: dict[str, nn.Module] = {
            "box_roi_pool": AdaptiveFeaturePooling(strides, BOX_SIZE),
            "box_head": HeavierBoxHead(levels, channels, BOX_SIZE, head_channels),
            "box_predictor": BoxPredictor(head_channels, self.num_classes + 1),
        }
        if self.has_masks:
            parts["mask_roi_pool"] = AdaptiveFeaturePooling(strides, MASK_SIZE)
            parts["mask_head"] = AugmentedMaskHead(levels, channels)
            parts["mask_predictor"] = FullyConnectedFusion(channels, MASK_SIZE, self.num_classes + 1)
        return parts


class MaskRCNN(FasterRCNN):
    """Mask R-CNN on a pyramid: boxes, classes and masks. Its arguments are those of `FasterRCNN`."""

    has_masks: ClassVar[bool] = True


def _require_positive(name: str, numbers: Sequence[float]) -> None:
    if not numbers or min(numbers) <= 0:
        raise ValueError(f"{name} {list(numbers)}: expected numbers above 0")
