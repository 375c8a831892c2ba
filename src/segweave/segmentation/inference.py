"""From a normalised image to logits or probabilities at its own size: several scales, flips, sliding windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segweave.data.loading import seed_of
from segweave.errors import InputError
from segweave.networks.layers import resize_to
from segweave.networks.network import SMALLEST_SIDE, resized

Logits = Callable[[Tensor], Tensor]
"""A network, or what else gives logits: images (B, 3, h, w) to (B, K, h, w)."""

SCALE_RANGE = (0.5, 2.0)
"""Of random views, if no other is given."""


@dataclass(frozen=True)
class Inference:
    """How a network is run over an image.

    A side never gets shorter than 32 pixels: smaller scales and images are enlarged to it.

    Attributes:
        scales: The image is resized by each of these factors, and the class probabilities are averaged; None for its
            own size. PAN's multi-scale evaluation (Table 5) is (0.5, 0.75, 1.0, 1.25, 1.5, 1.75).
        flip: Whether each scale is also seen mirrored left to right.
        window: (height, width) in pixels of a sliding window, for images that don't fit in memory or are larger than
            the training crops; windows overlap by a third, and the logits are averaged where they do. None for the
            whole image at once.
        short_edge: Length in pixels that the image's short edge is resized to before anything else; None for the
            image's own size.
        random_views: How many times each image is seen, at a random scale and mirrored or not by chance, in place of
            `scales` and `flip`; the class probabilities are averaged. AGLN's multi-scale evaluation (Section IV-A),
            which doesn't print the number.
        scale_range: The random scales are drawn evenly from between these two; None for 0.5 and 2.
        seed: Of the random views; None for 0. An image's depend on this and its number alone, not on the
            process that sees it.

    Raises:
        InputError: There is no scale, or a scale, the window or the edge is not positive, or random views are asked for
            beside fixed ones.
    """

    scales: Sequence[float] | None = None
    flip: bool = False
    window: tuple[int, int] | None = None
    short_edge: int | None = None
    random_views: int = 0
    scale_range: tuple[float, float] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.scales is not None and not (self.scales and all(0 < scale < float("inf") for scale in self.scales)):
            raise InputError(f"scales {list(self.scales)}: expected one or more numbers above 0")
        if self.window is not None and min(self.window) < SMALLEST_SIDE:
            raise InputError(f"window {list(self.window)}: expected a height and a width from {SMALLEST_SIDE} up")
        if self.short_edge is not None and self.short_edge < SMALLEST_SIDE:
            raise InputError(f"short_edge {self.short_edge}: expected {SMALLEST_SIDE} or more")
        for name, value in (("random_views", self.random_views), ("seed", self.seed or 0)):
            if value < 0:
                raise InputError(f"{name} {value}: expected 0 or more")
        if self.random_views and (self.scales is not None or self.flip):
            raise InputError("random_views: expected no scales and no flip beside it")
        if not self.random_views and (self.scale_range is not None or self.seed is not None):
            raise InputError("scale_range and seed: expected random_views beside them")
        if self.scale_range is not None and not 0 < self.scale_range[0] <= self.scale_range[1] < float("inf"):
            raise InputError(f"scale_range {list(self.scale_range)}: expected two factors, 0 < smallest <= largest")

    def __call__(self, network: Logits, images: Tensor, number: int = 0) -> Tensor:
        """Scores the classes of every pixel.

        Args:
            network: Images (B, 3, h, w) to logits (B, K, h, w).
            images: (B, 3, H, W), normalised.
            number: Of the image in its split: random views are drawn for it.

        Returns:
            (B, K, H, W), float32: the higher, the likelier. Logits of a single pass; logarithms of the averaged
            probabilities of several.
        """
        views = self.views(number)
        if len(views) == 1:
            return self._pass(network, images, *views[0])
        total: Tensor | None = None
        for scale, flipped in views:
            probabilities = self._pass(network, images, scale, flipped).softmax(dim=1)
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        return (total / len(views)).clamp(min=torch.finfo(torch.float32).tiny).log()

    def views(self, number: int = 0) -> list[tuple[float, bool]]:
        """The scale of each pass over an image, and whether it is mirrored.

        Args:
            number: Of the image in its split.
        """
        if not self.random_views:
            scales = (1.0,) if self.scales is None else self.scales
            return [(scale, flipped) for scale in scales for flipped in ((False, True) if self.flip else (False,))]
        generator = torch.Generator().manual_seed(seed_of(self.seed or 0, number))
        drawn = torch.empty(self.random_views).uniform_(*(self.scale_range or SCALE_RANGE), generator=generator)
        flips = torch.rand(self.random_views, generator=generator) < 0.5
        return list(zip(drawn.tolist(), flips.tolist(), strict=True))

    def _pass(self, network: Logits, images: Tensor, scale: float, flipped: bool) -> Tensor:
        """The logits at one scale, at the size of `images`."""
        scaled = resized(images, self.short_edge, scale)
        if flipped:
            scaled = scaled.flip(-1)
        logits = network(scaled) if self.window is None else slide(network, scaled, self.window)
        if flipped:
            logits = logits.flip(-1)
        return resize_to(logits.float(), (images.shape[-2], images.shape[-1]))


def slide(network: Logits, images: Tensor, window: tuple[int, int]) -> Tensor:
    """Runs the network over windows that overlap by a third and averages the logits.

    Args:
        network: Images (B, 3, h, w) to logits (B, K, h, w).
        images: (B, 3, H, W).
        window: (height, width); a side longer than the image's is cut to it.

    Returns:
        (B, K, H, W), float32.
    """
    height, width = images.shape[-2:]
    window_height, window_width = min(window[0], height), min(window[1], width)
    total: Tensor | None = None
    count = images.new_zeros(1, 1, height, width, dtype=torch.float32)
    for top in _window_starts(height, window_height):
        for left in _window_starts(width, window_width):
            rows, columns = slice(top, top + window_height), slice(left, left + window_width)
            logits = network(images[..., rows, columns]).float()
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., rows, columns] += logits
            count[..., rows, columns] += 1
    assert total is not None  # there is one window at least
    return total / count


def _window_starts(length: int, window: int) -> list[int]:
    """Where windows start so that they cover `length`, the last one flush with its end."""
    stride = max(window * 2 // 3, 1)
    return sorted({min(start, length - window) for start in range(0, max(length - window, 0) + stride, stride)})
