"""PAN: Pyramid Attention Network.

Li, Xiong, An, Wang, "Pyramid Attention Network for Semantic Segmentation", arXiv 1805.10180 and BMVC 2018. The paper
prints no numbered equations; the sections and tables that each part follows are named at the part. What the text leaves
open, and how we read it:

- The two versions differ in FPA's global pooling branch: added (arXiv) or concatenated (BMVC); `global_pooling` takes
  either.
- The pyramid's width isn't given. "Pixel-level attention" is read as one channel, the same weight for all channels of a
  pixel (`attention_channels=1`); `None` gives each channel its own.
- "All convolution layers are followed by batch normalization" (Figure 3); here ReLU follows it everywhere, though the
  text names it for GAU's gate only. On the pyramid's way up it keeps the attention from turning the sign of what it
  weights, and was measured to train better (docs/results.md).
- The logits are a 1x1 convolution of the last GAU's output.
- The batch norm of a globally pooled map needs more than one image: with one, it uses its running statistics
  (`segweave.networks.layers.BatchNorm2d`), so that PAN trains at batch size 1.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segweave.errors import InputError
from segweave.networks.backbones import Backbone
from segweave.networks.influence import influence
from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.network import SegmentationNetwork, position_of

# Shapes: B images, C channels of res5, D decoder channels, A attention channels, h x w the size of res5


class PAN(SegmentationNetwork):
    """PAN, Pyramid Attention Network (Section 3.3, Figure 2): backbone, FPA, and a GAU on each of res4, res3 and res2.

    The defaults are the paper's best setting; the other rows of Tables 1 and 3 are arguments (`recipes/pan` has one
    file a row; Table 2's rivals are `PSPNet` and `DeepLabV3`).

    Args:
        backbone: The source of res2 to res5, res5 dilated to output stride 16.
        num_classes: K.
        decoder_channels: D, the width of FPA's output and of the decoder.
        attention: "pyramid" for FPA, "squeeze_excitation" for SENet's channel attention in its place, None for neither
            (Table 1).
        kernel_sizes: FPA's kernels from fine to coarse: (7, 5, 3) is the paper's C357, (3, 3, 3) its C333 (Table 1).
        pooling: How FPA's pyramid is pooled: AVE or MAX of Table 1.
        global_pooling: FPA's global pooling branch (GP of Table 1): added (arXiv), concatenated (BMVC), or None.
        attention_channels: A, the width of FPA's pyramid; None for D.
        global_attention_upsample: Whether GAU modules decode; without them the output of FPA is upsampled directly
            (Tables 1 and 2).
        global_context: Whether GAU's gate is used (GP of Table 3); without it low-level maps are added as they are.
        low_level_kernel_size: GAU's convolution that reduces the low-level channels: 3 or 1 (Table 3).
    """

    default_output_stride: ClassVar[int] = 16
    former_names: ClassVar[Mapping[str, str]] = {r"context\.": "fpa.", r"decoder\.": "gaus."}

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        decoder_channels: int = 256,
        attention: Literal["pyramid", "squeeze_excitation"] | None = "pyramid",
        kernel_sizes: tuple[int, int, int] = (7, 5, 3),
        pooling: Literal["average", "max"] = "average",
        global_pooling: Literal["add", "concat"] | None = "add",
        attention_channels: int | None = 1,
        global_attention_upsample: bool = True,
        global_context: bool = True,
        low_level_kernel_size: Literal[1, 3] = 3,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        *low_level_channels, high_level_channels = backbone.channels
        self.fpa: nn.Module  # or what Table 1 puts in its place
        if attention == "pyramid":
            self.fpa = FeaturePyramidAttention(
                high_level_channels,
                decoder_channels,
                kernel_sizes=kernel_sizes,
                pooling=pooling,
                global_pooling=global_pooling,
                attention_channels=attention_channels,
            )
        elif attention == "squeeze_excitation":
            self.fpa = SqueezeExcitation(high_level_channels, decoder_channels)
        else:
            self.fpa = ConvNormAct(high_level_channels, decoder_channels)
        # From coarse to fine: on res4, res3, res2
        self.gaus = nn.ModuleList(
            GlobalAttentionUpsample(
                channels, decoder_channels, kernel_size=low_level_kernel_size, global_context=global_context
            )
            for channels in (reversed(low_level_channels) if global_attention_upsample else ())
        )
        self.head = nn.Conv2d(decoder_channels, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        *low_levels, high_level = self.backbone(images)
        high_level = self.fpa(high_level)  # (B, D, h, w)
        for gau, low_level in zip(self.gaus, reversed(low_levels), strict=False):
            high_level = gau(low_level, high_level)  # (B, D, size of low_level)
        return resize_like(self.head(high_level), images)

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What features were weighted by, and where that came from.

        Returns:
            `attention`: FPA's, (B, A, h, w), or SE's channel weights, (B, D, 1, 1). With S one of res4, res3, res2,
            `gate_S`: the gate of each GAU, (B, D, 1, 1). With `at`, `attention_at`: which positions of res5 FPA's
            attention to the pixel depends on; and `gau_at_S`: which positions of the high-level map, near ones by
            upsampling and all of them by the gate, what the GAU gives the pixel depends on. Both are gradients (see
            `segweave.networks.influence`), (B, 1, h, w), of sum 1.
        """
        *low_levels, high_level = self.backbone(images)
        explained, looks = {}, {}
        if isinstance(self.fpa, FeaturePyramidAttention | SqueezeExcitation):
            explained["attention"] = self.fpa.attention(high_level)
        if at is not None and isinstance(self.fpa, FeaturePyramidAttention):
            (looks["attention_at"],) = influence(self.fpa.attention, [high_level], position_of(at, images, high_level))
        high_level = self.fpa(high_level)
        for name, gau, low_level in zip(("res4", "res3", "res2"), self.gaus, reversed(low_levels), strict=False):
            assert isinstance(gau, GlobalAttentionUpsample)
            if gau.gate is not None:
                explained[f"gate_{name}"] = gau.gate(high_level)
            if at is not None and gau.gate is not None:
                position = position_of(at, images, low_level)
                _, looks[f"gau_at_{name}"] = influence(gau, [low_level, high_level], position)
            high_level = gau(low_level, high_level)
        return explained | looks


class FeaturePyramidAttention(nn.Module):
    """FPA, Feature Pyramid Attention (Section 3.1, Figure 3b): a U-shaped pyramid gives each pixel its attention.

    The map x passes a 1x1 convolution and is multiplied by the pyramid's attention; the global pooling branch is added
    or concatenated: ``FPA(x) = conv1x1(x) * attention(x) + upsample(conv1x1(global_average(x)))``.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_sizes: Kernels of the pyramid's levels, from fine to coarse.
        pooling: How each level is pooled from the one above it.
        global_pooling: "add", "concat" (followed by a 1x1 convolution back to D channels) or None.
        attention_channels: A, the pyramid's width: 1, or None for D. Any other number can't be multiplied with D
            channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_sizes: tuple[int, int, int] = (7, 5, 3),
        pooling: Literal["average", "max"] = "average",
        global_pooling: Literal["add", "concat"] | None = "add",
        attention_channels: int | None = 1,
    ) -> None:
        super().__init__()
        channels = out_channels if attention_channels is None else attention_channels
        if channels not in (1, out_channels):
            raise InputError(
                f"attention_channels {channels}: expected 1, or None (or {out_channels}) for one to each channel"
            )
        self.max_pooling = pooling == "max"
        self.reduce = ConvNormAct(in_channels, out_channels)
        in_widths = (in_channels, channels, channels)
        self.down = nn.ModuleList(
            ConvNormAct(width, channels, size) for width, size in zip(in_widths, kernel_sizes, strict=True)
        )
        self.up = nn.ModuleList(ConvNormAct(channels, channels, size) for size in kernel_sizes)
        self.global_branch = None
        self.project = None
        if global_pooling is not None:
            self.global_branch = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(in_channels, out_channels))
        if global_pooling == "concat":
            self.project = ConvNormAct(2 * out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        output = self.reduce(x) * self.attention(x)
        if self.global_branch is None:
            return output
        if self.project is None:
            return output + self.global_branch(x)
        return self.project(torch.cat([output, resize_like(self.global_branch(x), output)], dim=1))

    def attention(self, x: Tensor) -> Tensor:
        """The pyramid's attention: (B, C, h, w) -> (B, A, h, w)."""
        levels = []
        level = x
        for down in self.down:
            level = down(self._pool(level))
            levels.append(level)
        fine, middle, coarse = levels
        up_fine, up_middle, up_coarse = self.up
        middle = up_middle(middle) + resize_like(up_coarse(coarse), middle)
        fine = up_fine(fine) + resize_like(middle, fine)
        return resize_like(fine, x)

    def _pool(self, x: Tensor) -> Tensor:
        """Pools by 2, rounding up, so that a map of one pixel stays one."""
        if self.max_pooling:
            return F.max_pool2d(x, 2, ceil_mode=True)
        return F.avg_pool2d(x, 2, ceil_mode=True)


class SqueezeExcitation(nn.Module):
    """SE, SENet's channel attention in place of the pyramid (Table 1): ``conv1x1(x) * attention(x)``.

    Args:
        in_channels: C.
        out_channels: D.
        reduction: By how much the two fully-connected layers narrow in between (SENet's 16).
    """

    def __init__(self, in_channels: int, out_channels: int, reduction: int = 16) -> None:
        super().__init__()
        narrow_channels = max(out_channels // reduction, 1)
        self.reduce = ConvNormAct(in_channels, out_channels)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, narrow_channels, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow_channels, out_channels, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        return self.reduce(x) * self.attention(x)


class GlobalAttentionUpsample(nn.Module):
    """GAU, Global Attention Upsample (Section 3.2, Figure 4): high-level context weights the low-level map.

    ``GAU(low, high) = conv(low) * relu(norm(conv1x1(global_average(high)))) + upsample(high)``.

    Args:
        low_level_channels: Channels of the low-level map.
        channels: D.
        kernel_size: Of the convolution that reduces the low-level channels: 3 or 1 (Table 3).
        global_context: Whether there is a gate (Table 3, GP).
    """

    def __init__(
        self, low_level_channels: int, channels: int, *, kernel_size: int = 3, global_context: bool = True
    ) -> None:
        super().__init__()
        self.reduce = ConvNormAct(low_level_channels, channels, kernel_size)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(channels, channels)) if global_context else None

    def forward(self, low_level: Tensor, high_level: Tensor) -> Tensor:
        """(B, low_level_channels, H, W), (B, D, h, w) -> (B, D, H, W)."""
        low_level = self.reduce(low_level)
        if self.gate is not None:
            low_level = low_level * self.gate(high_level)
        return low_level + resize_like(high_level, low_level)
