"""FPT: Feature Pyramid Transformer.

Zhang, Zhang, Tang, Wang, Hua, Sun, "Feature Pyramid Transformer", ECCV 2020. Equations 1 to 5 are in
`segweave.ops.mixture_of_softmaxes`, the square of the locality-constrained grounding transformer in
`segweave.ops.local_mixture_of_softmaxes`, Equation 6 is here. What the text leaves open, and how we read it:

- f_q, f_k and f_v are 1x1 convolutions, as wide as a transformed map.
- w_n of Eq. 2 sees the mean of whole keys, not of their n-th part; its softmax runs over the parts.
- The dot product is scaled by the root of a part's channels, which isn't printed. The squared distance is not, as
  printed; divided by it too (`distance_scaling`), it trained as well on small maps (docs/results.md).
- The weight w of Eq. 6 is printed as the mean of K. Here that passes a 1x1 convolution, batch norm and ReLU, as in the
  gates that the paper cites, and becomes a number for each channel of Q, whatever the channels of K.
- The stride of F_sconv is the ratio of the sizes of K and Q, rounded up; a map that then differs is resized.
- A level's maps are concatenated and pass a 3x3 convolution, then DropBlock. For objects it is a plain one, like those
  of FPN, which detectors' heads look at; with batch norm and ReLU they learnt far more slowly (docs/results.md). For
  pixels these follow, as on all other layers.
- For pixels the four transformed levels are concatenated; a 3x3 convolution of 512 channels and a 1x1 one follow.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segweave.backbones import Backbone
from segweave.layers import ConvNormAct, DropBlock2d, pyramid_convolution, resize_like
from segweave.networks.semantic import SemanticNetwork, position_of
from segweave.networks.ufp import PyramidHead, PyramidName, make_pyramid
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


class FPT(SemanticNetwork):
    """Feature Pyramid Transformer for semantic segmentation (Section 3.5).

    Every row of Table 4, and those of Table 5 with FPT, is an argument (`recipes/fpt`); UFP is the network without it.

    Args:
        backbone: The source of the feature maps; the last is used.
        num_classes: K.
        pyramid: What is transformed: "ufp", "ppm" or "aspp" (Table 5).
        channels: D, of the pyramid's levels too.
        self_transformer: Whether levels attend to themselves (ST).
        grounding: Whether levels attend to coarser ones: in a square (LGT), everywhere (GT), or not.
        rendering: Whether levels are rendered by finer ones (RT).
        self_parts: N of Eq. 2 in ST.
        grounding_parts: N of Eq. 2 in GT and LGT.
        self_similarity: Of ST.
        grounding_similarity: Of GT and LGT; "euclidean" in the paper.
        normaliser: A mixture of softmaxes over the parts (Eq. 2), or one plain softmax.
        distance_scaling: What squared distances are divided by: the root of a part's channels, or nothing (as printed).
        square_size: Positions along a side of LGT's square.
        drop_block_size: Side of the squares that are dropped from the transformed maps in training.
        keep_probability: Of a position of the transformed maps in training; 1 leaves DropBlock out.
        head_channels: Width of the head.
        dropout: Probability with which the head's last input channels are dropped in training.
    """

    default_output_stride: ClassVar[int] = 8

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pyramid: PyramidName = "ufp",
        channels: int = 256,
        self_transformer: bool = True,
        grounding: Grounding = "local",
        rendering: bool = True,
        self_parts: int = 2,
        grounding_parts: int = 4,
        self_similarity: Similarity = "dot",
        grounding_similarity: Similarity = "euclidean",
        normaliser: Normaliser = "mixture",
        distance_scaling: Scaling = "none",
        square_size: int = 5,
        drop_block_size: int = 3,
        keep_probability: float = 0.9,
        head_channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.pyramid = make_pyramid(pyramid, backbone, channels)
        self.transformer = FeaturePyramidTransformer(
            [channels] * len(self.pyramid.levels),
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
            drop_block_size=drop_block_size,
            keep_probability=keep_probability,
        )
        self.head = PyramidHead(len(self.pyramid.levels) * channels, head_channels, num_classes, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        levels = self.pyramid(self.backbone(images)[-1])
        return resize_like(self.head(self.transformer(levels)), images)

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What each level became, and why: see `FeaturePyramidTransformer.explain`."""
        return self.transformer.explain(self.pyramid(self.backbone(images)[-1]), images, at)


class FeaturePyramidTransformer(nn.Module):
    """Transforms a pyramid into one of the same sizes whose maps know of each other (Figure 2): for any pyramid.

    A level is concatenated with what ST makes of it, GT of it and each coarser level, and RT of it and each finer one;
    a 3x3 convolution and DropBlock follow.

    Args:
        in_channels: C of each level, from fine to coarse.
        channels: D, of every transformed level.
        activated: Whether batch norm and ReLU follow the 3x3 convolution.
        self_transformer: Whether there is ST.
        grounding: LGT ("local"), GT ("global") or neither.
        rendering: Whether there is RT.
        self_parts: N of Eq. 2 in ST.
        grounding_parts: N of Eq. 2 in GT and LGT.
        self_similarity: Of ST.
        grounding_similarity: Of GT and LGT.
        normaliser: A mixture of softmaxes over the parts, or one plain softmax.
        distance_scaling: What squared distances are divided by: the root of a part's channels, or nothing (as printed).
        square_size: Positions along a side of LGT's square.
        drop_block_size: Side of the squares that DropBlock drops in training; 3 for pixels, 5 for objects.
        keep_probability: Of a position in training; 1 leaves DropBlock out.

    Raises:
        ValueError: The parts don't divide D, a side isn't odd, or a name is unknown.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        activated: bool = True,
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
        drop_block_size: int = 5,
        keep_probability: float = 0.9,
    ) -> None:
        super().__init__()
        check_known("grounding", grounding, ("local", "global", "none"))

        to_self: Weighing = {"parts": self_parts, "similarity": self_similarity}
        to_coarse: Weighing = {"parts": grounding_parts, "similarity": grounding_similarity}
        for weighing in (to_self, to_coarse):
            weighing.update({"normaliser": normaliser, "distance_scaling": distance_scaling})

        def ground(fine: int, coarse: int) -> GroundingTransformer:
            if grounding == "local":
                return LocalGroundingTransformer(fine, coarse, channels, square_size=square_size, **to_coarse)
            return GroundingTransformer(fine, coarse, channels, **to_coarse)

        self.levels = nn.ModuleList()
        for number, own in enumerate(in_channels):
            finer = in_channels[:number] if rendering else ()
            coarser = in_channels[number + 1 :] if grounding != "none" else ()
            self.levels.append(
                TransformedLevel(
                    own,
                    channels,
                    activated=activated,
                    self_transformer=SelfTransformer(own, channels, **to_self) if self_transformer else None,
                    grounding=[ground(own, coarse) for coarse in coarser],
                    rendering=[RenderingTransformer(own, fine, channels) for fine in finer],
                )
            )
        self.drop_block = DropBlock2d(drop_block_size, keep_probability)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, H, W), from fine to coarse, to as many maps (B, D, H, W) of the same sizes.

        Raises:
            ValueError: There are more or fewer maps than levels.
        """
        if len(maps) != len(self.levels):
            raise ValueError(f"{len(maps)} maps: expected one for each of {len(self.levels)} levels")
        return [self.drop_block(level(maps, number)) for number, level in enumerate(self.levels)]

    def explain(self, maps: Sequence[Tensor], images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What each level became, and why.

        Args:
            maps: (B, C, H, W), from fine to coarse.
            images: (B, 3, height, width), which the maps are of.
            at: A pixel (x, y) of the images.

        Returns:
            For each level, `transformed_level1` and so on, (B, D, H, W), and w of Eq. 6,
            `rendering_gate_from_level1_level2`, (B, C, 1, 1): what RT multiplies level 2 by, from level 1. With `at`,
            where the position that the pixel lies in looks: `self_attention_level1` in its own level,
            `grounding_from_level2_level1` in a coarser one, (B, 1, h, w), of sum 1 but for what LGT's square has
            outside the map.

        Raises:
            InputError: The images have no such pixel.
        """
        explained = {}
        levels = cast(list[TransformedLevel], self.levels)
        for number, level in enumerate(levels):
            explained[f"transformed_level{number + 1}"] = level(maps, number)
            for other, gate in level.gates(maps, number).items():
                explained[f"rendering_gate_from_level{other + 1}_level{number + 1}"] = gate
        if at is None:
            return explained
        for number, level in enumerate(levels):
            position = position_of(at, images, maps[number])
            for other, attention in level.attention_at(maps, number, position).items():
                name = "self_attention" if other == number else f"grounding_from_level{other + 1}"
                explained[f"{name}_level{number + 1}"] = attention
        return explained


class TransformedLevel(nn.Module):
    """One level: its map, what the transformers make of it and of the others, concatenated, and a 3x3 convolution.

    Args:
        in_channels: C of the level.
        channels: D.
        activated: Whether batch norm and ReLU follow.
        self_transformer: ST, or None.
        grounding: With each coarser level, the nearest first; empty for none.
        rendering: With each finer level, the finest first; empty for none.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        activated: bool,
        self_transformer: "SelfTransformer | None",
        grounding: "Sequence[GroundingTransformer]",
        rendering: "Sequence[RenderingTransformer]",
    ) -> None:
        super().__init__()
        self.self_transformer = self_transformer
        self.grounding = nn.ModuleList(grounding)
        self.rendering = nn.ModuleList(rendering)
        count = (self_transformer is not None) + len(grounding) + len(rendering)
        fuse = ConvNormAct if activated else pyramid_convolution
        self.fuse = fuse(in_channels + count * channels, channels, 3)

    def forward(self, maps: Sequence[Tensor], number: int) -> Tensor:
        """All maps of the pyramid, and the level's number among them -> (B, D, H, W)."""
        x = maps[number]
        joined = [x]
        if self.self_transformer is not None:
            joined.append(self.self_transformer(x))
        joined += [ground(x, maps[other]) for other, ground in enumerate(self.grounding, start=number + 1)]
        joined += [render(x, maps[other]) for other, render in enumerate(self.rendering)]
        return self.fuse(torch.cat(joined, dim=1))

    def gates(self, maps: Sequence[Tensor], number: int) -> dict[int, Tensor]:
        """w of Eq. 6 by the number of the finer level that it comes from, each (B, C, 1, 1)."""
        rendering = cast(list[RenderingTransformer], self.rendering)
        return {other: render.gate(maps[other]) for other, render in enumerate(rendering)}

    def attention_at(self, maps: Sequence[Tensor], number: int, position: tuple[int, int]) -> dict[int, Tensor]:
        """How much a position (row, column) attends to those of a level, by its number: maps (B, 1, h, w)."""
        x = maps[number]
        attention = {}
        if self.self_transformer is not None:
            attention[number] = self.self_transformer.attention_at(x, position)
        for other, ground in enumerate(cast(list[GroundingTransformer], self.grounding), start=number + 1):
            attention[other] = ground.attention_at(x, maps[other], position)
        return attention


class Weighing(TypedDict, total=False):
    """What `NonLocalInteraction` may be told about how values are weighed."""

    parts: int
    similarity: Similarity
    normaliser: Normaliser
    distance_scaling: Scaling


class NonLocalInteraction(nn.Module):
    """Queries of one map, keys and values of another, and how they are weighed (Section 3.1, Eq. 1 to 3, 5).

    Args:
        query_channels: C of the queries' map.
        key_channels: C of the keys' and the values' map.
        channels: D, of queries, keys and values.
        parts: N of Eq. 2; divides D.
        similarity: F_sim: the dot product, or the negative squared distance (Eq. 4).
        normaliser: F_nom: a mixture of softmaxes over the parts (Eq. 2), or one softmax ("softmax") over whole vectors.
        distance_scaling: What squared distances are divided by: the root of a part's channels, or nothing.

    Raises:
        ValueError: The parts don't divide D, or a name is unknown.
    """

    def __init__(
        self,
        query_channels: int,
        key_channels: int,
        channels: int,
        *,
        parts: int = 4,
        similarity: Similarity = "euclidean",
        normaliser: Normaliser = "mixture",
        distance_scaling: Scaling = "none",
    ) -> None:
        super().__init__()
        check_known("normaliser", normaliser, ("mixture", "softmax"))
        check_known("distance_scaling", distance_scaling, ("square_root", "none"))
        parts = 1 if normaliser == "softmax" else parts
        check_parts(channels, parts)
        default_scale(similarity, channels // parts)  # refuses what isn't known
        self.query = nn.Conv2d(query_channels, channels, kernel_size=1)
        self.key = nn.Conv2d(key_channels, channels, kernel_size=1)
        self.value = nn.Conv2d(key_channels, channels, kernel_size=1)
        self.mixture = nn.Linear(channels, parts, bias=False) if parts > 1 else None
        self.similarity: Similarity = similarity
        printed = similarity == "euclidean" and distance_scaling == "none"
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
        weighing: As in `NonLocalInteraction`, but 2 parts and the dot product if nothing else is said.
    """

    def __init__(self, in_channels: int, channels: int, **weighing: Unpack[Weighing]) -> None:
        chosen: Weighing = {"parts": 2, "similarity": "dot"}
        chosen.update(weighing)
        super().__init__(in_channels, in_channels, channels, **chosen)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H, W)."""
        return self.interact(x, x)

    def attention_at(self, x: Tensor, position: tuple[int, int]) -> Tensor:
        """How much a position (row, column) attends to each: (B, C, H, W) -> (B, 1, H, W)."""
        return self.attention(x, x, position)


class GroundingTransformer(NonLocalInteraction):
    """GT: a fine map's pixels attend to a coarse map's concepts, by distance (Section 3.3, Eq. 5).

    Its arguments are those of `NonLocalInteraction`: C of the fine map X^f, of the queries, C of the coarse map X^c, of
    keys and values, and D; 4 parts and the distance if nothing else is said.
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
        square_size: Positions of the coarse map along a side of the square, odd.
        weighing: As in a `GroundingTransformer`.

    Raises:
        ValueError: The side isn't odd, or as there.
    """

    def __init__(
        self,
        fine_channels: int,
        coarse_channels: int,
        channels: int,
        *,
        square_size: int = 5,
        **weighing: Unpack[Weighing],
    ) -> None:
        super().__init__(fine_channels, coarse_channels, channels, **weighing)
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
