"""AGLN against a naive transcription of its paper, and the rows of its tables."""

import inspect
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segweave.backbones import Backbone
from segweave.models import create_model
from segweave.networks.agln import (
    AGLN,
    ContextFusion,
    LocalRefinement,
    SemanticAggregation,
    SemanticDistribution,
)
from segweave.networks.semantic import SemanticNetwork
from tests.networks.test_fpn import (
    assert_same_outputs_and_gradients,
    batch_norm,
    block,
    convolve,
    naive_fpn,
    naive_head,
    naive_laterals,
    shifts,
    some_map,
    upsample,
)
from tests.networks.test_fpn import make_irregular as make_norms_irregular

SIZES = [(1, 1), (2, 3), (5, 4)]
DIVISORS = {"none": lambda pixels: 1, "square_root": lambda pixels: pixels**0.5, "mean": lambda pixels: pixels}

NAMES = ("channel_resampling", "spatial_gating", "learnable_alpha", "learnable_beta", "lite")
SWITCHES = {
    ", ".join(f"{name} {'on' if on else 'off'}" for name, on in zip(NAMES, states, strict=True)): dict(
        zip(NAMES, states, strict=True)
    )
    for states in itertools.product((True, False), repeat=len(NAMES))
}
"""Every combination of a context fusion block's options that are on or off."""


# The paper in its own words, a value at a time where that is what the words say


def softmax(scores: Tensor) -> Tensor:
    """Of a vector."""
    powers = torch.exp(scores)
    return powers / powers.sum()


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def naive_descriptors(module: SemanticAggregation, x: Tensor, global_pooling: str = "attention") -> Tensor:
    """Eq. 1: each descriptor is the sum of phi(X) over the positions, weighted by its attention map.

    The softmax "is performed on the spatial dimension". GAP-GEM has one descriptor, the mean of phi(X).
    """
    features = convolve(x, module.features)
    if global_pooling == "average":
        return features.mean(dim=(2, 3))[:, :, None]
    scores = convolve(x, module.attend)
    images = []
    for image, image_scores in zip(features, scores, strict=True):
        descriptors = []
        for one_score in image_scores:  # (h, w)
            attention_map = softmax(one_score.flatten()).reshape(one_score.shape)
            descriptors.append((image * attention_map).sum(dim=(1, 2)))
        images.append(torch.stack(descriptors, dim=1))
    return torch.stack(images)


def naive_descriptor_map(module: SemanticDistribution, descriptors: Tensor, decoder_map: Tensor) -> Tensor:
    """Eq. 2: "N semantic descriptors are adaptively integrated to each position according to the attention vectors"."""
    scores = convolve(decoder_map, module.attend)
    batch, _, height, width = decoder_map.shape
    images = []
    for image in range(batch):
        positions = []
        for row in range(height):
            for column in range(width):
                attention_vector = softmax(scores[image, :, row, column])
                positions.append(torch.einsum("cn,n->c", descriptors[image], attention_vector))
        images.append(torch.stack(positions, dim=1).reshape(-1, height, width))
    return torch.stack(images)


def fusion_convolution(x: Tensor, module: nn.Module, lite: bool) -> Tensor:
    """Convolution, batch norm, ReLU; in AGLN-Lite the convolution is depthwise, then pointwise."""
    if not lite:
        return block(x, module)
    depthwise, pointwise, norm = module[0], module[1], module[2]
    kernel = depthwise.weight[:, 0]
    x = sum(shifted * kernel[:, row, column, None, None] for row, column, shifted in shifts(x, 1))
    return batch_norm(convolve(x, pointwise), norm).clamp(min=0)


def naive_distribution(
    module: SemanticDistribution, descriptors: Tensor, decoder_map: Tensor, *, learnable_alpha: bool, lite: bool
) -> tuple[Tensor, Tensor]:
    """Eq. 3, and the descriptor map of Eq. 2."""
    descriptor_map = naive_descriptor_map(module, descriptors, decoder_map)
    alpha = module.alpha if learnable_alpha else 1
    return fusion_convolution(decoder_map + alpha * descriptor_map, module.enhance, lite), descriptor_map


def naive_resampling(encoder_map: Tensor, enhanced: Tensor, affinity_scaling: str) -> Tensor:
    """Eq. 4: each channel is a mean of the encoder's, weighted by how they go with this channel of the decoder."""
    divisor = DIVISORS[affinity_scaling](encoder_map[0, 0].numel())
    images = []
    for encoder_channels, decoder_channels in zip(encoder_map, enhanced, strict=True):
        resampled = []
        for decoder_channel in decoder_channels:
            affinity = torch.einsum("hw,jhw->j", decoder_channel, encoder_channels)
            resampled.append(torch.einsum("j,jhw->hw", softmax(affinity / divisor), encoder_channels))
        images.append(torch.stack(resampled))
    return torch.stack(images)


def naive_refinement(
    encoder_map: Tensor,
    enhanced: Tensor,
    descriptor_map: Tensor,
    *,
    channel_resampling: bool,
    spatial_gating: bool,
    affinity_scaling: str,
) -> Tensor:
    """Eq. 4, where there is channel resampling, and Eq. 5, where there is spatial gating."""
    refined = encoder_map
    if channel_resampling:
        refined = naive_resampling(refined, enhanced, affinity_scaling)
    if spatial_gating:
        refined = refined * sigmoid(descriptor_map)
    return refined


def naive_fusion(
    module: ContextFusion,
    descriptors: Tensor,
    decoder_map: Tensor,
    encoder_map: Tensor,
    *,
    channel_resampling: bool = True,
    spatial_gating: bool = True,
    learnable_alpha: bool = True,
    learnable_beta: bool = True,
    lite: bool = False,
    affinity_scaling: str = "square_root",
) -> dict[str, Tensor]:
    """Eq. 6, and all that comes before it."""
    enhanced, descriptor_map = naive_distribution(
        module.distribution, descriptors, decoder_map, learnable_alpha=learnable_alpha, lite=lite
    )
    refined = naive_refinement(
        encoder_map,
        enhanced,
        descriptor_map,
        channel_resampling=channel_resampling,
        spatial_gating=spatial_gating,
        affinity_scaling=affinity_scaling,
    )
    beta = module.beta if learnable_beta else 1
    return {
        "decoder": decoder_map,
        "descriptor_map": descriptor_map,
        "enhanced": enhanced,
        "encoder": encoder_map,
        "refined": refined,
        "output": fusion_convolution(enhanced + beta * refined, module.fuse, lite),
    }


def naive_decoder(
    network: AGLN,
    x: Tensor,
    res4: Tensor,
    res3: Tensor,
    res2: Tensor,
    *,
    dense: bool = True,
    global_pooling: str = "attention",
    descriptors: int | None = None,
    **options: Any,
) -> list[dict[str, Tensor]]:
    """Figure 4: what the last context fusion block of each of the three stages has computed."""

    def aggregate(number: int, stage: Tensor) -> Tensor:
        return naive_descriptors(network.aggregations[number - 1], stage, global_pooling)

    def fuse(stage: int, number: int, described: Tensor, decoder_map: Tensor, encoder_map: Tensor) -> dict[str, Tensor]:
        module = network.decoder[stage - 1][number - 1]
        return naive_fusion(module, described, upsample(decoder_map, encoder_map), encoder_map, **options)

    first = aggregate(1, x)  # SAB 1
    at_16 = fuse(1, 1, first, x, res4)
    if not dense:
        at_8 = fuse(2, 1, first, at_16["output"], res3)
        at_4 = fuse(3, 1, first, at_8["output"], res2)
        return [at_16, at_8, at_4]
    second = aggregate(2, at_16["output"])  # SAB 2
    at_8 = fuse(2, 1, first, at_16["output"], res3)
    at_8 = fuse(2, 2, second, at_8["output"], res3)
    third = aggregate(3, at_8["output"])  # SAB 3
    at_4 = fuse(3, 1, first, at_8["output"], res2)
    at_4 = fuse(3, 2, second, at_4["output"], res2)
    at_4 = fuse(3, 3, third, at_4["output"], res2)
    return [at_16, at_8, at_4]


def naive_agln(network: AGLN, images: Tensor, **options: Any) -> Tensor:
    res2, res3, res4, x = naive_laterals(network.laterals, network.backbone(images))
    stages = naive_decoder(network, x, res4, res3, res2, **options)
    return upsample(naive_head(network.head, x, [stage["output"] for stage in stages]), images)


def make_irregular(module: nn.Module) -> nn.Module:
    """In float64, batch norms that do something, and each alpha and beta away from where it starts."""
    make_norms_irregular(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.split(".")[-1] in ("alpha", "beta"):
                parameter.uniform_(0.3, 0.8)
    return module


def some_descriptors(batch: int, channels: int, descriptors: int) -> Tensor:
    return torch.randn(batch, channels, descriptors, dtype=torch.float64, requires_grad=True)


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
        module = LocalRefinement(spatial_gating=False, affinity_scaling=affinity_scaling)
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        expected = naive_resampling(b, e, affinity_scaling)
        assert_same_outputs_and_gradients(module, module(b, e, m), expected, [b, e, m])

    def test_5_spatial_gating(self, size: tuple[int, int], batch: int) -> None:
        module = LocalRefinement(channel_resampling=False)
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        assert_same_outputs_and_gradients(module, module(b, e, m), b * sigmoid(m), [b, e, m])

    @pytest.mark.parametrize("affinity_scaling", DIVISORS)
    def test_4_and_5_local_refinement(self, size: tuple[int, int], batch: int, affinity_scaling: Any) -> None:
        module = LocalRefinement(affinity_scaling=affinity_scaling)
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        expected = naive_resampling(b, e, affinity_scaling) * sigmoid(m)
        assert_same_outputs_and_gradients(module, module(b, e, m), expected, [b, e, m])

    def test_without_refinement_the_encoder_map_stays(self, size: tuple[int, int], batch: int) -> None:
        b, e, m = (some_map(batch, 6, size) for _ in range(3))
        assert torch.equal(LocalRefinement(channel_resampling=False, spatial_gating=False)(b, e, m), b)

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES.keys())
    def test_6_context_fusion(
        self, size: tuple[int, int], batch: int, training: bool, options: dict[str, bool]
    ) -> None:
        module = make_irregular(ContextFusion(4, 8, **options)).train(training)
        d, a, b = some_descriptors(batch, 4, 8), some_map(batch, 4, size), some_map(batch, 4, size)
        actual, expected = module(d, a, b), naive_fusion(module, d, a, b, **options)["output"]
        assert actual.shape == (batch, 4, *size)
        assert_same_outputs_and_gradients(module, actual, expected, [d, a, b])

    @pytest.mark.parametrize("affinity_scaling", DIVISORS)
    @pytest.mark.parametrize("descriptors", [1, 8])
    def test_6_with_each_scaling(
        self, size: tuple[int, int], batch: int, descriptors: int, affinity_scaling: Any
    ) -> None:
        module = make_irregular(ContextFusion(4, descriptors, affinity_scaling=affinity_scaling))
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
        module = LocalRefinement(affinity_scaling=affinity_scaling)
        with torch.no_grad():
            weights = resampling_weights(module, some_map(1, 4, (5, 4)), some_map(1, 4, (5, 4)))
        assert weights.min() > -1e-9
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(4, dtype=torch.float64))

    def test_the_similarity_is_never_turned_around(self, affinity_scaling: Any) -> None:
        """The encoder's channel that goes with a channel of the decoder weighs most, its opposite least."""
        module = LocalRefinement(affinity_scaling=affinity_scaling)
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
        module = LocalRefinement(affinity_scaling=affinity_scaling)
        left, top = torch.ones(4, 4, dtype=torch.float64), torch.ones(4, 4, dtype=torch.float64)
        left[:, 2:] = -1
        top[2:] = -1
        noise = 0.01 * left * top
        weights = resampling_weights(module, torch.stack([top, left, noise])[None], (4 * left)[None, None])
        assert weights[0, 1] > 0.95
        assert weights[0, [0, 2]].max() < 0.03

    def test_a_large_map_stays_in_range(self, affinity_scaling: Any) -> None:
        module = LocalRefinement(affinity_scaling=affinity_scaling)
        b, e = (10 * torch.randn(1, 4, 120, 120, requires_grad=True) for _ in range(2))
        refined = module(b, e, torch.zeros(1, 4, 120, 120))
        assert refined.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(refined.sum(), [b, e]))


class TestContextFusion:
    def test_beta_starts_at_one(self) -> None:
        module = ContextFusion(6, 8)
        assert module.beta.item() == 1
        assert module.beta.shape == ()

    def test_fixed_scalars_are_no_parameters(self) -> None:
        module = ContextFusion(6, 8, learnable_alpha=False, learnable_beta=False)
        assert module.beta == module.distribution.alpha == 1
        assert not [name for name in module.state_dict() if name.endswith(("alpha", "beta"))]
        learned = ContextFusion(6, 8).state_dict().keys() - module.state_dict().keys()
        assert learned == {"distribution.alpha", "beta"}

    def test_lite_replaces_both_convolutions(self) -> None:
        full, lite = ContextFusion(6, 8), ContextFusion(6, 8, lite=True)
        shapes = [p.shape for p in (*full.distribution.enhance.parameters(), *full.fuse.parameters())]
        assert shapes == [(6, 6, 3, 3), (6,), (6,)] * 2
        shapes = [p.shape for p in (*lite.distribution.enhance.parameters(), *lite.fuse.parameters())]
        assert shapes == [(6, 1, 3, 3), (6, 6, 1, 1), (6,), (6,)] * 2


STRAIGHT = {"dense": False}
MINUS = {**STRAIGHT, "channel_resampling": False, "spatial_gating": False}
ROWS: dict[str, dict[str, Any] | None] = {
    "Tables IV to VII, FPN": None,
    "Table IV, GAP-GEM": {**MINUS, "global_pooling": "average"},
    **{f"Table IV, GEM, N={n}": {**MINUS, "descriptors": n} for n in (1, 64, 128, 256)},
    "Table V, AGLN-minus": MINUS,
    "Table V, CR": {**STRAIGHT, "spatial_gating": False},
    "Table V, SG": {**STRAIGHT, "channel_resampling": False},
    "Table V, CR and SG": STRAIGHT,
    **{
        f"Table VI, alpha {'l' if alpha else '1'}, beta {'l' if beta else '1'}": {
            **STRAIGHT,
            "learnable_alpha": alpha,
            "learnable_beta": beta,
        }
        for alpha in (True, False)
        for beta in (True, False)
    },
    "Table VII, dense": {},
    "Table VIII, AGLN-Lite": {"lite": True},
    "straight, lite": {**STRAIGHT, "lite": True},
    "dense, GAP-GEM": {"global_pooling": "average"},
    "dense, affinity as printed": {"affinity_scaling": "none"},
    "dense, mean affinity": {"affinity_scaling": "mean"},
}


def make_agln(num_classes: int = 4, **options: Any) -> AGLN:
    network = create_model(
        "agln", num_classes=num_classes, backbone="test_resnet", **{"channels": 6, "head_channels": 8, **options}
    )
    assert isinstance(network, AGLN)
    return network


def make_row(options: dict[str, Any] | None) -> SemanticNetwork:
    if options is None:
        return create_model("fpn", num_classes=4, backbone="test_resnet", channels=6, head_channels=8)
    return make_agln(**options)


class TestAGLN:
    @pytest.mark.parametrize("options", ROWS.values(), ids=ROWS.keys())
    def test_rows_of_the_tables(self, options: dict[str, Any] | None) -> None:
        """Each network, put together by hand from the paper's parts on the backbone's maps; and it trains."""
        network = make_irregular(make_row(options)).eval()
        images = torch.randn(2, 3, 40, 33, dtype=torch.float64)
        expected = naive_fpn(network, images) if options is None else naive_agln(network, images, **options)
        assert_same_outputs_and_gradients(network, network(images), expected)

        network.train()
        losses = network.losses(images, torch.randint(0, 4, (2, 40, 33)))
        assert list(losses) == ["segmentation"]
        losses["segmentation"].backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), name

    @pytest.mark.parametrize("dense", [True, False], ids=["dense", "straight"])
    @pytest.mark.parametrize("size", [(32, 32), (33, 49)], ids=str)
    def test_other_sizes(self, size: tuple[int, int], dense: bool) -> None:
        network = make_irregular(make_agln(dense=dense, descriptors=8, lateral_kernel_size=3)).eval()
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        assert network.laterals[0][0].kernel_size == (3, 3)
        assert_same_outputs_and_gradients(network, network(images), naive_agln(network, images, dense=dense))

    def test_rows_differ(self) -> None:
        """With the same weights: no option is without effect."""
        images = torch.randn(2, 3, 40, 33, dtype=torch.float64)
        names = ["V, AGLN-minus", "V, CR", "V, SG", "V, CR and SG"]
        rows = [ROWS[f"Table {name}"] for name in names]
        rows += [{**STRAIGHT, "affinity_scaling": "none"}, {**STRAIGHT, "affinity_scaling": "mean"}]
        weights = make_irregular(make_agln(**STRAIGHT)).state_dict()
        logits = []
        with torch.no_grad():
            for row in rows:
                network = make_agln(**row).double().eval()
                network.load_state_dict(weights)
                logits.append(network(images))
        for index, one in enumerate(logits):
            assert all((one - other).abs().max() > 1e-4 for other in logits[:index])

    def test_descriptors_reach_every_stage(self) -> None:
        network = make_irregular(make_agln()).eval()
        network(torch.randn(2, 3, 40, 33, dtype=torch.float64)).square().sum().backward()
        for name, parameter in network.aggregations.named_parameters():
            assert parameter.grad.abs().max() > 0, name

    @pytest.mark.parametrize(("dense", "aggregations", "blocks"), [(True, 3, [1, 2, 3]), (False, 1, [1, 1, 1])])
    def test_blocks_of_the_decoder(self, dense: bool, aggregations: int, blocks: list[int]) -> None:
        network = make_agln(dense=dense)
        assert len(network.aggregations) == aggregations
        assert [len(stage) for stage in network.decoder] == blocks
        names = [name for name, _ in network.named_parameters()]
        assert sum(name.endswith(".alpha") for name in names) == sum(blocks)
        assert sum(name.endswith(".beta") for name in names) == sum(blocks)
        assert all(p == 0 for name, p in network.named_parameters() if name.endswith(".alpha"))
        assert all(p == 1 for name, p in network.named_parameters() if name.endswith(".beta"))

    def test_alpha_and_beta_are_fixed_on_their_own(self) -> None:
        def scalars(**options: Any) -> set[str]:
            names = [name.split(".")[-1] for name in make_agln(**options).state_dict()]
            return {name for name in names if name in ("alpha", "beta")}

        assert scalars() == {"alpha", "beta"}
        assert scalars(learnable_alpha=False) == {"beta"}
        assert scalars(learnable_beta=False) == {"alpha"}
        assert scalars(learnable_alpha=False, learnable_beta=False) == set()

    @pytest.mark.parametrize("dense", [True, False], ids=["dense", "straight"])
    def test_global_average_pooling_has_one_descriptor(self, dense: bool) -> None:
        network = make_agln(global_pooling="average", dense=dense)
        with torch.no_grad():
            for aggregation in network.aggregations:
                assert aggregation(torch.randn(2, 6, 3, 3)).shape == (2, 6, 1)
        assert not any("attend" in name for name, _ in network.aggregations.named_parameters())

    def test_all_but_the_decoder_is_that_of_fpn(self) -> None:
        with torch.device("meta"):
            baseline = create_model("fpn", num_classes=4, backbone="test_resnet").state_dict()
            network = create_model("agln", num_classes=4, backbone="test_resnet").state_dict()
        own = {name for name in network if name.startswith(("aggregations.", "decoder."))}
        assert {name: network[name].shape for name in network.keys() - own} == {
            name: tensor.shape for name, tensor in baseline.items()
        }

    def test_defaults_are_the_papers(self) -> None:
        defaults = {p.name: p.default for p in inspect.signature(AGLN).parameters.values()}
        assert AGLN.default_output_stride == 32
        assert (defaults["channels"], defaults["descriptors"]) == (256, 128)
        assert (defaults["global_pooling"], defaults["dense"], defaults["lite"]) == ("attention", True, False)
        assert all(
            defaults[name] for name in ("channel_resampling", "spatial_gating", "learnable_alpha", "learnable_beta")
        )
        network = AGLN(backbone=Backbone("test_resnet"), num_classes=4)
        assert network.aggregations[0].attend.weight.shape == (128, 256, 1, 1)

    def test_dropout_of_the_head(self) -> None:
        assert make_agln().head.classify[1].p == 0.1
        assert make_agln(dropout=0.3).head.classify[1].p == 0.3

    @pytest.mark.parametrize("dense", [True, False], ids=["dense", "straight"])
    @pytest.mark.parametrize("spatial_gating", [True, False], ids=["SG", "no SG"])
    def test_explains_with_what_it_computed(self, dense: bool, spatial_gating: bool) -> None:
        network = make_irregular(make_agln(dense=dense, descriptors=8, spatial_gating=spatial_gating)).eval()
        images = torch.randn(2, 3, 40, 33, dtype=torch.float64)
        with torch.no_grad():
            explained = network.explain(images)
            res2, res3, res4, x = naive_laterals(network.laterals, network.backbone(images))
            stages = naive_decoder(network, x, res4, res3, res2, dense=dense, spatial_gating=spatial_gating)
        expected = {}
        for name, stage in zip(("res4", "res3", "res2"), stages, strict=True):
            expected |= {f"{key}_{name}": value for key, value in stage.items() if key != "output"}
            if spatial_gating:
                expected[f"gate_{name}"] = sigmoid(stage["descriptor_map"])
        aggregated = [x, stages[0]["output"], stages[1]["output"]][: 3 if dense else 1]
        for number, source in enumerate(aggregated, start=1):
            scores = convolve(source, network.aggregations[number - 1].attend)
            powers = torch.exp(scores)
            expected[f"attention_{number}"] = powers / powers.sum(dim=(2, 3), keepdim=True)
        assert explained.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(explained[name], value, rtol=1e-9, atol=1e-9, msg=name)


class TestTableVIII:
    @pytest.mark.parametrize(
        ("name", "options", "millions", "billions"),
        [
            ("fcn", {}, 52.09, 196.75),
            ("fpn", {}, 54.32, 124.59),
            ("agln", {}, 61.71, 187.16),
            ("agln", {"lite": True}, 55.74, 135.56),
        ],
        ids=["FCN-8s", "FPN", "AGLN", "AGLN-Lite"],
    )
    def test_parameters_and_multiply_adds(
        self, name: str, options: dict[str, Any], millions: float, billions: float
    ) -> None:
        """With ResNet-101 and the 59 classes of PASCAL Context at 480x480; the convolutions alone, as the paper counts.

        On the meta device, where tensors have a shape and nothing is computed.
        """
        with torch.device("meta"):
            network = create_model(name, num_classes=59, backbone="resnet101s", **options).eval()
            images = torch.empty(1, 3, 480, 480)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert network(images).shape == (1, 59, 480, 480)
        parameters = sum(p.numel() for p in network.parameters())
        multiply_adds = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2
        assert parameters / 1e6 == pytest.approx(millions, rel=0.005)
        assert multiply_adds / 1e9 == pytest.approx(billions, rel=0.02)
