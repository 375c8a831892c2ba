"""Which positions a part of a network depends on, seen from one position: for parts without attention."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def influence(function: Callable[..., Tensor], maps: Sequence[Tensor], position: tuple[int, int]) -> list[Tensor]:
    """How much a small change at each position of the maps would change the length of the vector at one position.

    That is the gradient of the length, its absolute values summed over the channels, as a share of the whole map's. A
    change that only turns the vector doesn't count. Works under `no_grad` and in inference mode too.

    Args:
        function: From the maps, each an argument, to a map (B, D, H, W); each image on its own.
        maps: (B, C_i, h_i, w_i).
        position: The row and the column of what the function gives.

    Returns:
        Of each map (B, 1, h_i, w_i), of sum 1, or 0 everywhere if the gradient is, as behind a ReLU that gives 0.
    """
    row, column = position
    with torch.inference_mode(False), torch.enable_grad():
        inputs = [x.clone().detach().requires_grad_() for x in maps]
        vectors = function(*inputs)[:, :, row, column]  # (B, D)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        gradients = torch.autograd.grad(lengths.sum(), inputs, materialize_grads=True)
    return [_shares(gradient) for gradient in gradients]


def _shares(gradient: Tensor) -> Tensor:
    strength = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).abs().sum(dim=1, keepdim=True)
    return strength / strength.sum(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(strength.dtype).tiny)
