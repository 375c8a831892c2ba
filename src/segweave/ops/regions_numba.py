"""RANet's regions and representative scores on a CPU, in loops that Numba compiles when they are first called.

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

from segweave.ops.divergences_numba import compiled, divergences, logarithms_of, negative_entropies

# Shapes: B images, H x W their size, P = H W pixels (numbered row by row), K classes, S shares

SHARES = 16
"""Work is dealt out to so many shares, each with totals of its own, and threads take the shares: the result doesn't
depend on how many threads there are."""
SMALL = 2**14
"""So few pairs aren't worth a second thread."""


def group_regions(boundaries: Tensor, probabilities: Tensor, threshold: float) -> Tensor:
    """See `segweave.ops.group_regions`; float32 or float64."""
    padded, fractions = _lines(boundaries)
    maps, _, entropies = _classes(probabilities)
    leaders = np.empty(boundaries.shape, np.int64)
    _share_out(_find_leaders, padded, fractions, maps, entropies, maps.dtype.type(threshold), leaders)
    roots = leaders.reshape(len(leaders), -1)
    _follow(roots)
    return torch.from_numpy(roots)


def representative_scores(boundaries: Tensor, probabilities: Tensor, regions: Tensor) -> Tensor:
    """See `segweave.ops.representative_scores`; float32 or float64."""
    padded, fractions = _lines(boundaries)
    maps, _, entropies = _classes(probabilities)
    totals = np.zeros((SHARES, *boundaries.shape), maps.dtype)
    _share_out(_add_scores, padded, fractions, maps, entropies, _as_map(regions, boundaries), totals)
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
        _share_out(_add_gradients, padded[image], fractions, *inputs)
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


# In these loops a literal would turn float32 into float64, and a tie with the threshold into none; so 0, 1/2 and 1 come
# as `numbers` of the maps' own type


@compiled
def _greatest_on_lines(padded, fractions, pairs, numbers, least, greatest, best):
    """Eq. 1 for pairs side by side.

    Args:
        padded: The boundaries, (H+1, W+1).
        fractions: See `_lines`.
        pairs: The row of their first pixels; the column of the first of them; how many rows and columns their second
            pixels are away; how many pairs there are.
        numbers: 0, 1/2 and 1.
        least: Once 1 - D is below this for all pairs, the rest may be left out.
        greatest: Is filled with D.
        best: Is filled with the step of the line that D was found at, 0 where there is none.
    """
    zero, _, unit = numbers
    row, column, away, length = pairs
    steps = max(abs(away[0]), abs(away[1]))
    for x in range(length):
        greatest[x] = -unit if steps > 1 else zero
        best[x] = 0
    # along one axis each step is a whole pixel, along the other a whole part and a rest of so many `steps`-ths
    row_step, column_step = away[0] // max(steps, 1), away[1] // max(steps, 1)
    next_row, next_column = (0, 1) if abs(away[0]) == steps else (1, 0)
    part = away[0] - row_step * steps + away[1] - column_step * steps
    rest = 0
    for step in range(1, steps):
        row += row_step
        column += column_step
        rest += part
        if rest >= steps:
            rest -= steps
            row += next_row
            column += next_column
        start = padded[row, column : column + length]
        after = padded[row + next_row, column + next_column : column + next_column + length]
        fraction = fractions[steps, rest]
        for x in range(length):
            value = start[x] + fraction * (after[x] - start[x])
            better = value > greatest[x]
            greatest[x] = value if better else greatest[x]
            best[x] = step if better else best[x]
        if step % 8 == 0 and least > zero:
            lowest = greatest[0]
            for x in range(1, length):
                lowest = greatest[x] if greatest[x] < lowest else lowest
            if unit - lowest < least:
                return


@compiled
def _away(number, width):
    """Numbers the ways from a pixel to another: rows (never negative) and columns; each pair of pixels lies on one."""
    number += width
    return number // (2 * width - 1), number % (2 * width - 1) - (width - 1)


@compiled
def _ways(height, width):
    return height * (2 * width - 1) - width


@compiled
def _number_together(regions, row, column, away, length):
    """How many of `length` pairs side by side are within a region."""
    count = 0
    for x in range(length):
        count += regions[row, column + x] == regions[row + away[0], column + away[1] + x]
    return count


@compiled
def _find_leaders(share, numbers, padded, fractions, maps, entropies, threshold, leaders):
    """The lowest-numbered pixel that each pixel is grouped with (Eq. 4): those farthest before it are tried first."""
    unit = numbers[2]
    batch, height, width = leaders.shape
    greatest, mean = np.empty(width, maps.dtype), np.empty(width, maps.dtype)
    divergence, best = np.empty(width, maps.dtype), np.empty(width, np.int32)
    mean_logarithms = np.empty((maps.shape[1], width), maps.dtype)
    for image in range(batch):
        for row in range(share, height, SHARES):
            leader = leaders[image, row]
            leader[:] = -1
            undecided = width
            for number in range((row + 1) * (2 * width - 1) - width - 1, -1, -1):
                away = _away(number, width)
                column, length = max(0, -away[1]), width - abs(away[1])
                now = column + away[1]  # the columns of the pixels that look for a leader
                if undecided == 0:
                    break
                if _all_decided(leader, now, length):
                    continue
                first = row - away[0]
                pairs = (first, column, away, length)
                _greatest_on_lines(padded[image], fractions, pairs, numbers, threshold, greatest, best)
                if not _any_passes(leader, now, length, greatest, unit, threshold):
                    continue
                divergences(maps[image], entropies[image], pairs, numbers, mean, mean_logarithms, divergence)
                for x in range(length):
                    grouped = (unit - greatest[x]) * (unit - divergence[x]) >= threshold
                    if grouped and leader[now + x] < 0:
                        leader[now + x] = first * width + column + x
                        undecided -= 1
            for x in range(width):
                if leader[x] < 0:
                    leader[x] = row * width + x


@compiled
def _all_decided(leader, column, length):
    open_pixels = 0
    for x in range(column, column + length):
        open_pixels += leader[x] < 0
    return open_pixels == 0


@compiled
def _any_passes(leader, column, length, greatest, unit, threshold):
    """Whether a pixel without a leader has so low a boundary on its line that the classes decide."""
    passing = 0
    for x in range(length):
        passing += (unit - greatest[x] >= threshold) & (leader[column + x] < 0)
    return passing > 0


@compiled
def _follow(leaders):
    """Puts the root in place of each leader: leaders are lower-numbered, and have found theirs already."""
    for image in range(leaders.shape[0]):
        for pixel in range(leaders.shape[1]):
            leaders[image, pixel] = leaders[image, leaders[image, pixel]]


@compiled
def _add_scores(share, numbers, padded, fractions, maps, entropies, regions, totals):
    """Adds the region attention of each pair within a region (Eq. 3) to the totals of both (Eq. 5)."""
    zero, _, unit = numbers
    batch, height, width = regions.shape
    greatest, mean = np.empty(width, maps.dtype), np.empty(width, maps.dtype)
    divergence, best = np.empty(width, maps.dtype), np.empty(width, np.int32)
    mean_logarithms = np.empty((maps.shape[1], width), maps.dtype)
    for image in range(batch):
        total, region = totals[share, image], regions[image]
        for number in range(share, _ways(height, width), SHARES):
            away = _away(number, width)
            column, length = max(0, -away[1]), width - abs(away[1])
            for row in range(height - away[0]):
                if _number_together(region, row, column, away, length) == 0:
                    continue
                pairs = (row, column, away, length)
                _greatest_on_lines(padded[image], fractions, pairs, numbers, zero, greatest, best)
                divergences(maps[image], entropies[image], pairs, numbers, mean, mean_logarithms, divergence)
                for x in range(length):
                    one, other = (row, column + x), (row + away[0], column + away[1] + x)
                    if region[one] == region[other]:
                        attention = (unit - greatest[x]) * (unit - divergence[x])
                        total[one] += attention
                        total[other] += attention


@compiled
def _add_gradients(share, numbers, padded, fractions, classes, regions, weights, gradients):
    """Adds what each pair within a region contributes to the gradients of both maps.

    Eq. 1 passes its gradient on to the two pixels around the greatest value; Eq. 2 has the derivative
    log2(p / mean) / 2 with respect to each probability p.

    Args:
        share: Which share of the pairs.
        numbers: 0, 1/2 and 1.
        padded: The boundaries, (B, H+1, W+1).
        fractions: See `_lines`.
        classes: Their probabilities, (B, K, H, W), the negative entropies, (B, H, W), and the logarithms.
        regions: (B, H, W).
        weights: The gradients of the totals, (B, H, W).
        gradients: Are added to: those of the boundaries, (S, B, H+1, W+1), and of the probabilities, (S, B, K, H, W).
    """
    zero, half, unit = numbers
    maps, entropies, logarithms = classes
    of_boundaries, of_maps = gradients
    batch, height, width = regions.shape
    greatest, mean = np.empty(width, maps.dtype), np.empty(width, maps.dtype)
    divergence, best = np.empty(width, maps.dtype), np.empty(width, np.int32)
    mean_logarithms = np.empty((maps.shape[1], width), maps.dtype)
    for image in range(batch):
        region, weight = regions[image], weights[image]
        for number in range(share, _ways(height, width), SHARES):
            away = _away(number, width)
            column, length = max(0, -away[1]), width - abs(away[1])
            for row in range(height - away[0]):
                if _number_together(region, row, column, away, length) == 0:
                    continue
                pairs = (row, column, away, length)
                _greatest_on_lines(padded[image], fractions, pairs, numbers, zero, greatest, best)
                divergences(maps[image], entropies[image], pairs, numbers, mean, mean_logarithms, divergence)
                for x in range(length):  # from here on the gradient of F: with respect to D, then to E
                    one, other = (row, column + x), (row + away[0], column + away[1] + x)
                    of_pair = weight[one] + weight[other] if region[one] == region[other] else zero
                    divergence[x] = -of_pair * (unit - divergence[x])
                    greatest[x] = -of_pair * (unit - greatest[x])
                _pass_to_points(of_boundaries[share, image], fractions, pairs, best, divergence)
                start, end = column + away[1], column + away[1] + length  # of the columns of the second pixels
                for k in range(maps.shape[1]):
                    mean_logarithm, of_map = mean_logarithms[k], of_maps[share, image, k]
                    gradient, logarithm = of_map[row, column : column + length], logarithms[image, k, row, column:]
                    for x in range(length):
                        gradient[x] += greatest[x] * half * (logarithm[x] - mean_logarithm[x])
                    gradient, logarithm = of_map[row + away[0], start:end], logarithms[image, k, row + away[0], start:]
                    for x in range(length):
                        gradient[x] += greatest[x] * half * (logarithm[x] - mean_logarithm[x])


@compiled
def _pass_to_points(gradients, fractions, pairs, best, of_lines):
    """Passes the gradients of the lines of pairs on to the two pixels around the point of each that `best` names."""
    row, column, away, length = pairs
    steps = max(abs(away[0]), abs(away[1]))
    next_row, next_column = (0, 1) if abs(away[0]) == steps else (1, 0)
    for x in range(length):
        if best[x] > 0:
            rows, columns = best[x] * away[0], best[x] * away[1]
            to_row, to_column = row + rows // steps, column + x + columns // steps
            fraction = fractions[steps, rows % steps + columns % steps]  # one of the rests is 0
            after = of_lines[x] * fraction
            gradients[to_row, to_column] += of_lines[x] - after
            gradients[to_row + next_row, to_column + next_column] += after
