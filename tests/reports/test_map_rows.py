"""Rows of a sheet: what is computed exactly, and what a reader must know of each."""

import numpy as np
import pytest
from numpy.typing import NDArray

from segweave.reports.explanation import MEANINGS
from segweave.reports.map_rows import map_row, most_varying, principal_components


def noise(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=shape)


def mixed(strengths: tuple[float, ...], channels: int = 8) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C, 6, 8): a mixture of N uncorrelated patterns, each of another strength, and the patterns, (N, 6, 8)."""
    generator = np.random.default_rng(2)
    columns = np.hstack([np.ones((48, 1)), generator.normal(size=(48, len(strengths)))])
    patterns = np.linalg.qr(columns)[0].T[1:]  # at right angles to the ones: of mean 0
    directions = np.linalg.qr(generator.normal(size=(channels, len(strengths))))[0]
    values = directions @ (np.array(strengths)[:, None] * patterns)
    return (values + generator.normal(size=(channels, 1))).reshape(channels, 6, 8), patterns.reshape(-1, 6, 8)


def test_principal_components_are_the_patterns_that_were_mixed():
    values, patterns = mixed((3.0, 2.0, 1.0))
    components, shares = principal_components(values.astype(np.float32))
    assert components.shape == (3, 6, 8)
    np.testing.assert_allclose(shares, np.array([9, 4, 1]) / 14, atol=1e-5)
    for component, pattern, strength in zip(components, patterns, (3, 2, 1), strict=True):
        sign = np.sign((component * pattern).sum())
        np.testing.assert_allclose(sign * component, strength * pattern, atol=1e-5)


def test_the_sign_of_a_component_is_that_of_its_strongest_channel():
    pattern = np.linspace(-1, 1, 12).reshape(3, 4)
    for weights in ([-0.1, 0.2, -2.0], [0.1, -0.2, 2.0]):
        values = np.array(weights)[:, None, None] * pattern
        components, _ = principal_components(values.astype(np.float32))
        assert (components[0] * values[2]).sum() > 0


def test_components_that_a_map_does_not_have_are_zero():
    values, _ = mixed((1000.0,))
    components, shares = principal_components(values.astype(np.float32))
    assert np.abs(components[0]).max() > 1
    np.testing.assert_array_equal(components[1:], 0)
    assert shares[0] == pytest.approx(1)


def test_a_constant_map_has_no_components():
    values = np.full((5, 6, 8), 0.1, np.float32) * np.arange(5, dtype=np.float32)[:, None, None]
    components, shares = principal_components(values)
    np.testing.assert_array_equal(components, 0)
    np.testing.assert_array_equal(shares, 0)


def test_most_varying_channels_come_first():
    spread = np.array([1.0, 5.0, 0.0, 3.0])[:, None, None]
    offset = np.array([50.0, 0.0, 900.0, 0.0])[:, None, None]
    values = (offset + spread * np.linspace(-1, 1, 12).reshape(1, 3, 4)).astype(np.float32)
    assert most_varying(values, 3) == [1, 3, 0]
    assert most_varying(values, 9) == [1, 3, 0, 2]


IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
NEARLY = 0.5 + 0.001 * noise(8, 10, 14).clip(-1, 1)
"""Around 0.5, with a range of 0.4 %."""
LABELS = np.zeros((1, 10, 14), np.int64)
POSITIONS = np.zeros((1, 10, 14), bool)
POSITIONS[0, 2, 3] = True


@pytest.mark.parametrize(
    ("values", "terms"),
    [
        (noise(1, 10, 14), {"heat"}),
        (NEARLY[:1], {"heat", "uniform"}),
        (noise(2, 10, 14), {"heat", "mean", "channel"}),
        (noise(3, 10, 14), {"heat", "mean", "channel", "components"}),
        (NEARLY, {"heat", "mean", "channel", "components", "uniform"}),
        (noise(5, 1, 1), set()),
        (np.full((5, 1, 1), 0.5), {"uniform"}),
        (LABELS, {"regions"}),
        (POSITIONS, {"dots"}),
        (np.zeros_like(POSITIONS), set()),
    ],
)
def test_a_row_needs_only_what_it_shows_to_be_explained(values, terms):
    drawn = map_row("map", values, IMAGE, {}, None)
    assert drawn.terms == terms
    assert drawn.terms <= {*MEANINGS, "heat"}
    ringed = map_row("map", values, IMAGE, {}, (0.5, 0.5))
    bars = values.shape[1:] == (1, 1)
    assert ringed.terms == (terms if bars else terms | {"ring"})
