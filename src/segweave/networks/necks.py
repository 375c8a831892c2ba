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
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from segweave.networks.backbones import Backbone
from segweave.networks.fpt import FeaturePyramidTransformer
from segweave.networks.fpt_transformers import FOR_OBJECTS, FPTOptions, check_known
from segweave.networks.influence import influence
from segweave.networks.layers import pyramid_convolution, resize_like
from segweave.networks.network import position_of

# Shapes: B images, C_i channels of the backbone's i-th map, D of a level, H_i x W_i their size

NeckName = Literal["bfp", "fpn", "bpa", "fpt"]


def make_neck(name: NeckName, backbone: Backbone, channels: int, transformer: FPTOptions = FOR_OBJECTS) -> "Neck":
    """Makes a neck.

    Args:
        name: Which.
        backbone: The source of the maps.
        channels: D.
        transformer: Of "fpt" alone.

    Raises:
        ValueError: The name is unknown, FPT can't be made so, or another neck is told what only FPT can do.
    """
    check_known("neck", name, ("bfp", "fpn", "bpa", "fpt"))
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
        """What the levels are, and what they are made of.

        Args:
            maps: (B, C_i, H_i, W_i), from fine to coarse.
            images: (B, 3, height, width), which the maps are of.
            at: A pixel (x, y) of the images.

        Returns:
            `level1` to `level4`, (B, D, H_i, W_i). With `at`, `influence_from_res3_level1` and so on: which positions
            of a backbone's map the level's vector at the pixel depends on, (B, 1, H_i, W_i), of sum 1; a gradient (see
            `segweave.networks.influence`). There are only those of maps of which it sees more than its own position.

        Raises:
            InputError: The images have no such pixel.
        """
        levels = self.levels(maps)
        explained = {f"level{number}": level for number, level in enumerate(levels, start=1)}
        if at is None:
            return explained
        for number, level in enumerate(levels):
            sources = self.sources(number)
            if not sources:
                continue
            influences = influence(partial(self._level, number), maps, position_of(at, images, level))
            explained |= {f"influence_from_res{other + 2}_level{number + 1}": influences[other] for other in sources}
        return explained

    def sources(self, level: int) -> range:
        """The numbers of the maps of which a level's position sees more than that position, both counted from 0."""
        return range(0)

    def _level(self, number: int, *maps: Tensor) -> Tensor:
        return self.levels(maps)[number]


class PlainPyramid(Neck):
    """BFP: a 1x1 convolution on each map.

    Args:
        backbone: The source of the maps.
        channels: D.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
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

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__(backbone, channels)
        self.top_down = FeaturePyramidNetwork(list(backbone.channels), channels)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return list(self.top_down(OrderedDict((str(number), x) for number, x in enumerate(maps))).values())

    def sources(self, level: int) -> range:
        """Its own map, of which it sees 3x3 positions, and the coarser ones."""
        return range(level, len(self.strides) - 1)


class PathAggregation(TopDownPyramid):
    """BPA: FPN, then a path from fine to coarse.

    The finest level N2 is FPN's P2. The next one is N_i, reduced by a 3x3 convolution of stride 2 and ReLU, plus P_i+1,
    through another 3x3 convolution and ReLU.

    Args:
        backbone: The source of the maps.
        channels: D.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
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

    def sources(self, level: int) -> range:
        """All: it is made of the finer levels too."""
        return range(len(self.strides) - 1)


class TransformedPyramid(PlainPyramid):
    """BFP, its levels transformed by FPT (FPT, Figure 2).

    Args:
        backbone: The source of the maps.
        channels: D.
        transformer: How the levels are transformed.

    Raises:
        ValueError: As in `FeaturePyramidTransformer`.
    """

    def __init__(self, backbone: Backbone, channels: int, transformer: FPTOptions = FOR_OBJECTS) -> None:
        super().__init__(backbone, channels)
        self.transformer = FeaturePyramidTransformer([channels] * len(backbone.channels), channels, transformer)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return self.transformer(super().levels(maps))

    def explain(self, maps: Sequence[Tensor], images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What each of the first four levels became, and why: see `FeaturePyramidTransformer.explain`."""
        return self.transformer.explain(super().levels(maps), images, at)
