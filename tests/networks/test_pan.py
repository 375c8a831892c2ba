"""PAN against a naive transcription of its paper, and the rows of its tables."""

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segweave.errors import InputError
from segweave.networks.backbones import Backbone
from segweave.networks.layers import ConvNormAct
from segweave.networks.pan import PAN, FeaturePyramidAttention, GlobalAttentionUpsample, SqueezeExcitation
from tests.networks.transcription import batch_norm, make_irregular, some_map, upsample

SIZES = [(1, 1), (2, 3), (5, 4), (8, 8)]


# The paper in its own words, a value at a time where that is what the words say


def convolve(x: Tensor, block: nn.Module) -> Tensor:
    """A convolution that keeps the size, followed by batch normalization and ReLU."""
    convolution, norm = block[0], block[1]
    padding = convolution.weight.shape[-1] // 2
    x = batch_norm(F.conv2d(x, convolution.weight, padding=padding), norm)
    return x.clamp(min=0)


def halve(x: Tensor, pooling: str) -> Tensor:
    height, width = x.shape[-2:]
    rows = []
    for top in range(0, height, 2):
        windows = [x[..., top : top + 2, left : left + 2] for left in range(0, width, 2)]
        row = [w.amax(dim=(2, 3)) if pooling == "max" else w.mean(dim=(2, 3)) for w in windows]
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def global_average(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


def naive_attention(module: FeaturePyramidAttention, x: Tensor, pooling: str) -> Tensor:
    """Three scales, and their information integrated step by step."""
    down_fine, down_middle, down_coarse = module.down
    up_fine, up_middle, up_coarse = module.up
    fine = convolve(halve(x, pooling), down_fine)
    middle = convolve(halve(fine, pooling), down_middle)
    coarse = convolve(halve(middle, pooling), down_coarse)
    middle = convolve(middle, up_middle) + upsample(convolve(coarse, up_coarse), middle)
    fine = convolve(fine, up_fine) + upsample(middle, fine)
    return upsample(fine, x)


def naive_fpa(module: FeaturePyramidAttention, x: Tensor, pooling: str, global_pooling: str | None) -> Tensor:
    """1x1 convolution of the map, multiplied pixel by pixel by the pyramid's attention; the global pooling branch."""
    output = convolve(x, module.reduce) * naive_attention(module, x, pooling)
    if global_pooling is None:
        return output
    branch = upsample(convolve(global_average(x), module.global_branch[1]), x)
    if global_pooling == "add":
        return output + branch
    return convolve(torch.cat([output, branch], dim=1), module.project)


def naive_gau(module: GlobalAttentionUpsample, low: Tensor, high: Tensor, global_context: bool = True) -> Tensor:
    """The global context of the high-level map weights the low-level map, to which the high-level map is added."""
    low = convolve(low, module.reduce)
    if global_context:
        low = low * convolve(global_average(high), module.gate[1])
    return low + upsample(high, low)


def naive_squeeze_excitation(module: SqueezeExcitation, x: Tensor) -> Tensor:
    """SENet: two fully-connected layers on the global average."""
    first, second = (m for m in module.attention if isinstance(m, nn.Conv2d))
    hidden = (x.mean(dim=(2, 3)) @ first.weight[:, :, 0, 0].T + first.bias).clamp(min=0)
    weights = 1 / (1 + torch.exp(-(hidden @ second.weight[:, :, 0, 0].T + second.bias)))
    return convolve(x, module.reduce) * weights[:, :, None, None]


def assert_same_outputs_and_gradients(
    module: nn.Module, actual: Tensor, expected: Tensor, inputs: list[Tensor]
) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-8)
    assert expected.abs().max() > 1e-3
    sources = [*inputs, *module.parameters()]
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((actual * weight).sum(), sources)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), sources)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-8)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("batch", [1, 3])
class TestAgainstThePaper:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("global_pooling", ["add", "concat", None])
    def test_feature_pyramid_attention(
        self, training: bool, batch: int, size: tuple[int, int], global_pooling: Any
    ) -> None:
        module = make_irregular(FeaturePyramidAttention(6, 4, global_pooling=global_pooling)).train(training)
        x = some_map(batch, 6, size)
        expected = naive_fpa(module, x, "average", global_pooling)
        assert_same_outputs_and_gradients(module, module(x), expected, [x])

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("pooling", ["average", "max"])
    def test_feature_pyramid_attention_to_each_channel(
        self, training: bool, batch: int, size: tuple[int, int], pooling: Any
    ) -> None:
        module = FeaturePyramidAttention(6, 4, kernel_sizes=(3, 3, 3), pooling=pooling, attention_channels=None)
        make_irregular(module).train(training)
        x = some_map(batch, 6, size)
        expected = naive_fpa(module, x, pooling, "add")
        assert_same_outputs_and_gradients(module, module(x), expected, [x])

    @pytest.mark.parametrize("kernel_size", [1, 3])
    @pytest.mark.parametrize("global_context", [True, False])
    @pytest.mark.parametrize("size", [(2, 3), (4, 6), (3, 5), (1, 1)], ids=str)
    def test_global_attention_upsample(
        self, training: bool, batch: int, size: tuple[int, int], global_context: bool, kernel_size: int
    ) -> None:
        module = GlobalAttentionUpsample(3, 4, kernel_size=kernel_size, global_context=global_context)
        make_irregular(module).train(training)
        low, high = some_map(batch, 3, (4, 6)), some_map(batch, 4, size)
        expected = naive_gau(module, low, high, global_context)
        assert_same_outputs_and_gradients(module, module(low, high), expected, [low, high])

    def test_squeeze_excitation(self, training: bool, batch: int) -> None:
        module = make_irregular(SqueezeExcitation(6, 32)).train(training)
        x = some_map(batch, 6, (3, 4))
        assert_same_outputs_and_gradients(module, module(x), naive_squeeze_excitation(module, x), [x])


class TestFeaturePyramidAttention:
    @pytest.mark.parametrize("kernel_sizes", [(7, 5, 3), (3, 3, 3)], ids=["C357", "C333"])
    def test_kernels_on_the_way_down_and_up(self, kernel_sizes: tuple[int, int, int]) -> None:
        module = FeaturePyramidAttention(6, 4, kernel_sizes=kernel_sizes)
        for path in (module.down, module.up):
            assert [block[0].kernel_size for block in path] == [(size, size) for size in kernel_sizes]

    def test_pooling_types_differ(self) -> None:
        average, largest = (
            FeaturePyramidAttention(6, 4, pooling=kind, attention_channels=None).double().eval()
            for kind in ("average", "max")
        )
        largest.load_state_dict(average.state_dict())
        x = some_map(2, 6, (8, 8))
        assert not torch.allclose(average.attention(x), largest.attention(x), atol=1e-3)
        torch.testing.assert_close(average.attention(x), naive_attention(average, x, "average"))
        torch.testing.assert_close(largest.attention(x), naive_attention(largest, x, "max"))

    def test_one_attention_channel_is_shared(self) -> None:
        module = FeaturePyramidAttention(6, 4, attention_channels=1, global_pooling=None).eval()
        x = torch.randn(2, 6, 5, 4)
        attention = module.attention(x)
        assert attention.shape == (2, 1, 5, 4)
        torch.testing.assert_close(module(x), module.reduce(x) * attention.expand(2, 4, 5, 4))

    def test_each_channel_has_its_attention(self) -> None:
        attention = FeaturePyramidAttention(6, 4, attention_channels=None).eval().attention(torch.randn(2, 6, 5, 4))
        assert attention.shape == (2, 4, 5, 4)
        assert not torch.allclose(attention[:, 0], attention[:, 1])

    def test_other_widths_are_refused(self) -> None:
        with pytest.raises(InputError, match="attention_channels 3: expected 1, or None"):
            FeaturePyramidAttention(6, 4, attention_channels=3)

    def test_global_branch(self) -> None:
        added, concatenated, without = (
            FeaturePyramidAttention(6, 4, global_pooling=kind) for kind in ("add", "concat", None)
        )
        assert added.project is None
        assert concatenated.project[0].in_channels == 8
        assert without.global_branch is None


def make_pan(**options: Any) -> PAN:
    options = {"decoder_channels": 32, **options}
    return PAN(backbone=Backbone("resnet18", output_stride=16), num_classes=4, **options)


ROWS = {
    "Table 1, ResNet101": {"attention": None, "global_attention_upsample": False},
    "Table 1, SE": {"attention": "squeeze_excitation", "global_attention_upsample": False},
    **{
        f"Table 1, {kernels}+{pooling}{'+GP' if branch else ''}": {
            "kernel_sizes": (3, 3, 3) if kernels == "C333" else (7, 5, 3),
            "pooling": "max" if pooling == "MAX" else "average",
            "global_pooling": branch,
            "global_attention_upsample": False,
        }
        for kernels in ("C333", "C357")
        for pooling in ("MAX", "AVE")
        for branch in (None, "add")
    },
    "Table 1, BMVC's GP": {"global_pooling": "concat", "global_attention_upsample": False},
    "Table 3, no GP, 3x3": {"attention": None, "global_context": False},
    "Table 3, GP, 1x1": {"attention": None, "low_level_kernel_size": 1},
    "Table 3, GP, 3x3; Table 4": {"attention": None},
    "Table 5, PAN": {},
    "each channel its attention": {"attention_channels": None},
}


class TestPAN:
    @pytest.mark.parametrize("options", ROWS.values(), ids=ROWS.keys())
    def test_rows_of_the_tables(self, options: dict[str, Any]) -> None:
        """Each network, put together by hand from the paper's parts on the backbone's maps; and it trains."""
        network = make_irregular(make_pan(**options)).eval()
        images = torch.randn(2, 3, 48, 33, dtype=torch.float64)
        with torch.no_grad():
            res2, res3, res4, x = network.backbone(images)
            attention = options.get("attention", "pyramid")
            if attention == "pyramid":
                pooling, branch = options.get("pooling", "average"), options.get("global_pooling", "add")
                x = naive_fpa(network.fpa, x, pooling, branch)
            elif attention == "squeeze_excitation":
                x = naive_squeeze_excitation(network.fpa, x)
            else:
                x = convolve(x, network.fpa)
            if options.get("global_attention_upsample", True):
                for gau, low in zip(network.gaus, (res4, res3, res2), strict=True):
                    x = naive_gau(gau, low, x, options.get("global_context", True))
            logits = (
                torch.einsum("bchw,kc->bkhw", x, network.head.weight[:, :, 0, 0]) + network.head.bias[:, None, None]
            )
            torch.testing.assert_close(network(images), upsample(logits, images), rtol=0, atol=1e-8)

        network.train()
        losses = network.losses(images, torch.randint(0, 4, (2, 48, 33)))
        assert list(losses) == ["segmentation"]
        losses["segmentation"].backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), name
        assert any(p.grad.abs().max() > 0 for p in network.fpa.parameters())

    def test_defaults_are_the_papers(self) -> None:
        assert PAN.default_output_stride == 16
        network = PAN(backbone=Backbone("resnet18", output_stride=PAN.default_output_stride), num_classes=4).eval()
        defaults = {p.name: p.default for p in inspect.signature(PAN).parameters.values()}
        assert defaults["decoder_channels"] == 256
        assert isinstance(network.fpa, FeaturePyramidAttention)
        assert [block[0].kernel_size[0] for block in network.fpa.down] == [7, 5, 3]
        assert not network.fpa.max_pooling
        assert network.fpa.attention(torch.randn(1, 512, 4, 4)).shape == (1, 1, 4, 4)
        assert network.fpa.global_branch is not None
        assert network.fpa.project is None
        res2, res3, res4, res5 = network.backbone(torch.randn(1, 3, 64, 48))
        assert res5.shape[-2:] == res4.shape[-2:] == (4, 3)
        assert [gau.reduce[0].in_channels for gau in network.gaus] == [x.shape[1] for x in (res4, res3, res2)]
        assert all(gau.reduce[0].kernel_size == (3, 3) for gau in network.gaus)
        assert all(gau.gate[1][0].in_channels == 256 for gau in network.gaus)
        assert network.head.in_channels == 256

    def test_fewer_parts_have_fewer_parameters(self) -> None:
        def count(**options: Any) -> int:
            return sum(p.numel() for p in make_pan(**options).parameters())

        assert count(kernel_sizes=(3, 3, 3)) < count() < count(attention_channels=None)
        assert count(global_pooling=None) < count() < count(global_pooling="concat")
        assert count(attention=None) < count(attention="squeeze_excitation")
        assert count(global_attention_upsample=False) < count(low_level_kernel_size=1) < count()
        assert count(global_context=False) < count()
        assert count(pooling="max") == count()

    def test_without_attention_the_context_is_a_convolution(self) -> None:
        network = make_pan(attention=None)
        assert isinstance(network.fpa, ConvNormAct)
        assert network.fpa[0].kernel_size == (1, 1)

    def test_one_image_trains_with_the_running_statistics_of_the_global_branches(self) -> None:
        network = make_pan().train()
        pooled = [network.fpa.global_branch[1][1], *(gau.gate[1][1] for gau in network.gaus)]
        for norm in pooled:
            norm.running_mean.uniform_(-0.1, 0.1)
        before = [norm.running_mean.clone() for norm in pooled]
        images, labels = torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.int64)

        network.losses(images, labels)["segmentation"].backward()
        assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(pooled, before, strict=True))
        assert all(norm.running_var.eq(1).all() and norm.num_batches_tracked == 0 for norm in pooled)
        assert all(norm.bias.grad.abs().max() > 0 for norm in pooled)
        assert network.fpa.reduce[1].num_batches_tracked == 1

        high = torch.randn(1, 32, 4, 4)
        gate = network.gaus[0].gate
        torch.testing.assert_close(gate(high), convolve(global_average(high), gate.eval()[1]))

    def test_two_images_move_the_running_statistics_of_the_global_branches(self) -> None:
        network = make_pan().train()
        network(torch.randn(2, 3, 64, 64))
        assert network.fpa.global_branch[1][1].num_batches_tracked == 1
        assert all(gau.gate[1][1].num_batches_tracked == 1 for gau in network.gaus)

    def test_explains_with_what_it_multiplied_by(self) -> None:
        network = make_pan().eval()
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            explained = network.explain(images)
            *_, res4, res5 = network.backbone(images)
            high = network.fpa(res5)
            torch.testing.assert_close(explained["attention"], network.fpa.attention(res5))
            torch.testing.assert_close(explained["gate_res4"], network.gaus[0].gate(high))
            high = network.gaus[0](res4, high)
            torch.testing.assert_close(explained["gate_res3"], network.gaus[1].gate(high))

    @pytest.mark.parametrize("at", [(0, 0), (47, 20), (30, 32)], ids=str)
    def test_explains_what_a_pixel_depends_on(self, at: tuple[int, int]) -> None:
        network = make_irregular(make_pan(attention_channels=None)).eval()
        images = torch.randn(2, 3, 33, 48, dtype=torch.float64)
        column, row = (at[0] + 0.5) / 48, (at[1] + 0.5) / 33

        def shares(output: Tensor, x: Tensor) -> Tensor:
            """How much the vector where the pixel is grows with each position of x."""
            vectors = output[:, :, int(row * output.shape[2]), int(column * output.shape[3])]
            (gradient,) = torch.autograd.grad((vectors**2).sum(dim=1).sqrt().sum(), x)
            return gradient.abs().sum(dim=1, keepdim=True) / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)

        with torch.no_grad():
            explained, without = network.explain(images, at), network.explain(images)
            *low_levels, x = network.backbone(images)
        x.requires_grad_()
        expected = {"attention_at": shares(naive_attention(network.fpa, x, "average"), x)}
        high = naive_fpa(network.fpa, x, "average", "add").detach()
        for name, gau, low in zip(("res4", "res3", "res2"), network.gaus, reversed(low_levels), strict=True):
            high.requires_grad_()
            output = naive_gau(gau, low, high)
            expected[f"gau_at_{name}"] = shares(output, high)
            high = output.detach()
        assert explained.keys() - without.keys() == expected.keys()
        for name, look in expected.items():
            torch.testing.assert_close(explained[name], look, rtol=1e-6, atol=1e-9, msg=name)

    def test_without_gates_only_attention_is_of_a_pixel(self) -> None:
        network = make_pan(global_context=False).eval()
        images = torch.randn(1, 3, 33, 48)
        assert network.explain(images, (3, 4)).keys() - network.explain(images).keys() == {"attention_at"}
        with pytest.raises(InputError, match=r"at \(48, 0\): expected a pixel"):
            network.explain(images, (48, 0))
