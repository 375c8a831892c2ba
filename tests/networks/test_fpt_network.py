"""FPT as a whole against a naive transcription of the paper: pyramids of any sizes, DropBlock, and what it explains."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from segweave.errors import InputError
from segweave.models import create_model, model_options
from segweave.networks.fpt import FPT, FeaturePyramidTransformer
from segweave.networks.fpt_transformers import FOR_OBJECTS, FOR_PIXELS, FPTOptions
from tests.networks.fpt_transcription import (
    PYRAMID,
    Size,
    make_attentive,
    naive_feature_pyramid_transformer,
    naive_gate,
    naive_interaction,
    some_maps,
)
from tests.networks.transcription import assert_same_outputs_and_gradients, block, convolve, some_map, upsample

WIDTHS = [channels for channels, _ in PYRAMID]
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "all": {},
    "all, in a square": {"grounding": "local", "square_size": 3},
    "none": {"self_transformer": False, "grounding": "none", "rendering": False},
    "ST": {"grounding": "none", "rendering": False},
    "GT": {"self_transformer": False, "rendering": False},
    "LGT": {"self_transformer": False, "grounding": "local", "rendering": False},
    "RT": {"self_transformer": False, "grounding": "none"},
    "other parts": {"self_parts": 4, "grounding_parts": 2},
    "other similarities": {"self_similarity": "euclidean", "grounding_similarity": "dot"},
    "plain softmax": {"normaliser": "softmax", "grounding": "local"},
    "distances as printed": {"distance_scaling": "none"},
}


def transformer_of(in_channels: list[int], channels: int, **options: Any) -> FeaturePyramidTransformer:
    return FeaturePyramidTransformer(in_channels, channels, FPTOptions(**options))


def joined(maps: list[Tensor]) -> Tensor:
    return torch.cat([x.flatten(1) for x in maps], dim=1)


class TestFeaturePyramidTransformer:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("options", TRANSFORMERS.values(), ids=TRANSFORMERS.keys())
    @pytest.mark.parametrize("activated", [True, False], ids=["activated", "plain"])
    def test_is_the_paper_s(self, options: dict[str, Any], training: bool, activated: bool) -> None:
        module = transformer_of(WIDTHS, 8, keep_probability=1.0, activated_levels=activated, **options)
        make_attentive(module).train(training)
        maps = some_maps()
        levels, expected = module(maps), naive_feature_pyramid_transformer(module, maps, **options)
        assert [x.shape for x in levels] == [(2, 8, *size) for _, size in PYRAMID]
        assert min(float(level.min()) for level in levels) < 0 or activated
        assert_same_outputs_and_gradients(module, joined(levels), joined(expected), maps)

    @pytest.mark.parametrize("options", [{"grounding": "local"}, {}], ids=str)
    def test_levels_of_one_size(self, options: dict[str, Any]) -> None:
        module = make_attentive(transformer_of([3, 3, 3], 8, **options)).eval()
        maps = some_maps(*[(3, (5, 4))] * 3)
        expected = naive_feature_pyramid_transformer(module, maps, **options)
        assert_same_outputs_and_gradients(module, joined(module(maps)), joined(expected), maps)

    @torch.no_grad()
    def test_one_level_and_one_image(self) -> None:
        module = make_attentive(transformer_of([3], 8)).eval()
        x = some_map(1, 3, (5, 4))
        torch.testing.assert_close(module([x]), naive_feature_pyramid_transformer(module, [x]))

    def test_a_level_is_concatenated_with_what_is_named(self) -> None:
        """Level 2 of 4: itself, ST, GT from levels 3 and 4, RT from level 1, of 8 channels each but for itself."""
        level = transformer_of(WIDTHS, 8).levels[1]
        assert level.fuse.weight.shape == (8, 5 + 4 * 8, 3, 3)
        assert [ground.key.in_channels for ground in level.grounding] == [4, 6]
        assert [render.reduce.in_channels for render in level.rendering] == [3]
        alone = transformer_of(WIDTHS, 8, **TRANSFORMERS["none"]).levels
        assert [each.fuse.in_channels for each in alone] == WIDTHS

    @pytest.mark.parametrize("count", [0, 3, 5])
    def test_other_numbers_of_maps(self, count: int) -> None:
        module = transformer_of([3] * 4, 8)
        with pytest.raises(ValueError, match=f"{count} maps: expected one for each of 4 levels"):
            module([torch.randn(2, 3, 5, 4)] * count)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"keep_probability": 0.0}, "keep_probability 0.0: expected one above 0, and 1 at most"),
            ({"keep_probability": -0.1}, "keep_probability -0.1: expected one above 0, and 1 at most"),
            ({"keep_probability": 1.1}, "keep_probability 1.1: expected one above 0, and 1 at most"),
            ({"self_parts": 3}, "8 channels in 3 parts: expected a multiple of the parts"),
            ({"grounding_parts": 5}, "8 channels in 5 parts: expected a multiple of the parts"),
            ({"grounding": "local", "square_size": 2}, "square_size 2: expected an odd number of positions"),
            ({"drop_block_size": 4}, "drop_block_size 4: expected an odd number of positions"),
            ({"grounding": "nowhere"}, "grounding 'nowhere': expected one of local, global, none"),
            ({"normaliser": "sigmoid"}, "normaliser 'sigmoid': expected one of mixture, softmax"),
            ({"distance_scaling": "half"}, "distance_scaling 'half': expected one of square_root, none"),
            ({"self_similarity": "cosine"}, "similarity 'cosine': expected one of dot, euclidean"),
            ({"grounding_similarity": "cosine"}, "similarity 'cosine': expected one of dot, euclidean"),
        ],
        ids=str,
    )
    def test_options_that_there_are_not(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            transformer_of([3, 4], 8, **options)


class TestDropBlock:
    def transformed(self, *, seed: int = 2, training: bool = True, **options: Any) -> list[Tensor]:
        """What becomes of the maps, with weights that are the same each time."""
        torch.manual_seed(0)
        module = transformer_of([3, 3], 16, **TRANSFORMERS["none"], **options).train(training)
        for level in module.levels:
            nn.init.constant_(level.fuse.bias, 6.0)  # no position is 0 by itself
        maps = [torch.randn(2, 3, size, size) for size in (48, 32)]
        torch.manual_seed(seed)
        with torch.no_grad():
            return module(maps)

    @pytest.mark.parametrize(("options", "side"), [({}, 5), ({"drop_block_size": 3}, 3)], ids=str)
    def test_drops_squares_of_each_channel(self, options: dict[str, Any], side: int) -> None:
        everything = self.transformed(keep_probability=1.0)
        for kept, whole in zip(self.transformed(**options), everything, strict=True):
            assert whole.min() > 0
            dropped = kept == 0
            assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.03)
            torch.testing.assert_close(kept, whole.where(~dropped, 0) / (~dropped).float().mean())
            squares = -F.max_pool2d(-F.pad(dropped.float(), [0] * 4), side, stride=1)  # 1 where one is dropped
            covered = F.max_pool2d(F.pad(squares, [side - 1] * 4), side, stride=1)
            assert torch.equal(covered.bool(), dropped)
            assert (-F.max_pool2d(-dropped.float(), side + 2, stride=1)).mean() < squares.mean() / 4
            assert not torch.equal(dropped[:, 0], dropped[:, 1])

    def test_drops_as_many_as_is_said(self) -> None:
        for kept in self.transformed(keep_probability=0.6, drop_block_size=3):
            assert kept.eq(0).float().mean().item() == pytest.approx(0.4, abs=0.1)

    def test_is_for_training(self) -> None:
        everything = self.transformed(training=False, keep_probability=1.0)
        assert all(map(torch.equal, self.transformed(training=False, keep_probability=0.5), everything))

    def test_follows_the_seed(self) -> None:
        first, again, other = (self.transformed(seed=seed) for seed in (3, 3, 4))
        assert all(map(torch.equal, first, again))
        assert not any(map(torch.equal, first, other))

    def test_keep_probability_1_drops_nothing(self) -> None:
        kept = self.transformed(keep_probability=1.0)
        assert all(x.min() > 0 for x in kept)
        assert all(map(torch.equal, kept, self.transformed(keep_probability=1.0, seed=5)))

    @pytest.mark.parametrize("side", [1, 3])
    def test_maps_smaller_than_a_square(self, side: int) -> None:
        module = transformer_of([3, 3], 8)
        levels = module([torch.randn(2, 3, 2 * side + 1, 2 * side + 1), torch.randn(2, 3, side, side)])
        assert all(x.isfinite().all() for x in levels)

    @pytest.mark.parametrize(("drop_block_size", "side"), [(3, 2), (5, 2), (5, 4)])
    def test_maps_smaller_than_a_square_of_even_sides(self, drop_block_size: int, side: int) -> None:
        module = transformer_of([3, 3], 8, drop_block_size=drop_block_size)
        levels = module([torch.randn(2, 3, 2 * side + 1, 2 * side + 1), torch.randn(2, 3, side, side)])
        assert all(x.isfinite().all() for x in levels)


class TestExplainLevels:
    images = torch.zeros(2, 3, 45, 56)

    @pytest.mark.parametrize(
        "options", [{}, {"grounding": "local", "square_size": 3}, {"normaliser": "softmax"}], ids=str
    )
    @pytest.mark.parametrize(
        ("pixel", "place"), [((0, 0), (0.0, 0.0)), ((55, 44), (44.5, 55.5)), ((30, 17), (17.5, 30.5))]
    )
    @torch.no_grad()
    def test_is_what_the_levels_were_made_with(self, pixel: Size, place: Size, options: dict[str, Any]) -> None:
        module = make_attentive(transformer_of(WIDTHS, 8, **options)).eval()
        maps = some_maps()
        explained = module.explain(maps, self.images, at=pixel)
        weighing: dict[str, Any] = {key: value for key, value in options.items() if key == "normaliser"}
        own, theirs = {"parts": 2, "similarity": "dot"}, {"parts": 4, "similarity": "euclidean"}
        expected = {}
        for number, transformed in enumerate(naive_feature_pyramid_transformer(module, maps, **options)):
            expected[f"transformed_level{number + 1}"] = transformed
            for finer, render in enumerate(module.levels[number].rendering):
                expected[f"rendering_gate_from_level{finer + 1}_level{number + 1}"] = naive_gate(render, maps[finer])
        for number, (level, x) in enumerate(zip(module.levels, maps, strict=True)):
            weighing["position"] = int(place[0] * x.shape[2] / 45), int(place[1] * x.shape[3] / 56)
            attention = naive_interaction(level.self_transformer, x, x, **own, **weighing)
            expected[f"self_attention_level{number + 1}"] = attention
            for coarser, ground in enumerate(level.grounding, start=number + 1):
                side = options.get("square_size")
                attention = naive_interaction(ground, x, maps[coarser], square_size=side, **theirs, **weighing)
                expected[f"grounding_from_level{coarser + 1}_level{number + 1}"] = attention
        assert list(explained) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(explained[name], value, msg=name)
        without = [name for name in expected if "attention" not in name and "grounding" not in name]
        assert list(module.explain(maps, self.images)) == without

    @torch.no_grad()
    def test_of_what_there_is(self) -> None:
        maps = some_maps()
        names = {}
        for row in ("none", "ST", "GT", "RT"):
            module = make_attentive(transformer_of(WIDTHS, 8, **TRANSFORMERS[row])).eval()
            names[row] = set(module.explain(maps, self.images, at=(3, 4)))
        levels = {f"transformed_level{number}" for number in range(1, 5)}
        pairs = [(fine, coarse) for coarse in range(1, 5) for fine in range(1, coarse)]
        assert names["none"] == levels
        assert names["ST"] == levels | {f"self_attention_level{number}" for number in range(1, 5)}
        assert names["GT"] == levels | {f"grounding_from_level{coarse}_level{fine}" for fine, coarse in pairs}
        assert names["RT"] == levels | {f"rendering_gate_from_level{fine}_level{coarse}" for fine, coarse in pairs}

    def test_pixels_that_the_images_do_not_have(self) -> None:
        module = make_attentive(transformer_of(WIDTHS, 8)).eval()
        with pytest.raises(InputError, match=r"at \(56, 0\): expected a pixel \(x, y\) of images of 56 x 45 pixels"):
            module.explain(some_maps(), self.images, at=(56, 0))


ROWS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "Table 4, ST": {"grounding": "none", "rendering": False},
    "Table 4, LGT": {"self_transformer": False, "rendering": False},
    "Table 4, RT": {"self_transformer": False, "grounding": "none"},
    "Table 5, PPM": {"pyramid": "ppm", "grounding_parts": 2, "self_parts": 4},
    "Table 5, ASPP": {"pyramid": "aspp", "normaliser": "softmax", "grounding_similarity": "dot"},
    "GT for LGT": {"grounding": "global", "distance_scaling": "none", "self_similarity": "euclidean"},
    "a smaller square": {"square_size": 3},
}


def make_fpt(**options: Any) -> FPT:
    torch.manual_seed(0)
    narrow = {"channels": 8, "head_channels": 6, "dropout": 0.0, "keep_probability": 1.0}
    network = create_model("fpt", num_classes=4, backbone="test_resnet", **{**narrow, **options})
    assert isinstance(network, FPT)
    return make_attentive(network)


def some_images() -> Tensor:
    return torch.randn(2, 3, 33, 41, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", ROWS.values(), ids=ROWS.keys())
def test_rows_are_put_together_as_in_the_paper(options: dict[str, Any]) -> None:
    """The pyramid on the backbone's last map, its levels transformed, concatenated, and the head."""
    network = make_fpt(**options).eval()
    levels = network.pyramid(network.backbone(some_images())[-1])
    assert [x.shape for x in levels] == [(2, 8, 5, 6)] * 4
    naive = {name: value for name, value in options.items() if name != "pyramid"}
    levels = naive_feature_pyramid_transformer(network.transformer, levels, **{"grounding": "local", **naive})
    classify = network.head.classify[-1]
    expected = upsample(convolve(block(torch.cat(levels, dim=1), network.head.reduce), classify), some_images())
    assert_same_outputs_and_gradients(network, network(some_images()), expected)


class TestFPT:
    @torch.no_grad()
    def test_explains_its_own_pyramid(self) -> None:
        network = make_fpt().eval()
        explained = network.explain(some_images(), at=(40, 32))
        levels = network.pyramid(network.backbone(some_images())[-1])
        expected = network.transformer.explain(levels, some_images(), at=(40, 32))
        assert list(explained) == list(expected)
        torch.testing.assert_close(explained, expected)
        assert list(network.explain(some_images())) == list(network.transformer.explain(levels, some_images()))

    def test_training_drops_squares_of_3_x_3(self) -> None:
        network = make_fpt(keep_probability=0.9)
        assert network.transformer.drop_block.block_size == 3
        assert not torch.equal(network(some_images()), network(some_images()))
        network.eval()
        assert torch.equal(network(some_images()), network(some_images()))

    def test_dropout_is_for_training(self) -> None:
        network = make_fpt(dropout=0.5)
        assert not torch.equal(network(some_images()), network(some_images()))
        assert torch.equal(network.eval()(some_images()), network(some_images()))

    def test_every_parameter_learns(self) -> None:
        network = make_fpt(keep_probability=0.9)
        network.losses(some_images(), torch.randint(0, 4, (2, 33, 41)))["segmentation"].backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_defaults_are_the_paper_s(self) -> None:
        defaults = model_options("fpt")
        assert FPT.default_output_stride == 8
        assert (defaults["pyramid"], defaults["channels"], defaults["grounding"]) == ("ufp", 256, "local")
        assert (defaults["self_transformer"], defaults["rendering"]) == (True, True)
        assert (defaults["self_parts"], defaults["grounding_parts"], defaults["square_size"]) == (2, 4, 5)
        assert (defaults["self_similarity"], defaults["grounding_similarity"]) == ("dot", "euclidean")
        assert (defaults["drop_block_size"], defaults["keep_probability"]) == (3, 0.9)
        objects = FOR_OBJECTS
        assert (objects.drop_block_size, objects.keep_probability, objects.grounding) == (5, 0.9, "global")

    def test_for_pixels_and_for_objects_differ_where_the_paper_says(self) -> None:
        pixels, objects = dataclasses.asdict(FOR_PIXELS), dataclasses.asdict(FOR_OBJECTS)
        differing = {name for name, value in pixels.items() if value != objects[name]}
        assert differing == {"grounding", "activated_levels", "drop_block_size"}
        assert pixels.items() <= model_options("fpt").items()
        assert objects.items() <= model_options("mask_rcnn").items()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_the_network_s_own_widths_have_a_fused_kernel(self, dtype: torch.dtype) -> None:
        network = create_model("fpt", num_classes=3, backbone="test_resnet", grounding="global")
        assert network.transformer.levels[0].self_transformer.value.out_channels == 256
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            losses = network.losses(torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64))
            sum(losses.values()).backward()
        for level in network.transformer.levels:
            for interaction in (level.self_transformer, *level.grounding):
                assert interaction.query.weight.grad.isfinite().all()

    @torch.no_grad()
    def test_in_float32(self) -> None:
        network = make_fpt().eval()
        expected = network(some_images())
        actual = network.float()(some_images().float())
        assert (actual - expected).abs().max() < 1e-4 * (expected.max() - expected.min())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"self_parts": 3}, "8 channels in 3 parts"),
            ({"square_size": 4}, "square_size 4: expected an odd number"),
            ({"drop_block_size": 2}, "drop_block_size 2: expected an odd number"),
            ({"keep_probability": 0.0}, "keep_probability 0.0: expected one above 0"),
            ({"grounding": "nowhere"}, "grounding"),
            ({"normaliser": "sigmoid"}, "normaliser"),
            ({"self_similarity": "cosine"}, "self_similarity"),
            ({"distance_scaling": "half"}, "distance_scaling"),
            ({"pyramid": "fpn"}, "pyramid"),
        ],
        ids=str,
    )
    def test_options_that_there_are_not(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            create_model("fpt", num_classes=4, backbone="test_resnet", channels=8, **options)
