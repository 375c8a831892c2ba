"""FPT: Feature Pyramid Transformer.

Zhang, Zhang, Tang, Wang, Hua, Sun, "Feature Pyramid Transformer", ECCV 2020. Equations 1 to 5 are in
`segweave.ops.mixture_of_softmaxes`, the square of the locality-constrained grounding transformer in
`segweave.ops.local_mixture_of_softmaxes`, Equation 6 and the transformers in `segweave.networks.fpt_transformers`. What
the text leaves open, and how we read it:

- f_q, f_k and f_v are 1x1 convolutions, as wide as a transformed map.
- w_n of Eq. 2 sees the mean of whole keys, not of their n-th part; its softmax runs over the parts.
- The dot product is scaled by the root of a part's channels, which isn't printed. The squared distance is not, as
  printed; divided by it too (`distance_scaling`), it trained as well on small maps (docs/results.md).
- The weight w of Eq. 6 is printed as the mean of K. Here that passes a 1x1 convolution, batch norm and ReLU, as in the
  gates that the paper cites, and becomes a number for each channel of Q, whatever the channels of K.
- The stride of F_sconv is the ratio of the sizes of K and Q, rounded up; a map that then differs is resized.
- A level's maps are concatenated and pass a 3x3 convolution, then DropBlock. For objects it is a plain one, as printed
  and as in FPN, whose levels detectors look at; for pixels batch norm and ReLU follow. Each was the better one
  (`activated_levels`; docs/results.md).
- For pixels the four transformed levels are concatenated; a 3x3 convolution of 512 channels and a 1x1 one follow.
"""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from segweave.networks.backbones import Backbone
from segweave.networks.fpt_transformers import (
    FOR_PIXELS,
    FPTOptions,
    GroundingTransformer,
    LocalGroundingTransformer,
    RenderingTransformer,
    SelfTransformer,
    check_known,
)
from segweave.networks.layers import ConvNormAct, DropBlock2d, pyramid_convolution, resize_like
from segweave.networks.network import SegmentationNetwork, position_of
from segweave.networks.ufp import PyramidHead, PyramidName, make_pyramid

# Shapes: B images, C channels of a pyramid's map, D of a transformed one, P parts, N = H W positions of a fine map
# (X^f), M = h w of a coarse one (X^c), K classes


class FPT(SegmentationNetwork):
    """Feature Pyramid Transformer for semantic segmentation (Section 3.5).

    Every row of Table 4, and those of Table 5 with FPT, is an argument (`recipes/fpt`); UFP is the network without it.

    Args:
        backbone: The source of the feature maps; the last is used.
        num_classes: K.
        pyramid: What is transformed: "ufp", "ppm" or "aspp" (Table 5).
        channels: D, of the pyramid's levels too.
        transformer: How the pyramid is transformed.
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
        transformer: FPTOptions = FOR_PIXELS,
        head_channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.pyramid = make_pyramid(pyramid, backbone, channels)
        self.transformer = FeaturePyramidTransformer([channels] * len(self.pyramid.levels), channels, transformer)
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
        options: Which transformers there are, and how they weigh.

    Raises:
        ValueError: The parts don't divide D, a side isn't odd, or a name is unknown.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, options: FPTOptions) -> None:
        super().__init__()
        check_known("grounding", options.grounding, ("local", "global", "none"))

        def ground(fine: int, coarse: int) -> GroundingTransformer:
            weighing = options.grounding_weighing
            if options.grounding == "local":
                return LocalGroundingTransformer(fine, coarse, channels, weighing, square_size=options.square_size)
            return GroundingTransformer(fine, coarse, channels, weighing)

        self.levels = nn.ModuleList()
        for number, own in enumerate(in_channels):
            finer = in_channels[:number] if options.rendering else ()
            coarser = in_channels[number + 1 :] if options.grounding != "none" else ()
            self.levels.append(
                TransformedLevel(
                    own,
                    channels,
                    activated=options.activated_levels,
                    self_transformer=(
                        SelfTransformer(own, channels, options.self_weighing) if options.self_transformer else None
                    ),
                    grounding=[ground(own, coarse) for coarse in coarser],
                    rendering=[RenderingTransformer(own, fine, channels) for fine in finer],
                )
            )
        self.drop_block = DropBlock2d(options.drop_block_size, options.keep_probability)

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
        self_transformer: SelfTransformer | None,
        grounding: Sequence[GroundingTransformer],
        rendering: Sequence[RenderingTransformer],
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
