"""What happens to a sample between its file and the network, on torchvision's transforms: images, masks and boxes
always together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class RandomScale(v2.Transform):
    """Resizes by a factor drawn uniformly from a range (PAN: "random scaling between 0.5 and 2").

    Args:
        scale_range: The smallest and the largest factor.
        short_edges: Lengths in pixels. One is drawn for each image, and the factor applies to the image resized to this
            short edge. None for the image's own.
        long_edge: The greatest length in pixels of the resized image's long edge; None for no limit.
    """

    def __init__(
        self,
        scale_range: tuple[float, float],
        short_edges: Sequence[int] | None = None,
        long_edge: int | None = None,
    ) -> None:
        super().__init__()
        self.scale_range = scale_range
        self.short_edges = short_edges
        self.long_edge = long_edge

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.functional.get_size(flat_inputs[0])
        smallest, largest = self.scale_range
        scale = float(torch.empty(()).uniform_(smallest, largest))
        if self.short_edges is not None:
            # one length is not drawn: with the same seed, such runs see what they always saw
            drawn = int(torch.randint(len(self.short_edges), ())) if len(self.short_edges) > 1 else 0
            scale *= self.short_edges[drawn] / min(height, width)
        if self.long_edge is not None:
            scale = min(scale, self.long_edge / max(height, width))
        return {"size": [max(round(height * scale), 1), max(round(width * scale), 1)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return v2.functional.resize(inpt, params["size"], antialias=True)
        # torchvision's NEAREST for masks lies up to half a pixel beside its bilinear images
        mask = inpt.as_subclass(Tensor)[None]
        resized = v2.functional.resize_image(mask, params["size"], interpolation=v2.InterpolationMode.NEAREST_EXACT)
        return tv_tensors.wrap(resized[0], like=inpt)


def normalise(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(..., 3, H, W) uint8 -> float32, with `mean` subtracted and divided by `std`, both for intensities in [0, 1]."""
    intensities = v2.functional.to_dtype(image, torch.float32, scale=True)
    normalised: Tensor = v2.functional.normalize(intensities, list(mean), list(std))
    return normalised
