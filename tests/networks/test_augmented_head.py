"""PANet's augmented head, against naive transcriptions."""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from segweave.networks.augmented_head import (
    AdaptiveFeaturePooling,
    AugmentedMaskHead,
    FullyConnectedFusion,
    FusionByMaximum,
    HeavierBoxHead,
)
from tests.networks.transcription import convolve, make_irregular

LEVELS, CHANNELS = 3, 6


def some_pooled(size: int, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, LEVELS, CHANNELS, size, size, generator=generator, dtype=torch.float64)


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def make_different(module: nn.Module) -> nn.Module:
    """With weights and offsets that all do something, in float64."""
    torch.manual_seed(8)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3)
    return make_irregular(module)


def naive_fusion(pooled: Tensor, fusion: FusionByMaximum) -> Tensor:
    adapted = [convolve(pooled[:, level], part).clamp(min=0) for level, part in enumerate(convolutions(fusion))]
    return torch.stack(adapted).amax(dim=0)


def naive_convolutions(x: Tensor, module: nn.Module) -> Tensor:
    for convolution in convolutions(module):
        x = convolve(x, convolution).clamp(min=0)
    return x


def naive_upsampling(x: Tensor, convolution: nn.ConvTranspose2d) -> Tensor:
    """Each position becomes a square of two by two."""
    count, _, height, width = x.shape
    squares = torch.einsum("rchw,cdyx->rdhywx", x, convolution.weight)
    return squares.reshape(count, -1, 2 * height, 2 * width) + convolution.bias[:, None, None]


def test_every_box_is_pooled_from_every_level() -> None:
    generator = torch.Generator().manual_seed(9)
    sizes = ((32, 24), (16, 12), (8, 6), (4, 3))
    levels = {str(number): torch.randn(2, 3, *size, generator=generator) for number, size in enumerate(sizes)}
    levels["4"] = torch.full((2, 3, 2, 2), torch.nan)  # isn't pooled from
    boxes = [torch.tensor([[3.0, 5.0, 60.0, 90.0], [0.0, 0.0, 9.0, 9.0]]), torch.tensor([[30.0, 20.0, 50.0, 121.0]])]
    pooled = AdaptiveFeaturePooling((4, 8, 16, 32), 7)(levels, boxes, [(128, 96), (100, 96)])
    assert pooled.shape == (3, 4, 3, 7, 7)
    for level, stride in enumerate((4, 8, 16, 32)):
        of_first = roi_align(levels[str(level)][:1], boxes[:1], 7, spatial_scale=1 / stride, sampling_ratio=2)
        of_second = roi_align(levels[str(level)][1:], boxes[1:], 7, spatial_scale=1 / stride, sampling_ratio=2)
        assert torch.equal(pooled[:, level], torch.cat([of_first, of_second]))


def test_no_box_at_all() -> None:
    levels = {str(number): torch.randn(1, 3, 8, 8) for number in range(4)}
    pooled = AdaptiveFeaturePooling((4, 8, 16, 32), 7)(levels, [torch.zeros(0, 4)], [(32, 32)])
    assert pooled.shape == (0, 4, 3, 7, 7)


def test_levels_are_fused_by_the_maximum_after_a_layer_of_their_own() -> None:
    fusion, pooled = make_different(FusionByMaximum(LEVELS, CHANNELS)), some_pooled(7)
    assert isinstance(fusion, FusionByMaximum)
    with torch.no_grad():
        fused, expected = fusion(pooled), naive_fusion(pooled, fusion)
    torch.testing.assert_close(fused, expected)
    assert len({convolution.weight.flatten()[0].item() for convolution in convolutions(fusion)}) == LEVELS


def test_heavier_box_head() -> None:
    head, pooled = make_different(HeavierBoxHead(LEVELS, CHANNELS, 7, 10)), some_pooled(7)
    (fully_connected,) = (part for part in head.modules() if isinstance(part, nn.Linear))
    assert len(convolutions(head)) == LEVELS + 3
    with torch.no_grad():
        x = naive_convolutions(naive_fusion(pooled, head[0]), head[1])
        expected = (x.flatten(1) @ fully_connected.weight.T + fully_connected.bias).clamp(min=0)
        torch.testing.assert_close(head(pooled), expected)
    assert expected.shape == (5, 10)


def test_mask_head_with_fully_connected_fusion() -> None:
    torch.manual_seed(10)
    head = make_different(AugmentedMaskHead(LEVELS, CHANNELS))
    fusion, pooled = make_different(FullyConnectedFusion(CHANNELS, 4, 3)), some_pooled(4)
    fourth, (upsample, _, classify) = fusion.convolutional
    shorter, _, foreground = fusion.fully_connected
    assert [part.out_channels for part in convolutions(shorter)] == [CHANNELS, CHANNELS // 2]
    with torch.no_grad():
        x = naive_convolutions(naive_fusion(pooled, head[0]), head[1])
        torch.testing.assert_close(head(pooled), x)
        upsampled = naive_upsampling(naive_convolutions(x, fourth), upsample).clamp(min=0)
        of_classes = torch.einsum("rchw,kc->rkhw", upsampled, classify.weight[:, :, 0, 0])
        of_classes = of_classes + classify.bias[:, None, None]
        short = naive_convolutions(x, shorter).flatten(1) @ foreground.weight.T + foreground.bias
        expected = of_classes + short.reshape(-1, 1, 8, 8)
        logits = fusion(x)
    assert len(convolutions(head)) + len(convolutions(fourth)) == LEVELS + 3
    assert expected.shape == (5, 3, 8, 8)
    torch.testing.assert_close(logits, expected.float(), rtol=1e-4, atol=1e-5, check_dtype=False)
