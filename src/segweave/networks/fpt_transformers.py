"""FPT's transformers, each of which makes a new map of one or of two: Sections 3.1 to 3.4 of the paper.

`segweave.networks.fpt` has the pyramids that they are for, and how we read what the text leaves open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.network import Options
from segweave.ops.local_mixture_of_softmaxes import local_mixture_of_softmaxes, local_mixture_weights_at
from segweave.ops.mixture_of_softmaxes import (
    Similarity,
    check_parts,
    default_scale,
    mixture_of_softmaxes,
    mixture_weights_from,
)

# Shapes: B images, C channels of a pyramid's map, D of a transformed one, P parts, N = H W positions of a fine map
# (X^f), M = h w of a coarse one (X^c), K classes

Grounding = Literal["local", "global", "none"]
Normaliser = Literal["mixture", "softmax"]
Scaling = Literal["square_root", "none"]


@dataclass(frozen=True)
class Weighing:
    """How values are weighed by the likeness of queries to keys (Section 3.1, Eq. 1 to 5).

    Attributes:
        parts: N of Eq. 2; divides the channels.
        similarity: F_sim: the dot product, or the negative squared distance (Eq. 4).
        normaliser: F_nom: a mixture of softmaxes over the parts (Eq. 2), or one softmax ("softmax") over whole vectors.
        distance_scaling: What squared distances are divided by: the root of a part's channels, or nothing (as printed).
    """

    parts: int = 4
    similarity: Similarity = "euclidean"
    normaliser: Normaliser = "mixture"
    distance_scaling: Scaling = "none"


@dataclass(frozen=True)
class FPTOptions(Options):
    """How a pyramid is transformed; the defaults are those for objects.

    Attributes:
        self_transformer: Whether levels attend to themselves (ST).
        grounding: Whether levels attend to coarser ones: everywhere ("global", GT), in a square ("local", LGT), or not.
        rendering: Whether levels are rendered by finer ones (RT).
        self_parts: N of Eq. 2 in ST.
        grounding_parts: N of Eq. 2 in GT and LGT.
        self_similarity: The similarity of queries and keys in ST.
        grounding_similarity: The similarity of queries and keys in GT and LGT; "euclidean" in the paper.
        normaliser: A mixture of softmaxes over the parts (Eq. 2), or one plain softmax.
        distance_scaling: What squared distances are divided by: the root of a part's channels, or nothing (as printed).
        square_size: Positions along a side of LGT's square.
        activated_levels: Whether batch norm and ReLU follow the 3x3 convolution of a transformed level, or nothing, as
            printed.
        drop_block_size: Side of the squares that DropBlock drops from the transformed levels in training.
        keep_probability: The share of positions that DropBlock keeps; 1 leaves it out.
    """

    self_transformer: bool = True
    grounding: Grounding = "global"
    rendering: bool = True
    self_parts: int = 2
    grounding_parts: int = 4
    self_similarity: Similarity = "dot"
    grounding_similarity: Similarity = "euclidean"
    normaliser: Normaliser = "mixture"
    distance_scaling: Scaling = "none"
    square_size: int = 5
    activated_levels: bool = False
    drop_block_size: int = 5
    keep_probability: float = 0.9

    @property
    def self_weighing(self) -> Weighing:
        """Of ST."""
        return Weighing(self.self_parts, self.self_similarity, self.normaliser, self.distance_scaling)

    @property
    def grounding_weighing(self) -> Weighing:
        """Of GT and LGT."""
        return Weighing(self.grounding_parts, self.grounding_similarity, self.normaliser, self.distance_scaling)


FOR_OBJECTS = FPTOptions()
"""The paper's for detectors (Section 3.5)."""

FOR_PIXELS = FPTOptions(grounding="local", activated_levels=True, drop_block_size=3)
"""The paper's for semantic segmentation (Section 3.5), with levels activated as was measured (docs/results.md)."""


class NonLocalInteraction(nn.Module):
    """Queries of one map, keys and values of another, and how they are weighed (Section 3.1, Eq. 1 to 3, 5).

    Args:
        query_channels: C of the queries' map.
        key_channels: C of the keys' and the values' map.
        channels: D, of queries, keys and values.
        weighing: By default the paper's for GT, 4 parts and the distance.

    Raises:
        ValueError: The parts don't divide D, or a name is unknown.
    """

    def __init__(
        self,
        query_channels: int,
        key_channels: int,
        channels: int,
        weighing: Weighing = Weighing(),
    ) -> None:
        super().__init__()
        check_known("normaliser", weighing.normaliser, ("mixture", "softmax"))
        check_known("distance_scaling", weighing.distance_scaling, ("square_root", "none"))
        parts = 1 if weighing.normaliser == "softmax" else weighing.parts
        check_parts(channels, parts)
        default_scale(weighing.similarity, channels // parts)  # refuses what isn't known
        self.query = nn.Conv2d(query_channels, channels, kernel_size=1)
        self.key = nn.Conv2d(key_channels, channels, kernel_size=1)
        self.value = nn.Conv2d(key_channels, channels, kernel_size=1)
        self.mixture = nn.Linear(channels, parts, bias=False) if parts > 1 else None
        self.similarity: Similarity = weighing.similarity
        printed = weighing.similarity == "euclidean" and weighing.distance_scaling == "none"
        self.scale = default_scale("euclidean" if printed else "dot", channels // parts)

    def interact(self, query_map: Tensor, key_map: Tensor) -> Tensor:
        """Everywhere: (B, C, H, W), (B, C, h, w) -> (B, D, H, W)."""
        query, key, value = (_positions(x) for x in (self.query(query_map), self.key(key_map), self.value(key_map)))
        mixture = self.mixture_of(key.mean(dim=1))
        x = mixture_of_softmaxes(query, key, value, mixture, similarity=self.similarity, scale=self.scale)  # (B, N, D)
        return x.mT.unflatten(2, query_map.shape[2:])

    def attention(self, query_map: Tensor, key_map: Tensor, position: tuple[int, int]) -> Tensor:
        """Of one position of the queries' map: (B, C, H, W), (B, C, h, w) -> (B, 1, h, w), of sum 1."""
        row, column = position
        query, key = self.query(query_map)[:, None, :, row, column], _positions(self.key(key_map))
        mixture = self.mixture_of(key.mean(dim=1))
        weights = mixture_weights_from(query, key, mixture, similarity=self.similarity, scale=self.scale)  # (B, 1, M)
        return weights.unflatten(2, key_map.shape[2:])

    def mixture_of(self, mean_key: Tensor) -> Tensor:
        """pi of Eq. 2: (B, D) -> (B, P), of sum 1."""
        return torch.ones_like(mean_key[:, :1]) if self.mixture is None else self.mixture(mean_key).softmax(dim=1)


class SelfTransformer(NonLocalInteraction):
    """ST: a map attends to itself (Section 3.2, Eq. 3).

    Args:
        in_channels: C.
        channels: D.
        weighing: By default the paper's for ST, 2 parts and the dot product.
    """

    def __init__(
        self, in_channels: int, channels: int, weighing: Weighing = Weighing(parts=2, similarity="dot")
    ) -> None:
        super().__init__(in_channels, in_channels, channels, weighing)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H, W)."""
        return self.interact(x, x)

    def attention_at(self, x: Tensor, position: tuple[int, int]) -> Tensor:
        """How much a position (row, column) attends to each: (B, C, H, W) -> (B, 1, H, W)."""
        return self.attention(x, x, position)


class GroundingTransformer(NonLocalInteraction):
    """GT: a fine map's pixels attend to a coarse map's concepts, by distance (Section 3.3, Eq. 5).

    Its arguments are those of `NonLocalInteraction`: C of the fine map X^f, of the queries, C of the coarse map X^c, of
    keys and values, D, and how values are weighed.
    """

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, h, w) -> (B, D, H, W)."""
        return self.interact(fine, coarse)

    def attention_at(self, fine: Tensor, coarse: Tensor, position: tuple[int, int]) -> Tensor:
        """How much a position (row, column) of the fine map attends to each of the coarse one: (B, 1, h, w)."""
        return self.attention(fine, coarse, position)


class LocalGroundingTransformer(GroundingTransformer):
    """LGT: a grounding transformer that looks at a square around the position alone (Section 3.3).

    Args:
        fine_channels: C of the fine map X^f.
        coarse_channels: C of the coarse map X^c.
        channels: D.
        weighing: As in a `GroundingTransformer`.
        square_size: Positions of the coarse map along a side of the square, odd.

    Raises:
        ValueError: The side isn't odd, or a `GroundingTransformer` refuses the rest.
    """

    def __init__(
        self,
        fine_channels: int,
        coarse_channels: int,
        channels: int,
        weighing: Weighing = Weighing(),
        *,
        square_size: int = 5,
    ) -> None:
        super().__init__(fine_channels, coarse_channels, channels, weighing)
        if square_size < 1 or square_size % 2 == 0:
            raise ValueError(f"square_size {square_size}: expected an odd number of positions")
        self.square_size = square_size

    def interact(self, query_map: Tensor, key_map: Tensor) -> Tensor:
        """In the square: (B, C, H, W), (B, C, h, w) -> (B, D, H, W)."""
        query, key, value = self.query(query_map), self.key(key_map), self.value(key_map)
        return local_mixture_of_softmaxes(
            query,
            key,
            value,
            self.mixture_of(key.mean(dim=(2, 3))),
            square_size=self.square_size,
            similarity=self.similarity,
            scale=self.scale,
        )

    def attention(self, query_map: Tensor, key_map: Tensor, position: tuple[int, int]) -> Tensor:
        """Of one position of the queries' map: (B, C, H, W), (B, C, h, w) -> (B, 1, h, w), 0 outside the square."""
        query, key = self.query(query_map), self.key(key_map)
        return local_mixture_weights_at(
            query,
            key,
            self.mixture_of(key.mean(dim=(2, 3))),
            position,
            square_size=self.square_size,
            similarity=self.similarity,
            scale=self.scale,
        )


class RenderingTransformer(nn.Module):
    """RT: a coarse map is rendered with the looks of a fine one (Section 3.4, Eq. 6).

    Args:
        coarse_channels: C of the coarse map, Q.
        fine_channels: C of the fine map, K and V.
        channels: D.
    """

    def __init__(self, coarse_channels: int, fine_channels: int, channels: int) -> None:
        super().__init__()
        self.weigh = ConvNormAct(fine_channels, coarse_channels)
        self.refine = nn.Conv2d(coarse_channels, channels, kernel_size=3, padding=1, bias=False)
        self.reduce = nn.Conv2d(fine_channels, channels, kernel_size=3, padding=1, bias=False)
        self.add = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(B, C, h, w), (B, C, H, W) -> (B, D, h, w)."""
        weighted_query = coarse * self.gate(fine)  # Q_att, (B, C, h, w)
        stride = tuple(-(-size // other) for size, other in zip(fine.shape[2:], coarse.shape[2:], strict=True))
        reduced_value = F.conv2d(fine, self.reduce.weight, stride=stride, padding=1)  # V_dow, about (B, D, h, w)
        return self.add(self.refine(weighted_query) + resize_like(reduced_value, coarse))

    def gate(self, fine: Tensor) -> Tensor:
        """w: (B, C, H, W) -> (B, C, 1, 1)."""
        return self.weigh(fine.mean(dim=(2, 3), keepdim=True))


def check_known(name: str, value: str, known: Sequence[str]) -> None:
    """Refuses a value that is none of those known.

    Raises:
        ValueError: Names them.
    """
    if value not in known:
        raise ValueError(f"{name} {value!r}: expected one of {', '.join(known)}")


def _positions(x: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, N, D), the channels of a position side by side."""
    return x.flatten(2).mT.contiguous()
