"""RANet: Region Attention Network.

Shen, Ji, Li, Wang, Lin, "RANet: Region Attention Network for Semantic Segmentation", NeurIPS 2020. Equations 1 to 5
are in `segweave.ops.region_attention` and `segweave.ops.regions`, 6 to 8 in `segweave.ops.region_interaction`. What the
text leaves open, and how we read it:

- A is res5 (output stride 8) through a 3x3 convolution to 512 channels. "Two separate convolutional layers" on A give
  the boundary and the semantic scores; `auxiliary="res4"` has them on a head of its own on res4, with which the
  parameters of Table 3 agree.
- Eq. 4: two pixels are grouped where F reaches a threshold, 0.8: a zero point that sgn can't learn. W^g is one learned
  weight, 1 at the start, that scales the scores of Eq. 5; so J starts in [0, 1], as the text has it.
- Eq. 1 takes the pixels strictly between two, so that no boundary parts neighbours: they are one region unless their
  classes differ. Regions from boundaries alone are therefore the whole image (every pixel has a neighbour before it).
- Grouping isn't transitive: see `segweave.ops.group_regions` for what a region is. A region of fewer than K pixels has
  them all as representatives.
- The 21 M parameters of Table 3 agree with 3x3 convolutions for queries and values and after each of the three steps of
  the interaction, and a 3x3 convolution that fuses A with O. The queries are A where an equation has A on the left of a
  product, the values are A elsewhere.
- Eq. 6 to 8 as printed have no scale in their softmaxes. We divide the products of C features by the root of C, without
  which interaction between regions was measured to cost more than it gains (docs/results.md).
- Eq. 7 as printed sums over all other regions, of which images have few or many. We divide by their number, which was
  measured to train better (docs/results.md); `interaction_scaling="none"` is the sum.
- The weights of the losses aren't given: 1 for the segmentation, 0.4 for the coarse one (the semantic scores), 0.2 for
  the boundaries.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from segweave.errors import InputError
from segweave.networks.backbones import Backbone
from segweave.networks.fcn import FullyConvolutionalHead
from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.losses import boundary_cross_entropy, boundary_mask, pixel_cross_entropy
from segweave.networks.network import SegmentationNetwork, position_of
from segweave.ops.region_attention import region_attention_from
from segweave.ops.region_interaction import (
    are_representatives,
    at_least_float32,
    inter_region_interaction,
    intra_region_collection,
    intra_region_distribution,
    representative_pixels,
)
from segweave.ops.regions import group_regions, representative_scores

# Shapes: B images, C channels of A, K classes, h x w the size of A, P = h w pixels


class Regions(NamedTuple):
    """The regions of images, and what they were made from."""

    boundaries: Tensor
    """The probability of a boundary at each pixel, (B, h, w)."""
    probabilities: Tensor
    """Of the classes of each pixel, (B, K, h, w)."""
    roots: Tensor
    """The lowest-numbered pixel of each pixel's region, (B, P), int64."""
    scores: Tensor
    """The representative score J of each pixel, (B, P)."""


class RANet(SegmentationNetwork):
    """RANet, Region Attention Network (Sections 3 and 4, Figure 1).

    Every region-wise row of Table 1, and of Table 2 and Section 5.1, is an argument (`recipes/ranet`); the coarse row
    of Table 4 is what `coarse_logits` gives.

    Args:
        backbone: The source of res4 and res5.
        num_classes: Number of classes.
        channels: C.
        representatives: How many pixels represent a region (K in the paper, Table 2).
        threshold: From which region attention on two pixels are grouped.
        regions: What they are made from (Table 1): boundaries, semantics, or both.
        intra_region: Whether representatives collect from their region and distribute to it (Section 5.1).
        inter_region: Whether representatives of different regions exchange context (Section 5.1).
        affinity_scaling: What the products of features in the softmaxes of Eq. 6 to 8 are divided by: nothing (as
            printed), or the root of C.
        interaction_scaling: What the sum over the other regions of Eq. 7 is divided by: nothing (as printed), or the
            number of these regions ("mean").
        auxiliary: Where boundaries and semantics come from: A ("res5"), or res4 through a head of its own.
        boundary_radius: How far in pixels of the image a boundary reaches that the boundary scores are trained on.
        coarse_weight: Of the loss of the semantic scores.
        boundary_weight: Of the loss of the boundary scores.
        dropout: Probability with which the head's input channels are dropped in training.
    """

    default_output_stride: ClassVar[int] = 8
    former_names: ClassVar[Mapping[str, str]] = {r"construction\.": "rcb.", r"interaction\.": "rib."}

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        channels: int = 512,
        representatives: int = 8,
        threshold: float = 0.8,
        regions: Literal["both", "boundaries", "semantics"] = "both",
        intra_region: bool = True,
        inter_region: bool = True,
        affinity_scaling: Literal["none", "square_root"] = "square_root",
        interaction_scaling: Literal["none", "mean"] = "mean",
        auxiliary: Literal["res5", "res4"] = "res5",
        boundary_radius: int = 2,
        coarse_weight: float = 0.4,
        boundary_weight: float = 0.2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        if boundary_radius < 1:
            raise ValueError(f"boundary_radius {boundary_radius}: expected 1 or more")
        *_, res4_channels, res5_channels = backbone.channels
        self.reduce = ConvNormAct(res5_channels, channels, 3)
        self.auxiliary_head = ConvNormAct(res4_channels, channels, 3) if auxiliary == "res4" else None
        self.boundary_head = nn.Conv2d(channels, 1, kernel_size=1) if regions != "semantics" else None
        self.coarse_head = nn.Conv2d(channels, num_classes, kernel_size=1) if regions != "boundaries" else None
        self.rcb = RegionConstruction(threshold=threshold)
        self.rib = RegionInteraction(
            channels,
            representatives=representatives,
            intra_region=intra_region,
            inter_region=inter_region,
            affinity_scaling=affinity_scaling,
            interaction_scaling=interaction_scaling,
        )
        self.head = FullyConvolutionalHead(2 * channels, channels, num_classes, dropout=dropout)
        self.boundary_radius = boundary_radius
        self.coarse_weight = coarse_weight
        self.boundary_weight = boundary_weight

    def forward(self, images: Tensor) -> Tensor:
        a, boundary_logits, coarse_logits = self._scores(images)
        return resize_like(self._fine(a, self._regions(boundary_logits, coarse_logits)), images)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """The semantic scores that the regions are made from (Table 4, "coarse"): (B, 3, H, W) -> (B, K, H, W).

        Raises:
            InputError: The network has none: its regions come from boundaries alone.
        """
        _, _, coarse_logits = self._scores(images)
        if coarse_logits is None:
            raise InputError("regions 'boundaries': a RANet without semantic scores has no coarse segmentation")
        return resize_like(coarse_logits, images)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        a, boundary_logits, coarse_logits = self._scores(images)
        fine_logits = self._fine(a, self._regions(boundary_logits, coarse_logits))
        losses = {"segmentation": pixel_cross_entropy(resize_like(fine_logits, images), labels)}
        if coarse_logits is not None:
            coarse = pixel_cross_entropy(resize_like(coarse_logits, images), labels)
            losses["coarse"] = self.coarse_weight * coarse
        if boundary_logits is not None:
            boundaries = boundary_mask(labels, self.boundary_radius)
            logits = resize_like(boundary_logits, images)[:, 0]
            losses["boundaries"] = self.boundary_weight * boundary_cross_entropy(logits, boundaries)
        return losses

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What Figures 2, 3 and 5 show.

        Returns:
            `boundaries` (B), `regions` (the number of each pixel's region), `representative_scores` (J) and
            `representatives` (which pixels are), each (B, 1, h, w); with `at`, `region_attention_at`, that of its pixel
            with all others (F, Eq. 3). Without boundary scores there are no `boundaries`.
        """
        a, boundary_logits, coarse_logits = self._scores(images)
        regions = self._regions(boundary_logits, coarse_logits)
        representatives = representative_pixels(regions.scores, regions.roots, self.rib.representatives)
        size = a.shape[-2:]
        explained = {} if boundary_logits is None else {"boundaries": regions.boundaries[:, None]}
        explained["regions"] = regions.roots.unflatten(1, size)[:, None]
        explained["representative_scores"] = regions.scores.unflatten(1, size)[:, None]
        explained["representatives"] = are_representatives(representatives).unflatten(1, size)[:, None]
        if at is not None:
            row, column = position_of(at, images, a)
            pixel = torch.tensor([row * size[1] + column], device=images.device)
            attention = region_attention_from(regions.boundaries, regions.probabilities, pixel)  # (B, 1, P)
            explained["region_attention_at"] = attention.unflatten(2, size)
        return explained

    def _scores(self, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A, and the logits of boundaries and of classes where the regions need them, all h x w."""
        *_, res4, res5 = self.backbone(images)
        a = self.reduce(res5)
        source = a if self.auxiliary_head is None else self.auxiliary_head(res4)
        boundary_logits = None if self.boundary_head is None else resize_like(self.boundary_head(source), a)
        coarse_logits = None if self.coarse_head is None else resize_like(self.coarse_head(source), a)
        return a, boundary_logits, coarse_logits

    def _regions(self, boundary_logits: Tensor | None, coarse_logits: Tensor | None) -> Regions:
        """Regions from what there is: without boundary scores there are no boundaries, without semantic scores all
        pixels are of one class."""
        boundaries = None if boundary_logits is None else at_least_float32(boundary_logits[:, 0]).sigmoid()
        probabilities = None if coarse_logits is None else at_least_float32(coarse_logits).softmax(dim=1)
        if boundaries is None:
            assert probabilities is not None
            boundaries = torch.zeros_like(probabilities[:, 0])
        if probabilities is None:
            probabilities = torch.ones_like(boundaries)[:, None]
        return self.rcb(boundaries, probabilities)

    def _fine(self, a: Tensor, regions: Regions) -> Tensor:
        """Logits (B, K, h, w)."""
        return self.head(torch.cat([a, self.rib(a, regions)], dim=1))


class RegionConstruction(nn.Module):
    """RCB, Region Construction Block: divides images into regions, and scores how well each pixel represents its own
    (Section 3.1, Eq. 1 to 5).

    Args:
        threshold: From which region attention on two pixels are grouped, in (0, 1].

    Attributes:
        weight: W^g (Eq. 4), from 1.
    """

    def __init__(self, *, threshold: float = 0.8) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold {threshold}: expected one above 0, and 1 at most")
        self.threshold = threshold
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, boundaries: Tensor, probabilities: Tensor) -> Regions:
        """(B, h, w), (B, K, h, w) -> regions."""
        roots = group_regions(boundaries, probabilities, self.threshold)
        scores = self.weight * representative_scores(boundaries, probabilities, roots)
        return Regions(boundaries, probabilities, roots, scores)


class RegionInteraction(nn.Module):
    """RIB, Region Interaction Block: exchanges context within and between regions (Section 3.2, Figure 4, Eq. 6 to 8).

    Args:
        channels: C.
        representatives: How many pixels represent a region.
        intra_region: Whether there are collection and distribution; else only the representatives are updated.
        inter_region: Whether there is interaction; else context stays within a region.
        affinity_scaling: What the products of features in the softmaxes are divided by: "none", or the root of C
            ("square_root").
        interaction_scaling: What the sum over the other regions of Eq. 7 is divided by: "none", or their number
            ("mean").
    """

    def __init__(
        self,
        channels: int,
        *,
        representatives: int = 8,
        intra_region: bool = True,
        inter_region: bool = True,
        affinity_scaling: Literal["none", "square_root"] = "square_root",
        interaction_scaling: Literal["none", "mean"] = "mean",
    ) -> None:
        super().__init__()
        if representatives < 1:
            raise ValueError(f"representatives {representatives}: expected 1 or more")
        if not intra_region and not inter_region:
            raise ValueError("intra_region and inter_region: expected one of them, or a network without regions")
        self.representatives = representatives
        self.affinity_factor = {"none": 1.0, "square_root": channels**-0.5}[affinity_scaling]
        self.interaction_scaling = interaction_scaling
        self.query = _convolution(channels) if intra_region else None
        self.value = _convolution(channels)
        self.collected = _convolution(channels) if intra_region else None
        self.interacted = _convolution(channels) if inter_region else None
        self.distributed = _convolution(channels) if intra_region else None

    def forward(self, a: Tensor, regions: Regions) -> Tensor:
        """A (B, C, h, w) -> O (B, C, h, w).

        After collection and interaction, the representatives have the features that Eq. 6 and 7 give them, all other
        pixels J times their own; a convolution follows on this map.
        """
        size = a.shape[-2:]
        representatives = representative_pixels(regions.scores.detach(), regions.roots, self.representatives)
        value = _pixels(self.value(a))  # (B, P, C)
        scores = regions.scores[..., None].to(value.dtype)  # (B, P, 1)
        x = value
        if self.query is not None and self.collected is not None:
            query = self.affinity_factor * _pixels(self.query(a))
            weighted = scores * x
            x = weighted + intra_region_collection(query, weighted, regions.roots, representatives)  # Eq. 6
            x = _pixels(self.collected(_map(x, size)))
        if self.interacted is not None:
            weighted = scores * x
            received = inter_region_interaction(self.affinity_factor * x, weighted, regions.roots, representatives)
            if self.interaction_scaling == "mean":
                received = received / _other_regions(regions.roots)[:, None, None]
            x = weighted + received  # Eq. 7
            x = _pixels(self.interacted(_map(x, size)))
        if self.query is not None and self.distributed is not None:
            x = scores * value + intra_region_distribution(query, scores * x, representatives)  # Eq. 8
            x = _pixels(self.distributed(_map(x, size)))
        return _map(x, size)


def _other_regions(roots: Tensor) -> Tensor:
    """How many regions an image has beside a pixel's own, at least 1: (B, P) -> (B,)."""
    numbers = torch.arange(roots.shape[1], device=roots.device)
    return ((roots == numbers).sum(dim=1) - 1).clamp(min=1)


def _convolution(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)


def _pixels(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, P, C)."""
    return x.flatten(2).mT


def _map(x: Tensor, size: torch.Size) -> Tensor:
    """(B, P, C) -> (B, C, h, w)."""
    return x.mT.unflatten(2, size)
