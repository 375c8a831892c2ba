"""UFP: the pyramid networks that FPT starts from, and object context on them (FPT, Section 4.2, Tables 4 and 5).

The paper builds on an "unscathed feature pyramid", pyramid pooling or atrous spatial pyramid pooling, and compares with
object context (OCNet) on each. Neither the head nor where the object context goes is printed: the levels are
concatenated, a 3x3 convolution brings them to the head's width, object context is added to that as OCNet does.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from segweave.networks.backbones import Backbone
from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.network import SegmentationNetwork, position_of
from segweave.networks.ocnet import ObjectContextPooling
from segweave.networks.pyramids import AtrousPyramid, PooledPyramid, UnscathedFeaturePyramid

# Shapes: B images, D channels of a level, K classes, h x w the size of all levels

PyramidName = Literal["ufp", "ppm", "aspp"]


class UFP(SegmentationNetwork):
    """A pyramid, its levels concatenated, and a head.

    Args:
        backbone: The source of the feature maps; the last is used.
        num_classes: K.
        pyramid: Global convolutions ("ufp"), pyramid pooling ("ppm") or atrous spatial pyramid pooling ("aspp").
        channels: D.
        object_context: Whether the head has object context ("+OC" in Table 5).
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
        object_context: bool = False,
        head_channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.pyramid = make_pyramid(pyramid, backbone, channels)
        self.head = PyramidHead(
            len(self.pyramid.levels) * channels,
            head_channels,
            num_classes,
            object_context=object_context,
            dropout=dropout,
        )

    def forward(self, images: Tensor) -> Tensor:
        return resize_like(self.head(self.pyramid(self.backbone(images)[-1])), images)

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """The levels, `pyramid_level1` and so on, (B, D, h, w). With object context also, for a chosen pixel (x, y),
        `attention_at`: how much its position attends to each, (B, 1, h, w), of sum 1.

        Raises:
            InputError: The images have no such pixel.
        """
        levels = self.pyramid(self.backbone(images)[-1])
        explained = {f"pyramid_level{number}": level for number, level in enumerate(levels, start=1)}
        if at is not None and self.head.context is not None:
            row, column = position_of(at, images, levels[0])
            explained["attention_at"] = self.head.context.attention_at(self.head.reduced(levels), row, column)
        return explained


class PyramidHead(nn.Module):
    """The levels of a pyramid, concatenated, to logits.

    Args:
        in_channels: Of all levels together.
        channels: What a 3x3 convolution brings them to.
        num_classes: K.
        object_context: Whether object context is concatenated with what it has been made from.
        dropout: Probability with which input channels of the last convolution are dropped in training.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, *, object_context: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, channels, 3)
        self.context = ObjectContextPooling(channels, -(-channels // 2)) if object_context else None
        self.fuse = ConvNormAct(2 * channels, channels) if object_context else None
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, kernel_size=1))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps (B, D, h, w) -> (B, K, h, w)."""
        x = self.reduced(levels)
        if self.context is not None and self.fuse is not None:
            x = self.fuse(torch.cat([self.context(x), x], dim=1))
        return self.classify(x)

    def reduced(self, levels: list[Tensor]) -> Tensor:
        """What the context is made from: maps (B, D, h, w) -> (B, head channels, h, w)."""
        return self.reduce(torch.cat(levels, dim=1))


def make_pyramid(
    name: PyramidName, backbone: Backbone, channels: int
) -> UnscathedFeaturePyramid | PooledPyramid | AtrousPyramid:
    """A pyramid on a backbone's last map, with levels of so many channels; dilations follow the output stride."""
    in_channels = backbone.channels[-1]
    if name == "ufp":
        return UnscathedFeaturePyramid(in_channels, channels)
    if name == "ppm":
        return PooledPyramid(in_channels, channels)
    if name != "aspp":
        raise ValueError(f"pyramid {name!r}: expected one of ufp, ppm, aspp")
    first, second, third = (rate * 8 // backbone.output_stride for rate in (12, 24, 36))
    return AtrousPyramid(in_channels, channels, (first, second, third))
