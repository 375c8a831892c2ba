"""AGLN's paper transcribed naively, for its tests."""

from typing import Any

import torch
from torch import Tensor, nn

from segweave.networks.agln import (
    AGLN,
    ContextFusion,
    LocalRefinement,
    SemanticAggregation,
    SemanticDistribution,
)
from tests.networks.test_fpn import BIAS, naive_head, naive_laterals
from tests.networks.transcription import batch_norm, block, convolve, shifts, upsample
from tests.networks.transcription import make_irregular as make_norms_irregular

SIZES = [(1, 1), (2, 3), (5, 4)]
DIVISORS = {"none": lambda pixels: 1, "square_root": lambda pixels: pixels**0.5, "mean": lambda pixels: pixels}


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
    module: LocalRefinement,
    encoder_map: Tensor,
    enhanced: Tensor,
    descriptor_map: Tensor,
    *,
    channel_resampling: bool,
    spatial_gating: bool,
    affinity_scaling: str,
    shortcut: bool,
) -> Tensor:
    """Eq. 4, where there is channel resampling, and Eq. 5, where there is spatial gating; and our shortcut."""
    refined = encoder_map
    if channel_resampling:
        refined = naive_resampling(refined, enhanced, affinity_scaling)
    if spatial_gating:
        refined = refined * sigmoid(descriptor_map)
    if shortcut and (channel_resampling or spatial_gating):
        refined = encoder_map + module.gamma * refined
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
    affinity_scaling: str = "mean",
    shortcut: bool = True,
) -> dict[str, Tensor]:
    """Eq. 6, and all that comes before it."""
    enhanced, descriptor_map = naive_distribution(
        module.sdm, descriptors, decoder_map, learnable_alpha=learnable_alpha, lite=lite
    )
    refined = naive_refinement(
        module.lrm,
        encoder_map,
        enhanced,
        descriptor_map,
        channel_resampling=channel_resampling,
        spatial_gating=spatial_gating,
        affinity_scaling=affinity_scaling,
        shortcut=shortcut,
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
        return naive_descriptors(network.sabs[number - 1], stage, global_pooling)

    def fuse(stage: int, number: int, described: Tensor, decoder_map: Tensor, encoder_map: Tensor) -> dict[str, Tensor]:
        module = network.cfbs[f"{number}_{stage - number + 1}"]
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


def make_fusion(
    channels: int,
    descriptors: int,
    *,
    learnable_alpha: bool = True,
    learnable_beta: bool = True,
    lite: bool = False,
    **refinement: Any,
) -> ContextFusion:
    """A block of finished parts, as the network makes it of its options."""
    sdm = SemanticDistribution(channels, descriptors, learnable_alpha=learnable_alpha, lite=lite)
    return ContextFusion(channels, sdm, LocalRefinement(**refinement), learnable_beta=learnable_beta, lite=lite)


def make_irregular(module: nn.Module) -> nn.Module:
    """In float64, batch norms that do something, and each alpha, beta and gamma away from where it starts."""
    make_norms_irregular(module, BIAS)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.split(".")[-1] in ("alpha", "beta", "gamma"):
                parameter.uniform_(0.3, 0.8)
    return module


def some_descriptors(batch: int, channels: int, descriptors: int) -> Tensor:
    return torch.randn(batch, channels, descriptors, dtype=torch.float64, requires_grad=True)
