"""Backbones of several families: their pyramids, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import GlobalContext, NonLocalAttn
from torch import Tensor, nn

from segweave.errors import InputError
from segweave.networks.backbones import Attention, Backbone
from segweave.training.callbacks import SynchronisedBatchNorm

CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet50s": (256, 512, 1024, 2048),
    "convnext_atto": (40, 80, 160, 320),
    "mobilenetv3_small_100": (16, 24, 48, 576),
    "swin_tiny_patch4_window7_224": (96, 192, 384, 768),
    "vgg11": (256, 512, 512, 512),
}
NOT_DILATED = ("swin_tiny_patch4_window7_224", "vgg11")
ROUNDING_DOWN = ("convnext_atto", "vgg11")
"""Models without padding, in which a last odd row or column is lost."""

PYRAMIDS = [(name, 32) for name in CHANNELS] + [
    (name, stride) for name in CHANNELS for stride in (16, 8) if name not in NOT_DILATED
]


class TestPyramid:
    @pytest.mark.parametrize(("name", "output_stride"), PYRAMIDS)
    @torch.no_grad()
    def test_channels_strides_and_sizes(self, name: str, output_stride: int) -> None:
        backbone = Backbone(name, output_stride=output_stride).eval()
        assert backbone.channels == CHANNELS[name]
        assert backbone.strides == tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))
        round_size = math.floor if name in ROUNDING_DOWN else math.ceil
        for height, width in ((64, 96), (47, 33)):
            maps = backbone(torch.randn(1, 3, height, width))
            assert [x.shape[1] for x in maps] == list(backbone.channels)
            expected = [(round_size(height / stride), round_size(width / stride)) for stride in backbone.strides]
            assert [tuple(x.shape[-2:]) for x in maps] == expected

    @torch.no_grad()
    def test_dilation_keeps_the_weights_and_the_finer_maps(self) -> None:
        strided, dilated = (Backbone("resnet18", output_stride=stride).eval() for stride in (32, 16))
        dilated.load_state_dict(strided.state_dict())
        images = torch.randn(1, 3, 64, 64)
        *finer, coarse = dilated(images)
        *expected, expected_coarse = strided(images)
        for x, expected_map in zip(finer, expected, strict=True):
            torch.testing.assert_close(x, expected_map)
        assert coarse.shape[-2:] == (4, 4)
        assert expected_coarse.shape[-2:] == (2, 2)
        assert any(m.dilation == (2, 2) for m in dilated.modules() if isinstance(m, nn.Conv2d))

    def test_deep_stem_has_three_small_convolutions(self) -> None:
        features = Backbone("resnet50s").features
        convolutions = [m for name, m in features.named_modules() if isinstance(m, nn.Conv2d) and "layer" not in name]
        assert [(m.kernel_size, m.out_channels) for m in convolutions] == [((3, 3), 64), ((3, 3), 64), ((3, 3), 128)]
        assert [m.stride for m in convolutions] == [(2, 2), (1, 1), (1, 1)]

    @torch.no_grad()
    def test_maps_of_a_channels_last_model_are_in_order(self) -> None:
        """Swin gives (B, h, w, C); a taller image must give taller maps."""
        maps = Backbone("swin_tiny_patch4_window7_224").eval()(torch.randn(1, 3, 64, 32))
        assert [tuple(x.shape) for x in maps] == [(1, 96, 16, 8), (1, 192, 8, 4), (1, 384, 4, 2), (1, 768, 2, 1)]

    def test_normalisation_is_the_models(self) -> None:
        assert Backbone("resnet18").mean == (0.485, 0.456, 0.406)
        assert Backbone("resnet18").std == (0.229, 0.224, 0.225)
        assert Backbone("test_resnet").mean == (0.5, 0.5, 0.5)


class TestTraining:
    @pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_100"])
    @pytest.mark.parametrize("size", [(32, 32), (33, 32)], ids=str)
    def test_one_small_image_at_output_stride_32(self, name: str, size: tuple[int, int]) -> None:
        backbone = Backbone(name)
        maps = backbone(torch.randn(1, 3, *size))
        round_size = math.floor if name in ROUNDING_DOWN else math.ceil
        expected = [tuple(round_size(side / stride) for side in size) for stride in backbone.strides]
        assert [tuple(x.shape[-2:]) for x in maps] == expected
        sum(x.square().mean() for x in maps).backward()
        for parameter_name, parameter in backbone.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name

    def test_small_images_are_not_enlarged_in_evaluation(self) -> None:
        backbone = Backbone("resnet18").eval()
        images = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            for x, expected in zip(backbone(images), backbone.features(images)[1:], strict=True):
                assert torch.equal(x, expected)

    def test_is_made_in_training_mode(self) -> None:
        assert all(module.training for module in Backbone("resnet18").modules())

    def test_making_one_leaves_batch_norm_untouched(self) -> None:
        norms = [m for m in Backbone("resnet18").modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(norm.num_batches_tracked == 0 and norm.running_mean.eq(0).all() for norm in norms)


class TestFrozen:
    @pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
    def test_nothing_is_kept_for_a_backward_pass(self, name: str) -> None:
        backbone = Backbone(name)
        kept: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            kept.append(x)
            return x

        images = torch.randn(2, 3, 64, 64)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            backbone(images)
            assert kept
            kept.clear()
            backbone.freeze()
            maps = backbone(images)
        assert not kept
        assert not any(x.requires_grad for x in maps)
        assert not any(parameter.requires_grad for parameter in backbone.parameters())

    def test_stays_in_evaluation_mode_in_a_network_that_trains(self) -> None:
        backbone = Backbone("resnet18")
        network = nn.Sequential(backbone, nn.Dropout())
        backbone.freeze()
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        for _ in range(2):
            network.train()
            assert network.training
            assert network[1].training
            assert not any(module.training for module in backbone.modules())
            backbone(torch.randn(2, 3, 64, 64))
            network.eval()
        for name, tensor in backbone.state_dict().items():
            assert torch.equal(tensor, before[name]), name

    def test_one_small_image(self) -> None:
        backbone = Backbone("resnet18")
        backbone.freeze()
        maps = backbone.train()(torch.randn(1, 3, 32, 32))
        assert [tuple(x.shape[-2:]) for x in maps] == [(8, 8), (4, 4), (2, 2), (1, 1)]


class TestFrozenBatchNorm:
    def test_survives_training_mode_while_the_rest_is_trained(self) -> None:
        backbone = Backbone("resnet18")
        for norm in batch_norms(backbone):
            norm.running_mean.uniform_(-0.1, 0.1)
        network = nn.Sequential(backbone, nn.BatchNorm2d(3))
        backbone.freeze_batch_norm()
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        network.eval()
        network.train()
        assert network.training
        assert network[1].training
        frozen = {id(parameter) for norm in batch_norms(backbone) for parameter in norm.parameters()}
        assert not any(norm.training for norm in batch_norms(backbone))
        images = torch.randn(2, 3, 64, 64)
        maps = backbone(images)
        sum(x.square().mean() for x in maps).backward()
        for name, parameter in backbone.named_parameters():
            assert (parameter.grad is None) == (id(parameter) in frozen), name
        assert frozen
        assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
        with torch.no_grad():
            for x, expected in zip(maps, backbone.eval()(images), strict=True):
                torch.testing.assert_close(x, expected)

    @pytest.mark.parametrize("name", ["resnet18", "test_efficientnet"])
    @torch.no_grad()
    def test_survives_synchronised_batch_norm(self, name: str) -> None:
        """EfficientNets have batch norm and activation in one module."""
        backbone, images = Backbone(name), torch.randn(1, 3, 64, 64)
        backbone.freeze_batch_norm()
        expected = backbone.eval()(images)
        converted = SynchronisedBatchNorm().apply(backbone)
        for x, other in zip(converted(images), expected, strict=True):
            torch.testing.assert_close(x, other)
        norms = [module for module in converted.train().modules() if isinstance(module, nn.SyncBatchNorm)]
        assert len(norms) == len(batch_norms(Backbone(name)))
        assert not any(norm.training or norm.weight.requires_grad or norm.bias.requires_grad for norm in norms)

    def test_a_non_local_block_can_still_learn(self) -> None:
        backbone = Backbone("resnet18", attention="non_local")
        backbone.freeze_batch_norm()
        (block,) = (module for module in backbone.train().modules() if isinstance(module, NonLocalAttn))
        assert all(module.training for module in block.modules())
        assert all(parameter.requires_grad for parameter in block.parameters())

    def test_a_frozen_backbone_stays_frozen(self) -> None:
        backbone = Backbone("resnet18")
        backbone.freeze()
        backbone.freeze_batch_norm()
        assert not any(module.training for module in backbone.train().modules())

    def test_a_backbone_without_batch_norm_is_left_alone(self) -> None:
        backbone = Backbone("convnext_atto")
        backbone.freeze_batch_norm()
        assert all(module.training for module in backbone.train().modules())
        assert all(parameter.requires_grad for parameter in backbone.parameters())


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


class TestAttention:
    @pytest.mark.parametrize("attention", ["non_local", "global_context"])
    @torch.no_grad()
    def test_changes_nothing_at_first(self, attention: Attention) -> None:
        plain, attending = Backbone("resnet18").eval(), Backbone("resnet18", attention=attention).eval()
        for norm in batch_norms(plain):
            if norm.weight.eq(0).all():
                norm.weight.uniform_(0.5, 1)  # residual branches that do something
        assert not attending.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
        images = torch.randn(1, 3, 64, 64)
        for x, expected in zip(attending(images), plain(images), strict=True):
            torch.testing.assert_close(x, expected)
        for module in attending.modules():
            if isinstance(module, (NonLocalAttn, GlobalContext)):
                for parameter in module.parameters():
                    parameter.uniform_(-0.5, 0.5)
        assert not torch.allclose(attending(images)[3], plain(images)[3], atol=1e-2)

    def test_every_block_has_global_context(self) -> None:
        backbone = Backbone("resnet26", attention="global_context")
        assert len([module for module in backbone.modules() if isinstance(module, GlobalContext)]) == 2 + 2 + 2 + 2

    @pytest.mark.parametrize("output_stride", [32, 8])
    def test_res4_alone_has_a_non_local_block(self, output_stride: int) -> None:
        backbone = Backbone("resnet26", attention="non_local", output_stride=output_stride)
        (name,) = (name for name, module in backbone.named_modules() if isinstance(module, NonLocalAttn))
        assert name.startswith("features.layer3.1.")
        sum(x.square().mean() for x in backbone(torch.randn(1, 3, 64, 64))).backward()
        assert all(parameter.grad is not None for parameter in backbone.parameters())

    @pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_100", "vgg11", "res2net50_26w_4s"])
    def test_models_that_take_none(self, name: str) -> None:
        with pytest.raises(
            InputError, match=f"backbone '{name}' takes no attention blocks: expected a ResNet, or attention 'none'"
        ):
            Backbone(name, attention="global_context")

    def test_unknown_attention(self) -> None:
        with pytest.raises(
            InputError, match="backbone attention 'dense': expected one of none, non_local, global_context"
        ):
            Backbone("resnet18", attention="dense")  # type: ignore[arg-type]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "output_stride", "message"),
        [
            ("resnet81", 32, "is not a model that timm knows; near it: .*resnet18"),
            ("no such thing", 32, "is not a model that timm knows"),
            ("", 32, "is not a model that timm knows"),
            ("resnet18.no_such_weights", 32, "no_such_weights"),
            ("vit_tiny_patch16_224", 32, r"has no pyramid: expected maps at strides \[4, 8, 16, 32\]"),
            ("vit_tiny_patch16_224", 16, "can't be dilated to output_stride 16"),
            ("vgg11", 16, "can't be dilated to output_stride 16"),
            ("swin_tiny_patch4_window7_224", 8, "can't be dilated to output_stride 8"),
            ("maxvit_nano_rw_256", 32, "one fixed size only"),
        ],
    )
    def test_names_the_backbone(self, name: str, output_stride: int, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            Backbone(name, output_stride=output_stride)
        assert f"backbone {name!r}" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("output_stride", [12, 4, 64, 0])
    def test_output_strides_that_there_are_not(self, output_stride: int) -> None:
        with pytest.raises(
            InputError, match=f"output_stride {output_stride} of backbone 'resnet18': expected 8, 16 or 32"
        ):
            Backbone("resnet18", output_stride=output_stride)

    def test_pretrained_weights_without_a_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The hub is asked once: where it can't be reached, each try may wait for it."""
        with_weights: list[bool] = []
        create = timm.create_model

        def create_and_count(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
            with_weights.append(pretrained)
            return create(name, pretrained=pretrained, **options)

        monkeypatch.setattr(timm, "create_model", create_and_count)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(InputError, match=r"pretrained weights of 'resnet18' can't be loaded.*network") as caught:
            Backbone("resnet18", pretrained=True)
        assert with_weights == [False, True]
        assert "\n" not in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_weights_can_be_stored_and_loaded(form: str, tmp_path: Path) -> None:
    source, target = (Backbone("test_resnet", output_stride=stride) for stride in (32, 16))
    path = tmp_path / "weights"
    if form == "torch":
        torch.save(source.state_dict(), path)
        state = torch.load(path, weights_only=True)
    else:
        safetensors.torch.save_file(source.state_dict(), path)
        state = safetensors.torch.load_file(path)
    target.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(target.eval()(images)[2], source.eval()(images)[2])
