"""OCNet against a naive transcription of its paper, position by position, and the memory that its attention takes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from segweave.errors import InputError
from segweave.models import create_model
from segweave.networks.losses import IGNORE_INDEX
from segweave.networks.ocnet import ObjectContextPooling, OCNet
from tests.networks.transcription import (
    assert_same_outputs_and_gradients,
    block,
    convolve,
    make_irregular,
    some_map,
    upsample,
)

SIZES = [(1, 1), (2, 3), (5, 4)]
WIDE_SIDE = 97
"""Positions along a side of the map of Cityscapes' crops: 769 pixels at output stride 8."""
WIDE_TABLE = WIDE_SIDE**4 * 4
"""Bytes of a table in float32 with a row and a column for each position of such a map: 354 MB."""


# The paper in its own words, a position at a time


def naive_weights(query: Tensor, keys: list[Tensor]) -> Tensor:
    """(B, N): how much a position with this query (B, D) attends to each position."""
    likeness = torch.stack([(query * key).sum(dim=1) / math.sqrt(key.shape[1]) for key in keys], dim=1)
    return likeness.exp() / likeness.exp().sum(dim=1, keepdim=True)


def naive_context(module: ObjectContextPooling, x: Tensor) -> Tensor:
    """Each position's context: the weighted sum of the values of all positions, transformed."""
    keys = block(x, module.query_and_key).flatten(2).unbind(dim=2)
    values = convolve(x, module.value).flatten(2).unbind(dim=2)
    pooled = []
    for query in keys:
        weights = naive_weights(query, keys).unbind(dim=1)
        pooled.append(sum(weight[:, None] * value for weight, value in zip(weights, values, strict=True)))
    return convolve(torch.stack(pooled, dim=2).unflatten(2, x.shape[-2:]), module.project)


def naive_ocnet(network: OCNet, images: Tensor) -> Tensor:
    fuse, _, classify = network.head
    x = block(network.backbone(images)[-1], network.reduce)
    return upsample(convolve(block(torch.cat([naive_context(network.context, x), x], dim=1), fuse), classify), images)


def make_ocnet(**options: Any) -> OCNet:
    torch.manual_seed(0)
    narrow = {"channels": 6, "key_channels": 4, "dropout": 0.0}
    network = create_model("ocnet", num_classes=4, backbone="test_resnet", **{**narrow, **options})
    assert isinstance(network, OCNet)
    return make_irregular(network)


def some_images(size: tuple[int, int] = (41, 33)) -> Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class TestObjectContextPooling:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_is_the_paper_s(self, training: bool, batch: int, size: tuple[int, int]) -> None:
        module = make_irregular(ObjectContextPooling(6, 4)).train(training)
        x = some_map(batch, 6, size)
        assert_same_outputs_and_gradients(module, module(x), naive_context(module, x), [x])

    @torch.no_grad()
    def test_attention_at_a_position(self) -> None:
        module = make_irregular(ObjectContextPooling(6, 4)).eval()
        x = 3 * some_map(2, 6, (5, 4))
        keys = block(x, module.query_and_key).flatten(2).unbind(dim=2)
        attention = module.attention_at(x, 3, 1)
        assert attention.shape == (2, 1, 5, 4)
        torch.testing.assert_close(attention.flatten(1), naive_weights(keys[3 * 4 + 1], keys))
        torch.testing.assert_close(attention.sum(dim=(1, 2, 3)), torch.ones(2, dtype=torch.float64))
        assert (attention - 1 / 20).abs().max() > 0.01  # otherwise all positions would be alike

    @torch.no_grad()
    def test_context_is_what_the_attention_gathers(self) -> None:
        module = make_irregular(ObjectContextPooling(6, 4)).eval()
        x = 3 * some_map(2, 6, (5, 4))
        gathered = (module.attention_at(x, 2, 3) * module.value(x)).sum(dim=(2, 3), keepdim=True)
        torch.testing.assert_close(module.project(gathered)[..., 0, 0], module(x)[:, :, 2, 3])


def peak_bytes(work: Callable[[], None], folder: Path) -> int:
    """The most bytes at once that torch allocated in `work`, those inside its kernels too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    now = peak = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        now += change["args"]["Bytes"]
        peak = max(peak, now)
    return peak


class TestMemory:
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
    def test_no_table_of_all_positions_is_kept(self, layout: torch.memory_format, tmp_path: Path) -> None:
        module = ObjectContextPooling(8, 8)
        x = torch.randn(1, 8, WIDE_SIDE, WIDE_SIDE).contiguous(memory_format=layout).requires_grad_()
        assert 0 < peak_bytes(lambda: module(x).square().mean().backward(), tmp_path) < WIDE_TABLE / 30
        assert x.grad.abs().max() > 0

    def test_a_table_would_be_seen(self, tmp_path: Path) -> None:
        module = ObjectContextPooling(8, 8)
        x = torch.randn(1, 8, 30, 30)
        with sdpa_kernel(SDPBackend.MATH):
            assert peak_bytes(lambda: module(x).sum().backward(), tmp_path) > 30**4 * 4

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_the_network_s_own_widths_have_a_fused_kernel(self, dtype: torch.dtype) -> None:
        network = create_model("ocnet", num_classes=3, backbone="test_resnet")
        assert network.context.value.out_channels == 256
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            losses = network.losses(torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64))
            sum(losses.values()).backward()
        assert network.context.query_and_key[0].weight.grad.isfinite().all()


class TestOCNet:
    labels = torch.randint(0, 4, (2, 41, 33), generator=torch.Generator().manual_seed(2))

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    def test_is_put_together_as_in_the_paper(self, training: bool) -> None:
        network = make_ocnet().train(training)
        assert_same_outputs_and_gradients(network, network(some_images()), naive_ocnet(network, some_images()))

    def test_widths(self) -> None:
        network = create_model("ocnet", num_classes=4, backbone="test_resnet")
        assert network.reduce[0].weight.shape == (512, network.backbone.channels[-1], 3, 3)
        assert network.context.query_and_key[0].weight.shape == (256, 512, 1, 1)
        assert network.context.project.weight.shape == (512, 256, 1, 1)
        assert network.head[0][0].weight.shape == (512, 1024, 1, 1)

    def test_dropout_is_for_training(self) -> None:
        network = make_ocnet(dropout=0.5)
        assert not torch.equal(network(some_images()), network(some_images()))
        network.eval()
        assert torch.equal(network(some_images()), network(some_images()))

    @pytest.mark.parametrize(("options", "weight"), [({}, 0.4), ({"auxiliary_weight": 1.5}, 1.5)])
    @torch.no_grad()
    def test_auxiliary_loss_on_res4_is_weighted(self, options: dict[str, Any], weight: float) -> None:
        network = make_ocnet(**options).eval()
        losses = network.losses(some_images(), self.labels)
        fuse, _, classify = network.auxiliary_head
        logits = upsample(convolve(block(network.backbone(some_images())[2], fuse), classify), some_images())
        expected = -logits.softmax(dim=1).gather(1, self.labels[:, None]).log().mean()
        assert list(losses) == ["segmentation", "auxiliary"]
        torch.testing.assert_close(losses["auxiliary"].double(), weight * expected)

    def test_without_auxiliary_loss_there_is_no_head(self) -> None:
        network = make_ocnet(auxiliary_weight=0.0)
        assert list(network.losses(some_images(), self.labels)) == ["segmentation"]
        assert not hasattr(network, "auxiliary_head")

    def test_auxiliary_loss_ignores_too(self) -> None:
        network = make_ocnet().eval()
        labels = self.labels.clone()
        labels[:, 10:] = IGNORE_INDEX
        some, every = (network.losses(some_images(), given)["auxiliary"] for given in (labels, self.labels))
        assert not torch.allclose(some, every)

    @pytest.mark.parametrize("options", [{"key_channels": 0}, {"channels": 0}, {"key_channels": -4}], ids=str)
    def test_widths_that_there_are_not(self, options: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=r"model 'ocnet' .* with "):
            create_model("ocnet", num_classes=4, backbone="test_resnet", **options)


class TestExplain:
    @torch.no_grad()
    def test_context_before_it_is_concatenated(self) -> None:
        network = make_ocnet().eval()
        explained = network.explain(some_images())
        assert list(explained) == ["context"]
        x = block(network.backbone(some_images())[-1], network.reduce)
        torch.testing.assert_close(explained["context"], naive_context(network.context, x))

    @pytest.mark.parametrize("pixel", [(0, 0), (32, 40), (32, 0), (15, 23), (16, 24)], ids=str)
    @torch.no_grad()
    def test_attention_at_a_pixel_is_that_of_its_position(self, pixel: tuple[int, int]) -> None:
        network = make_ocnet().eval()
        explained = network.explain(some_images(), at=pixel)
        assert list(explained) == ["context", "attention_at"]
        x = network.reduce(network.backbone(some_images())[-1])
        height, width = x.shape[-2:]
        positions = torch.arange(height * width, dtype=torch.float64).view(1, 1, height, width)
        column, row = pixel
        position = int(F.interpolate(positions, size=(41, 33), mode="nearest-exact")[0, 0, row, column])
        keys = block(x, network.context.query_and_key).flatten(2).unbind(dim=2)
        expected = naive_weights(keys[position], keys).view(2, 1, height, width)
        torch.testing.assert_close(explained["attention_at"], expected)

    @pytest.mark.parametrize("pixel", [(33, 0), (0, 41), (-1, 0), (0, -1), (40, 32)], ids=str)
    def test_pixels_that_the_images_do_not_have(self, pixel: tuple[int, int]) -> None:
        network = make_ocnet().eval()
        column, row = pixel
        expected = rf"at \({column}, {row}\): expected a pixel \(x, y\) of images of 33 x 41 pixels"
        with pytest.raises(InputError, match=expected):
            network.explain(some_images(), at=pixel)
