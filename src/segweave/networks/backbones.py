"""Backbones: a timm model as the source of a pyramid of feature maps."""

import difflib
from typing import Any, Literal, Self

import timm
import timm.data
import torch
import torch.nn.functional as F
from timm.layers.global_context import GlobalContext
from timm.layers.non_local_attn import NonLocalAttn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segweave.errors import InputError

Attention = Literal["none", "non_local", "global_context"]

STRIDES = (4, 8, 16, 32)
"""The strides of the four maps, res2 to res5 in the papers' terms, before any is dilated."""

PROBE_SIZE = (67, 65)
"""An image size that is a multiple of nothing: a model that takes it takes any."""


class Backbone(nn.Module):
    """A timm model without its classifier: images in, four feature maps out, from fine to coarse (res2, res3, res4,
    res5).

    Args:
        name: The name of any timm model that gives maps at strides 4, 8, 16 and 32: ResNets (`resnet18`, `resnet50`,
            and the deep-stem `resnet50s`, `resnet101s`, in which three 3x3 convolutions replace the 7x7: PAN, Section
            3.3), ConvNeXt, EfficientNet, Swin, ...
        output_stride: The stride of the coarsest map: 32, or 16 or 8, for which the last one or two stages are dilated
            instead of strided.
        pretrained: Whether to load timm's weights for the model; needs a network, or the weights in the hub's cache.
        attention: Blocks that a ResNet gets (FPT, Section 4.1: NL-ResNet and GC-ResNet), in place of attention that it
            may have of its own. timm puts one at the end of every residual branch, before it is added.
            "global_context" (Cao et al., "GCNet", ICCVW 2019, fused by addition as there): all of them; theirs spares
            res2. "non_local" (Wang et al., "Non-local Neural Networks", CVPR 2018): the last one of res4 alone, near
            where theirs is, since it makes a table of all pairs of positions: 40 MB there for an image of 800 x 1000,
            10 GB in res2. Both start by changing nothing, so that pretrained weights, which don't have them, keep their
            meaning. In a frozen backbone they stay that way.

    Attributes:
        channels: The channels of the four maps.
        strides: The strides of the four maps, none above `output_stride`.
        mean, std: What the model's images are normalised with, (red, green, blue) for intensities in [0, 1].
        frozen: Whether `freeze` was called.
        batch_norm_frozen: Whether `freeze_batch_norm` was called.

    Raises:
        InputError: The model is unknown, has no such pyramid, cannot be dilated, takes no such attention, or its
            weights cannot be loaded.
    """

    def __init__(
        self, name: str, *, output_stride: int = 32, pretrained: bool = False, attention: Attention = "none"
    ) -> None:
        super().__init__()
        self.name = name
        self.output_stride = output_stride
        self.frozen = False
        self.batch_norm_frozen = False
        self.features, self._levels, self.size_multiple = _create_features(name, output_stride, pretrained, attention)
        if attention == "non_local":
            _keep_last_non_local_block(self.features, _feature_info(self.features).module_name(self._levels[2]))
        if attention == "global_context":
            _start_from_nothing(self.features)
        all_channels = _feature_info(self.features).channels()
        self.channels: tuple[int, ...] = tuple(all_channels[level] for level in self._levels)
        self.strides: tuple[int, ...] = tuple(min(stride, output_stride) for stride in STRIDES)
        settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
        self.mean: tuple[float, ...] = tuple(settings.mean if settings else timm.data.IMAGENET_DEFAULT_MEAN)
        self.std: tuple[float, ...] = tuple(settings.std if settings else timm.data.IMAGENET_DEFAULT_STD)

    def freeze(self) -> None:
        """Keeps the backbone as it is from now on: its parameters get no gradients, and it stays in evaluation mode, so
        that batch norm neither takes nor changes statistics and nothing is dropped (FPT, Section 4.2: "fixing the
        parameters of backbone").

        Nothing of it is kept for a backward pass then, as long as the images need no gradients themselves.
        """
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def freeze_batch_norm(self) -> None:
        """Keeps the backbone's batch norm as it is from now on, in training too: it normalises with the statistics that
        it has, and its factors and offsets get no gradients. The rest of the backbone is trained.

        For detectors, whose batches are too small for statistics; the norms that follow the backbone are left alone, as
        are those of non-local blocks, which have learnt nothing yet. A backbone without batch norm stays as it is.
        """
        self.batch_norm_frozen = True
        for norm in self._batch_norms():
            norm.requires_grad_(False)
            norm.eval()

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; what is frozen stays in evaluation mode, also when the network that the
        backbone belongs to is set."""
        super().train(mode and not self.frozen)
        if self.batch_norm_frozen:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _batch_norms(self) -> list[nn.Module]:
        added = {id(part) for block in self.modules() if isinstance(block, NonLocalAttn) for part in block.modules()}
        return [module for module in self.modules() if isinstance(module, _BatchNorm) and id(module) not in added]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Computes the feature maps.

        Args:
            images: (B, 3, H, W), normalised, H and W from 32 up.

        Returns:
            Four maps (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])); some models round the size down.
        """
        height, width = images.shape[-2:]
        pad_height, pad_width = -height % self.size_multiple, -width % self.size_multiple
        if self.training and images.shape[0] == 1 and max(height, width) < 2 * self.output_stride:
            pad_width += self.output_stride  # batch norm can't train on the single value that a 1x1 map would have
        if not pad_height and not pad_width:
            maps = self.features(images)
            return [self._as_nchw(maps[level]) for level in self._levels]
        maps = self.features(F.pad(images, (0, pad_width, 0, pad_height), mode="replicate"))
        return [
            self._as_nchw(maps[level])[..., : -(-height // stride), : -(-width // stride)]
            for level, stride in zip(self._levels, self.strides, strict=True)
        ]

    def _as_nchw(self, x: Tensor) -> Tensor:
        channels_last = str(getattr(self.features, "output_fmt", "NCHW")).endswith("NHWC")
        return x.permute(0, 3, 1, 2) if channels_last else x


def _create_features(
    name: str, output_stride: int, pretrained: bool, attention: Attention
) -> tuple[nn.Module, list[int], int]:
    """Creates the timm model; says which of its maps are the pyramid, and of which number its image sizes must be
    multiples (mostly 1)."""
    if output_stride not in (8, 16, 32):
        raise InputError(f"output_stride {output_stride} of backbone {name!r}: expected 8, 16 or 32")
    if ":" not in name and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"backbone {name!r} is not a model that timm knows{hint}")
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    if attention != "none":
        options["block_args"] = {"attn_layer": _attention_layer(attention)}
    features = _architecture(name, options)
    if attention != "none" and not any(
        isinstance(module, (GlobalContext, NonLocalAttn)) for module in features.modules()
    ):
        raise _takes_no_attention(name)
    levels = _pyramid_levels(name, features, output_stride)
    size_multiple = _size_multiple(features)
    if size_multiple is None:
        options["strict_img_size"] = (
            False  # Swin and its kin are built for one image size unless told that sizes change
        )
        try:
            size_multiple = _size_multiple(timm.create_model(name, features_only=True, **options))
        except TypeError:  # a model that knows no such option
            size_multiple = None
    if size_multiple is None:
        raise InputError(f"backbone {name!r} takes images of one fixed size only, and dense prediction needs any")
    if pretrained or "strict_img_size" in options:
        features = _with_pretrained_weights(name, options) if pretrained else _architecture(name, options)
    return features, levels, size_multiple


def _architecture(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, **options)
    except (TypeError, AssertionError, ValueError, NotImplementedError) as error:
        if "block_args" in options:
            raise _takes_no_attention(name) from error
        if "output_stride" in options:
            raise InputError(
                f"backbone {name!r} can't be dilated to output_stride {options['output_stride']}: "
                "expected one that can (ResNets, ConvNeXt, EfficientNet, ...), or output_stride 32"
            ) from error
        raise InputError(f"backbone {name!r} can't be made: {_first_line(error)}") from error
    except (RuntimeError, AttributeError, OSError) as error:
        raise InputError(f"backbone {name!r} can't be made: {_first_line(error)}") from error


def _attention_layer(attention: Attention) -> str:
    """What timm calls it; "gc" there would scale the map instead of adding to it."""
    layers = {"non_local": "nl", "global_context": "gca"}
    if attention not in layers:
        raise InputError(f"backbone attention {attention!r}: expected one of none, {', '.join(layers)}")
    return layers[attention]


def _takes_no_attention(name: str) -> InputError:
    return InputError(f"backbone {name!r} takes no attention blocks: expected a ResNet, or attention 'none'")


def _keep_last_non_local_block(features: nn.Module, stage: str) -> None:
    """Removes all non-local blocks but the last one of a stage."""
    paths = [path for path, module in features.named_modules() if isinstance(module, NonLocalAttn)]
    kept = [path for path in paths if path.startswith(f"{stage}.")][-1]
    for path in paths:
        if path != kept:
            parent, _, own = path.rpartition(".")
            setattr(features.get_submodule(parent), own, None)  # a residual block looks whether it has one


def _start_from_nothing(features: nn.Module) -> None:
    """Lets global-context blocks add nothing at first, as their paper does; a ResNet has given them weights."""
    for module in features.modules():
        if isinstance(module, GlobalContext):
            for parameter in module.mlp_add.fc2.parameters():
                nn.init.zeros_(parameter)


def _with_pretrained_weights(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such file, no weights for this model
        raise InputError(
            f"the pretrained weights of {name!r} can't be loaded: {_first_line(error)} "
            "(they come from the hub: expected a network, or the weights in its cache; without them leave "
            "`pretrained` off)"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@torch.no_grad()
def _size_multiple(features: nn.Module) -> int | None:
    """Of which number the model's image sizes must be multiples: 1 where it takes any size, 32, or None where neither
    works."""
    features.eval()
    try:
        for multiple in (1, 32):
            height, width = (-(-side // multiple) * multiple for side in PROBE_SIZE)
            try:
                features(torch.zeros(1, 3, height, width))
            except (AssertionError, RuntimeError, ValueError):
                continue
            return multiple
    finally:
        features.train()
    return None


def _feature_info(features: nn.Module) -> Any:
    """What timm tells of a model's feature maps."""
    return features.feature_info


def _pyramid_levels(name: str, features: nn.Module, output_stride: int) -> list[int]:
    """The indices of the model's maps that make up the pyramid res2 to res5."""
    reductions = _feature_info(features).reduction()
    expected = [min(stride, output_stride) for stride in STRIDES]
    levels = [level for level, reduction in enumerate(reductions) if reduction >= STRIDES[0]]
    if [reductions[level] for level in levels] != expected:
        raise InputError(
            f"backbone {name!r} has no pyramid: expected maps at strides {expected}, it has them at {reductions}"
        )
    return levels
