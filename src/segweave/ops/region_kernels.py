"""The loops of RANet's regions, which Numba compiles when they are first called.

All are in this one file: Numba keeps compiled code until the file of the function changes, whatever that calls.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

SHARES = 16
"""Work is dealt out to so many shares, each with totals of its own, and threads take the shares: the result doesn't
depend on how many threads there are."""

SMALLEST = np.float32(np.finfo(np.float32).tiny)
"""Stands for a probability of 0 where its logarithm is taken."""


def compiled(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no folder that compiled code could be kept in
        return numba.njit(nogil=True, error_model="numpy")(function)


def _log2(values, results):
    """Fills `results` with the logarithms in base 2 of `values`, both one-dimensional."""
    results[:] = np.log2(values)


@overload(_log2)
def _log2_of_type(values, results):
    if values.dtype != types.float32:
        return _log2

    def log2_float32(values, results):
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


@compiled
def logarithms_of(maps):
    """log2 of the probabilities (B, K, H, W), 0 counting as the smallest number."""
    logarithms = np.empty_like(maps)
    positive = maps.ravel().copy()
    for x in range(len(positive)):
        positive[x] = max(positive[x], SMALLEST)
    _log2(positive, logarithms.ravel())
    return logarithms


@compiled
def negative_entropies(maps, logarithms):
    """The sum of p log2 p over the classes, (B, H, W); added up as `divergences` does, so that like pixels are 0
    apart."""
    totals = np.zeros_like(maps[:, 0])
    for image in range(maps.shape[0]):
        for k in range(maps.shape[1]):
            totals[image] += maps[image, k] * logarithms[image, k]
    return totals


@compiled
def divergences(maps, entropies, pairs, numbers, mean, logarithms, divergence):
    """Eq. 2 for pairs side by side.

    Args:
        maps: The probabilities, (K, H, W).
        entropies: Negative, (H, W).
        pairs: See `_greatest_on_lines`.
        numbers: 0, 1/2 and 1.
        mean: Scratch.
        logarithms: Is filled with log2 of the pairs' mean probabilities, (K, W).
        divergence: Is filled with E.
    """
    row, column, away, length = pairs
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


# In these loops a literal would turn float32 into float64, and a tie with the threshold into none; so 0, 1/2 and 1 come
# as `numbers` of the maps' own type


@compiled
def _greatest_on_lines(padded, fractions, pairs, numbers, least, greatest, best):
    """Eq. 1 for pairs side by side.

    Args:
        padded: The boundaries, (H+1, W+1).
        fractions: Of the points on lines of n steps, r / n at [n, r].
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
def find_leaders(share, numbers, padded, fractions, maps, entropies, threshold, leaders):
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
def follow(leaders):
    """Puts the root in place of each leader: leaders are lower-numbered, and have found theirs already."""
    for image in range(leaders.shape[0]):
        for pixel in range(leaders.shape[1]):
            leaders[image, pixel] = leaders[image, leaders[image, pixel]]


@compiled
def add_scores(share, numbers, padded, fractions, maps, entropies, regions, totals):
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
def add_gradients(share, numbers, padded, fractions, classes, regions, weights, gradients):
    """Adds what each pair within a region contributes to the gradients of both maps.

    Eq. 1 passes its gradient on to the two pixels around the greatest value; Eq. 2 has the derivative
    log2(p / mean) / 2 with respect to each probability p.

    Args:
        share: Which share of the pairs.
        numbers: 0, 1/2 and 1.
        padded: The boundaries, (B, H+1, W+1).
        fractions: Of the points on lines of n steps, r / n at [n, r].
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
