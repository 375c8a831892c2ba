"""Logarithms, entropies and divergences of probabilities in loops that Numba compiles when they are first called."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

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
        pairs: See `segweave.ops.regions_numba._greatest_on_lines`.
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
