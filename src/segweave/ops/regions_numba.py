"""RANet's regions and representative scores on a CPU, by the loops of `segweave.ops.region_kernels`.

Nothing here knows a table. The lines of all pairs that are equally far apart, so many rows and so many columns, run
through the same fractions; so these pairs are taken together, a row of them at a time, in loops that the processor's
vector units do. Rows without a pair that matters are left out.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segweave.ops.region_kernels import (
    SHARES,
    add_gradients,
    add_scores,
    find_leaders,
    follow,
    logarithms_of,
    negative_entropies,
)

# Shapes: B images, H x W their size, P = H W pixels (numbered row by row), K classes, S shares

SMALL = 2**14
"""So few pairs aren't worth a second thread."""


def group_regions(boundaries: Tensor, probabilities: Tensor, threshold: float) -> Tensor:
    """See `segweave.ops.group_regions`; float32 or float64."""
    padded, fractions = _lines(boundaries)
    maps, _, entropies = _classes(probabilities)
    leaders = np.empty(boundaries.shape, np.int64)
    _share_out(find_leaders, padded, fractions, maps, entropies, maps.dtype.type(threshold), leaders)
    roots = leaders.reshape(len(leaders), -1)
    follow(roots)
    return torch.from_numpy(roots)


def representative_scores(boundaries: Tensor, probabilities: Tensor, regions: Tensor) -> Tensor:
    """See `segweave.ops.representative_scores`; float32 or float64."""
    padded, fractions = _lines(boundaries)
    maps, _, entropies = _classes(probabilities)
    totals = np.zeros((SHARES, *boundaries.shape), maps.dtype)
    _share_out(add_scores, padded, fractions, maps, entropies, _as_map(regions, boundaries), totals)
    attention = torch.from_numpy(totals.sum(axis=0)).flatten(1) + 1  # a pixel's to itself is 1
    return attention / _sizes(regions)


def representative_scores_backward(
    gradient: Tensor, boundaries: Tensor, probabilities: Tensor, regions: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of both maps, given that of the scores, (B, P)."""
    padded, fractions = _lines(boundaries)
    maps, logarithms, entropies = _classes(probabilities)
    places, weights = _as_map(regions, boundaries), _as_map(gradient / _sizes(regions), boundaries)
    of_boundaries, of_maps = np.empty_like(padded), np.empty_like(maps)
    for number in range(len(maps)):  # the shares' totals are large: for one image at a time
        image = slice(number, number + 1)
        line_totals = np.zeros((SHARES, *padded[image].shape), maps.dtype)
        map_totals = np.zeros((SHARES, *maps[image].shape), maps.dtype)
        classes = (maps[image], entropies[image], logarithms[image])
        inputs = (classes, places[image], weights[image], (line_totals, map_totals))
        _share_out(add_gradients, padded[image], fractions, *inputs)
        of_boundaries[image], of_maps[image] = line_totals.sum(axis=0), map_totals.sum(axis=0)
    height, width = boundaries.shape[-2:]
    return torch.from_numpy(of_boundaries[:, :height, :width].copy()), torch.from_numpy(of_maps)


def _lines(boundaries: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """The map with a row and a column of zeros after it, (B, H+1, W+1): every point has a next one. And the fractions
    r / n that points of lines of n steps have, (max(H, W), max(H, W))."""
    batch, height, width = boundaries.shape
    padded = np.zeros((batch, height + 1, width + 1), boundaries.numpy().dtype)
    padded[:, :height, :width] = boundaries.numpy()
    numbers = np.arange(max(height, width), dtype=padded.dtype)
    return padded, numbers / np.maximum(numbers, 1)[:, None]


def _classes(probabilities: Tensor) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The probabilities (B, K, H, W), their logarithms, and the negative entropy of each pixel, (B, H, W)."""
    maps = probabilities.contiguous().numpy()
    logarithms = logarithms_of(maps)
    return maps, logarithms, negative_entropies(maps, logarithms)


def _as_map(values: Tensor, boundaries: Tensor) -> NDArray[Any]:
    return values.view(boundaries.shape).contiguous().numpy()


def _sizes(regions: Tensor) -> Tensor:
    """How many pixels the region of each pixel has, (B, P)."""
    return torch.zeros_like(regions).scatter_add_(1, regions, torch.ones_like(regions)).gather(1, regions)


def _share_out(kernel: Callable[..., None], padded: NDArray[Any], *arrays: Any) -> None:
    """Calls the kernel once for each share. The map `padded` tells how much there is to do, and in which type."""
    numbers = tuple(padded.dtype.type(number) for number in (0, 0.5, 1))
    threads = torch.get_num_threads() if len(padded) * padded[0].size ** 2 > SMALL else 1
    if threads == 1:
        for share in range(SHARES):
            kernel(share, numbers, padded, *arrays)
        return
    with ThreadPoolExecutor(min(threads, SHARES)) as pool:  # the kernels let go of Python's lock
        list(pool.map(lambda share: kernel(share, numbers, padded, *arrays), range(SHARES)))
