"""AGLN's equations against a naive transcription of its paper."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from segweave.networks.agln import (
    LocalRefinement,
    SemanticAggregation,
    SemanticDistribution,
)
from tests.networks.agln_transcription import (
    DIVISORS,
    SIZES,
    make_fusion,
    make_irregular,
    naive_descriptor_map,
    naive_descriptors,
    naive_distribution,
    naive_fusion,
    naive_refinement,
    naive_resampling,
    sigmoid,
    some_descriptors,
)
from tests.networks.transcription import (
    assert_same_outputs_and_gradients,
    some_map,
)

NAMES = ("channel_resampling", "spatial_gating", "learnable_alpha", "learnable_beta", "lite", "shortcut")
SWITCHES = {
    ", ".join(f"{name} {'on' if on else 'off'}" for name, on in zip(NAMES, states, strict=True)): dict(
        zip(NAMES, states, strict=True)
    )
    for states in itertools.product((True, False), repeat=len(NAMES))
}
"""Every combination of a context fusion block's options that are on or off."""


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
class TestEquations:
    @pytest.mark.parametrize("descriptors", [1, 8])
    def test_1_semantic_descriptors(self, size: tuple[int, int], batch: int, descriptors: int) -> None:
        module = make_irregular(SemanticAggregation(6, descriptors))
        x = some_map(batch, 6, size)
        actual = module(x)
        assert actual.shape == (batch, 6, descriptors)
        assert_same_outputs_and_gradients(module, actual, naive_descriptors(module, x), [x])

    def test_1_with_global_average_pooling(self, size: tuple[int, int], batch: int) -> None:
        module = make_irregular(SemanticAggregation(6, 1, global_pooling="average"))
        x = some_map(batch, 6, size)
        actual = module(x)
        assert actual.shape == (batch, 6, 1)
        assert_same_outputs_and_gradients(module, actual, naive_descriptors(module, x, "average"), [x])

    @pytest.mark.parametrize("descriptors", [1, 8])
    def test_2_semantic_descriptor_map(self, size: tuple[int, int], batch: int, descriptors: int) -> None:
        module = make_irregular(SemanticDistribution(6, descriptors))
        d, a = some_descriptors(batch, 6, descriptors), some_map(batch, 6, size)
        actual = module(d, a)[1]
        assert actual.shape == (batch, 6, *size)
        assert_same_outputs_and_gradients(module, actual, naive_descriptor_map(module, d, a), [d, a])

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("lite", [True, False], ids=["lite", "full"])
    @pytest.mark.parametrize("learnable_alpha", [True, False], ids=["alpha learned", "alpha fixed"])
    @pytest.mark.parametrize("descriptors", [1, 8])
    def test_3_enhanced_decoder_map(
        self, size: tuple[int, int], batch: int, descriptors: int, learnable_alpha: bool, lite: bool, training: bool
    ) -> None:
        module = SemanticDistribution(6, descriptors, learnable_alpha=learnable_alpha, lite=lite)
        make_irregular(module).train(training)
        d, a = some_descriptors(batch, 6, descriptors), some_map(batch, 6, size)
        expected, _ = naive_distribution(module, d, a, learnable_alpha=learnable_alpha, lite=lite)
        assert_same_outputs_and_gradients(module, module(d, a)[0], expected, [d, a])

    @pytest.mark.parametrize("affinity_scaling", DIVISORS)
    def test_4_channel_resampling(self, size: tuple[int, int], batch: int, affinity_scaling: Any) -> None:
        module = LocalRefinement(spatial_gating=False, affinity_scaling=affinity_scaling, shortcut=False)
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        expected = naive_resampling(b, e, affinity_scaling)
        assert_same_outputs_and_gradients(module, module(b, e, m), expected, [b, e, m])

    def test_5_spatial_gating(self, size: tuple[int, int], batch: int) -> None:
        module = LocalRefinement(channel_resampling=False, shortcut=False)
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        assert_same_outputs_and_gradients(module, module(b, e, m), b * sigmoid(m), [b, e, m])

    @pytest.mark.parametrize("affinity_scaling", DIVISORS)
    def test_4_and_5_local_refinement(self, size: tuple[int, int], batch: int, affinity_scaling: Any) -> None:
        module = LocalRefinement(affinity_scaling=affinity_scaling, shortcut=False)
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        expected = naive_resampling(b, e, affinity_scaling) * sigmoid(m)
        assert_same_outputs_and_gradients(module, module(b, e, m), expected, [b, e, m])

    @pytest.mark.parametrize("options", [{}, {"spatial_gating": False}, {"channel_resampling": False}], ids=str)
    def test_4_and_5_beside_the_shortcut(self, size: tuple[int, int], batch: int, options: dict[str, bool]) -> None:
        module = make_irregular(LocalRefinement(**options))
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        switches = {"channel_resampling": True, "spatial_gating": True, **options}
        expected = naive_refinement(module, b, e, m, affinity_scaling="mean", shortcut=True, **switches)
        assert_same_outputs_and_gradients(module, module(b, e, m), expected, [b, e, m])

    def test_without_refinement_the_encoder_map_stays(self, size: tuple[int, int], batch: int) -> None:
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        assert torch.equal(LocalRefinement(channel_resampling=False, spatial_gating=False)(b, e, m), b)

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES.keys())
    def test_6_context_fusion(
        self, size: tuple[int, int], batch: int, training: bool, options: dict[str, bool]
    ) -> None:
        module = make_irregular(make_fusion(4, 8, **options)).train(training)
        d, a, b = some_descriptors(batch, 4, 8), some_map(batch, 4, size), some_map(batch, 4, size)
        actual, expected = module(d, a, b), naive_fusion(module, d, a, b, **options)["output"]
        assert actual.shape == (batch, 4, *size)
        assert_same_outputs_and_gradients(module, actual, expected, [d, a, b])

    @pytest.mark.parametrize("affinity_scaling", DIVISORS)
    @pytest.mark.parametrize("descriptors", [1, 8])
    def test_6_with_each_scaling(
        self, size: tuple[int, int], batch: int, descriptors: int, affinity_scaling: Any
    ) -> None:
        module = make_irregular(make_fusion(4, descriptors, affinity_scaling=affinity_scaling))
        d, a, b = some_descriptors(batch, 4, descriptors), some_map(batch, 4, size), some_map(batch, 4, size)
        expected = naive_fusion(module, d, a, b, affinity_scaling=affinity_scaling)["output"]
        assert_same_outputs_and_gradients(module, module(d, a, b), expected, [d, a, b])


class TestSemanticAggregation:
    @pytest.mark.parametrize("global_pooling", ["attention", "average"])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_attention_maps_sum_to_one(self, size: tuple[int, int], global_pooling: Any) -> None:
        attention = SemanticAggregation(6, 8, global_pooling=global_pooling).attention(torch.randn(2, 6, *size))
        assert attention.shape == (2, 8, *size)
        assert (attention > 0).all()
        torch.testing.assert_close(attention.sum(dim=(2, 3)), torch.ones(2, 8))

    def test_descriptors_attend_to_what_theta_scores_high(self) -> None:
        module = SemanticAggregation(3, 2)
        x = torch.stack([torch.randperm(60) for _ in range(2)]).reshape(2, 3, 4, 5).float()
        with torch.no_grad():
            module.attend.weight.zero_()
            module.attend.weight[0, 1] = 100
            module.attend.weight[1, 1] = -100
            attention, descriptors, features = module.attention(x), module(x), module.features(x).flatten(2)
        for image in range(2):
            most, least = x[image, 1].argmax(), x[image, 1].argmin()
            assert attention[image].flatten(1).argmax(dim=1).tolist() == [most, least]
            torch.testing.assert_close(descriptors[image, :, 0], features[image, :, most])
            torch.testing.assert_close(descriptors[image, :, 1], features[image, :, least])

    def test_global_average_pooling_gives_phi_of_the_mean(self) -> None:
        module = SemanticAggregation(6, 1, global_pooling="average").double()
        x = some_map(2, 6, (5, 4))
        expected = module.features(x.mean(dim=(2, 3), keepdim=True)).flatten(1)
        torch.testing.assert_close(module(x)[..., 0], expected)
        assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"features"}

    def test_convolutions_have_a_bias(self) -> None:
        names = {name for name, _ in SemanticAggregation(6, 8).named_parameters()}
        assert names == {"features.weight", "features.bias", "attend.weight", "attend.bias"}


class TestSemanticDistribution:
    def test_starts_without_the_descriptors(self) -> None:
        module = SemanticDistribution(6, 8)
        assert module.alpha.item() == 0
        assert module.alpha.shape == ()
        enhanced, descriptor_map = module(torch.randn(2, 6, 8), a := torch.randn(2, 6, 5, 4))
        torch.testing.assert_close(enhanced, module.enhance(a))
        assert descriptor_map.abs().max() > 0.1

    def test_alpha_learns_from_its_start(self) -> None:
        module = SemanticDistribution(6, 8)
        enhanced, _ = module(torch.randn(2, 6, 8), torch.randn(2, 6, 5, 4))
        (enhanced * torch.randn_like(enhanced)).sum().backward()
        assert module.alpha.grad.abs() > 0.1

    def test_a_fixed_alpha_is_one_and_no_parameter(self) -> None:
        module = SemanticDistribution(6, 8, learnable_alpha=False)
        assert module.alpha == 1
        assert "alpha" not in dict(module.named_parameters())
        assert "alpha" not in module.state_dict()
        enhanced, descriptor_map = module(torch.randn(2, 6, 8), a := torch.randn(2, 6, 5, 4))
        torch.testing.assert_close(enhanced, module.enhance(a + descriptor_map))

    def test_a_position_gets_the_descriptor_it_attends_to(self) -> None:
        module = SemanticDistribution(3, 2)
        with torch.no_grad():
            module.attend.weight.zero_()
            module.attend.weight[0, 1] = 1000
        a = torch.ones(1, 3, 1, 2)
        a[0, 1, 0, 1] = -1
        descriptors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])  # (1, C, N)
        descriptor_map = module(descriptors, a)[1]
        torch.testing.assert_close(descriptor_map[0, :, 0], descriptors[0])


def resampling_weights(module: LocalRefinement, encoder_map: Tensor, enhanced: Tensor) -> Tensor:
    """With which weights (decoder channel, encoder channel) the resampled channels mix the encoder's."""
    return module.resample(encoder_map, enhanced)[0].flatten(1) @ torch.linalg.pinv(encoder_map[0].flatten(1))


@pytest.mark.parametrize("affinity_scaling", DIVISORS)
class TestChannelResampling:
    def test_the_weights_of_each_channel_sum_to_one(self, affinity_scaling: Any) -> None:
        module = LocalRefinement(affinity_scaling=affinity_scaling, shortcut=False)
        with torch.no_grad():
            weights = resampling_weights(module, some_map(1, 4, (5, 4)), some_map(1, 4, (5, 4)))
        assert weights.min() > -1e-9
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(4, dtype=torch.float64))

    def test_the_similarity_is_never_turned_around(self, affinity_scaling: Any) -> None:
        """The encoder's channel that goes with a channel of the decoder weighs most, its opposite least."""
        module = LocalRefinement(affinity_scaling=affinity_scaling, shortcut=False)
        partner, opposite = [2, 0, 3, 1], [1, 3, 0, 2]
        with torch.no_grad():
            encoder_map = some_map(1, 4, (6, 5))
            noise = 0.1 * some_map(1, 4, (6, 5))
            similar = resampling_weights(module, encoder_map, encoder_map[:, partner] + noise)
            both = resampling_weights(
                module, encoder_map, 0.5 * encoder_map[:, partner] - 0.5 * encoder_map[:, opposite] + 0.1 * noise
            )
        assert similar.argmax(dim=1).tolist() == partner
        assert both.argmax(dim=1).tolist() == partner
        assert both.argmin(dim=1).tolist() == opposite

    def test_a_channel_without_structure_is_filtered_out(self, affinity_scaling: Any) -> None:
        """Of three channels that have nothing in common, the decoder has one."""
        module = LocalRefinement(affinity_scaling=affinity_scaling, shortcut=False)
        left, top = torch.ones(4, 4, dtype=torch.float64), torch.ones(4, 4, dtype=torch.float64)
        left[:, 2:] = -1
        top[2:] = -1
        noise = 0.01 * left * top
        weights = resampling_weights(module, torch.stack([top, left, noise])[None], (4 * left)[None, None])
        assert weights[0, 1] > 0.95
        assert weights[0, [0, 2]].max() < 0.03

    def test_a_large_map_stays_in_range(self, affinity_scaling: Any) -> None:
        module = LocalRefinement(affinity_scaling=affinity_scaling, shortcut=False)
        b, e = (10 * torch.randn(1, 4, 120, 120, requires_grad=True) for _ in range(2))
        refined = module(b, e, torch.zeros(1, 4, 120, 120))
        assert refined.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(refined.sum(), [b, e]))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_is_enough(self, affinity_scaling: Any, dtype: torch.dtype) -> None:
        """Maps as they come out of ReLU, whose products add up to more than float16 can hold."""
        module = LocalRefinement(affinity_scaling=affinity_scaling, shortcut=False)
        b, e, m = ((2 * torch.randn(1, 4, 200, 200).relu() + 1).to(dtype) for _ in range(3))
        e[:, 0] += b[:, 1]  # a winner that rounding can't change
        refined = module(b, e, m)
        assert refined.dtype == dtype
        assert refined.isfinite().all()
        expected = module(b.float(), e.float(), m.float())
        torch.testing.assert_close(refined[:, 0].float(), expected[:, 0], rtol=0.05, atol=0.05)


class TestShortcut:
    def test_training_starts_with_the_encoder_map_itself(self) -> None:
        module = LocalRefinement()
        b, e, m = (some_map(1, 6, (5, 4)) for _ in range(3))
        refined = module(b, e, m)
        assert torch.equal(refined, b)
        assert torch.autograd.grad(refined.square().sum(), module.gamma)[0] != 0

    def test_there_is_no_gamma_where_nothing_is_refined(self) -> None:
        assert not LocalRefinement(channel_resampling=False, spatial_gating=False).state_dict()
        assert not LocalRefinement(shortcut=False).state_dict()


class TestContextFusion:
    def test_beta_starts_at_one(self) -> None:
        module = make_fusion(6, 8)
        assert module.beta.item() == 1
        assert module.beta.shape == ()

    def test_fixed_scalars_are_no_parameters(self) -> None:
        module = make_fusion(6, 8, learnable_alpha=False, learnable_beta=False)
        assert module.beta == module.sdm.alpha == 1
        assert not [name for name in module.state_dict() if name.endswith(("alpha", "beta"))]
        learned = make_fusion(6, 8).state_dict().keys() - module.state_dict().keys()
        assert learned == {"sdm.alpha", "beta"}

    def test_lite_replaces_both_convolutions(self) -> None:
        full, lite = make_fusion(6, 8), make_fusion(6, 8, lite=True)
        shapes = [p.shape for p in (*full.sdm.enhance.parameters(), *full.fuse.parameters())]
        assert shapes == [(6, 6, 3, 3), (6,), (6,)] * 2
        shapes = [p.shape for p in (*lite.sdm.enhance.parameters(), *lite.fuse.parameters())]
        assert shapes == [(6, 1, 3, 3), (6, 6, 1, 1), (6,), (6,)] * 2
