"""The pyramids that FPT starts from, and the networks that it is compared with, against naive transcriptions."""

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segweave.errors import InputError
from segweave.models import create_model
from segweave.networks.ocnet import ObjectContextPooling
from segweave.networks.pyramids import (
    AtrousPyramid,
    GlobalConvolution,
    PooledPyramid,
    ThinConvolution,
    UnscathedFeaturePyramid,
)
from segweave.networks.ufp import UFP, make_pyramid
from tests.networks import test_baselines as baselines
from tests.networks.test_ocnet import naive_context, naive_weights
from tests.networks.transcription import (
    assert_same_outputs_and_gradients,
    batch_norm,
    block,
    convolve,
    make_irregular,
    some_map,
    upsample,
)

SIZES = [(5, 4), (7, 9), (1, 6), (1, 1)]
PYRAMIDS = ["ufp", "ppm", "aspp"]


def naive_thin_convolution(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """The sum over a k x 1 or 1 x k kernel's elements of the map moved by each; zeros outside it."""
    weight = convolution.weight
    rows, columns = weight.shape[2:]
    assert 1 in (rows, columns)
    height, width = x.shape[2:]
    padded = F.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2))
    terms = []
    for row in range(rows):
        for column in range(columns):
            moved = padded[:, :, row : row + height, column : column + width]
            terms.append(torch.einsum("bchw,kc->bkhw", moved, weight[:, :, row, column]))
    return torch.stack(terms).sum(dim=0)


def naive_global_convolution(module: GlobalConvolution, x: Tensor) -> Tensor:
    """k x 1 then 1 x k, plus 1 x k then k x 1; batch norm, ReLU."""
    (tall, then_wide), (wide, then_tall) = module.tall_then_wide, module.wide_then_tall
    size = tall.weight.shape[2]
    assert tall.weight.shape[2:] == then_tall.weight.shape[2:] == (size, 1)
    assert wide.weight.shape[2:] == then_wide.weight.shape[2:] == (1, size)
    one = naive_thin_convolution(naive_thin_convolution(x, tall), then_wide)
    other = naive_thin_convolution(naive_thin_convolution(x, wide), then_tall)
    return batch_norm(one + other, module.norm_act[0]).clamp(min=0)


def naive_pyramid(name: str, pyramid: nn.Module, x: Tensor, rates: tuple[int, ...] = (12, 24, 36)) -> list[Tensor]:
    levels = pyramid.levels
    if name == "ufp":
        return [naive_global_convolution(level, x) for level in levels]
    if name == "ppm":
        pooled = [baselines.pool(x, bins) for bins in (6, 3, 2, 1)]
        return [upsample(block(grid, level), x) for grid, level in zip(pooled, levels, strict=True)]
    return [baselines.block(x, level, rate) for level, rate in zip(levels, (1, *rates), strict=True)]


def naive_head(head: nn.Module, levels: list[Tensor], *, object_context: bool) -> Tensor:
    x = block(torch.cat(levels, dim=1), head.reduce)
    if object_context:
        x = block(torch.cat([naive_context(head.context, x), x], dim=1), head.fuse)
    return convolve(x, head.classify[-1])


def make_ufp(**options: Any) -> UFP:
    torch.manual_seed(0)
    narrow = {"channels": 4, "head_channels": 6, "dropout": 0.0}
    network = create_model("ufp", num_classes=4, backbone="test_resnet", **{**narrow, **options})
    assert isinstance(network, UFP)
    return make_irregular(network)


def some_images() -> Tensor:
    return torch.randn(2, 3, 33, 41, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class TestGlobalConvolution:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("kernel_size", [1, 3, 15])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_is_the_paper_s(self, size: tuple[int, int], kernel_size: int, training: bool) -> None:
        """Kernels that are larger than the map too."""
        module = make_irregular(GlobalConvolution(3, 5, kernel_size)).train(training)
        x = some_map(2, 3, size)
        expected = naive_global_convolution(module, x)
        assert expected.shape == (2, 5, *size)
        assert_same_outputs_and_gradients(module, module(x), expected, [x])

    @pytest.mark.parametrize("kernel_size", [3, 7])
    @torch.no_grad()
    def test_is_a_dense_convolution_in_thin_halves(self, kernel_size: int) -> None:
        """Of k x k, whose kernel is composed of the halves'."""
        module = make_irregular(GlobalConvolution(3, 5, kernel_size)).eval()
        (tall, then_wide), (wide, then_tall) = module.tall_then_wide, module.wide_then_tall
        kernel = torch.einsum("omc,mir->oirc", then_wide.weight[:, :, 0], tall.weight[..., 0])
        kernel = kernel + torch.einsum("omr,mic->oirc", then_tall.weight[..., 0], wide.weight[:, :, 0])
        x = some_map(2, 3, (9, 8))
        expected = batch_norm(F.conv2d(x, kernel, padding=kernel_size // 2), module.norm_act[0]).clamp(min=0)
        torch.testing.assert_close(module(x), expected)

    @pytest.mark.parametrize("kernel_size", [0, 2, 14])
    def test_even_kernels(self, kernel_size: int) -> None:
        with pytest.raises(ValueError, match=f"kernel size {kernel_size}: expected an odd one"):
            GlobalConvolution(3, 5, kernel_size)


class TestPyramids:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("size", [(5, 4), (7, 9), (1, 1)], ids=str)
    @pytest.mark.parametrize(
        ("name", "pyramid"), [("ufp", UnscathedFeaturePyramid), ("ppm", PooledPyramid), ("aspp", AtrousPyramid)]
    )
    def test_is_the_paper_s(self, name: str, pyramid: type[nn.Module], size: tuple[int, int], training: bool) -> None:
        module = make_irregular(pyramid(3, 5)).train(training)
        x = some_map(2, 3, size)
        levels, expected = module(x), naive_pyramid(name, module, x)
        assert [level.shape for level in levels] == [(2, 5, *size)] * 4
        assert_same_outputs_and_gradients(module, torch.cat(levels), torch.cat(expected), [x])

    @pytest.mark.parametrize("pyramid", [UnscathedFeaturePyramid, PooledPyramid, AtrousPyramid])
    def test_levels_are_256_channels_wide(self, pyramid: type[nn.Module]) -> None:
        assert [level.shape for level in pyramid(3).eval()(torch.randn(1, 3, 5, 4))] == [(1, 256, 5, 4)] * 4

    def test_kernels_of_1_7_15_and_31(self) -> None:
        sizes = [level.tall_then_wide[0].kernel_size[0] for level in UnscathedFeaturePyramid(3, 5).levels]
        assert sizes == [1, 7, 15, 31]

    @torch.no_grad()
    def test_the_first_level_has_seen_least(self) -> None:
        """How far from a position the map changes a level: in the middle of a map that is larger than all kernels."""
        x = some_map(1, 3, (81, 81))
        changed = x.clone()
        changed[:, :, 40, 40] += 10
        for pyramid, reaches in [
            (UnscathedFeaturePyramid(3, 5), [0, 3, 7, 15]),
            (AtrousPyramid(3, 5), [0, 12, 24, 36]),
        ]:
            make_irregular(pyramid).eval()
            for one, other, reach in zip(pyramid(x), pyramid(changed), reaches, strict=True):
                rows, columns = (one - other).abs().sum(dim=(0, 1)).nonzero().unbind(dim=1)
                assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (40 - reach, 40 + reach)

    @pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
    @torch.no_grad()
    def test_dilations_follow_the_output_stride(self, output_stride: int, rates: tuple[int, int, int]) -> None:
        network = make_ufp(pyramid="aspp", output_stride=output_stride).eval()
        x = some_map(1, network.backbone.channels[-1], (40, 38))
        torch.testing.assert_close(network.pyramid(x), naive_pyramid("aspp", network.pyramid, x, rates))

    def test_pyramids_that_there_are_not(self) -> None:
        with pytest.raises(ValueError, match="pyramid 'fpn': expected one of ufp, ppm, aspp"):
            make_pyramid("fpn", make_ufp().backbone, 5)


class TestUFP:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("object_context", [False, True], ids=["plain", "object context"])
    @pytest.mark.parametrize("pyramid", PYRAMIDS)
    def test_is_put_together_as_in_the_paper(self, pyramid: Any, object_context: bool, training: bool) -> None:
        """The levels concatenated, reduced, with OCNet's context where there is, classified."""
        network = make_ufp(pyramid=pyramid, object_context=object_context).train(training)
        res5 = network.backbone(some_images())[-1]
        assert res5.shape[2:] == (5, 6)
        levels = naive_pyramid(pyramid, network.pyramid, res5)
        logits = naive_head(network.head, levels, object_context=object_context)
        assert_same_outputs_and_gradients(network, network(some_images()), upsample(logits, some_images()))

    def test_object_context_is_ocnet_s(self) -> None:
        network = make_ufp(object_context=True, head_channels=7)
        assert type(network.head.context) is ObjectContextPooling
        assert network.head.context.value.weight.shape == (4, 7, 1, 1)  # half as wide, as in OCNet
        assert network.head.fuse[0].weight.shape == (7, 14, 1, 1)
        plain = make_ufp(head_channels=7)
        assert plain.head.context is None
        assert plain.head.fuse is None

    def test_widths(self) -> None:
        network = create_model("ufp", num_classes=4, backbone="test_resnet", object_context=True)
        own = network.backbone.channels[-1]
        assert [level.tall_then_wide[0].weight.shape[:2] for level in network.pyramid.levels] == [(256, own)] * 4
        assert network.head.reduce[0].weight.shape == (512, 1024, 3, 3)
        assert network.head.context.value.weight.shape == (256, 512, 1, 1)
        assert network.head.classify[-1].weight.shape == (4, 512, 1, 1)

    def test_defaults_are_the_paper_s(self) -> None:
        defaults = {p.name: p.default for p in inspect.signature(UFP).parameters.values()}
        assert UFP.default_output_stride == 8
        assert make_ufp().backbone.strides[-1] == 8
        assert (defaults["pyramid"], defaults["channels"], defaults["object_context"]) == ("ufp", 256, False)

    def test_dropout_is_for_training(self) -> None:
        network = make_ufp(dropout=0.5)
        assert not torch.equal(network(some_images()), network(some_images()))
        assert torch.equal(network.eval()(some_images()), network(some_images()))

    @pytest.mark.parametrize("pyramid", PYRAMIDS)
    @torch.no_grad()
    def test_explains_with_its_levels(self, pyramid: Any) -> None:
        network = make_ufp(pyramid=pyramid).eval()
        explained = network.explain(some_images(), at=(3, 4))
        assert list(explained) == [f"pyramid_level{number}" for number in range(1, 5)]
        expected = naive_pyramid(pyramid, network.pyramid, network.backbone(some_images())[-1])
        torch.testing.assert_close(list(explained.values()), expected)

    @pytest.mark.parametrize(("pixel", "position"), [((0, 0), 0), ((40, 32), 29), ((40, 0), 5), ((14, 7), 6 + 2)])
    @torch.no_grad()
    def test_explains_with_the_attention_of_its_object_context(self, pixel: tuple[int, int], position: int) -> None:
        network = make_ufp(object_context=True).eval()
        explained = network.explain(some_images(), at=pixel)
        assert list(explained)[4:] == ["attention_at"]
        assert list(network.explain(some_images())) == list(explained)[:4]
        x = block(torch.cat(list(explained.values())[:4], dim=1), network.head.reduce)
        keys = block(x, network.head.context.query_and_key).flatten(2).unbind(dim=2)
        expected = naive_weights(keys[position], keys).view(2, 1, 5, 6)
        torch.testing.assert_close(explained["attention_at"], expected)

    def test_pixels_that_the_images_do_not_have(self) -> None:
        network = make_ufp(object_context=True).eval()
        with pytest.raises(InputError, match=r"at \(41, 0\): expected a pixel \(x, y\) of images of 41 x 33 pixels"):
            network.explain(some_images(), at=(41, 0))

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"pyramid": "fpn"}, "pyramid"), ({"channels": 0}, "channels=0"), ({"head_channels": 0}, "head_channels=0")],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
    def test_options_that_there_are_not(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            create_model("ufp", num_classes=4, backbone="test_resnet", **options)


@pytest.mark.parametrize("kernel_size", [(5, 1), (1, 7)])
def test_thin_convolutions_add_up_over_groups_of_channels(
    kernel_size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThinConvolution, "group", 3)
    convolution = ThinConvolution(8, 4, kernel_size).double()
    x = torch.randn(2, 8, 6, 9, dtype=torch.float64, requires_grad=True)
    same_size = tuple(side // 2 for side in kernel_size)
    actual, expected = convolution(x), F.conv2d(x, convolution.weight, padding=same_size)
    torch.testing.assert_close(actual, expected)
    inputs = (x, convolution.weight)
    gradients = zip(
        torch.autograd.grad(actual.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    )
    for gradient, expected_gradient in gradients:
        torch.testing.assert_close(gradient, expected_gradient)
