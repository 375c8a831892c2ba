"""FPT's attention everywhere (Eq. 2 to 5) against the formulas, query by query, and the memory that it takes."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from segweave.ops import dense_mixture_of_softmaxes, mixture_of_softmaxes
from segweave.ops.mixture_of_softmaxes import default_scale, distances_as_dot_products, mixture_weights_from
from tests.networks.fpt_transcription import naive_mixture_of_softmaxes, naive_weights
from tests.networks.test_ocnet import peak_bytes
from tests.ops.test_region_memory import LargestTensor

WEIGHINGS = [("dot", None, 20**-0.5), ("dot", 0.7, 0.7), ("euclidean", None, 1.0), ("euclidean", 0.2, 0.2)]
"""Similarity, the scale that is given, and the one that it means for 20 channels in one part."""
SIZES = {
    "wide values": (7, 9, 8, 50),
    "one query": (1, 12, 12, 5),
    "one key": (6, 1, 4, 3),
}
"""Queries, keys, channels of both, channels of values."""


def some_inputs(
    size: tuple[int, int, int, int] = (37, 23, 20, 13),
    parts: int = 2,
    dtype: torch.dtype = torch.float64,
    *,
    spread: float = 1.0,
    offset: float = 0.0,
) -> list[Tensor]:
    """Query, key, value and mixture, which require gradients; queries and keys lie around a point."""
    queries, keys, channels, value_channels = size
    centre = offset * torch.randn(channels, dtype=torch.float64)
    query, key = (centre + spread * torch.randn(2, count, channels, dtype=torch.float64) for count in (queries, keys))
    value = torch.randn(2, keys, value_channels, dtype=torch.float64)
    mixture = torch.randn(2, parts, dtype=torch.float64).softmax(dim=1)
    return [x.to(dtype).requires_grad_() for x in (query, key, value, mixture)]


def as_leaves(inputs: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [x.detach().to(dtype).requires_grad_() for x in inputs]


def gradients_of(output: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """How a weighted sum of the output changes with the inputs; the weights are the same each time."""
    weight = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(output, inputs, weight.to(output.dtype), retain_graph=True)


PRECISIONS = [(torch.float32, 2e-5, 2e-4), (torch.float64, 1e-12, 1e-11)]
"""Types, and how far results and gradients may be from the paper's."""


def assert_are(
    functions: Sequence[Callable[..., Tensor]], inputs: Sequence[Tensor], expected: Tensor, **options: Any
) -> None:
    """The functions' results, and how they change with each input, are what is expected of the inputs in float64."""
    expected_gradients = gradients_of(expected, inputs)
    for attend, (dtype, tolerance, gradient_tolerance) in product(functions, PRECISIONS):
        leaves = as_leaves(inputs, dtype)
        actual = attend(*leaves, **options)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)
        gradients = [gradient.double() for gradient in gradients_of(actual, leaves)]
        torch.testing.assert_close(gradients, [*expected_gradients], rtol=0, atol=gradient_tolerance)


BOTH = (mixture_of_softmaxes, dense_mixture_of_softmaxes)


class TestMixtureOfSoftmaxes:
    @pytest.mark.parametrize("parts", [1, 2, 4])
    @pytest.mark.parametrize(("similarity", "given", "scale"), WEIGHINGS)
    def test_is_the_paper_s(self, similarity: Any, given: float | None, scale: float, parts: int) -> None:
        inputs = some_inputs(parts=parts)
        if given is None and similarity == "dot":
            scale *= parts**0.5  # the root of a part's channels, not of all
        expected = naive_mixture_of_softmaxes(*inputs, similarity=similarity, scale=scale)
        assert gradients_of(expected, inputs)[3].abs().min() > 1e-3
        assert_are(BOTH, inputs, expected, similarity=similarity, scale=given)

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_sizes(self, similarity: Any, size: tuple[int, int, int, int]) -> None:
        inputs = some_inputs(size, parts=4)
        scale = (size[2] / 4) ** -0.5 if similarity == "dot" else 1.0
        expected = naive_mixture_of_softmaxes(*inputs, similarity=similarity, scale=scale)
        assert_are(BOTH, inputs, expected, similarity=similarity)

    def test_by_hand(self) -> None:
        """Two keys, one channel to a part: the first part looks at the first key alone, the second at both alike."""
        query = torch.tensor([[[0.0, 5.0]]])
        key = torch.tensor([[[0.0, 4.0], [30.0, 6.0]]])
        value = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 10.0]]])
        mixture = torch.tensor([[0.6, 0.4]])
        expected = torch.tensor([[[0.8, 0.2, 2.0]]])
        actual = mixture_of_softmaxes(query, key, value, mixture, similarity="euclidean")
        torch.testing.assert_close(actual, expected)

    def test_the_dot_product_is_what_is_meant_by_default(self) -> None:
        inputs = some_inputs()
        expected = mixture_of_softmaxes(*inputs, similarity="dot", scale=10**-0.5)
        torch.testing.assert_close(mixture_of_softmaxes(*inputs), expected)
        torch.testing.assert_close(dense_mixture_of_softmaxes(*inputs), expected)

    def test_parts_are_neighbouring_channels_and_mixed_in_their_order(self) -> None:
        """A weight of 1 leaves one part alone: that part's own softmax."""
        query, key, value, _ = some_inputs()
        for part in range(4):
            mixture = F.one_hot(torch.tensor([part, part]), 4).double()
            own = slice(5 * part, 5 * (part + 1))
            expected = mixture_of_softmaxes(query[:, :, own], key[:, :, own], value, mixture[:, part, None])
            torch.testing.assert_close(mixture_of_softmaxes(query, key, value, mixture), expected)

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_images_are_alone(self, similarity: Any) -> None:
        inputs = some_inputs()
        together = mixture_of_softmaxes(*inputs, similarity=similarity)
        for image in range(2):
            alone = mixture_of_softmaxes(*(x[image : image + 1] for x in inputs), similarity=similarity)
            torch.testing.assert_close(together[image : image + 1], alone)

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_gradients_are_differences(self, similarity: Any) -> None:
        inputs = some_inputs((4, 3, 4, 3))
        attend = mixture_of_softmaxes
        assert torch.autograd.gradcheck(lambda *x: attend(*x, similarity=similarity), inputs, nondet_tol=1e-12)

    def test_there_is_no_second_derivative(self) -> None:
        inputs = some_inputs()
        (gradient,) = torch.autograd.grad(mixture_of_softmaxes(*inputs).square().sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match="not implemented"):
            gradient.sum().backward()

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_layouts(self, similarity: Any) -> None:
        """Channels may come first in memory, as in a map; keys and values may be one image's, repeated."""
        inputs = some_inputs(dtype=torch.float32)
        query, key, value, mixture = (x.detach() for x in inputs)
        others = [
            query.mT.contiguous().mT.requires_grad_(),
            key[:1].expand(2, -1, -1).requires_grad_(),
            value[:1].mT.contiguous().mT.expand(2, -1, -1).requires_grad_(),
            mixture.T.contiguous().T.requires_grad_(),
        ]
        assert not any(x.is_contiguous() for x in others)
        plain = [x.detach().contiguous().requires_grad_() for x in others]
        outputs = [mixture_of_softmaxes(*x, similarity=similarity) for x in (others, plain)]
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-6)
        for gradient, expected in zip(*map(gradients_of, outputs, (others, plain)), strict=True):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5)


class TestPrecision:
    @pytest.mark.parametrize("offset", [10, 1000])
    def test_distances_do_not_drown_far_from_the_origin(self, offset: float) -> None:
        inputs = some_inputs(spread=0.5, offset=offset, dtype=torch.float32)
        precise = as_leaves(inputs, torch.float64)
        expected = naive_mixture_of_softmaxes(*precise, similarity="euclidean", scale=1.0)
        actual = mixture_of_softmaxes(*inputs, similarity="euclidean")
        assert (actual - expected).abs().max() < 2e-5
        for gradient, expected_gradient in zip(
            gradients_of(actual, inputs), gradients_of(expected, precise), strict=True
        ):
            assert (gradient - expected_gradient).abs().max() < 2e-4

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.0035)], ids=str)
    def test_distances_in_half_precision(self, dtype: torch.dtype, bound: float) -> None:
        """Of long vectors that are close to each other: of as much as the vectors say, and no less."""
        inputs = some_inputs((60, 50, 64, 32), 1, dtype, spread=0.5, offset=5)
        exact = dense_mixture_of_softmaxes(*(x.double() for x in inputs), similarity="euclidean")
        actual = mixture_of_softmaxes(*inputs, similarity="euclidean")
        assert actual.dtype == dtype
        assert (actual - exact).abs().max() < bound
        assert all(gradient.isfinite().all() for gradient in gradients_of(actual, inputs))

        query, key, value, mixture = (x.detach() for x in inputs)
        weights = [naive_weights(one, key, mixture, "euclidean", 1.0) for one in query.unbind(dim=1)]
        assert not (torch.stack(weights, dim=1) @ value - exact).abs().max() < 2 * bound  # also if it isn't a number
        length = -key.float().square().sum(dim=2, keepdim=True) / 2  # in one channel, and not from the mean key
        longer_query = torch.cat([query, torch.ones_like(query[..., :1])], dim=2)
        longer_key = torch.cat([key, length.to(dtype)], dim=2)
        weights = (2 * longer_query.float() @ longer_key.float().mT).softmax(dim=2)
        assert (weights @ value.float() - exact).abs().max() > 10 * bound

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)], ids=str)
    def test_dot_products_in_half_precision(self, dtype: torch.dtype, bound: float) -> None:
        inputs = some_inputs(dtype=dtype, parts=4)
        exact = dense_mixture_of_softmaxes(*(x.double() for x in inputs))
        actual = mixture_of_softmaxes(*inputs)
        assert actual.dtype == dtype
        assert (actual - exact).abs().max() < bound

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    @pytest.mark.parametrize("spread", [30.0, 1000.0])
    def test_large_vectors_in_float16(self, spread: float, similarity: Any) -> None:
        """Whose squares float16 can't hold."""
        inputs = some_inputs(dtype=torch.float16, spread=spread)
        attended = mixture_of_softmaxes(*inputs, similarity=similarity)
        exact = dense_mixture_of_softmaxes(*(x.double() for x in inputs), similarity=similarity)
        assert (attended - exact).abs().median() < 1e-2  # of vectors as far, what is near a tie may go either way
        assert attended.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients_of(attended, inputs))

    def test_distances_as_dot_products(self) -> None:
        """They differ from the distances by the same number for all keys, and are as precise as their vectors."""
        query, key = (5 + torch.randn(2, 2, count, 32, dtype=torch.float64) for count in (6, 9))
        distances = -(query[:, :, :, None] - key[:, :, None]).square().sum(dim=4) / 2
        for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.3)):
            longer_query, longer_key = distances_as_dot_products(query.to(dtype), key.to(dtype))
            assert longer_query.shape == (2, 2, 6, 40)
            assert longer_key.shape == (2, 2, 9, 40)
            assert longer_query.dtype == longer_key.dtype == dtype
            own = longer_query.double() @ longer_key.double().mT - distances
            assert (own - own.mean(dim=3, keepdim=True)).abs().max() < bound

    def test_half_precision_does_not_round_the_lengths(self) -> None:
        """Of whole numbers around 0, that it holds: they come to millions, and are exact."""
        key = torch.randint(-255, 256, (1, 1, 9, 64)).double()
        key = torch.cat([key, -key], dim=2)
        for query in (key[:, :, :3], torch.zeros_like(key[:, :, :3])):
            expected = (query @ key.mT) - key.square().sum(dim=3)[:, :, None] / 2
            assert expected.abs().max() > 2**17
            longer_query, longer_key = distances_as_dot_products(query.bfloat16(), key.bfloat16())
            assert torch.equal(longer_query.double() @ longer_key.double().mT, expected)

    def test_the_mixture_may_be_more_precise(self) -> None:
        """As autocast makes it: a softmax in float32, of features in half precision."""
        query, key, value, mixture = some_inputs(dtype=torch.bfloat16)
        more_precise = mixture.detach().float().requires_grad_()
        for similarity in ("dot", "euclidean"):
            actual = mixture_of_softmaxes(query, key, value, more_precise, similarity=similarity)
            assert actual.dtype == torch.bfloat16
            assert torch.equal(actual, mixture_of_softmaxes(query, key, value, mixture, similarity=similarity))
            (gradient,) = torch.autograd.grad(actual.sum(), more_precise)
            assert gradient.dtype == torch.float32
            assert gradient.abs().max() > 0


def forward_and_backward(attend: Callable[..., Tensor], inputs: Sequence[Tensor], **options: Any) -> Callable[[], None]:
    def work() -> None:
        torch.autograd.grad(attend(*inputs, **options).square().sum(), inputs)

    return work


class TestMemory:
    size = (640, 512, 12, 10)
    table = 640 * 512

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    @pytest.mark.parametrize("parts", [1, 4])
    def test_no_table_of_all_pairs(self, parts: int, similarity: Any, tmp_path: Path) -> None:
        """Neither as a tensor nor within a kernel, and neither forward nor backward."""
        inputs = [x[:1] for x in some_inputs(self.size, parts, torch.float32)]
        work = forward_and_backward(mixture_of_softmaxes, inputs, similarity=similarity)
        with LargestTensor() as largest:
            work()
        assert 0 < largest.elements < self.table / 4
        assert 0 < peak_bytes(work, tmp_path) < 4 * self.table

    def test_a_table_would_be_seen(self, tmp_path: Path) -> None:
        inputs = [x[:1] for x in some_inputs(self.size, 1, torch.float32)]
        work = forward_and_backward(dense_mixture_of_softmaxes, inputs)
        attended = dense_mixture_of_softmaxes(*inputs)
        with LargestTensor() as largest:
            torch.autograd.grad(attended.sum(), inputs)
        assert largest.elements == self.table
        assert peak_bytes(work, tmp_path) > 8 * self.table
        with sdpa_kernel(SDPBackend.MATH), LargestTensor() as largest:
            mixture_of_softmaxes(*inputs)
        assert largest.elements >= self.table

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    @pytest.mark.parametrize("size", [(37, 23, 20, 13), *SIZES.values(), (20, 12, 256, 256)], ids=str)
    def test_attention_is_fused(self, size: tuple[int, int, int, int], similarity: Any, dtype: torch.dtype) -> None:
        """Where it can't be, this raises. Maps' channels come first in memory."""
        for parts in (1, 2, 4):
            query, key, value, mixture = some_inputs(size, parts, dtype)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                for layout in (lambda x: x, lambda x: x.mT.contiguous().mT):
                    attended = mixture_of_softmaxes(*map(layout, (query, key, value)), mixture, similarity=similarity)
                    attended.sum().backward()
            assert query.grad.isfinite().all()

    @pytest.mark.filterwarnings("ignore:Flash attention")
    def test_attention_that_is_not_fused_would_be_seen(self) -> None:
        query, key, value, _ = some_inputs()
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match="No available kernel"):
            F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])


class TestWeights:
    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    @pytest.mark.parametrize("scale", [None, 0.3])
    def test_of_some_queries(self, scale: float | None, similarity: Any) -> None:
        query, key, value, mixture = some_inputs(parts=4)
        some = query[:, [30, 2, 11]]
        weights = mixture_weights_from(some, key, mixture, similarity=similarity, scale=scale)
        assert weights.shape == (2, 3, 23)
        torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 3, dtype=torch.float64))
        meant = scale or {"dot": 5**-0.5, "euclidean": 1.0}[similarity]
        for place, one in enumerate(some.unbind(dim=1)):
            torch.testing.assert_close(weights[:, place], naive_weights(one, key, mixture, similarity, meant))
        attended = mixture_of_softmaxes(query, key, value, mixture, similarity=similarity, scale=scale)
        torch.testing.assert_close(weights @ value, attended[:, [30, 2, 11]])

    def test_far_from_the_origin_they_are_those_of_the_result(self) -> None:
        query, key, value, mixture = some_inputs(spread=0.5, offset=100, dtype=torch.float32)
        weights = mixture_weights_from(query, key, mixture, similarity="euclidean")
        attended = mixture_of_softmaxes(query, key, value, mixture, similarity="euclidean")
        torch.testing.assert_close(weights @ value, attended, rtol=0, atol=1e-4)


class TestErrors:
    @pytest.mark.parametrize("attend", BOTH)
    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (
                [(2, 3, 4), (2, 5, 6), (2, 5, 7), (2, 1)],
                r"of \(2, 3, 4\), \(2, 5, 6\), \(2, 5, 7\), \(2, 1\): expected",
            ),
            ([(2, 3, 4), (2, 5, 4), (2, 6, 7), (2, 1)], r"expected \(B, N, C\), \(B, M, C\), \(B, M, D\), \(B, P\)"),
            ([(2, 3, 4), (1, 5, 4), (1, 5, 7), (2, 1)], r"query, key, value, mixture of \(2, 3, 4\), \(1, 5, 4\)"),
            ([(2, 3, 4), (2, 5, 4), (1, 5, 7), (2, 1)], r"query, key, value, mixture of"),
            ([(1, 3, 4), (2, 5, 4), (2, 5, 7), (2, 1)], r"query, key, value, mixture of"),
            ([(2, 3, 4), (2, 5, 4), (2, 5, 7), (1, 1)], r"query, key, value, mixture of"),
            ([(3, 4), (2, 5, 4), (2, 5, 7), (2, 1)], r"query, key, value, mixture of \(3, 4\)"),
            ([(2, 3, 4), (5, 4), (2, 5, 7), (2, 1)], r"query, key, value, mixture of"),
            ([(2, 3, 4), (2, 5, 4), (2, 5), (2, 1)], r"query, key, value, mixture of"),
            ([(2, 3, 4), (2, 5, 4), (2, 5, 7), (2,)], r"\(2,\): expected \(B, N, C\)"),
            ([(2, 3, 4), (2, 5, 4), (2, 5, 7), (2, 3)], "4 channels in 3 parts: expected a multiple of the parts"),
            ([(2, 3, 4), (2, 5, 4), (2, 5, 7), (2, 0)], "4 channels in 0 parts: expected a multiple of the parts"),
        ],
    )
    def test_shapes_that_do_not_go_together(
        self, shapes: list[tuple[int, ...]], message: str, attend: Callable[..., Tensor]
    ) -> None:
        with pytest.raises(ValueError, match=message):
            attend(*(torch.randn(shape) for shape in shapes))
        query, key, value, mixture = (torch.randn(shape) for shape in shapes)
        if value.shape[:2] == key.shape[:2] and value.ndim == 3:  # the weights are of queries and keys alone
            with pytest.raises(ValueError, match="expected"):
                mixture_weights_from(query, key, mixture, similarity="dot")

    @pytest.mark.parametrize("attend", BOTH)
    @pytest.mark.parametrize("scale", [None, 1.0])
    def test_similarities_that_there_are_not(self, scale: float | None, attend: Callable[..., Tensor]) -> None:
        with pytest.raises(ValueError, match="similarity 'cosine': expected one of dot, euclidean"):
            attend(*some_inputs(), similarity="cosine", scale=scale)
        with pytest.raises(ValueError, match="similarity 'cosine': expected one of dot, euclidean"):
            default_scale("cosine", 4)
