"""Feature pyramids whose levels are all of one size: what FPT transforms to segment images (Section 3.5).

Their levels differ not in size, but in how much of the image one position has seen. Each is made from a backbone's last
map; the first level has seen the least ("fine"), the last the most ("coarse").
"""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segweave.networks.layers import BatchNorm2d, ConvNormAct, resize_like

# Shapes: B images, C channels of res5, D of a level, h x w their size


class UnscathedFeaturePyramid(nn.Module):
    """UFP (FPT, Section 3.5): global convolutions of several kernel sizes on one map.

    Args:
        in_channels: C.
        channels: D.
        kernel_sizes: One of each level, odd, the least first.
    """

    def __init__(self, in_channels: int, channels: int = 256, kernel_sizes: tuple[int, ...] = (1, 7, 15, 31)) -> None:
        super().__init__()
        self.levels = nn.ModuleList(GlobalConvolution(in_channels, channels, size) for size in kernel_sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> a map (B, D, h, w) for each level."""
        return [level(x) for level in self.levels]


class GlobalConvolution(nn.Module):
    """Peng, Zhang, Yu, Luo, Sun, "Large Kernel Matters", CVPR 2017, Figure 2: a k x k convolution in two thin halves.

    k x 1 then 1 x k, and 1 x k then k x 1, are added. Batch norm and ReLU follow, which the paper doesn't have: it adds
    the maps to a decoder's, we concatenate them.

    Args:
        in_channels: C.
        channels: D.
        kernel_size: k, odd.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel size {kernel_size}: expected an odd one")
        tall, wide = (kernel_size, 1), (1, kernel_size)
        self.tall_then_wide = nn.Sequential(
            ThinConvolution(in_channels, channels, tall), ThinConvolution(channels, channels, wide)
        )
        self.wide_then_tall = nn.Sequential(
            ThinConvolution(in_channels, channels, wide), ThinConvolution(channels, channels, tall)
        )
        self.norm_act = nn.Sequential(BatchNorm2d(channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        return self.norm_act(self.tall_then_wide(x) + self.wide_then_tall(x))


class PooledPyramid(nn.Module):
    """PPM (Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017): averages over grids, the finest first, upsampled.

    Args:
        in_channels: C.
        channels: D.
        bins: The sides of the grids that the map is pooled to.
    """

    def __init__(self, in_channels: int, channels: int = 256, bins: tuple[int, ...] = (6, 3, 2, 1)) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.levels = nn.ModuleList(ConvNormAct(in_channels, channels) for _ in bins)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> a map (B, D, h, w) for each level."""
        pooled = (F.adaptive_avg_pool2d(x, bins) for bins in self.bins)
        return [resize_like(level(grid), x) for level, grid in zip(self.levels, pooled, strict=True)]


class AtrousPyramid(nn.Module):
    """ASPP (Chen et al., arXiv 1706.05587) without its image-level branch: a 1x1 convolution, and dilated 3x3 ones.

    Args:
        in_channels: C.
        channels: D.
        rates: Dilations of the 3x3 convolutions, the least first.
    """

    def __init__(self, in_channels: int, channels: int = 256, rates: tuple[int, ...] = (12, 24, 36)) -> None:
        super().__init__()
        point = ConvNormAct(in_channels, channels)
        self.levels = nn.ModuleList([point, *(ConvNormAct(in_channels, channels, 3, dilation=rate) for rate in rates)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> a map (B, D, h, w) for each level."""
        return [level(x) for level in self.levels]


class ThinConvolution(nn.Conv2d):
    """A k x 1 or 1 x k convolution that keeps the map's size, without bias.

    On CPUs it adds up over groups of input channels. For the gradient of a long kernel over all 2048 channels of res5
    oneDNN has no fast code unless the CPU has AVX-512: a step would take ten times as long.

    Args:
        in_channels: Channels of the input map.
        channels: Channels of the output map.
        kernel_size: Height and width, both odd.
    """

    group = 512
    """Input channels that are taken at once on CPUs."""

    def __init__(self, in_channels: int, channels: int, kernel_size: tuple[int, int]) -> None:
        height, width = kernel_size
        super().__init__(in_channels, channels, kernel_size, padding=(height // 2, width // 2), bias=False)

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or self.in_channels <= self.group:
            return super().forward(input)
        parts = zip(input.split(self.group, dim=1), self.weight.split(self.group, dim=1), strict=True)
        return reduce(torch.add, (F.conv2d(x, weight, padding=self.padding) for x, weight in parts))
