"""The references of Eq. 1 to 3 against the formulas, pair by pair, and against values known by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segweave.ops import jensen_shannon_divergence, line_maximum, region_attention
from segweave.ops.region_attention import region_attention_from
from tests.networks.ranet_transcription import (
    naive_divergence,
    naive_line_maximum,
    naive_region_attention,
    points_between,
    some_maps,
)

SIZES = [(7, 9), (9, 7), (4, 12), (1, 9), (8, 1), (2, 2), (1, 1)]


def assert_same_gradients(actual: Tensor, expected: Tensor, sources: list[Tensor]) -> None:
    weight = torch.randn_like(expected)
    gradients, expected_gradients = (
        torch.autograd.grad((table * weight).sum(), sources, allow_unused=True, materialize_grads=True)
        for table in (actual, expected)
    )
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def entropy(*probabilities: float) -> float:
    return -sum(p * math.log2(p) for p in probabilities if p)


class TestLineMaximum:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_is_the_paper_s(self, size: tuple[int, int]) -> None:
        boundaries, _ = some_maps(size)
        actual, expected = line_maximum(boundaries), naive_line_maximum(boundaries)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(actual, actual.mT)
        assert_same_gradients(actual, expected, [boundaries])

    def test_is_the_paper_s_on_larger_maps_in_float32(self) -> None:
        boundaries, _ = some_maps((16, 16), dtype=torch.float32)
        actual = line_maximum(boundaries)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, naive_line_maximum(boundaries), rtol=1e-6, atol=1e-6)

    def test_by_hand(self) -> None:
        """A line that rises by two rows in three columns has a third and two thirds of the pixels that it runs between.

        Its ends don't count.
        """
        boundaries = torch.tensor(
            [[[1.0, 0.3, 0.0, 0.0], [0.0, 0.6, 0.4, 0.0], [0.0, 0.0, 0.9, 1.0]]], dtype=torch.float64
        )
        table = line_maximum(boundaries).view(3, 4, 3, 4)
        first, second = 0.3 / 3 + 2 * 0.6 / 3, 2 * 0.4 / 3 + 0.9 / 3
        assert table[0, 0, 2, 3].item() == pytest.approx(max(first, second))
        assert table[0, 0, 2, 2].item() == pytest.approx(0.6)  # the diagonal
        assert table[0, 0, 1, 2].item() == pytest.approx((0.3 + 0.6) / 2)  # between two pixels of a column
        assert table[0, 0, 2, 1].item() == pytest.approx((0.0 + 0.6) / 2)  # between two pixels of a row
        assert table[0, 1, 0, 3].item() == 0.0
        assert table[1, 3, 1, 0].item() == pytest.approx(0.6)

    def test_lines_along_an_axis_are_slices(self) -> None:
        boundaries, _ = some_maps((1, 9), batch=1)
        table = line_maximum(boundaries)[0]
        for i in range(9):
            for j in range(i + 2, 9):
                assert table[i, j] == boundaries[0, 0, i + 1 : j].max()
                assert line_maximum(boundaries.mT)[0, i, j] == table[i, j]

    def test_there_is_nothing_between_neighbours(self) -> None:
        table = line_maximum(torch.ones(1, 4, 5)).view(4, 5, 4, 5)
        for row in range(4):
            for column in range(5):
                near = table[row, column, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                assert near.eq(0).all()
                assert table[row, column].sum() == 20 - near.numel()

    @pytest.mark.parametrize("level", [0.0, 0.2, 1.0])
    def test_of_equal_points_one_gets_the_gradient(self, level: float) -> None:
        boundaries = torch.full((1, 6, 7), level, dtype=torch.float64, requires_grad=True)
        table = line_maximum(boundaries)[0].view(6, 7, 6, 7)
        assert table[0, 0, 5, 3] == level
        for row, column in [(5, 3), (0, 6), (5, 5), (2, 6)]:
            (gradient,) = torch.autograd.grad(table[0, 0, row, column], boundaries, retain_graph=True)
            points = [torch.zeros(6, 7, dtype=torch.float64) for _ in points_between(row, column)]
            for point, pixels in zip(points, points_between(row, column), strict=True):
                for r, c, share in pixels:
                    point[r, c] = share
            assert any(torch.allclose(gradient[0], point) for point in points)

    @pytest.mark.parametrize("rows", [1, 7])
    def test_neighbours_pass_no_gradient(self, rows: int) -> None:
        boundaries = torch.rand(1, rows, 2, requires_grad=True)
        table = line_maximum(boundaries).view(rows, 2, rows, 2)
        (gradient,) = torch.autograd.grad(table[0, 0, min(rows - 1, 1), 1], boundaries)
        assert gradient.eq(0).all()


class TestJensenShannonDivergence:
    @pytest.mark.parametrize("classes", [1, 2, 5, 19])
    def test_is_the_paper_s(self, classes: int) -> None:
        probabilities = (3 * torch.randn(2, 30, classes, dtype=torch.float64)).softmax(dim=2).requires_grad_()
        actual, expected = jensen_shannon_divergence(probabilities), naive_divergence(probabilities)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
        assert torch.equal(actual, actual.mT)
        assert actual.min() >= 0
        assert actual.max() <= 1
        assert_same_gradients(actual, expected, [probabilities])

    def test_in_float32(self) -> None:
        probabilities = (3 * torch.randn(2, 30, 19)).softmax(dim=2)
        torch.testing.assert_close(
            jensen_shannon_divergence(probabilities),
            naive_divergence(probabilities.double()).float(),
            rtol=0,
            atol=1e-6,
        )

    def test_by_hand(self) -> None:
        """The entropy of the mean less the mean of the entropies, in bits; 0 log 0 is 0."""
        probabilities = torch.tensor(
            [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.7, 0.2, 0.1]]], dtype=torch.float64
        )
        table = jensen_shannon_divergence(probabilities)[0]
        assert table[0, 1] == 1.0
        assert table[2, 3] == 0.5
        assert table[0, 2].item() == pytest.approx(entropy(0.75, 0.25) - 0.5)
        assert table[3, 4].item() == pytest.approx(entropy(0.6, 0.1, 0.3) - (1 + entropy(0.7, 0.2, 0.1)) / 2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_equal_distributions_are_0_apart(self, dtype: torch.dtype) -> None:
        for classes in (1, 2, 3, 19):
            one = (5 * torch.randn(1, 1, classes, dtype=dtype)).softmax(dim=2)
            assert jensen_shannon_divergence(one.expand(1, 6, classes)).eq(0).all()

    def test_gradients_at_0_and_1_are_finite(self) -> None:
        probabilities = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]], requires_grad=True)
        table = jensen_shannon_divergence(probabilities)
        assert table.isfinite().all()
        (gradient,) = torch.autograd.grad((table * torch.randn_like(table)).sum(), probabilities)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


class TestRegionAttention:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_is_the_paper_s(self, size: tuple[int, int]) -> None:
        boundaries, probabilities = some_maps(size)
        actual, expected = (
            region_attention(boundaries, probabilities),
            naive_region_attention(boundaries, probabilities),
        )
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
        assert torch.equal(actual, actual.mT)
        assert actual.diagonal(dim1=1, dim2=2).eq(1).all()
        assert actual.min() >= 0
        assert actual.max() <= 1
        assert_same_gradients(actual, expected, [boundaries, probabilities])

    def test_in_float32(self) -> None:
        boundaries, probabilities = some_maps((9, 7))
        actual = region_attention(boundaries.float(), probabilities.float())
        torch.testing.assert_close(actual.double(), region_attention(boundaries, probabilities), rtol=0, atol=1e-6)

    def test_rows_of_some_pixels(self) -> None:
        boundaries, probabilities = some_maps((6, 5))
        pixels = torch.tensor([29, 0, 13])
        rows = region_attention_from(boundaries, probabilities, pixels)
        torch.testing.assert_close(rows, region_attention(boundaries, probabilities)[:, pixels])

    @pytest.mark.parametrize(
        "layout",
        [
            lambda b, p: (b.mT.contiguous().mT, p.contiguous(memory_format=torch.channels_last)),
            lambda b, p: (b.expand(2, -1, -1), p.expand(2, -1, -1, -1)),
        ],
        ids=["transposed", "expanded"],
    )
    def test_layouts(self, layout: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        maps = some_maps((6, 5), batch=1)
        others = layout(*maps)
        assert not all(x.is_contiguous() for x in others)
        expected = region_attention(*(x.contiguous() for x in others))
        assert torch.equal(region_attention(*others), expected)
