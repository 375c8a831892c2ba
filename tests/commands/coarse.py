"""The coarse segmentation of a RANet, by hand."""

import torch
from torch import Tensor, nn

from segweave.networks.layers import resize_like
from segweave.networks.network import SegmentationNetwork


@torch.no_grad()
def coarse_by_hand(network: SegmentationNetwork, images: Tensor) -> Tensor:
    """What the layer gives from which the regions are made, enlarged: (B, 3, H, W), normalised, to (B, K, H, W)."""
    head = network.get_submodule("coarse_head")
    given: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append(output)

    hook = head.register_forward_hook(keep)
    network(images)
    hook.remove()
    [scores] = given
    return resize_like(scores, images)
