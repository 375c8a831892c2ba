"""Necks: from a backbone's maps to the pyramid that detectors look at (FPT, Sections 3.5 and 4.1).

- "bfp": a 1x1 convolution on each map and nothing else, FPT's baseline ("Bottom-up Feature Pyramid"). FPN's authors, in
  their experiment without the top-down path (Section 5.1), have a 3x3 convolution behind it: that is "fpt" without any
  transformer, and the fairer baseline (docs/results.md).
- "fpn": Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017: torchvision's.
- "bpa": Liu, Qi, Qin, Shi, Jia, "Path Aggregation Network for Instance Segmentation", CVPR 2018, Section 3.2: a path
  from fine to coarse on top of FPN.
- "fpt": the Feature Pyramid Transformer on "bfp".

Each gives levels of one width at the strides of the four maps, 4, 8, 16 and 32, and a fifth, which is every second row
and column of the fourth. The papers leave open whether FPT and the bottom-up path make that one too; as in FPN, it
serves the region proposals alone.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from segweave.networks.backbones import Backbone
from segweave.networks.fpt import FeaturePyramidTransformer
from segweave.networks.fpt_transformers import FOR_OBJECTS, FPTOptions, check_known
from segweave.networks.layers import pyramid_convolution, resize_like

# Shapes: B images, C_i channels of the backbone's i-th map, D of a level, H_i x W_i their size

NeckName = Literal["bfp", "fpn", "bpa", "fpt"]


def make_neck(name: NeckName, backbone: Backbone, channels: int = 256, transformer: FPTOptions | None = None) -> "Neck":
    """Makes a neck.

    Args:
        name: Which.
        backbone: The source of the maps.
        channels: D.
        transformer: Of "fpt" alone; None for FPT's for objects.

    Raises:
        ValueError: The name is unknown, FPT can't be made so, or another neck is told what only FPT can do.
    """
    check_known("neck", name, ("bfp", "fpn", "bpa", "fpt"))
    transformer = FOR_OBJECTS if transformer is None else transformer
    if name == "fpt":
        return TransformedPyramid(backbone, channels, transformer)
    for option, value in dataclasses.asdict(transformer).items():
        if value != getattr(FOR_OBJECTS, option):
            raise ValueError(f"{option} {value!r} with neck {name!r}: it is FPT's, expected neck 'fpt'")
    plain: dict[str, Callable[[Backbone, int], Neck]] = {
        "bfp": PlainPyramid,
        "fpn": TopDownPyramid,
        "bpa": PathAggregation,
    }
    return plain[name](backbone, channels)


class Neck(nn.Module, ABC):
    """From a backbone's four maps to five levels.

    Args:
        backbone: The source of the maps.
        channels: D.

    Attributes:
        channels: D.
        strides: Of the five levels.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.strides = (*backbone.strides, 2 * backbone.strides[-1])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, H_i, W_i), from fine to coarse -> as many levels (B, D, H_i, W_i), and one of half the size."""
        levels = self.levels(maps)
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]

    @abstractmethod
    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The levels but for the last: (B, C_i, H_i, W_i) each -> (B, D, H_i, W_i) each."""

    def explain(self, maps: Sequence[Tensor], images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What the levels are made of, by name; nothing if the neck has no attention. See `TransformedPyramid`."""
        return {}


class PlainPyramid(Neck):
    """BFP: a 1x1 convolution on each map.

    Args:
        backbone: The source of the maps.
        channels: D.
    """

    def __init__(self, backbone: Backbone, channels: int = 256) -> None:
        super().__init__(backbone, channels)
        self.lateral = nn.ModuleList(pyramid_convolution(width, channels, 1) for width in backbone.channels)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]


class TopDownPyramid(Neck):
    """FPN: each coarser level, enlarged, is added to the next finer one, and a 3x3 convolution follows.

    Args:
        backbone: The source of the maps.
        channels: D.
    """

    def __init__(self, backbone: Backbone, channels: int = 256) -> None:
        super().__init__(backbone, channels)
        self.top_down = FeaturePyramidNetwork(list(backbone.channels), channels)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return list(self.top_down(OrderedDict((str(number), x) for number, x in enumerate(maps))).values())


class PathAggregation(TopDownPyramid):
    """BPA: FPN, then a path from fine to coarse.

    The finest level N2 is FPN's P2. The next one is N_i, reduced by a 3x3 convolution of stride 2 and ReLU, plus P_i+1,
    through another 3x3 convolution and ReLU.

    Args:
        backbone: The source of the maps.
        channels: D.
    """

    def __init__(self, backbone: Backbone, channels: int = 256) -> None:
        super().__init__(backbone, channels)
        ratios = [coarse // fine for fine, coarse in pairwise(backbone.strides)]
        self.reduce = nn.ModuleList(pyramid_convolution(channels, channels, 3, stride=ratio) for ratio in ratios)
        self.fuse = nn.ModuleList(pyramid_convolution(channels, channels, 3) for _ in ratios)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        finest, *coarser = super().levels(maps)
        levels = [finest]
        for x, reduce, fuse in zip(coarser, self.reduce, self.fuse, strict=True):
            reduced = resize_like(reduce(levels[-1]).relu(), x)
            levels.append(fuse(reduced + x).relu())
        return levels


class TransformedPyramid(PlainPyramid):
    """BFP, its levels transformed by FPT (FPT, Figure 2).

    Args:
        backbone: The source of the maps.
        channels: D.
        transformer: How the levels are transformed.

    Raises:
        ValueError: As in `FeaturePyramidTransformer`.
    """

    def __init__(self, backbone: Backbone, channels: int = 256, transformer: FPTOptions = FOR_OBJECTS) -> None:
        super().__init__(backbone, channels)
        self.transformer = FeaturePyramidTransformer([channels] * len(backbone.channels), channels, transformer)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return self.transformer(super().levels(maps))

    def explain(self, maps: Sequence[Tensor], images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What each of the first four levels became, and why: see `FeaturePyramidTransformer.explain`."""
        return self.transformer.explain(super().levels(maps), images, at)
