"""Regions (Eq. 4) and representative scores (Eq. 5), compiled and in tiles, against their definitions."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from segweave.ops import (
    group_regions,
    jensen_shannon_divergence,
    region_kernels,
    regions,
    representative_scores,
)
from tests.networks.ranet_transcription import (
    clear_threshold,
    naive_region_attention,
    naive_regions,
    naive_scores,
    some_maps,
)

SIZES = [(7, 9), (9, 7), (4, 13), (16, 16), (1, 9), (8, 1), (2, 2), (1, 1)]
FLOATS = [torch.float32, torch.float64]


class Calculation(NamedTuple):
    group: Callable[[Tensor, Tensor, float], Tensor]
    score: Callable[[Tensor, Tensor, Tensor], Tensor]


class ScoresInTiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return regions._representative_scores_in_tiles(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return *regions._representative_scores_backward_in_tiles(gradient, *ctx.saved_tensors), None


def group_in_tiles(boundaries: Tensor, probabilities: Tensor, threshold: float) -> Tensor:
    """As on devices other than a CPU."""
    threshold_of_type = torch.tensor(threshold, dtype=boundaries.dtype)
    return regions._group_regions_in_tiles(boundaries.detach(), probabilities.detach(), threshold_of_type)


CALCULATIONS = {
    "compiled": Calculation(group_regions, representative_scores),
    "tiles": Calculation(group_in_tiles, ScoresInTiles.apply),
}


@pytest.fixture(params=CALCULATIONS.values(), ids=CALCULATIONS.keys())
def calculation(request: pytest.FixtureRequest) -> Calculation:
    return request.param


@pytest.fixture(params=[None, 1000, 1], ids=["one tile", "tiles", "a pixel a tile"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(regions, "TILE_ELEMENTS", request.param)


@cache
def scene(size: tuple[int, int], classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Boundaries, probabilities, and the attention that the transcription finds, all float64."""
    torch.manual_seed(classes)
    boundaries, probabilities = some_maps(size, classes=classes)
    return boundaries, probabilities, naive_region_attention(boundaries, probabilities)


def map_of_ties(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A row of three pixels, of which the middle one is a boundary, and of another class than the two beside it."""
    boundaries = torch.tensor([[[0.1, 0.2, 0.3]]], dtype=dtype)
    return boundaries, torch.tensor([[[[1, 0, 1]], [[0, 1, 0]]]], dtype=dtype)


class TestGroupRegions:
    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("near", [0.3, 0.6, 0.8, 0.95])
    @pytest.mark.parametrize("size", SIZES[:4], ids=str)
    def test_is_the_definition(
        self, calculation: Calculation, size: tuple[int, int], near: float, dtype: torch.dtype
    ) -> None:
        boundaries, probabilities, attention = scene(size)
        threshold = clear_threshold(attention, near)
        expected = naive_regions(attention, threshold)
        actual = calculation.group(boundaries.to(dtype), probabilities.to(dtype), threshold)
        assert actual.dtype == torch.int64
        assert torch.equal(actual, expected)
        if near >= 0.8:
            assert all(2 < len(image.unique()) < len(image) for image in expected)

    @pytest.mark.parametrize("size", SIZES[4:], ids=str)
    def test_narrow_maps(self, calculation: Calculation, size: tuple[int, int]) -> None:
        for seed in range(20):
            torch.manual_seed(seed)
            boundaries, probabilities = some_maps(size, classes=2)
            expected = naive_regions(naive_region_attention(boundaries, probabilities), 0.7)
            assert torch.equal(calculation.group(boundaries, probabilities, 0.7), expected)

    def test_a_chain_ends_at_its_root(self, calculation: Calculation) -> None:
        """Each pixel is grouped with the one before it alone: between others there is a boundary."""
        boundaries, probabilities = torch.ones(1, 1, 20), torch.ones(1, 1, 1, 20)
        assert calculation.group(boundaries, probabilities, 0.5).eq(0).all()

    def test_the_lowest_numbered_pixel_leads_not_the_most_alike(self, calculation: Calculation) -> None:
        """The last pixel is grouped with the first and the third, which are of different regions."""
        probabilities = torch.tensor(
            [[0.8, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.2, 0.8, 0.0, 0.0], [0.4, 0.6, 0, 0]]
        )
        maps = torch.zeros(1, 1, 4), probabilities.T[None, :, None]
        divergence = jensen_shannon_divergence(probabilities[None])[0]
        assert divergence[3, 2] < divergence[3, 0] < 0.2 < divergence[2, 0]
        assert calculation.group(*maps, 0.8).tolist() == [[0, 1, 2, 0]]

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_a_score_at_the_threshold_groups(self, calculation: Calculation, dtype: torch.dtype) -> None:
        maps = map_of_ties(dtype)
        assert calculation.group(*maps, 0.8).tolist() == [[0, 1, 0]]
        assert calculation.group(*maps, 0.8001).tolist() == [[0, 1, 2]]

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_a_line_is_followed_to_its_end(self, calculation: Calculation, dtype: torch.dtype) -> None:
        """From the first pixel to the last, which are alike, past others of classes of their own."""
        labels = torch.tensor([*range(20), 0])
        probabilities = nn.functional.one_hot(labels).T.to(dtype)[None, :, None]
        for highest in range(1, 20):
            boundaries = torch.full((1, 1, 21), 0.2, dtype=dtype)
            assert calculation.group(boundaries, probabilities, 0.8).tolist() == [labels.tolist()]
            boundaries[..., highest] = 0.21
            assert calculation.group(boundaries, probabilities, 0.8).tolist() == [list(range(21))]

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_a_divergence_at_the_threshold_groups(self, calculation: Calculation, dtype: torch.dtype) -> None:
        probabilities = torch.tensor([[[[0.5, 0.5]], [[0.5, 0.0]], [[0.0, 0.5]]]], dtype=dtype)  # half a bit apart
        boundaries = torch.ones(1, 1, 2, dtype=dtype)
        assert calculation.group(boundaries, probabilities, 0.5).tolist() == [[0, 0]]
        assert calculation.group(boundaries, probabilities, 0.5001).tolist() == [[0, 1]]

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("classes", [1, 2, 3, 19])
    def test_equal_distributions_are_not_apart(
        self, calculation: Calculation, classes: int, dtype: torch.dtype
    ) -> None:
        """At the highest threshold, one region is over the whole image, and all of its scores are 1."""
        for _ in range(5):
            one = (6 * torch.randn(1, classes, 1, 1, dtype=dtype)).softmax(dim=1)
            maps = torch.zeros(1, 6, 5, dtype=dtype), one.expand(1, classes, 6, 5)
            roots = calculation.group(*maps, 1.0)
            assert roots.eq(0).all()
            assert calculation.score(*maps, roots).eq(1).all()

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_boundaries_of_1_part(self, calculation: Calculation, dtype: torch.dtype) -> None:
        """A wall of two pixels' width: its own pixels are neighbours of both sides, so classes keep them apart."""
        boundaries = torch.zeros(1, 5, 6, dtype=dtype)
        boundaries[:, :, 2:4] = 1
        number = torch.tensor([0, 0, 1, 2, 0, 0])
        probabilities = nn.functional.one_hot(number, 3).T.to(dtype)[None, :, None].expand(1, 3, 5, 6)
        expected = torch.tensor([0, 0, 2, 3, 4, 4]).expand(5, 6).reshape(1, 30)
        for threshold in (1e-6, 0.5, 1.0):
            assert torch.equal(calculation.group(boundaries, probabilities, threshold), expected)

    def test_regions_of_one_pixel(self, calculation: Calculation) -> None:
        boundaries, probabilities = some_maps((6, 5))
        for threshold in (1.0, 1.2, float("inf")):  # above 1 where the weight of the attention is low
            roots = calculation.group(boundaries, probabilities, threshold)
            assert torch.equal(roots, torch.arange(30).expand(2, 30))
        assert calculation.score(boundaries, probabilities, roots).eq(1).all()

    def test_the_threshold_may_be_a_tensor(self) -> None:
        boundaries, probabilities, _ = scene((7, 9))
        threshold = torch.tensor(0.8, requires_grad=True)
        roots = group_regions(boundaries.float(), probabilities.float(), threshold)
        assert torch.equal(roots, group_regions(boundaries.float(), probabilities.float(), 0.8))
        assert not roots.requires_grad


@pytest.mark.usefixtures("tiles")
class TestTiles:
    """`segweave.ops.regions.TILE_ELEMENTS` decides nothing."""

    def test_regions(self) -> None:
        boundaries, probabilities, attention = scene((7, 9))
        threshold = clear_threshold(attention, 0.9)
        assert torch.equal(group_in_tiles(boundaries, probabilities, threshold), naive_regions(attention, threshold))

    def test_scores_and_gradients(self) -> None:
        boundaries, probabilities, attention = scene((7, 9))
        roots = naive_regions(attention, 0.8)
        actual = ScoresInTiles.apply(boundaries, probabilities, roots)
        assert_same_scores(actual, naive_scores(attention, roots), boundaries, probabilities)


def assert_same_scores(
    actual: Tensor, expected: Tensor, boundaries: Tensor, probabilities: Tensor, tolerance: float = 1e-9
) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=tolerance, atol=tolerance)
    weight = torch.randn_like(expected)
    weighted = ((actual * weight).sum(), (expected * weight).sum())
    gradients, expected_gradients = (
        torch.autograd.grad(x, (boundaries, probabilities), retain_graph=True, materialize_grads=True) for x in weighted
    )
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)


class TestRepresentativeScores:
    @pytest.mark.parametrize("near", [0.5, 0.8, 0.95])
    @pytest.mark.parametrize("size", SIZES[:4], ids=str)
    def test_is_the_paper_s(self, calculation: Calculation, size: tuple[int, int], near: float) -> None:
        boundaries, probabilities, attention = scene(size)
        roots = naive_regions(attention, near)
        actual = calculation.score(boundaries, probabilities, roots)
        assert_same_scores(actual, naive_scores(attention, roots), boundaries, probabilities)
        assert actual.min() >= 0
        assert actual.max() <= 1

    @pytest.mark.parametrize("size", SIZES[4:], ids=str)
    def test_narrow_maps(self, calculation: Calculation, size: tuple[int, int]) -> None:
        boundaries, probabilities = some_maps(size)
        attention = naive_region_attention(boundaries, probabilities)
        for near in (0.2, 0.9):
            roots = naive_regions(attention, near)
            actual = calculation.score(boundaries, probabilities, roots)
            assert_same_scores(actual, naive_scores(attention, roots), boundaries, probabilities)

    @pytest.mark.parametrize("classes", [1, 4, 19])
    def test_in_float32(self, calculation: Calculation, classes: int) -> None:
        boundaries, probabilities, attention = scene((9, 7), classes)
        roots = naive_regions(attention, 0.6)
        actual = calculation.score(boundaries.float(), probabilities.float(), roots)
        assert actual.dtype == torch.float32
        assert_same_scores(actual, naive_scores(attention, roots), boundaries, probabilities, tolerance=1e-5)

    def test_of_any_division(self, calculation: Calculation) -> None:
        """Regions of other making, that no lowest-numbered pixel names."""
        boundaries, probabilities, attention = scene((7, 9))
        division = torch.randint(40, 45, (2, 63))
        actual = calculation.score(boundaries, probabilities, division)
        assert_same_scores(actual, naive_scores(attention, division), boundaries, probabilities)

    @pytest.mark.parametrize("which", [0, 1], ids=["boundaries", "probabilities"])
    def test_what_is_no_number_is_not_hidden(self, which: int) -> None:
        maps = [x.detach().clone() for x in scene((7, 9))[:2]]
        maps[which][1].view(-1)[5] = torch.nan
        scores = representative_scores(*maps, torch.zeros(2, 63, dtype=torch.long))
        assert scores[0].isfinite().all()
        assert scores[1].isnan().all()

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_probabilities_and_boundaries_of_0_and_1(self, calculation: Calculation, dtype: torch.dtype) -> None:
        boundaries = torch.randint(0, 2, (2, 6, 5)).to(dtype).requires_grad_()
        labels = torch.randint(0, 3, (2, 6, 5))
        probabilities = nn.functional.one_hot(labels, 4).movedim(-1, 1).to(dtype).requires_grad_()  # one class nowhere
        division = torch.randint(0, 4, (2, 30))
        scores = calculation.score(boundaries, probabilities, division)
        expected = naive_scores(naive_region_attention(boundaries.double(), probabilities.double()), division)
        torch.testing.assert_close(scores, expected.to(dtype))
        scores.square().sum().backward()
        for x in (boundaries, probabilities):
            assert x.grad.isfinite().all()
            assert x.grad.abs().max() > 0

    def test_of_equal_points_one_gets_the_gradient(self, calculation: Calculation) -> None:
        """One as seen from either end of the line: each of the two scores takes half of D."""
        for level in (0.0, 0.4, 1.0):
            boundaries = torch.full((1, 1, 9), level, dtype=torch.float64, requires_grad=True)
            division = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 0]])
            scores = calculation.score(boundaries, torch.ones(1, 1, 1, 9, dtype=torch.float64), division)
            scores.sum().backward()
            assert boundaries.grad[0, 0, 1:-1].sum() == boundaries.grad.sum() == -1
            assert set(boundaries.grad.unique().tolist()) <= {0, -0.5, -1}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_compiled_logarithms(dtype: torch.dtype) -> None:
    """Right to the last bits, from the smallest number to 1; 0 counts as the smallest."""
    exponents = torch.linspace(-125.9, 0, 100_000, dtype=torch.float64)
    values = torch.cat([2**exponents, 1 - 2.0 ** torch.arange(-20, 0), torch.ones(1)]).to(dtype)
    maps = torch.cat([values, torch.zeros(1, dtype=dtype)]).view(1, 1, 1, -1)
    logarithms = torch.from_numpy(region_kernels.logarithms_of(maps.numpy())).flatten()
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(logarithms[:-1].double(), values.double().log2(), rtol=tolerance, atol=0)
    assert logarithms[-2] == 0
    assert logarithms[-1] == -126


class TestTypesAndLayouts:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_is_computed_in_float32(self, dtype: torch.dtype) -> None:
        boundaries, probabilities = (x.detach().to(dtype).requires_grad_() for x in scene((7, 9))[:2])
        exact = [x.detach().float().requires_grad_() for x in (boundaries, probabilities)]
        roots = group_regions(boundaries, probabilities, 0.8)
        assert torch.equal(roots, group_regions(*exact, 0.8))
        scores, expected = (representative_scores(*maps, roots) for maps in ((boundaries, probabilities), exact))
        assert scores.dtype == torch.float32
        assert torch.equal(scores, expected)
        for x in (scores, expected):
            (x * torch.arange(63)).sum().backward()
        for half, single in zip((boundaries, probabilities), exact, strict=True):
            assert torch.equal(half.grad, single.grad.to(dtype))

    @pytest.mark.parametrize("layout", ["channels last", "transposed", "expanded"])
    def test_layouts(self, calculation: Calculation, layout: str) -> None:
        boundaries, probabilities, _ = (x.detach() for x in scene((7, 9)))
        if layout == "channels last":
            maps = boundaries, probabilities.contiguous(memory_format=torch.channels_last)
        elif layout == "transposed":
            maps = boundaries.mT.contiguous().mT, probabilities.mT.contiguous().mT
        else:
            maps = boundaries[:1].expand(2, -1, -1), probabilities[:1].expand(2, -1, -1, -1)
        results = []
        for one in (maps, tuple(x.contiguous() for x in maps)):
            leaves = [x.detach().requires_grad_() for x in one]
            roots = calculation.group(*leaves, 0.8)
            scores = calculation.score(*leaves, roots.T.contiguous().T)
            weight = torch.arange(126.0, dtype=torch.float64).view(63, 2).T
            results.append([roots, scores, *torch.autograd.grad(scores, leaves, weight)])
        assert not maps[1].is_contiguous()
        for actual, expected in zip(*results, strict=True):
            assert torch.equal(actual, expected)

    def test_gradients_where_they_are_asked_for(self, calculation: Calculation) -> None:
        boundaries, probabilities, attention = scene((7, 9))
        roots = naive_regions(attention, 0.8)
        assert not calculation.group(boundaries, probabilities, 0.8).requires_grad
        assert not calculation.score(boundaries.detach(), probabilities.detach(), roots).requires_grad
        with torch.no_grad():
            assert not calculation.score(boundaries, probabilities, roots).requires_grad
        both = torch.autograd.grad(
            calculation.score(boundaries, probabilities, roots).sum(), (boundaries, probabilities)
        )
        (one,) = torch.autograd.grad(calculation.score(boundaries, probabilities.detach(), roots).sum(), boundaries)
        (other,) = torch.autograd.grad(
            calculation.score(boundaries.detach(), probabilities, roots).sum(), probabilities
        )
        assert torch.equal(one, both[0])
        assert torch.equal(other, both[1])

    def test_maps_of_different_sizes(self) -> None:
        with pytest.raises(ValueError, match=r"boundaries of shape \(2, 6, 5\) and probabilities of \(2, 3, 5, 6\)"):
            group_regions(torch.zeros(2, 6, 5), torch.zeros(2, 3, 5, 6), 0.5)
        with pytest.raises(ValueError, match=r"expected \(B, H, W\) and \(B, K, H, W\)"):
            representative_scores(torch.zeros(1, 6, 5), torch.zeros(2, 3, 6, 5), torch.zeros(2, 30, dtype=torch.long))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_decides_nothing(threads: Callable[[int], None]) -> None:
    maps = some_maps((21, 20), dtype=torch.float32)
    results = []
    for count in (1, 2, 5):
        threads(count)
        roots = group_regions(*maps, 0.8)
        scores = representative_scores(*maps, roots)
        results.append([roots, scores, *torch.autograd.grad(scores.square().sum(), maps)])
    for result in results[1:]:
        assert all(torch.equal(actual, expected) for actual, expected in zip(result, results[0], strict=True))


class RegionsAndScores(nn.Module):
    def forward(self, boundaries: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        roots = group_regions(boundaries, probabilities, 0.8)
        return roots, representative_scores(boundaries, probabilities, roots)


class TestCompilation:
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_operators_are_registered_as_they_are(self, channels_last: bool) -> None:
        boundaries, probabilities = some_maps((4, 5), dtype=torch.float32)
        if channels_last:
            probabilities = probabilities.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        roots = group_regions(boundaries, probabilities, 0.8)
        scores = representative_scores(boundaries, probabilities, roots)
        plain = boundaries.detach(), probabilities.detach()
        torch.library.opcheck(regions._group_regions, (*plain, torch.tensor(0.8)))
        torch.library.opcheck(regions._representative_scores, (boundaries, probabilities, roots))
        gradient = torch.randn_like(scores)
        torch.library.opcheck(regions._representative_scores_backward, (gradient, *plain, roots))

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_can_be_compiled(self, backend: str) -> None:
        torch.compiler.reset()
        maps = some_maps((5, 6), dtype=torch.float32)
        compiled = torch.compile(RegionsAndScores(), fullgraph=True, backend=backend)
        (roots, scores), (expected_roots, expected_scores) = compiled(*maps), RegionsAndScores()(*maps)
        assert torch.equal(roots, expected_roots)
        assert torch.equal(scores, expected_scores)
        gradients, expected = (torch.autograd.grad(x.square().sum(), maps) for x in (scores, expected_scores))
        assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))

    def test_can_be_exported(self) -> None:
        with torch.no_grad():
            exported = torch.export.export(RegionsAndScores(), some_maps((5, 6), dtype=torch.float32)).module()
            maps = some_maps((5, 6), dtype=torch.float32)
            for actual, expected in zip(exported(*maps), RegionsAndScores()(*maps), strict=True):
                assert torch.equal(actual, expected)
