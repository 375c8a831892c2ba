"""RANet's region attention (Eq. 1 to 3) as it is defined: for each pair of pixels, in a table of all pairs.

Shen, Ji, Li, Wang, Lin, "RANet: Region Attention Network for Semantic Segmentation", NeurIPS 2020. What the text leaves
open, and how we read it:

- Eq. 1: the pixels strictly between i and j. The line has as many steps as the pixels are apart in rows or in columns,
  whichever is more; where it runs between two pixels, the two are interpolated linearly. Between neighbours there is
  nothing, and D is 0.
- Eq. 2 as printed has lost its logarithms. E is the Jensen-Shannon divergence in base 2, which lies in [0, 1].

These are references: a table of 97 x 97 pixels takes 354 MB. `segweave.ops.regions` computes what the network needs
without one.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Shapes: B images, H x W their size, P = H W pixels (numbered row by row), T some of them, K classes


def line_maximum(boundaries: Tensor) -> Tensor:
    """The probability of a boundary between two pixels: the greatest on the line between them (Eq. 1).

    Args:
        boundaries: The probability of a boundary at each pixel, (B, H, W).

    Returns:
        D, (B, P, P), symmetric. Where several points of a line are equally great, one of them gets the gradient.
    """
    return line_maximum_from(boundaries, _all_pixels(boundaries))


def jensen_shannon_divergence(probabilities: Tensor) -> Tensor:
    """How unlike the classes of two pixels are (Eq. 2): the Jensen-Shannon divergence in base 2.

    Args:
        probabilities: Of each pixel, (B, P, K), over K sum 1.

    Returns:
        E, (B, P, P), symmetric, in [0, 1]. Its gradient is finite at probabilities of 0 too.
    """
    return divergence_from(probabilities, torch.arange(probabilities.shape[1], device=probabilities.device))


def region_attention(boundaries: Tensor, probabilities: Tensor) -> Tensor:
    """How surely two pixels belong to one region (Eq. 3): F = (1 - D) (1 - E).

    Args:
        boundaries: The probability of a boundary at each pixel, (B, H, W).
        probabilities: Of the classes of each pixel, (B, K, H, W), over K sum 1.

    Returns:
        F, (B, P, P), symmetric, in [0, 1], 1 on the diagonal.
    """
    return region_attention_from(boundaries, probabilities, _all_pixels(boundaries))


def region_attention_from(boundaries: Tensor, probabilities: Tensor, pixels: Tensor) -> Tensor:
    """The rows of `region_attention` of some pixels: (B, H, W), (B, K, H, W), (T,) -> (B, T, P)."""
    no_boundary = 1 - line_maximum_from(boundaries, pixels)
    return no_boundary * (1 - divergence_from(probabilities.flatten(2).mT, pixels))


def line_maximum_from(boundaries: Tensor, pixels: Tensor) -> Tensor:
    """The rows of `line_maximum` of some pixels: (B, H, W), (T,) -> (B, T, P)."""
    points = greatest_points(boundaries, pixels)
    return points.values(boundaries.flatten(1))  # the gradient needs no more than the points that won


def greatest_points(boundaries: Tensor, pixels: Tensor) -> "Points":
    """Where the lines from some pixels to all are greatest: (B, H, W), (T,) -> points (B, T, P)."""
    flat, width = boundaries.detach().flatten(1), boundaries.shape[2]
    greatest = flat.new_full((len(flat), len(pixels), flat.shape[1]), -torch.inf)
    best_step = torch.zeros(greatest.shape, dtype=torch.long, device=flat.device)
    for step in range(1, max(boundaries.shape[1:]) - 1):
        points = _points(flat, pixels, torch.tensor(step, device=flat.device), width)
        value = torch.where(points.between, points.values(flat), -torch.inf)
        better = value > greatest
        greatest = torch.where(better, value, greatest)
        best_step = torch.where(better, step, best_step)
    return _points(flat, pixels, best_step, width)


class Points(NamedTuple):
    """Points between two pixels of a map, each (T, P) or (B, T, P)."""

    first: Tensor
    """The number of the one pixel."""
    second: Tensor
    """The number of the other."""
    fraction: Tensor
    """How far the point is from the first to the second, in [0, 1)."""
    between: Tensor
    """Whether the point is strictly between the ends of its line; else it has no value."""

    def values(self, flat: Tensor) -> Tensor:
        """Of a map (B, P) at the points, interpolated, 0 for those without a value: (B, T, P)."""
        start, end = _at(flat, self.first), _at(flat, self.second)
        return torch.where(self.between, start + self.fraction * (end - start), 0)


def divergence_from(probabilities: Tensor, pixels: Tensor) -> Tensor:
    """The rows of `jensen_shannon_divergence` of some pixels: (B, P, K), (T,) -> (B, T, P)."""
    total: Tensor | float = 0.0
    for probability in probabilities.unbind(2):
        # class by class, and computed again in backward, so that no table is K times as large
        total = total + checkpoint(_apart, probability, pixels, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(total, Tensor)
    return total.clamp(0, 1)


def _apart(probability: Tensor, pixels: Tensor) -> Tensor:
    """What one class adds to the divergence, never below 0 but for rounding: (B, P), (T,) -> (B, T, P)."""
    negative_entropy = _negative_entropy(probability)
    mean = (probability[:, pixels, None] + probability[:, None]) / 2
    return (negative_entropy[:, pixels, None] + negative_entropy[:, None]) / 2 - _negative_entropy(mean)


def _negative_entropy(probabilities: Tensor) -> Tensor:
    """p log2(p), 0 where p is 0, with a finite gradient there."""
    return probabilities * probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log2()


def _points(flat: Tensor, pixels: Tensor, step: Tensor, width: int) -> Points:
    """The points of the lines from some pixels (T,) to all, at a step: one for all lines, or (B, T, P)."""
    # whole numbers all of them, which float32 holds and divides faster than integers: a line is exactly the same from
    # both of its ends
    every = torch.arange(flat.shape[1], dtype=torch.float32, device=flat.device)
    rows, columns = (every / width).floor(), every % width
    row, column = rows[pixels, None], columns[pixels, None]  # (T, 1)
    rows_away, columns_away = rows - row, columns - column  # (T, P)
    steps = torch.maximum(rows_away.abs(), columns_away.abs())
    between = (step > 0) & (step < steps)
    divisor = steps.clamp(min=1)
    rows, columns = step * rows_away, step * columns_away
    row_floor, column_floor = (rows / divisor).floor(), (columns / divisor).floor()
    row_rest, column_rest = rows - row_floor * divisor, columns - column_floor * divisor  # one of them is 0
    first = torch.where(between, (row + row_floor) * width + column + column_floor, 0).long()
    second = torch.where(between, first + torch.where(row_rest > 0, width, (column_rest > 0).long()), 0)
    fraction = (row_rest + column_rest).to(flat.dtype) / divisor.to(flat.dtype)
    return Points(first, second, fraction, between)


def _at(flat: Tensor, index: Tensor) -> Tensor:
    """(B, P) at (T, P) or (B, T, P) -> (B, T, P)."""
    index = index.expand(len(flat), *index.shape[-2:])
    return flat.gather(1, index.flatten(1)).view(index.shape)


def _all_pixels(maps: Tensor) -> Tensor:
    return torch.arange(maps.shape[-2] * maps.shape[-1], device=maps.device)
