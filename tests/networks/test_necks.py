"""The pyramids that detectors look at, against naive transcriptions."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segweave.cost.activation_memory import peak_activation_bytes
from segweave.models import create_model
from segweave.networks.backbones import Backbone
from segweave.networks.fpt import FeaturePyramidTransformer
from segweave.networks.fpt_transformers import FPTOptions
from segweave.networks.layers import ConvNormAct, DropBlock2d
from segweave.networks.necks import (
    Neck,
    NeckName,
    PathAggregation,
    PlainPyramid,
    TopDownPyramid,
    TransformedPyramid,
    make_neck,
)
from tests.networks.transcription import convolve, make_irregular, upsample

NECKS: dict[NeckName, type[Neck]] = {
    "bfp": PlainPyramid,
    "fpn": TopDownPyramid,
    "bpa": PathAggregation,
    "fpt": TransformedPyramid,
}
CHANNELS = (5, 6, 7, 8)
SIZES = [
    [(16, 24), (8, 12), (4, 6), (2, 3)],
    [(15, 9), (8, 5), (4, 3), (2, 2)],  # rounded up
    [(15, 9), (7, 4), (3, 2), (1, 1)],  # rounded down, as by models without padding
    [(1, 1), (1, 1), (1, 1), (1, 1)],
]


def source(strides: Sequence[int] = (4, 8, 16, 32)) -> Backbone:
    """All that a neck asks of a backbone."""
    return cast(Backbone, SimpleNamespace(channels=CHANNELS, strides=tuple(strides)))


def some_maps(sizes: Sequence[tuple[int, int]], batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)
        for channels, size in zip(CHANNELS, sizes, strict=True)
    ]


def make(name: NeckName, **options: Any) -> Neck:
    torch.manual_seed(4)
    neck = make_neck(name, source(), 8, FPTOptions(**options))
    for parameter in neck.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -0.5, 0.5)  # offsets that do something
    return cast(Neck, make_irregular(neck))


def nearest(x: Tensor, like: Tensor) -> Tensor:
    """Each position of the larger map has the value of the one that it lies in."""
    rows = torch.arange(like.shape[2]) * x.shape[2] // like.shape[2]
    columns = torch.arange(like.shape[3]) * x.shape[3] // like.shape[3]
    return x[:, :, rows][:, :, :, columns]


def naive_top_down(neck: TopDownPyramid, maps: Sequence[Tensor]) -> list[Tensor]:
    levels: list[Tensor] = []
    above: Tensor | None = None
    parts = zip(neck.top_down.inner_blocks, neck.top_down.layer_blocks, maps, strict=True)
    for lateral, smooth, x in reversed(list(parts)):
        above = convolve(x, lateral[0]) if above is None else convolve(x, lateral[0]) + nearest(above, x)
        levels.insert(0, convolve(above, smooth[0]))
    return levels


def naive_bottom_up(neck: PathAggregation, maps: Sequence[Tensor]) -> list[Tensor]:
    finest, *coarser = naive_top_down(neck, maps)
    levels = [finest]
    for x, reduce, fuse in zip(coarser, neck.reduce, neck.fuse, strict=True):
        reduced = convolve(levels[-1], reduce)[:, :, ::2, ::2].clamp(min=0)
        reduced = reduced if reduced.shape == x.shape else upsample(reduced, x)
        levels.append(convolve(reduced + x, fuse).clamp(min=0))
    return levels


def naive_levels(neck: Neck, maps: Sequence[Tensor]) -> list[Tensor]:
    if isinstance(neck, PathAggregation):
        return naive_bottom_up(neck, maps)
    if isinstance(neck, TopDownPyramid):
        return naive_top_down(neck, maps)
    assert isinstance(neck, PlainPyramid)
    laterals = [convolve(x, lateral) for x, lateral in zip(maps, neck.lateral, strict=True)]
    return neck.transformer(laterals) if isinstance(neck, TransformedPyramid) else laterals


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_necks_are_their_papers(name: NeckName, sizes: list[tuple[int, int]]) -> None:
    neck, maps = make(name).eval(), some_maps(sizes)
    assert type(neck) is NECKS[name]
    with torch.no_grad():
        levels, expected = neck(maps), naive_levels(neck, maps)
    assert len(levels) == 5
    for level, naive, (height, width) in zip(levels, expected, sizes, strict=False):
        assert level.shape == (2, 8, height, width)
        torch.testing.assert_close(level, naive, rtol=1e-9, atol=1e-9)
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


@pytest.mark.parametrize("name", NECKS)
def test_every_parameter_is_trained(name: NeckName) -> None:
    neck = make(name)
    sum(level.square().sum() for level in neck(some_maps(SIZES[1]))).backward()
    for parameter_name, parameter in neck.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", NECKS)
def test_levels_keep_the_strides_of_a_dilated_backbone(name: NeckName) -> None:
    torch.manual_seed(5)
    neck = make_neck(name, source((4, 8, 8, 8)), 8).double()
    assert neck.strides == (4, 8, 8, 8, 16)
    assert neck.channels == 8
    levels = neck(some_maps([(8, 10), (4, 5), (4, 5), (4, 5)]))
    assert [tuple(level.shape[2:]) for level in levels] == [(8, 10), (4, 5), (4, 5), (4, 5), (2, 3)]


class TestTransformedPyramid:
    def test_is_the_transformer_of_the_laterals(self) -> None:
        options: dict[str, Any] = {"grounding": "local", "square_size": 3, "self_parts": 4, "grounding_parts": 2}
        neck, maps = make("fpt", **options).eval(), some_maps(SIZES[0])
        assert isinstance(neck, TransformedPyramid)
        alone = FeaturePyramidTransformer([8] * 4, 8, FPTOptions(**options)).double().eval()
        alone.load_state_dict(neck.transformer.state_dict())
        with torch.no_grad():
            expected = alone([convolve(x, lateral) for x, lateral in zip(maps, neck.lateral, strict=True)])
            for level, other in zip(neck.levels(maps), expected, strict=True):
                torch.testing.assert_close(level, other)

    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            ({"grounding": "none", "rendering": False}, ("st",)),
            ({"self_transformer": False, "rendering": False}, ("gts",)),
            ({"self_transformer": False, "grounding": "none"}, ("rts",)),
            ({"rendering": False}, ("st", "gts")),
            ({}, ("st", "gts", "rts")),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else ", ".join(sorted(value)),
    )
    def test_has_the_transformers_that_are_asked_for(self, options: dict[str, Any], parts: tuple[str, ...]) -> None:
        neck = make("fpt", **options)
        names = {name.split(".")[3] for name, _ in neck.named_parameters() if name.startswith("transformer.levels.")}
        assert names == {"fuse", *parts}
        assert len(neck(some_maps(SIZES[1]))) == 5

    @pytest.mark.parametrize(
        ("model", "options", "activated"),
        [
            ("mask_rcnn", {"neck": "fpt"}, False),
            ("mask_rcnn", {"neck": "fpt", "activated_levels": True}, True),
            ("fpt", {}, True),
            ("fpt", {"activated_levels": False}, False),
        ],
        ids=str,
    )
    def test_what_ends_a_level_is_an_option_of_networks(
        self, model: str, options: dict[str, Any], activated: bool
    ) -> None:
        network = create_model(model, num_classes=2, backbone="test_resnet", channels=8, **options)
        (transformer,) = (part for part in network.modules() if isinstance(part, FeaturePyramidTransformer))
        assert [isinstance(level.fuse, ConvNormAct) for level in transformer.levels] == 4 * [activated]

    def test_drops_squares_of_its_levels_as_the_paper_does(self) -> None:
        (drop_block,) = (module for module in make("fpt").modules() if isinstance(module, DropBlock2d))
        assert (drop_block.block_size, drop_block.keep_probability) == (5, 0.9)

    def test_makes_no_table_of_all_pairs_for_an_image_of_800_by_1000(self) -> None:
        sizes = [(200, 250), (100, 125), (50, 63), (25, 32)]
        neck = make("fpt").float()

        class OnNewMaps(nn.Module):
            def forward(self, images: Tensor) -> list[Tensor]:
                return neck([torch.empty(1, channels, *size) for channels, size in zip(CHANNELS, sizes, strict=True)])

        with FakeTensorMode(allow_non_fake_inputs=True):  # tensors of these sizes, without numbers
            peak = peak_activation_bytes(OnNewMaps(), torch.empty(0))
        assert peak < 4 * (200 * 250) ** 2 / 50

    def test_explains_its_levels(self) -> None:
        neck, maps = make("fpt").eval(), some_maps(SIZES[1], batch=1)
        images = torch.zeros(1, 3, 60, 36)
        with torch.no_grad():
            explained, levels = neck.explain(maps, images, at=(35, 0)), neck(maps)
        for number, level in enumerate(levels[:4], start=1):
            assert torch.equal(explained[f"transformed_level{number}"], level)
        assert explained["grounding_from_level4_level1"].shape == (1, 1, 2, 2)
        torch.testing.assert_close(explained["self_attention_level1"].sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("bfp", []),
        ("fpn", [(source, level) for level in range(1, 5) for source in range(level + 1, 6)]),
        ("bpa", [(source, level) for level in range(1, 5) for source in range(2, 6)]),
    ],
    ids=["bfp", "fpn", "bpa"],
)
def test_other_necks_explain_their_levels_and_what_they_see(name: NeckName, sources: list[tuple[int, int]]) -> None:
    neck, maps = make(name), some_maps(SIZES[1])
    explained = neck.explain(maps, torch.zeros(2, 3, 60, 36), at=(0, 0))
    levels = neck.levels(maps)
    for number, level in enumerate(levels, start=1):
        torch.testing.assert_close(explained[f"level{number}"], level)
    looks = {key: look for key, look in explained.items() if key.startswith("influence")}
    assert set(neck.explain(maps, torch.zeros(2, 3, 60, 36))) == set(explained) - set(looks)
    assert set(looks) == {f"influence_from_res{source}_level{level}" for source, level in sources}
    for key, look in looks.items():
        source, level = int(key[18]), int(key[-1])
        assert look.shape[2:] == maps[source - 2].shape[2:]
        inputs = [x.clone().requires_grad_() for x in maps]
        length = neck.levels(inputs)[level - 1][:, :, 0, 0].norm(dim=1).sum()
        (gradient,) = torch.autograd.grad(length, inputs[source - 2], allow_unused=True, materialize_grads=True)
        naive = gradient.abs().sum(dim=1, keepdim=True)
        expected = naive / naive.sum(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(naive.dtype).tiny)
        torch.testing.assert_close(look, expected)


def test_unknown_neck() -> None:
    with pytest.raises(ValueError, match="neck 'pafpn': expected one of bfp, fpn, bpa, fpt"):
        make_neck(cast(NeckName, "pafpn"), source(), 8)


@pytest.mark.parametrize("name", ["bfp", "fpn", "bpa"])
def test_what_only_fpt_can_do(name: NeckName) -> None:
    with pytest.raises(ValueError, match=f"square_size 3 with neck '{name}': it is FPT's, expected neck 'fpt'"):
        make_neck(name, source(), 8, FPTOptions(square_size=3))
