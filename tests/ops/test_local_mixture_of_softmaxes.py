"""FPT's attention to a square (Section 3.3) against the text, query by query, and the memory that it takes."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segweave.ops import dense_local_mixture_of_softmaxes, local_mixture_of_softmaxes
from segweave.ops.local_mixture_of_softmaxes import local_mixture_weights_at
from tests.networks.fpt_transcription import naive_local_mixture_of_softmaxes, naive_local_weights
from tests.networks.test_ocnet import peak_bytes
from tests.ops.test_mixture_of_softmaxes import WEIGHINGS, as_leaves, assert_are, forward_and_backward, gradients_of
from tests.ops.test_region_memory import LargestTensor

Size = tuple[int, int]

BOTH = (local_mixture_of_softmaxes, dense_local_mixture_of_softmaxes)
SIZES = {
    "half": ((8, 10), (4, 5)),
    "no whole ratio": ((7, 9), (5, 4)),
    "larger": ((3, 4), (8, 9)),
    "larger and smaller": ((2, 9), (7, 3)),
    "one position": ((4, 5), (1, 1)),
    "one query": ((1, 1), (6, 4)),
}
"""Of the queries' map and of the other."""


def some_inputs(
    size: Size = (7, 9),
    other: Size | None = None,
    *,
    channels: tuple[int, int] = (20, 13),
    parts: int = 2,
    dtype: torch.dtype = torch.float64,
    spread: float = 1.0,
    offset: float = 0.0,
) -> list[Tensor]:
    """Query, key, value and mixture, which require gradients; queries and keys lie around a point."""
    centre = offset * torch.randn(channels[0], 1, 1, dtype=torch.float64)
    other = other or size
    query, key = (centre + spread * torch.randn(2, channels[0], *of, dtype=torch.float64) for of in (size, other))
    value = torch.randn(2, channels[1], *other, dtype=torch.float64)
    mixture = torch.randn(2, parts, dtype=torch.float64).softmax(dim=1)
    return [x.to(dtype).requires_grad_() for x in (query, key, value, mixture)]


class TestLocalMixtureOfSoftmaxes:
    @pytest.mark.parametrize("parts", [1, 2, 4])
    @pytest.mark.parametrize(("similarity", "given", "scale"), WEIGHINGS)
    def test_is_the_paper_s(self, similarity: Any, given: float | None, scale: float, parts: int) -> None:
        inputs = some_inputs(parts=parts)
        if given is None and similarity == "dot":
            scale *= parts**0.5  # the root of a part's channels, not of all
        expected = naive_local_mixture_of_softmaxes(*inputs, similarity=similarity, scale=scale)
        assert gradients_of(expected, inputs)[3].abs().min() > 1e-3
        assert_are(BOTH, inputs, expected, similarity=similarity, scale=given)

    @pytest.mark.parametrize("size", [(5, 4), (1, 6), (1, 1)], ids=str)
    @pytest.mark.parametrize("square_size", [1, 3, 7])
    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_squares(self, similarity: Any, square_size: int, size: Size) -> None:
        """Larger than the map too."""
        inputs = some_inputs(size)
        expected = naive_local_mixture_of_softmaxes(*inputs, square_size=square_size, similarity=similarity, scale=0.3)
        assert_are(BOTH, inputs, expected, square_size=square_size, similarity=similarity, scale=0.3)

    @pytest.mark.parametrize(("size", "other"), SIZES.values(), ids=SIZES.keys())
    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_maps_of_different_sizes(self, similarity: Any, size: Size, other: Size) -> None:
        inputs = some_inputs(size, other)
        expected = naive_local_mixture_of_softmaxes(*inputs, square_size=3, similarity=similarity, scale=0.3)
        assert_are(BOTH, inputs, expected, square_size=3, similarity=similarity, scale=0.3)

    def test_5_x_5_and_distances_are_what_is_meant_by_default(self) -> None:
        inputs = some_inputs()
        for attend in BOTH:
            expected = attend(*inputs, square_size=5, similarity="euclidean", scale=1.0)
            torch.testing.assert_close(attend(*inputs), expected)

    def test_zeros_outside_the_map_take_part(self) -> None:
        """In a corner five of nine positions lie outside: with keys of 0 everywhere each gets as much as the others."""
        zeros, ones = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
        mixture = torch.ones(1, 1)
        inside = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9
        for attend in BOTH:
            actual = attend(zeros, zeros, ones, mixture, square_size=3)
            torch.testing.assert_close(actual, inside.expand(1, 2, 3, 3))
            # keys unlike the queries, which are 0 as the keys outside are: these get everything
            far = attend(zeros, 10 * ones, ones, mixture, square_size=3)
            torch.testing.assert_close(far[0, 0], torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))

    def test_nothing_beyond_the_square_is_seen(self) -> None:
        inputs = some_inputs((6, 7))
        attended = local_mixture_of_softmaxes(*inputs, square_size=3)
        gradients = torch.autograd.grad(attended[:, :, 2, 4].sum(), inputs)
        seen = [gradient.abs().sum(dim=(0, 1)) > 0 for gradient in gradients[:3]]
        rows, columns = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
        assert torch.equal(seen[0], (rows == 2) & (columns == 4))
        for near in seen[1:]:
            assert torch.equal(near, ((rows - 2).abs() <= 1) & ((columns - 4).abs() <= 1))

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    @pytest.mark.parametrize("other", [(3, 2), (2, 3)], ids=str)
    def test_gradients_are_differences(self, other: Size, similarity: Any) -> None:
        inputs = some_inputs((3, 2), other, channels=(4, 2))
        attend = local_mixture_of_softmaxes
        assert torch.autograd.gradcheck(lambda *x: attend(*x, square_size=3, similarity=similarity), inputs)

    def test_there_is_no_second_derivative(self) -> None:
        inputs = some_inputs((3, 3))
        (gradient,) = torch.autograd.grad(
            local_mixture_of_softmaxes(*inputs).square().sum(), inputs[0], create_graph=True
        )
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    @pytest.mark.parametrize("needed", range(4))
    def test_of_one_input_alone(self, needed: int) -> None:
        inputs = some_inputs()
        expected = gradients_of(local_mixture_of_softmaxes(*inputs), inputs)[needed]
        alone = [x.detach().requires_grad_(number == needed) for number, x in enumerate(inputs)]
        attended = local_mixture_of_softmaxes(*alone)
        torch.testing.assert_close(gradients_of(attended, alone[needed : needed + 1])[0], expected)

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    @pytest.mark.parametrize("other", [(7, 9), (5, 4)], ids=str)
    def test_layouts(self, other: Size, similarity: Any) -> None:
        """Channels last; one image's keys and values, repeated; and a gradient that is laid out otherwise too."""
        query, key, value, mixture = (x.detach() for x in some_inputs(other=other))
        others = [
            query.contiguous(memory_format=torch.channels_last).requires_grad_(),
            key[:1].expand(2, -1, -1, -1).requires_grad_(),
            value.mT.contiguous().mT.requires_grad_(),
            mixture.T.contiguous().T.requires_grad_(),
        ]
        assert not any(x.is_contiguous() for x in others)
        plain = [x.detach().contiguous().requires_grad_() for x in others]
        outputs = [local_mixture_of_softmaxes(*x, similarity=similarity) for x in (others, plain)]
        torch.testing.assert_close(*outputs)
        weight = torch.randn_like(outputs[0])
        for gradient, expected in zip(
            torch.autograd.grad(outputs[0], others, weight.contiguous(memory_format=torch.channels_last)),
            torch.autograd.grad(outputs[1], plain, weight),
            strict=True,
        ):
            torch.testing.assert_close(gradient, expected)

    def test_inputs_stay_as_they_are(self) -> None:
        inputs = some_inputs(dtype=torch.float32)
        before = [x.detach().clone() for x in inputs]
        forward_and_backward(local_mixture_of_softmaxes, inputs)()
        assert all(torch.equal(x, old) for x, old in zip(inputs, before, strict=True))


class TestPrecision:
    def test_far_from_the_origin(self) -> None:
        inputs = some_inputs(dtype=torch.float32, spread=0.5, offset=100)
        precise = as_leaves(inputs, torch.float64)
        expected = dense_local_mixture_of_softmaxes(*precise)
        actual = local_mixture_of_softmaxes(*inputs)
        assert (actual - expected).abs().max() < 2e-5
        for gradient, expected_gradient in zip(
            gradients_of(actual, inputs), gradients_of(expected, precise), strict=True
        ):
            assert (gradient - expected_gradient).abs().max() < 2e-4 * max(1, expected_gradient.abs().max())

    @pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)], ids=str)
    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_half_precision_is_for_what_goes_in_and_out(
        self, similarity: Any, dtype: torch.dtype, rounding: float
    ) -> None:
        """Between them it is float32: only the results are rounded."""
        inputs = some_inputs(dtype=dtype, channels=(64, 13), parts=1, spread=0.5, offset=5)
        precise = as_leaves(inputs, torch.float64)
        outputs = [local_mixture_of_softmaxes(*x, similarity=similarity) for x in (inputs, precise)]
        gradients, expected = (gradients_of(*x) for x in zip(outputs, (inputs, precise), strict=True))
        for actual, exact in [(outputs[0], outputs[1]), *zip(gradients, expected, strict=True)]:
            assert actual.dtype == dtype
            assert (actual - exact).abs().max() < 2 * rounding * exact.abs().max() + 1e-4

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_large_vectors_in_float16(self, similarity: Any) -> None:
        """Whose squares float16 can't hold."""
        inputs = some_inputs(dtype=torch.float16, spread=1000)
        attended = local_mixture_of_softmaxes(*inputs, similarity=similarity)
        exact = local_mixture_of_softmaxes(*(x.double() for x in inputs), similarity=similarity)
        assert (attended - exact).abs().max() < 5e-3
        assert all(gradient.isfinite().all() for gradient in gradients_of(attended, inputs)[2:])

    def test_the_mixture_may_be_more_precise(self) -> None:
        """As autocast makes it: a softmax in float32, of features in half precision."""
        query, key, value, mixture = some_inputs(dtype=torch.bfloat16)
        inputs = [query, key, value, mixture.detach().float().requires_grad_()]
        attended = local_mixture_of_softmaxes(*inputs)
        assert torch.equal(attended, local_mixture_of_softmaxes(query, key, value, mixture))
        types = [gradient.dtype for gradient in gradients_of(attended, inputs)]
        assert types == [torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.float32]


class TestMemory:
    channels = (64, 48)
    positions = 24 * 30
    unfolded = 25 * 48 * positions
    """Of the values, the fewer ones."""

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    @pytest.mark.parametrize("other", [(24, 30), (20, 36)], ids=str)
    def test_no_unfolded_copy(self, other: Size, similarity: Any, tmp_path: Path) -> None:
        inputs = [x[:1] for x in some_inputs((24, 30), other, channels=self.channels, dtype=torch.float32)]
        work = forward_and_backward(local_mixture_of_softmaxes, inputs, similarity=similarity)
        with LargestTensor() as largest:
            work()
        assert 0 < largest.elements < self.unfolded / 10
        assert 0 < peak_bytes(work, tmp_path) < 4 * self.unfolded

    @pytest.mark.parametrize("other", [(24, 30), (20, 36)], ids=str)
    def test_none_is_kept_for_the_backward_pass(self, other: Size) -> None:
        inputs = [x[:1] for x in some_inputs((24, 30), other, channels=self.channels, dtype=torch.float32)]

        def kept_by(attend: Callable[..., Tensor]) -> int:
            kept: list[int] = []

            def keep(x: Tensor) -> Tensor:
                kept.append(x.numel())
                return x

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                attend(*inputs)
            return sum(kept)

        given = sum(x.numel() for x in inputs)
        assert kept_by(local_mixture_of_softmaxes) <= given + 25 * 2 * self.positions  # the softmaxes of two parts
        assert kept_by(dense_local_mixture_of_softmaxes) > self.unfolded

    def test_an_unfolded_copy_would_be_seen(self, tmp_path: Path) -> None:
        inputs = [x[:1] for x in some_inputs((24, 30), channels=self.channels, dtype=torch.float32)]
        attended = dense_local_mixture_of_softmaxes(*inputs)
        with LargestTensor() as largest:
            torch.autograd.grad(attended.sum(), inputs)
        assert largest.elements >= self.unfolded
        assert peak_bytes(forward_and_backward(dense_local_mixture_of_softmaxes, inputs), tmp_path) > 4 * self.unfolded


class TestWeights:
    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    @pytest.mark.parametrize("other", [(7, 9), (5, 4), (14, 20)], ids=str)
    @pytest.mark.parametrize(("square_size", "scale"), [(5, 0.3), (3, None)])
    def test_at_a_position(self, square_size: int, scale: float | None, other: Size, similarity: Any) -> None:
        query, key, value, mixture = (x.detach() for x in some_inputs(other=other, parts=4))
        options: dict[str, Any] = {"square_size": square_size, "similarity": similarity}
        attended = local_mixture_of_softmaxes(query, key, value, mixture, scale=scale, **options)
        meant = scale or {"dot": 5**-0.5, "euclidean": 1.0}[similarity]
        for position in product((0, 3, 6), (0, 4, 8)):
            weights = local_mixture_weights_at(query, key, mixture, position, scale=scale, **options)
            assert weights.shape == (2, 1, *other)
            expected = naive_local_weights(query, key, mixture, position, scale=meant, **options)
            torch.testing.assert_close(weights, expected)
            torch.testing.assert_close((weights * value).sum(dim=(2, 3)), attended[:, :, *position])

    def test_sum_but_for_what_falls_outside(self) -> None:
        query, key, _, mixture = (x.detach() for x in some_inputs())
        inside = local_mixture_weights_at(query, key, mixture, (3, 4)).sum(dim=(1, 2, 3))
        torch.testing.assert_close(inside, torch.ones(2, dtype=torch.float64))
        corner = local_mixture_weights_at(query, 0 * key, mixture, (0, 0)).sum(dim=(1, 2, 3))
        torch.testing.assert_close(corner, torch.full((2,), 9 / 25, dtype=torch.float64))

    def test_5_x_5_and_distances_are_what_is_meant_by_default(self) -> None:
        query, key, _, mixture = some_inputs()
        expected = naive_local_weights(query, key, mixture, (2, 3), square_size=5, similarity="euclidean", scale=1.0)
        torch.testing.assert_close(local_mixture_weights_at(query, key, mixture, (2, 3)), expected)


def at_the_origin(query: Tensor, key: Tensor, value: Tensor, mixture: Tensor, **options: Any) -> Tensor:
    return local_mixture_weights_at(query, key, mixture, (0, 0), **options)


MAPS = ((2, 4, 3, 5), (2, 4, 3, 5), (2, 7, 3, 5))


class TestErrors:
    @pytest.mark.parametrize("attend", BOTH)
    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (
                ((2, 4, 3, 5), (2, 6, 3, 5), (2, 7, 3, 5), (2, 2)),
                r"of \(2, 4, 3, 5\), \(2, 6, 3, 5\), \(2, 7, 3, 5\), ",
            ),
            ((*MAPS[:2], (2, 7, 3, 4), (2, 2)), r"\(2, 2\): expected \(B, C, H, W\), \(B, C, h, w\), \(B, D, h, w\), "),
            ((*MAPS[:2], (2, 7, 4, 5), (2, 2)), "query, key, value, mixture of"),
            ((*MAPS[:2], (1, 7, 3, 5), (2, 2)), "query, key, value, mixture of"),
            ((MAPS[0], (1, 4, 3, 5), (1, 7, 3, 5), (2, 2)), "query, key, value, mixture of"),
            (((1, 4, 3, 5), *MAPS[1:], (2, 2)), "query, key, value, mixture of"),
            ((*MAPS, (1, 2)), "query, key, value, mixture of"),
            (((4, 3, 5), *MAPS[1:], (2, 2)), r"query, key, value, mixture of \(4, 3, 5\)"),
            ((MAPS[0], (2, 4, 15), (2, 7, 15), (2, 2)), "query, key, value, mixture of"),
            ((*MAPS, (2,)), r"\(2,\): expected \(B, C, H, W\)"),
            ((*MAPS, (2, 3)), "4 channels in 3 parts: expected a multiple of the parts"),
            ((*MAPS, (2, 0)), "4 channels in 0 parts: expected a multiple of the parts"),
        ],
    )
    def test_shapes_that_do_not_go_together(
        self, shapes: Sequence[tuple[int, ...]], message: str, attend: Callable[..., Tensor]
    ) -> None:
        with pytest.raises(ValueError, match=message):
            attend(*(torch.randn(shape) for shape in shapes))

    @pytest.mark.parametrize("attend", [*BOTH, at_the_origin])
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"square_size": 4}, "square_size 4: expected an odd number of positions"),
            ({"square_size": 0}, "square_size 0: expected an odd number of positions"),
            ({"square_size": -3}, "square_size -3: expected an odd number of positions"),
            ({"similarity": "cosine"}, "similarity 'cosine': expected one of dot, euclidean"),
            ({"similarity": "cosine", "scale": 1.0}, "similarity 'cosine': expected one of dot, euclidean"),
        ],
        ids=str,
    )
    def test_options_that_there_are_not(
        self, options: dict[str, Any], message: str, attend: Callable[..., Tensor]
    ) -> None:
        with pytest.raises(ValueError, match=message):
            attend(*some_inputs(), **options)
