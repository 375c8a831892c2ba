"""RANet's regions (Eq. 4) and representative scores (Eq. 5), without a table of all pairs of pixels.

Both go through the pairs and keep one number a pixel. On a CPU, loops compiled by Numba take pairs that are equally far
apart together, and leave out rows of them that are decided or of different regions (`segweave.ops.regions_numba`).
Elsewhere the rows of the table are computed in tiles, with the reference's own operations. Backward computes the pairs
again.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from segweave.ops.region_attention import divergence_from, greatest_points, region_attention_from

# Shapes: B images, H x W their size, P = H W pixels (numbered row by row), T of a tile, K classes

TILE_ELEMENTS = 2**21
"""How many pairs a tile has at most; the operations on it take about twelve times as many numbers."""


def group_regions(boundaries: Tensor, probabilities: Tensor, threshold: float | Tensor) -> Tensor:
    """Divides images into regions (Eq. 4, with the region attention F of Eq. 1 to 3).

    Two pixels are grouped where F reaches the threshold; each pixel is grouped with itself. Every pixel follows the
    lowest-numbered pixel that it is grouped with, until a pixel that follows itself: the root of its region.

    Args:
        boundaries: The probability of a boundary at each pixel, (B, H, W).
        probabilities: Of the classes of each pixel, (B, K, H, W), over K sum 1.
        threshold: In (0, 1]; a number or a tensor of one.

    Returns:
        The root of each pixel's region, (B, P), int64: the region's lowest-numbered pixel. Half precision is computed
        in float32.
    """
    boundaries, probabilities = _checked(boundaries, probabilities)
    threshold = torch.as_tensor(threshold, dtype=boundaries.dtype, device=boundaries.device)
    return _group_regions(boundaries.detach(), probabilities.detach(), threshold.detach())


def representative_scores(boundaries: Tensor, probabilities: Tensor, regions: Tensor) -> Tensor:
    """The mean region attention F between each pixel and all pixels of its region, itself among them (Eq. 5).

    Args:
        boundaries: The probability of a boundary at each pixel, (B, H, W).
        probabilities: Of the classes of each pixel, (B, K, H, W), over K sum 1.
        regions: A number for each pixel, (B, P), int64, in [0, P): equal in a region.

    Returns:
        (B, P), in [0, 1], float32 for half precision; differentiable with respect to both maps. Where several points
        of a line have the greatest probability of a boundary, one of them gets the gradient. NaN for an image whose
        maps have NaN.
    """
    boundaries, probabilities = _checked(boundaries, probabilities)
    scores: Tensor = _representative_scores(boundaries, probabilities, regions)
    # comparisons pass over what isn't a number; it must not be hidden
    unknown = boundaries.flatten(1).isnan().any(dim=1) | probabilities.flatten(1).isnan().any(dim=1)
    return torch.where(unknown[:, None], torch.nan, scores)


def _checked(boundaries: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, height, width = probabilities.shape
    if boundaries.shape != (batch, height, width):
        raise ValueError(
            f"boundaries of shape {tuple(boundaries.shape)} and probabilities of {tuple(probabilities.shape)}: "
            "expected (B, H, W) and (B, K, H, W)"
        )
    dtype = torch.promote_types(torch.promote_types(boundaries.dtype, probabilities.dtype), torch.float32)
    return boundaries.to(dtype), probabilities.to(dtype)


# Operators of their own, so that a compiled or an exported network holds each as one operation: their loops depend on
# the values of the maps


@torch.library.custom_op("segweave::group_regions", mutates_args=())
def _group_regions(boundaries: Tensor, probabilities: Tensor, threshold: Tensor) -> Tensor:
    if boundaries.device.type == "cpu":
        from segweave.ops import regions_numba

        return regions_numba.group_regions(boundaries, probabilities, threshold.item())
    return _group_regions_in_tiles(boundaries, probabilities, threshold)


@_group_regions.register_fake
def _(boundaries: Tensor, probabilities: Tensor, threshold: Tensor) -> Tensor:
    return boundaries.new_empty(boundaries.flatten(1).shape, dtype=torch.long)


@torch.library.custom_op("segweave::representative_scores", mutates_args=())
def _representative_scores(boundaries: Tensor, probabilities: Tensor, regions: Tensor) -> Tensor:
    if boundaries.device.type == "cpu":
        from segweave.ops import regions_numba

        return regions_numba.representative_scores(boundaries, probabilities, regions)
    return _representative_scores_in_tiles(boundaries, probabilities, regions)


@_representative_scores.register_fake
def _(boundaries: Tensor, probabilities: Tensor, regions: Tensor) -> Tensor:
    return boundaries.new_empty(boundaries.flatten(1).shape)


@torch.library.custom_op("segweave::representative_scores_backward", mutates_args=())
def _representative_scores_backward(
    gradient: Tensor, boundaries: Tensor, probabilities: Tensor, regions: Tensor
) -> tuple[Tensor, Tensor]:
    if boundaries.device.type == "cpu":
        from segweave.ops import regions_numba

        return regions_numba.representative_scores_backward(gradient, boundaries, probabilities, regions)
    return _representative_scores_backward_in_tiles(gradient, boundaries, probabilities, regions)


@_representative_scores_backward.register_fake
def _(gradient: Tensor, boundaries: Tensor, probabilities: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    return boundaries.new_empty(boundaries.shape), probabilities.new_empty(probabilities.shape)


def _keep_for_backward(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_representative_scores_backward(gradient, *ctx.saved_tensors), None  # type: ignore[attr-defined]


_representative_scores.register_autograd(_backward, setup_context=_keep_for_backward)


# On devices other than a CPU: what `segweave.ops.regions_numba` does there


def _group_regions_in_tiles(boundaries: Tensor, probabilities: Tensor, threshold: Tensor) -> Tensor:
    number = torch.arange(boundaries[0].numel(), device=boundaries.device)
    leaders = []
    for pixels in _tiles(boundaries):
        grouped = region_attention_from(boundaries, probabilities, pixels) >= threshold
        grouped[:, torch.arange(len(pixels)), pixels] = True
        leaders.append(torch.where(grouped, number, len(number)).amin(dim=2))
    roots = torch.cat(leaders, dim=1)
    for _ in range(len(number).bit_length()):  # each time, every pixel follows twice as far
        roots = roots.gather(1, roots)
    return roots


def _representative_scores_in_tiles(boundaries: Tensor, probabilities: Tensor, regions: Tensor) -> Tensor:
    return torch.cat([_tile_scores(boundaries, probabilities, regions, t) for t in _tiles(boundaries)], dim=1)


def _representative_scores_backward_in_tiles(
    gradient: Tensor, boundaries: Tensor, probabilities: Tensor, regions: Tensor
) -> tuple[Tensor, Tensor]:
    of_boundaries = boundaries.new_zeros(boundaries.shape)
    of_probabilities = probabilities.new_zeros(probabilities.shape)
    for pixels in _tiles(boundaries):
        _add_tile_gradients(gradient, boundaries, probabilities, regions, pixels, of_boundaries, of_probabilities)
    return of_boundaries, of_probabilities


def _tiles(boundaries: Tensor) -> Iterator[Tensor]:
    """The numbers of all pixels, in tiles so large that their pairs with all pixels are `TILE_ELEMENTS`."""
    batch, count = boundaries.flatten(1).shape
    numbers = torch.arange(count, device=boundaries.device)
    return iter(numbers.split(max(TILE_ELEMENTS // (batch * count), 1)))


def _tile_scores(boundaries: Tensor, probabilities: Tensor, regions: Tensor, pixels: Tensor) -> Tensor:
    """The scores of some pixels: (B, T)."""
    attention = region_attention_from(boundaries, probabilities, pixels)  # (B, T, P)
    together = regions[:, pixels, None] == regions[:, None]
    return torch.where(together, attention, 0).sum(dim=2) / together.sum(dim=2)


def _add_tile_gradients(
    gradient: Tensor,
    boundaries: Tensor,
    probabilities: Tensor,
    regions: Tensor,
    pixels: Tensor,
    of_boundaries: Tensor,
    of_probabilities: Tensor,
) -> None:
    """Adds what the scores of some pixels contribute to the gradients of both maps.

    Eq. 1 passes its gradient on to the two pixels around the greatest value; Eq. 2 has the derivative
    log2(p / mean) / 2 with respect to each probability p.
    """
    together = regions[:, pixels, None] == regions[:, None]  # (B, T, P)
    of_attention = together * (gradient[:, pixels] / together.sum(dim=2))[..., None]
    points = greatest_points(boundaries, pixels)
    no_boundary = 1 - points.values(boundaries.flatten(1))
    rows = probabilities.flatten(2)  # (B, K, P)
    of_lines = -of_attention * (1 - divergence_from(rows.mT, pixels)) * points.between
    flat = of_boundaries.view(len(regions), -1)
    for place, share in ((points.first, 1 - points.fraction), (points.second, points.fraction)):
        flat.scatter_add_(1, place.expand(of_lines.shape).flatten(1), (of_lines * share).flatten(1))
    of_divergence = -of_attention * no_boundary / 2
    smallest = torch.finfo(rows.dtype).tiny
    for row, of_row in zip(rows.unbind(1), of_probabilities.view(rows.shape).unbind(1), strict=True):
        mean = ((row[:, pixels, None] + row[:, None]) / 2).clamp(min=smallest).log2()
        logarithm = row.clamp(min=smallest).log2()
        of_row[:, pixels] += (of_divergence * (logarithm[:, pixels, None] - mean)).sum(dim=2)
        of_row += (of_divergence * (logarithm[:, None] - mean)).sum(dim=1)
