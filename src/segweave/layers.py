"""The few blocks that more than one paper uses."""

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
