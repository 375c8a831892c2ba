"""The few blocks that more than one paper uses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains where a channel has one value only: one image whose map has been pooled to 1x1.

    The variance of a single value is zero, so there torch refuses to train, and the statistics would erase what they
    are meant to normalise. Such a map is normalised by the running statistics instead, as in evaluation, and does not
    change them.
    """

    def forward(self, input: Tensor) -> Tensor:
        single_value = input.shape[0] * input.shape[2] * input.shape[3] == 1
        if self.training and single_value:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


class ConvNormAct(nn.Sequential):
    """A convolution that keeps the map's size, batch norm and ReLU.

    Args:
        in_channels: Channels of the input map.
        out_channels: Channels of the output map.
        kernel_size: Odd.
        dilation: Spacing of the kernel's elements.

    Raises:
        ValueError: The kernel size is even.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, *, dilation: int = 1) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel size {kernel_size}: expected an odd one")
        padding = dilation * (kernel_size - 1) // 2
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False),
            BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


def pyramid_convolution(in_channels: int, channels: int, kernel_size: int, *, stride: int = 1) -> nn.Conv2d:
    """A convolution of a pyramid that detectors look at, with the weights that FPN's start from: no norm, no ReLU."""
    convolution = nn.Conv2d(in_channels, channels, kernel_size, stride=stride, padding=kernel_size // 2)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


class DropBlock2d(nn.Module):
    """Drops squares of a map in training, each channel its own, and scales up what is left.

    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", NeurIPS 2018. torchvision has it
    too, but counts the positions that are left in the map's own precision, which float16 can't, and refuses maps with a
    side of 2 or 4.

    Args:
        block_size: Side of the squares in positions, odd; on a smaller map the largest odd one that it holds.
        keep_probability: About the share of positions that is left; 1 drops nothing.

    Raises:
        ValueError: The side isn't odd, or the probability isn't one.
    """

    def __init__(self, block_size: int, keep_probability: float) -> None:
        super().__init__()
        if block_size < 1 or block_size % 2 == 0:
            raise ValueError(f"drop_block_size {block_size}: expected an odd number of positions")
        if not 0 < keep_probability <= 1:
            raise ValueError(f"keep_probability {keep_probability}: expected one above 0, and 1 at most")
        self.block_size = block_size
        self.keep_probability = keep_probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or self.keep_probability == 1:
            return x
        height, width = x.shape[-2:]
        side = min(self.block_size, height, width)
        side -= 1 - side % 2
        rows, columns = height - side + 1, width - side + 1  # where the middle of a square may lie
        middle_probability = (1 - self.keep_probability) * height * width / (side**2 * rows * columns)
        middles = torch.rand(*x.shape[:2], rows, columns, device=x.device) < middle_probability
        inside = F.pad(middles.float(), [side // 2] * 4)  # (B, C, H, W)
        kept = 1 - F.max_pool2d(inside, side, stride=1, padding=side // 2)
        return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)


def resize_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of a map (B, C, h, w) to `size` (H, W); a map of that size is returned as it is.

    A 1x1 map is repeated: what bilinear interpolation gives, in a form that costs nothing.
    """
    if x.shape[-2:] == size:
        return x
    if x.shape[-2:] == (1, 1):
        return x.expand(-1, -1, *size)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def resize_like(x: Tensor, other: Tensor) -> Tensor:
    """Bilinear interpolation of a map (B, C, h, w) to the height and width of `other`: the tensor that it joins."""
    height, width = other.shape[-2:]
    return resize_to(x, (height, width))
