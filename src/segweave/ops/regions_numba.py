"""RANet's regions and representative scores on a CPU, in loops that Numba compiles when they are first called.

Nothing here knows a table. The lines of all pairs that are equally far apart, so many rows and so many columns, run
through the same fractions; so these pairs are taken together, a row of them at a time, in loops that the processor's
vector units do. Rows without a pair that matters are left out.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

# Shapes: B images, H x W their size, P = H W pixels (numbered row by row), K classes, S shares

SHARES = 16
"""Work is dealt out to so many shares, each with totals of its own, and threads take the shares: the result doesn't
depend on how many threads there are."""
SMALL = 2**14
"""So few pairs aren't worth a second thread."""
SMALLEST = np.float32(np.finfo(np.float32).tiny)
"""Stands for a probability of 0 where its logarithm is taken."""


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
        inputs = (maps[image], entropies[image], logarithms[image], places[image], weights[image])
        _share_out(_add_gradients, padded[image], fractions, *inputs, line_totals, map_totals)
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
    logarithms = _logarithms(maps)
    return maps, logarithms, _negative_entropies(maps, logarithms)


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


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no folder that compiled code could be kept in
        return numba.njit(nogil=True, error_model="numpy")(function)


# In these loops a literal would turn float32 into float64, and a tie with the threshold into none; so 0, 1/2 and 1 come
# as `numbers` of the maps' own type


@_compiled
def _greatest_on_lines(padded, fractions, row, column, away, length, numbers, least, greatest, best):  # type: ignore[no-untyped-def]
    """Eq. 1 for `length` pairs side by side.

    Args:
        padded: The boundaries, (H+1, W+1).
        fractions: See `_lines`.
        row: Of the pairs' first pixels.
        column: Of the first pair's first pixel.
        away: How many rows and columns the pairs' second pixels are away.
        length: How many pairs.
        numbers: 0, 1/2 and 1.
        least: Once 1 - D is below this for all pairs, the rest may be left out.
        greatest: Is filled with D.
        best: Is filled with the step of the line that D was found at, 0 where there is none.
    """
    zero, _, unit = numbers
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


def _log2(values, results):  # type: ignore[no-untyped-def]
    """Fills `results` with the logarithms in base 2 of `values`, both one-dimensional."""
    results[:] = np.log2(values)


@overload(_log2)
def _log2_of_type(values, results):  # type: ignore[no-untyped-def]
    if values.dtype != types.float32:
        return _log2

    def log2_float32(values, results):  # type: ignore[no-untyped-def]
        """In operations that vector units have: exponent, and the series of artanh for the mantissa.

        0 counts as 2^-127. The mantissa m is in [0.7, 1.42), so that z = (m - 1) / (m + 1) is below 0.18 and the series
        right to the last bits.
        """
        bits, mantissas = values.view(np.int32), results.view(np.int32)
        for x in range(len(values)):
            shifted = np.int32(bits[x] - np.int32(0x3F350000))
            mantissas[x] = np.int32(bits[x] - (np.int32(shifted >> np.int32(23)) << np.int32(23)))
        for x in range(len(values)):
            z = (results[x] - np.float32(1)) / (results[x] + np.float32(1))
            square = z * z
            series = np.float32(1 / 9) * square + np.float32(1 / 7)
            series = series * square + np.float32(1 / 5)
            series = series * square + np.float32(1 / 3)
            series = series * square + np.float32(1)
            exponent = np.int32(np.int32(bits[x] - np.int32(0x3F350000)) >> np.int32(23))
            results[x] = np.float32(exponent) + series * z * np.float32(2 / np.log(2))

    return log2_float32


@_compiled
def _logarithms(maps):  # type: ignore[no-untyped-def]
    """log2 of the probabilities (B, K, H, W), 0 counting as the smallest number."""
    logarithms = np.empty_like(maps)
    positive = maps.ravel().copy()
    for x in range(len(positive)):
        positive[x] = max(positive[x], SMALLEST)
    _log2(positive, logarithms.ravel())
    return logarithms


@_compiled
def _negative_entropies(maps, logarithms):  # type: ignore[no-untyped-def]
    """The sum of p log2 p over the classes, (B, H, W); added up as `_divergences` does, so that like pixels are 0
    apart."""
    totals = np.zeros_like(maps[:, 0])
    for image in range(maps.shape[0]):
        for k in range(maps.shape[1]):
            totals[image] += maps[image, k] * logarithms[image, k]
    return totals


@_compiled
def _divergences(maps, entropies, row, column, away, length, numbers, mean, logarithms, divergence):  # type: ignore[no-untyped-def]
    """Eq. 2 for `length` pairs side by side, as `_greatest_on_lines` has them.

    Args:
        maps: The probabilities, (K, H, W).
        entropies: Negative, (H, W).
        row: See `_greatest_on_lines`, as `column`, `away`, `length` and `numbers`.
        mean: Scratch.
        logarithms: Is filled with log2 of the pairs' mean probabilities, (K, W).
        divergence: Is filled with E.
    """
    zero, half, unit = numbers
    divergence[:length] = zero
    for k in range(maps.shape[0]):
        one = maps[k, row, column : column + length]
        other = maps[k, row + away[0], column + away[1] : column + away[1] + length]
        logarithm = logarithms[k, :length]
        for x in range(length):
            mean[x] = max((one[x] + other[x]) * half, SMALLEST)
        _log2(mean[:length], logarithm)
        for x in range(length):
            divergence[x] += mean[x] * logarithm[x]
    one = entropies[row, column : column + length]
    other = entropies[row + away[0], column + away[1] : column + away[1] + length]
    for x in range(length):
        divergence[x] = min(max((one[x] + other[x]) * half - divergence[x], zero), unit)


@_compiled
def _away(number, width):  # type: ignore[no-untyped-def]
    """Numbers the ways from a pixel to another: rows (never negative) and columns; each pair of pixels lies on one."""
    number += width
    return number // (2 * width - 1), number % (2 * width - 1) - (width - 1)


@_compiled
def _ways(height, width):  # type: ignore[no-untyped-def]
    return height * (2 * width - 1) - width


@_compiled
def _number_together(regions, row, column, away, length):  # type: ignore[no-untyped-def]
    """How many of `length` pairs side by side are within a region."""
    count = 0
    for x in range(length):
        count += regions[row, column + x] == regions[row + away[0], column + away[1] + x]
    return count


@_compiled
def _find_leaders(share, numbers, padded, fractions, maps, entropies, threshold, leaders):  # type: ignore[no-untyped-def]
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
                _greatest_on_lines(
                    padded[image], fractions, first, column, away, length, numbers, threshold, greatest, best
                )
                if not _any_passes(leader, now, length, greatest, unit, threshold):
                    continue
                _divergences(
                    maps[image],
                    entropies[image],
                    first,
                    column,
                    away,
                    length,
                    numbers,
                    mean,
                    mean_logarithms,
                    divergence,
                )
                for x in range(length):
                    grouped = (unit - greatest[x]) * (unit - divergence[x]) >= threshold
                    if grouped and leader[now + x] < 0:
                        leader[now + x] = first * width + column + x
                        undecided -= 1
            for x in range(width):
                if leader[x] < 0:
                    leader[x] = row * width + x


@_compiled
def _all_decided(leader, column, length):  # type: ignore[no-untyped-def]
    open_pixels = 0
    for x in range(column, column + length):
        open_pixels += leader[x] < 0
    return open_pixels == 0


@_compiled
def _any_passes(leader, column, length, greatest, unit, threshold):  # type: ignore[no-untyped-def]
    """Whether a pixel without a leader has so low a boundary on its line that the classes decide."""
    passing = 0
    for x in range(length):
        passing += (unit - greatest[x] >= threshold) & (leader[column + x] < 0)
    return passing > 0


@_compiled
def _follow(leaders):  # type: ignore[no-untyped-def]
    """Puts the root in place of each leader: leaders are lower-numbered, and have found theirs already."""
    for image in range(leaders.shape[0]):
        for pixel in range(leaders.shape[1]):
            leaders[image, pixel] = leaders[image, leaders[image, pixel]]


@_compiled
def _add_scores(share, numbers, padded, fractions, maps, entropies, regions, totals):  # type: ignore[no-untyped-def]
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
                _greatest_on_lines(padded[image], fractions, row, column, away, length, numbers, zero, greatest, best)
                _divergences(
                    maps[image], entropies[image], row, column, away, length, numbers, mean, mean_logarithms, divergence
                )
                for x in range(length):
                    one, other = (row, column + x), (row + away[0], column + away[1] + x)
                    if region[one] == region[other]:
                        attention = (unit - greatest[x]) * (unit - divergence[x])
                        total[one] += attention
                        total[other] += attention


@_compiled
def _add_gradients(  # type: ignore[no-untyped-def]
    share, numbers, padded, fractions, maps, entropies, logarithms, regions, weights, of_boundaries, of_maps
):
    """Adds what each pair within a region contributes to the gradients of both maps.

    Eq. 1 passes its gradient on to the two pixels around the greatest value; Eq. 2 has the derivative
    log2(p / mean) / 2 with respect to each probability p.
    """
    zero, half, unit = numbers
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
                _greatest_on_lines(padded[image], fractions, row, column, away, length, numbers, zero, greatest, best)
                _divergences(
                    maps[image], entropies[image], row, column, away, length, numbers, mean, mean_logarithms, divergence
                )
                for x in range(length):  # from here on the gradient of F: with respect to D, then to E
                    one, other = (row, column + x), (row + away[0], column + away[1] + x)
                    of_pair = weight[one] + weight[other] if region[one] == region[other] else zero
                    divergence[x] = -of_pair * (unit - divergence[x])
                    greatest[x] = -of_pair * (unit - greatest[x])
                _pass_to_points(of_boundaries[share, image], fractions, row, column, away, length, best, divergence)
                start, end = column + away[1], column + away[1] + length  # of the columns of the second pixels
                for k in range(maps.shape[1]):
                    mean_logarithm, of_map = mean_logarithms[k], of_maps[share, image, k]
                    gradient, logarithm = of_map[row, column : column + length], logarithms[image, k, row, column:]
                    for x in range(length):
                        gradient[x] += greatest[x] * half * (logarithm[x] - mean_logarithm[x])
                    gradient, logarithm = of_map[row + away[0], start:end], logarithms[image, k, row + away[0], start:]
                    for x in range(length):
                        gradient[x] += greatest[x] * half * (logarithm[x] - mean_logarithm[x])


@_compiled
def _pass_to_points(gradients, fractions, row, column, away, length, best, of_lines):  # type: ignore[no-untyped-def]
    """Passes the gradients of `length` lines on to the two pixels around the point of each that `best` names."""
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
