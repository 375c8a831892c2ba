"""FPN against a naive transcription of what AGLN's paper says of it (Sections III-D and IV-A)."""

import inspect
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from segweave.models import create_model
from segweave.networks.backbones import Backbone
from segweave.networks.fpn import FPN, DecoderHead, Laterals
from tests.networks.transcription import (
    assert_same_outputs_and_gradients,
    block,
    convolve,
    make_irregular,
    some_map,
    upsample,
)

SIZES = [(1, 1), (2, 3), (5, 4)]
BIAS = (-0.3, 1.0)
"""Of batch norms: so that most values get through a ReLU, of several in a row."""


# The paper in its own words; `tests.networks.agln_transcription` goes on from here


def naive_laterals(modules: nn.ModuleList, maps: Sequence[Tensor]) -> list[Tensor]:
    """Section IV-A: the encoder's maps pass a convolution with batch norm and ReLU."""
    return [block(maps[index], modules[index]) for index in range(4)]


def naive_head(head: DecoderHead, x: Tensor, decoder: Sequence[Tensor]) -> Tensor:
    """Section III-D: "the output from different stages of the decoder is upsampled to 1/4 input size and concatenated".

    Args:
        head: Whose weights.
        x: The last map of the encoder, which is the decoder's first.
        decoder: The outputs at strides 16, 8 and 4, each of which passes a 3x3 convolution.
    """
    at_16, at_8, at_4 = (block(stage, convolution) for stage, convolution in zip(decoder, head.smooth, strict=True))
    concatenated = torch.cat([upsample(x, at_4), upsample(at_16, at_4), upsample(at_8, at_4), at_4], dim=1)
    return convolve(block(concatenated, head.classify[0]), head.classify[2])


def naive_fpn(network: nn.Module, images: Tensor) -> Tensor:
    """Each map is upsampled and added to the encoder's map at twice its resolution."""
    res2, res3, res4, x = naive_laterals(network.laterals, network.backbone(images))
    at_16 = res4 + upsample(x, res4)
    at_8 = res3 + upsample(at_16, res3)
    at_4 = res2 + upsample(at_8, res2)
    return upsample(naive_head(network.head, x, [at_16, at_8, at_4]), images)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("batch", [1, 2])
class TestParts:
    @pytest.mark.parametrize("kernel_size", [1, 3])
    def test_laterals(self, training: bool, batch: int, kernel_size: int) -> None:
        module = make_irregular(Laterals((3, 4, 5, 6), 7, kernel_size=kernel_size), BIAS).train(training)
        sizes = [(9, 7), (5, 4), (3, 2), (2, 1)]
        maps = [some_map(batch, channels, size) for channels, size in zip((3, 4, 5, 6), sizes, strict=True)]
        actual, expected = module(maps), naive_laterals(module, maps)
        assert [x.shape[1:] for x in actual] == [(7, *size) for size in sizes]
        for output, naive, x in zip(actual, expected, maps, strict=True):
            assert_same_outputs_and_gradients(module, output, naive, [x])

    @pytest.mark.parametrize(
        "sizes", [[(1, 1), (2, 3), (3, 5), (6, 9)], [(1, 1)] * 4, [(2, 2)] * 3 + [(4, 3)]], ids=str
    )
    def test_head(self, training: bool, batch: int, sizes: list[tuple[int, int]]) -> None:
        module = make_irregular(DecoderHead(4, 3, 8, 5, dropout=0.0), BIAS).train(training)
        stages = [some_map(batch, 3, size) for size in sizes]
        actual, expected = module(stages), naive_head(module, stages[0], stages[1:])
        assert actual.shape == (batch, 5, *sizes[-1])
        assert_same_outputs_and_gradients(module, actual, expected, stages)


class TestFPN:
    @pytest.mark.parametrize("lateral_kernel_size", [1, 3])
    @pytest.mark.parametrize("size", [(32, 32), (64, 49)], ids=str)
    def test_logits(self, size: tuple[int, int], lateral_kernel_size: int) -> None:
        options = {"channels": 8, "head_channels": 12, "lateral_kernel_size": lateral_kernel_size}
        network = make_irregular(create_model("fpn", num_classes=4, backbone="test_resnet", **options), BIAS).eval()
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        assert_same_outputs_and_gradients(network, network(images), naive_fpn(network, images))

    @pytest.mark.parametrize("lateral_kernel_size", [1, 3])
    def test_lateral_of_the_last_map_is_always_3x3(self, lateral_kernel_size: int) -> None:
        network = create_model("fpn", num_classes=4, backbone="test_resnet", lateral_kernel_size=lateral_kernel_size)
        expected = [lateral_kernel_size] * 3 + [3]
        assert [lateral[0].kernel_size for lateral in network.laterals] == [(side, side) for side in expected]

    def test_defaults_are_the_papers(self) -> None:
        defaults = {p.name: p.default for p in inspect.signature(FPN).parameters.values()}
        assert FPN.default_output_stride == 32
        assert defaults["channels"] == 256
        assert defaults["lateral_kernel_size"] == 1
        network = FPN(backbone=Backbone("test_resnet"), num_classes=4)
        assert network.head.classify[0][0].weight.shape == (512, 1024, 3, 3)
        assert network.head.classify[-1].weight.shape == (4, 512, 1, 1)

    @pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
    def test_drops_whole_channels_of_the_head_in_training_only(self, dropout: float) -> None:
        head = DecoderHead(4, 3, 64, 5, dropout=dropout)
        dropped = []
        head.classify[-1].register_forward_pre_hook(lambda _, inputs: dropped.append((inputs[0] == 0).all(dim=(2, 3))))
        with torch.no_grad():
            head.classify[0][1].bias.fill_(5)  # no channel is zero by itself
            stages = [torch.randn(8, 3, size, size) for size in (1, 2, 4, 8)]
            head(stages)
            head.eval()(stages)
        in_training, in_evaluation = (channels.float().mean().item() for channels in dropped)
        assert in_training == pytest.approx(dropout, abs=0.1)
        assert in_evaluation == 0

    def test_dropout_of_the_network(self) -> None:
        assert FPN(backbone=Backbone("test_resnet"), num_classes=4).head.classify[1].p == 0.1
        assert FPN(backbone=Backbone("test_resnet"), num_classes=4, dropout=0.3).head.classify[1].p == 0.3
