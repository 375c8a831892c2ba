"""FPT's transformers, of one map and of two, against a naive transcription of the paper."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segweave.networks.fpt_transformers import (
    GroundingTransformer,
    LocalGroundingTransformer,
    RenderingTransformer,
    SelfTransformer,
    Weighing,
)
from tests.networks.fpt_transcription import (
    Size,
    make_attentive,
    naive_gate,
    naive_interaction,
    naive_rendering,
    some_maps,
)
from tests.networks.transcription import assert_same_outputs_and_gradients, convolve, make_irregular, some_map

SIZES: dict[str, tuple[Size, Size]] = {
    "equal": ((5, 4), (5, 4)),
    "half": ((6, 8), (3, 4)),
    "odd": ((7, 5), (4, 3)),
    "no whole ratio": ((7, 9), (3, 4)),
    "a third and all": ((9, 3), (3, 3)),
    "to one position": ((4, 5), (1, 1)),
}
"""Of a fine map and of a coarse one."""
WEIGHINGS: dict[str, dict[str, Any]] = {
    "as by default": {},
    "distances as printed": {"similarity": "euclidean", "distance_scaling": "none"},
    "distances, scaled": {"similarity": "euclidean", "distance_scaling": "square_root"},
    "dot products": {"similarity": "dot", "distance_scaling": "none"},
    "one part": {"parts": 1},
    "plain softmax": {"normaliser": "softmax"},
}
CASES = [
    *((sizes, {}) for sizes in SIZES.values()),
    *((SIZES["no whole ratio"], options) for options in list(WEIGHINGS.values())[1:]),
]
CASE_NAMES = [*SIZES, *list(WEIGHINGS)[1:]]


def attention_of(module: nn.Module, *maps: Tensor, size: Size) -> dict[Size, Tensor]:
    """What each position of the queries' map looks at."""
    return {position: module.attention_at(*maps, position) for position in product(*map(range, size))}


class TestSelfTransformer:
    @pytest.mark.parametrize("options", WEIGHINGS.values(), ids=WEIGHINGS.keys())
    @pytest.mark.parametrize("size", [(5, 4), (1, 7), (1, 1)], ids=str)
    def test_is_the_paper_s(self, size: Size, options: dict[str, Any]) -> None:
        module = make_attentive(SelfTransformer(3, 8, Weighing(**{"parts": 2, "similarity": "dot", **options})))
        x = some_map(2, 3, size)
        expected = naive_interaction(module, x, x, **{"parts": 2, "similarity": "dot", **options})
        assert expected.shape == (2, 8, *size)
        assert_same_outputs_and_gradients(module, module(x), expected, [x])

    @pytest.mark.parametrize("options", WEIGHINGS.values(), ids=WEIGHINGS.keys())
    @torch.no_grad()
    def test_attention_is_what_gathers_the_values(self, options: dict[str, Any]) -> None:
        module = make_attentive(SelfTransformer(3, 8, Weighing(**{"parts": 2, "similarity": "dot", **options})))
        x = some_map(2, 3, (5, 4))
        for position, attention in attention_of(module, x, size=(5, 4)).items():
            assert attention.shape == (2, 1, 5, 4)
            torch.testing.assert_close(attention.sum(dim=(1, 2, 3)), torch.ones(2, dtype=torch.float64))
            weighing = {"parts": 2, "similarity": "dot", **options}
            torch.testing.assert_close(attention, naive_interaction(module, x, x, position=position, **weighing))
            gathered = (attention * module.value(x)).sum(dim=(2, 3))
            torch.testing.assert_close(gathered, module(x)[:, :, *position])


class TestGroundingTransformer:
    @pytest.mark.parametrize(("sizes", "options"), CASES, ids=CASE_NAMES)
    def test_is_the_paper_s(self, sizes: tuple[Size, Size], options: dict[str, Any]) -> None:
        fine_size, coarse_size = sizes
        module = make_attentive(GroundingTransformer(3, 5, 8, Weighing(**options)))
        maps = some_maps((3, fine_size), (5, coarse_size))
        expected = naive_interaction(module, *maps, **{"parts": 4, "similarity": "euclidean", **options})
        assert expected.shape == (2, 8, *fine_size)
        assert_same_outputs_and_gradients(module, module(*maps), expected, maps)

    @pytest.mark.parametrize("options", WEIGHINGS.values(), ids=WEIGHINGS.keys())
    @torch.no_grad()
    def test_attention_is_what_gathers_the_values(self, options: dict[str, Any]) -> None:
        module = make_attentive(GroundingTransformer(3, 5, 8, Weighing(**options)))
        fine, coarse = some_maps((3, (5, 4)), (5, (3, 2)))
        for position, attention in attention_of(module, fine, coarse, size=(5, 4)).items():
            assert attention.shape == (2, 1, 3, 2)
            weighing = {"parts": 4, "similarity": "euclidean", **options}
            expected = naive_interaction(module, fine, coarse, position=position, **weighing)
            torch.testing.assert_close(attention, expected)
            torch.testing.assert_close(attention.sum(dim=(1, 2, 3)), torch.ones(2, dtype=torch.float64))
            gathered = (attention * module.value(coarse)).sum(dim=(2, 3))
            torch.testing.assert_close(gathered, module(fine, coarse)[:, :, *position])


class TestLocalGroundingTransformer:
    @pytest.mark.parametrize(("sizes", "options"), CASES, ids=CASE_NAMES)
    def test_is_the_paper_s(self, sizes: tuple[Size, Size], options: dict[str, Any]) -> None:
        fine_size, coarse_size = sizes
        module = make_attentive(LocalGroundingTransformer(3, 5, 8, Weighing(**options), square_size=3))
        maps = some_maps((3, fine_size), (5, coarse_size))
        weighing = {"parts": 4, "similarity": "euclidean", **options}
        expected = naive_interaction(module, *maps, square_size=3, **weighing)
        assert expected.shape == (2, 8, *fine_size)
        assert_same_outputs_and_gradients(module, module(*maps), expected, maps)

    @torch.no_grad()
    def test_squares_are_5_x_5_by_default(self) -> None:
        module = make_attentive(LocalGroundingTransformer(3, 5, 8))
        maps = some_maps((3, (6, 7)), (5, (6, 7)))
        expected = naive_interaction(module, *maps, parts=4, similarity="euclidean", square_size=5)
        torch.testing.assert_close(module(*maps), expected)

    @pytest.mark.parametrize("options", WEIGHINGS.values(), ids=WEIGHINGS.keys())
    @pytest.mark.parametrize("coarse_size", [(5, 4), (3, 3)], ids=str)
    @torch.no_grad()
    def test_attention_is_what_gathers_the_values(self, coarse_size: Size, options: dict[str, Any]) -> None:
        module = make_attentive(LocalGroundingTransformer(3, 5, 8, Weighing(**options), square_size=3))
        fine, coarse = some_maps((3, (5, 4)), (5, coarse_size))
        for position, attention in attention_of(module, fine, coarse, size=(5, 4)).items():
            assert attention.shape == (2, 1, *coarse_size)
            weighing = {"parts": 4, "similarity": "euclidean", "square_size": 3, **options}
            expected = naive_interaction(module, fine, coarse, position=position, **weighing)
            torch.testing.assert_close(attention, expected)
            gathered = (attention * module.value(coarse)).sum(dim=(2, 3))
            torch.testing.assert_close(gathered, module(fine, coarse)[:, :, *position])
        inside = module.attention_at(fine, coarse, (2, 2)).sum(dim=(1, 2, 3))
        torch.testing.assert_close(inside, torch.ones(2, dtype=torch.float64))

    @pytest.mark.parametrize("square_size", [0, 4, -1])
    def test_squares_that_there_are_not(self, square_size: int) -> None:
        with pytest.raises(ValueError, match=f"square_size {square_size}: expected an odd number of positions"):
            LocalGroundingTransformer(3, 5, 8, square_size=square_size)


class TestAttention:
    """What ST, GT and LGT share."""

    def test_may_be_looked_at_in_training(self) -> None:
        fine, coarse = some_maps((3, (5, 4)), (5, (3, 2)))
        for transformer in (GroundingTransformer, LocalGroundingTransformer):
            module = make_attentive(transformer(3, 5, 8))
            attention = module.attention_at(fine, coarse, (2, 1))
            with torch.no_grad():
                assert torch.equal(attention, module.attention_at(fine, coarse, (2, 1)))

    @torch.no_grad()
    def test_defaults_are_the_paper_s(self) -> None:
        for module, parts, similarity in [
            (SelfTransformer(3, 8), 2, "dot"),
            (GroundingTransformer(3, 5, 8), 4, "euclidean"),
            (LocalGroundingTransformer(3, 5, 8), 4, "euclidean"),
        ]:
            assert module.mixture.weight.shape == (parts, 8)
            assert module.similarity == similarity

    def test_a_plain_softmax_learns_no_mixture(self) -> None:
        module = SelfTransformer(3, 7, Weighing(parts=2, normaliser="softmax"))  # 7 channels need no parts
        assert module.mixture is None
        assert sum(parameter.numel() for parameter in module.parameters()) == 3 * (3 * 7 + 7)

    @torch.no_grad()
    def test_images_are_alone(self) -> None:
        fine, coarse = some_maps((3, (5, 4)), (5, (3, 2)))
        for module in (
            make_attentive(GroundingTransformer(3, 5, 8)),
            make_attentive(LocalGroundingTransformer(3, 5, 8)),
        ):
            alone = [module(fine[image : image + 1], coarse[image : image + 1]) for image in range(2)]
            torch.testing.assert_close(module(fine, coarse), torch.cat(alone))

    @pytest.mark.parametrize("parts", [0, 3, -2])
    def test_parts_that_there_are_not(self, parts: int) -> None:
        for transformer, widths in [
            (SelfTransformer, (3, 8)),
            (GroundingTransformer, (3, 5, 8)),
            (LocalGroundingTransformer, (3, 5, 8)),
        ]:
            with pytest.raises(ValueError, match=f"8 channels in {parts} parts: expected a multiple of the parts"):
                transformer(*widths, Weighing(parts=parts))


class TestRenderingTransformer:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize(("fine_size", "coarse_size"), SIZES.values(), ids=SIZES.keys())
    def test_is_the_paper_s(self, fine_size: Size, coarse_size: Size, batch: int, training: bool) -> None:
        module = make_irregular(RenderingTransformer(5, 3, 8)).train(training)
        coarse, fine = some_map(batch, 5, coarse_size), some_map(batch, 3, fine_size)
        expected = naive_rendering(module, coarse, fine)
        assert expected.shape == (batch, 8, *coarse_size)
        assert_same_outputs_and_gradients(module, module(coarse, fine), expected, [coarse, fine])

    @pytest.mark.parametrize(("fine_size", "coarse_size"), [((4, 3), (9, 5)), ((9, 3), (4, 5))], ids=str)
    def test_of_maps_that_are_not_finer(self, fine_size: Size, coarse_size: Size) -> None:
        """V isn't reduced, but resized to the size of Q."""
        module = make_irregular(RenderingTransformer(5, 3, 8)).eval()
        maps = some_maps((5, coarse_size), (3, fine_size))
        assert_same_outputs_and_gradients(module, module(*maps), naive_rendering(module, *maps), maps)

    @torch.no_grad()
    def test_the_gate_is_one_number_for_each_channel_of_the_query(self) -> None:
        module = make_irregular(RenderingTransformer(5, 3, 8)).eval()
        coarse, fine = some_maps((5, (3, 2)), (3, (5, 4)))
        gate = module.gate(fine)
        assert gate.shape == (2, 5, 1, 1)
        assert gate.min() >= 0
        torch.testing.assert_close(gate, naive_gate(module, fine))
        module.weigh[1].weight.zero_()
        module.weigh[1].bias.fill_(1)  # and with a gate of 1 the query is as it was
        without = convolve(coarse, module.refine) + F.conv2d(fine, module.reduce.weight, stride=2, padding=1)
        torch.testing.assert_close(module(coarse, fine), convolve(without, module.add))
