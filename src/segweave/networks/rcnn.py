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
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from segweave.errors import InputError
from segweave.networks.backbones import Backbone
from segweave.networks.fpt import FORMER_NAMES
from segweave.networks.fpt_transformers import FOR_OBJECTS, FPTOptions
from segweave.networks.necks import Neck, NeckName, make_neck
from segweave.networks.network import DetectionNetwork
from segweave.networks.rcnn_heads import (
    USUAL_HEADS,
    USUAL_PROPOSALS,
    FixedBoxes,
    HeadOptions,
    ProposalOptions,
    PyramidHeads,
    PyramidProposals,
)
from segweave.networks.rcnn_parts import Preparation, paste_cut_masks, paste_masks

# Shapes: B images, N objects of an image, R boxes of all images, K classes

Size = tuple[int, int]
PasteMasks = Callable[[Tensor, Tensor, Size, Size], Tensor]
"""See `paste_masks`."""


class FasterRCNN(DetectionNetwork):
    """Faster R-CNN on a pyramid: boxes and classes.

    Args:
        backbone: The source of the feature maps.
        num_classes: K, without the background.
        neck: From the feature maps to the pyramid.
        rpn: Proposes regions on it.
        roi_heads: Look at the proposed regions.

    Raises:
        ValueError: The heads don't find what the network is for: masks, or none.
    """

    former_names: ClassVar[Mapping[str, str]] = {
        f"neck\\.{former}": f"neck.{name}" for former, name in FORMER_NAMES.items()
    }

    def __init__(
        self, *, backbone: Backbone, num_classes: int, neck: Neck, rpn: PyramidProposals, roi_heads: PyramidHeads
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes, detections_per_image=roi_heads.detections_per_img)
        if roi_heads.has_mask() != self.has_masks:
            raise ValueError(
                f"roi_heads of {type(self).__name__}: expected {'a' if self.has_masks else 'no'} mask head"
            )
        self.neck = neck
        self.rpn = rpn
        self.roi_heads = roi_heads

    @classmethod
    def build(
        cls,
        *,
        backbone: Backbone,
        num_classes: int,
        neck: NeckName = "fpn",
        channels: int = 256,
        transformer: FPTOptions = FOR_OBJECTS,
        proposals: ProposalOptions = USUAL_PROPOSALS,
        heads: HeadOptions = USUAL_HEADS,
    ) -> Self:
        """Makes the parts, and the network of them. Rows of FPT's Tables 1 and 3 are arguments.

        Args:
            backbone: The source of the feature maps.
            num_classes: K, without the background.
            neck: The pyramid: plain laterals ("bfp"), FPN, PANet's bottom-up path ("bpa"), or FPT on plain laterals.
            channels: Width of the levels and of the heads' convolutions.
            transformer: Of the neck "fpt".
            proposals: How regions are proposed.
            heads: What looks at them, and which detections are kept.

        Raises:
            ValueError: There isn't a size of anchors for each level, or the pyramid can't be made so.
        """
        pyramid = make_neck(neck, backbone, channels, transformer)
        return cls(
            backbone=backbone,
            num_classes=num_classes,
            neck=pyramid,
            rpn=PyramidProposals(pyramid, proposals),
            roi_heads=PyramidHeads(pyramid, num_classes, heads, masks=cls.has_masks),
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
        """What the pyramid's levels are, and what they are made of: see `Neck.explain`; of FPT
        `FeaturePyramidTransformer.explain`."""
        return self.neck.explain(self.backbone(images), images, at)

    def countable(self) -> nn.Module:
        """The backbone, the pyramid, the head of the region proposals, and the heads for a fixed number of boxes."""
        return FixedBoxes(self.backbone, self.neck, self.rpn, self.roi_heads)

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


class MaskRCNN(FasterRCNN):
    """Mask R-CNN on a pyramid: boxes, classes and masks. Its arguments are those of `FasterRCNN`."""

    tasks: ClassVar[tuple[str, ...]] = ("detection", "instance")
    has_masks: ClassVar[bool] = True
