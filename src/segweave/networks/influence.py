"""Where what a part of a network makes of one position came from: for parts without attention of single positions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def influence(function: Callable[..., Tensor], maps: Sequence[Tensor], position: tuple[int, int]) -> list[Tensor]:
    """How much each position of the maps that a function is given changes what it makes of one position.

    The measure is the gradient of the length of the vector at the position, the sum of its absolute values over the
    channels, as a share of that of the whole map. To first order: where a small change would be felt there. Works under
    `no_grad` and in inference mode too.

    Args:
        function: From the maps, each an argument, to a map (B, D, H, W); each image on its own.
        maps: (B, C_i, h_i, w_i).
        position: The row and the column of what the function gives.

    Returns:
        Of each map (B, 1, h_i, w_i), of sum 1, or 0 everywhere if nothing would be felt, as behind a ReLU that gives 0.
    """
    row, column = position
    with torch.inference_mode(False), torch.enable_grad():
        inputs = [x.clone().detach().requires_grad_() for x in maps]
        vectors = function(*inputs)[:, :, row, column]  # (B, D)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        gradients = torch.autograd.grad(lengths.sum(), inputs, materialize_grads=True)
    return [_shares(gradient) for gradient in gradients]


def _shares(gradient: Tensor) -> Tensor:
    strength = gradient.abs().sum(dim=1, keepdim=True)
    return strength / strength.sum(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(strength.dtype).tiny)
