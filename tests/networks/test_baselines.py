"""The baselines against naive transcriptions of their papers."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segweave.models import create_model
from segweave.networks.backbones import Backbone
from segweave.networks.deeplabv3 import AtrousSpatialPyramidPooling, DeepLabV3
from segweave.networks.fcn import FCN, FullyConvolutionalHead
from segweave.networks.losses import IGNORE_INDEX
from segweave.networks.pspnet import PSPNet, PyramidPooling
from tests.networks.transcription import batch_norm, make_irregular, some_map

SIZES = [(1, 1), (5, 4), (7, 9)]


def convolve(x: Tensor, weight: Tensor, rate: int = 1) -> Tensor:
    """The sum over the kernel's elements, `rate` pixels apart, of the map moved by each; zeros outside it."""
    size = weight.shape[-1]
    reach = rate * (size // 2)
    height, width = x.shape[-2:]
    padded = F.pad(x, (reach, reach, reach, reach))
    terms = []
    for row in range(size):
        for column in range(size):
            moved = padded[..., row * rate : row * rate + height, column * rate : column * rate + width]
            terms.append(torch.einsum("bchw,kc->bkhw", moved, weight[..., row, column]))
    return torch.stack(terms).sum(dim=0)


def block(x: Tensor, module: nn.Module, rate: int = 1) -> Tensor:
    """Convolution, batch norm, ReLU."""
    return batch_norm(convolve(x, module[0].weight, rate), module[1]).clamp(min=0)


def pool(x: Tensor, bins: int) -> Tensor:
    """The average of each cell of a grid of bins x bins cells, which overlap where the size is no multiple."""
    height, width = x.shape[-2:]
    rows = []
    for row in range(bins):
        top, bottom = math.floor(row * height / bins), math.ceil((row + 1) * height / bins)
        cells = []
        for column in range(bins):
            left, right = math.floor(column * width / bins), math.ceil((column + 1) * width / bins)
            cells.append(x[..., top:bottom, left:right].mean(dim=(2, 3)))
        rows.append(torch.stack(cells, dim=-1))
    return torch.stack(rows, dim=-2)


def upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=tuple(like.shape[-2:]), mode="bilinear", align_corners=False)


def naive_pyramid_pooling(module: PyramidPooling, x: Tensor, bins: tuple[int, ...]) -> Tensor:
    levels = [upsample(block(pool(x, side), level), x) for side, level in zip(bins, module.levels, strict=True)]
    return torch.cat([x, *levels], dim=1)


def naive_atrous_pooling(module: AtrousSpatialPyramidPooling, x: Tensor, rates: tuple[int, ...]) -> Tensor:
    atrous = [block(x, branch, rate) for branch, rate in zip(module.atrous, rates, strict=True)]
    image_level = upsample(block(x.mean(dim=(2, 3), keepdim=True), module.image_level[1]), x)
    return block(torch.cat([block(x, module.point), *atrous, image_level], dim=1), module.project)


def naive_head(module: FullyConvolutionalHead, x: Tensor) -> Tensor:
    return convolve(block(x, module[0]), module[-1].weight) + module[-1].bias[:, None, None]


def assert_same_outputs_and_gradients(module: nn.Module, actual: Tensor, expected: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-8)
    weight = torch.randn_like(expected)
    sources = [x, *module.parameters()]
    gradients = torch.autograd.grad((actual * weight).sum(), sources)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), sources)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-8)


def make_backbone(output_stride: int = 16) -> Backbone:
    return Backbone("resnet18", output_stride=output_stride)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
class TestContexts:
    @pytest.mark.parametrize("bins", [(1, 2, 3, 6), (1, 4)], ids=str)
    def test_pyramid_pooling(self, training: bool, batch: int, size: tuple[int, int], bins: tuple[int, ...]) -> None:
        module = make_irregular(PyramidPooling(8, bins)).train(training)
        x = some_map(batch, 8, size)
        expected = naive_pyramid_pooling(module, x, bins)
        assert expected.shape == (batch, module.out_channels, *size)
        assert_same_outputs_and_gradients(module, module(x), expected, x)

    @pytest.mark.parametrize("rates", [(6, 12, 18), (1, 2)], ids=str)
    def test_atrous_pooling(self, training: bool, batch: int, size: tuple[int, int], rates: tuple[int, ...]) -> None:
        module = make_irregular(AtrousSpatialPyramidPooling(6, 4, rates)).train(training)
        x = some_map(batch, 6, size)
        expected = naive_atrous_pooling(module, x, rates)
        assert_same_outputs_and_gradients(module, module(x), expected, x)

    def test_fully_convolutional_head(self, training: bool, batch: int, size: tuple[int, int]) -> None:
        module = make_irregular(FullyConvolutionalHead(6, 4, 5, dropout=0.0)).train(training)
        x = some_map(batch, 6, size)
        assert_same_outputs_and_gradients(module, module(x), naive_head(module, x), x)


class TestNetworks:
    """Put together by hand on the backbone's maps."""

    images = torch.randn(2, 3, 64, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def test_fcn(self) -> None:
        network = make_irregular(FCN(backbone=make_backbone(), num_classes=4)).eval()
        logits = naive_head(network.head, network.backbone(self.images)[-1])
        torch.testing.assert_close(network(self.images), upsample(logits, self.images), rtol=0, atol=1e-8)

    @torch.no_grad()
    def test_pspnet(self) -> None:
        network = make_irregular(PSPNet(backbone=make_backbone(), num_classes=4)).eval()
        context = naive_pyramid_pooling(network.context, network.backbone(self.images)[-1], (1, 2, 3, 6))
        logits = naive_head(network.head, context)
        torch.testing.assert_close(network(self.images), upsample(logits, self.images), rtol=0, atol=1e-8)

    @torch.no_grad()
    def test_deeplabv3(self) -> None:
        network = make_irregular(DeepLabV3(backbone=make_backbone(), num_classes=4, context_channels=32)).eval()
        context = naive_atrous_pooling(network.context, network.backbone(self.images)[-1], (6, 12, 18))
        logits = convolve(context, network.head[-1].weight) + network.head[-1].bias[:, None, None]
        torch.testing.assert_close(network(self.images), upsample(logits, self.images), rtol=0, atol=1e-8)


class TestFCN:
    def test_head_is_a_quarter_of_the_last_map(self) -> None:
        assert FCN(backbone=make_backbone(), num_classes=4).head[0][0].out_channels == 128
        assert FCN(backbone=make_backbone(), num_classes=4, head_channels=24).head[0][0].out_channels == 24

    def test_parameters_are_those_of_agln_table_viii(self) -> None:
        with torch.device("meta"):
            network = create_model("fcn", num_classes=59, backbone="resnet101s", output_stride=8)
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(52.09e6, rel=0.005)

    def test_dropout_is_for_training(self) -> None:
        head = FullyConvolutionalHead(6, 4, 5, dropout=0.5)
        x = torch.randn(1, 6, 5, 5)
        assert not torch.equal(head(x), head(x))
        head.eval()
        assert torch.equal(head(x), head(x))


class TestDeepLabV3:
    @pytest.mark.parametrize(
        ("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))], ids=str
    )
    def test_rates_follow_the_output_stride(self, output_stride: int, rates: tuple[int, ...]) -> None:
        network = DeepLabV3(backbone=make_backbone(output_stride), num_classes=4, context_channels=16)
        assert [branch[0].dilation for branch in network.context.atrous] == [(rate, rate) for rate in rates]

    def test_given_rates(self) -> None:
        network = DeepLabV3(backbone=make_backbone(), num_classes=4, context_channels=16, rates=(2, 3))
        assert [branch[0].dilation[0] for branch in network.context.atrous] == [2, 3]
        assert network.context.project[0].in_channels == 4 * 16


class TestPSPNet:
    labels = torch.randint(0, 4, (2, 64, 49), generator=torch.Generator().manual_seed(1))

    def losses(self, **options: Any) -> tuple[PSPNet, dict[str, Tensor]]:
        torch.manual_seed(0)
        network = PSPNet(backbone=make_backbone(), num_classes=4, **options).eval()
        return network, network.losses(TestNetworks.images.float(), self.labels)

    @pytest.mark.parametrize(("options", "weight"), [({}, 0.4), ({"auxiliary_weight": 1.5}, 1.5)])
    def test_auxiliary_loss_on_res4_is_weighted(self, options: dict[str, Any], weight: float) -> None:
        network, losses = self.losses(**options)
        images = TestNetworks.images.float()
        with torch.no_grad():
            probabilities = upsample(network.auxiliary_head(network.backbone(images)[2]), images).softmax(dim=1)
        expected = -probabilities.gather(1, self.labels[:, None]).log().mean()
        assert list(losses) == ["segmentation", "auxiliary"]
        torch.testing.assert_close(losses["auxiliary"], weight * expected)

    def test_without_auxiliary_loss_there_is_no_head(self) -> None:
        network, losses = self.losses(auxiliary_weight=0)
        assert list(losses) == ["segmentation"]
        assert not hasattr(network, "auxiliary_head")

    def test_auxiliary_loss_ignores_too(self) -> None:
        network, losses = self.losses()
        labels = self.labels.clone()
        labels[:, 10:] = IGNORE_INDEX
        some = network.losses(TestNetworks.images.float(), labels)
        assert not torch.allclose(some["auxiliary"], losses["auxiliary"])
        labels[:] = IGNORE_INDEX
        assert network.losses(TestNetworks.images.float(), labels)["auxiliary"] == 0

    def test_each_level_has_its_share_of_the_channels(self) -> None:
        assert [level[0].out_channels for level in PyramidPooling(512).levels] == [128] * 4
        assert PyramidPooling(512).out_channels == 1024
