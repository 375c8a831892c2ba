"""What the papers' transcriptions share: the blocks of all networks, written out, and how two results are compared."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def shifts(x: Tensor, reach: int) -> list[tuple[int, int, Tensor]]:
    """The map moved by each element of a kernel of side 2 reach + 1, with zeros outside it; and the element."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (reach, reach, reach, reach))
    side = range(2 * reach + 1)
    return [(row, column, padded[..., row : row + height, column : column + width]) for row in side for column in side]


def convolve(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Every output channel sums all input channels over the kernel."""
    weight = convolution.weight
    moved = shifts(x, weight.shape[-1] // 2)
    output = sum(torch.einsum("bchw,kc->bkhw", shifted, weight[:, :, row, column]) for row, column, shifted in moved)
    return output if convolution.bias is None else output + convolution.bias[:, None, None]


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """With the batch's statistics in training, unless there is one value to a channel."""
    mean, variance = norm.running_mean, norm.running_var
    if norm.training and x[:, 0].numel() > 1:
        mean = x.mean(dim=(0, 2, 3))
        variance = ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def block(x: Tensor, module: nn.Module) -> Tensor:
    """Convolution, batch norm, ReLU."""
    return batch_norm(convolve(x, module[0]), module[1]).clamp(min=0)


def interpolation(source: int, target: int) -> Tensor:
    """The weights (target, source) of linear interpolation; a pixel stands for its centre."""
    weights = torch.zeros(target, source, dtype=torch.float64)
    for index in range(target):
        position = min(max((index + 0.5) * source / target - 0.5, 0.0), source - 1.0)
        left = int(position)
        right = min(left + 1, source - 1)
        weights[index, left] += 1 - (position - left)
        weights[index, right] += position - left
    return weights


def upsample(x: Tensor, like: Tensor) -> Tensor:
    rows = interpolation(x.shape[-2], like.shape[-2])
    columns = interpolation(x.shape[-1], like.shape[-1])
    return torch.einsum("yh,bchw,xw->bcyx", rows, x, columns)


def make_irregular(module: nn.Module, bias: tuple[float, float] = (-0.5, 0.5)) -> nn.Module:
    """In float64, and with batch norms that do something: those of a new module are close to the identity.

    Args:
        module: Is changed.
        bias: The range of the norms' biases.
    """
    module.double()
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(*bias)
                norm.running_mean.uniform_(-0.2, 0.2)
                norm.running_var.uniform_(0.5, 2)
    return module


def some_map(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(batch, channels, *size, dtype=torch.float64, requires_grad=True)


def assert_same_outputs_and_gradients(
    module: nn.Module, actual: Tensor, expected: Tensor, inputs: Sequence[Tensor] = ()
) -> None:
    """The outputs, and how they change with the inputs and with every parameter of the module."""
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert expected.abs().max() > 1e-3
    sources = [*inputs, *module.parameters()]
    weight = torch.randn_like(expected)
    gradients, expected_gradients = (
        torch.autograd.grad((output * weight).sum(), sources, allow_unused=True, materialize_grads=True)
        for output in (actual, expected)
    )
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)
