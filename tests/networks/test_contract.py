"""What every network for semantic segmentation promises, whatever is in it."""

import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segweave.models import create_model, list_models
from segweave.networks.losses import IGNORE_INDEX, pixel_cross_entropy
from segweave.networks.network import Labelling, SegmentationNetwork
from segweave.saving import load, save_model

NUM_CLASSES = 5
SIZES = [(32, 32), (33, 47), (64, 65)]


@dataclass(frozen=True)
class Variant:
    """A network to hold to its promises.

    Attributes:
        name: Its name in `segweave.models.NETWORKS`.
        options: What `create_model` is given beside it.
        explained: The names of what `explain` gives.
        unused: Parameters that no loss can reach, and why.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    explained: tuple[str, ...] = ()
    unused: dict[str, str] = field(default_factory=dict)
    backbone: str = "resnet18"

    @property
    def explained_at(self) -> tuple[str, ...]:
        """The names of what `explain` adds for a chosen pixel."""
        return {
            "ocnet": ("attention_at",),
            "ranet": ("region_attention_at",),
            "ufp": ("attention_at",) if self.options.get("object_context") else (),
            "fpt": looked_at_by_fpt(**self.options),
            "pan": looked_at_by_pan(**self.options),
            "agln": looked_at_by_agln(**self.options),
        }.get(self.name, ())

    def create(self) -> SegmentationNetwork:
        return create_model(self.name, num_classes=NUM_CLASSES, backbone=self.backbone, **self.options)


def looked_at_by_pan(
    *, attention: str | None = "pyramid", global_attention_upsample: bool = True, global_context: bool = True, **_: Any
) -> tuple[str, ...]:
    gaus = ("gau_at_res4", "gau_at_res3", "gau_at_res2") if global_attention_upsample and global_context else ()
    return (*(["attention_at"] if attention == "pyramid" else []), *gaus)


def looked_at_by_agln(*, dense: bool = True, **_: Any) -> tuple[str, ...]:
    stages = {"res4": 1, "res3": 2 if dense else 1, "res2": 3 if dense else 1}
    return tuple(f"attention_{n}_at_{stage}" for stage, count in stages.items() for n in range(1, count + 1))


PAN_EXPLAINED = ("attention", "gate_res4", "gate_res3", "gate_res2")


def pan_variant(*explained: str, backbone: str = "test_resnet", **options: Any) -> Variant:
    return Variant("pan", {"decoder_channels": 32, **options}, explained, backbone=backbone)


def agln_variant(name: str, *explained: str, backbone: str = "test_resnet", **options: Any) -> Variant:
    narrow = {"channels": 32, "head_channels": 32, **({"descriptors": 8} if name == "agln" else {})}
    return Variant(name, {**narrow, **options}, explained, backbone=backbone)


def ocnet_variant(**options: Any) -> Variant:
    narrow = {"channels": 32, "key_channels": 16}
    return Variant("ocnet", {**narrow, **options}, ("context",), backbone="test_resnet")


def explained_by_agln(*, dense: bool = False, gating: bool = True) -> tuple[str, ...]:
    maps = ("decoder", "descriptor_map", "enhanced", "encoder", "refined", *(("gate",) if gating else ()))
    names = []
    for number, stage in enumerate(("res4", "res3", "res2"), start=1):
        names += [f"attention_{number}"] if dense or number == 1 else []
        names += [f"{name}_{stage}" for name in maps]
    return tuple(names)


RANET_EXPLAINED = ("boundaries", "regions", "representative_scores", "representatives")


def ranet_variant(*explained: str, **options: Any) -> Variant:
    return Variant("ranet", {"channels": 16, **options}, explained, backbone="test_resnet")


def ufp_variant(**options: Any) -> Variant:
    levels = tuple(f"pyramid_level{level}" for level in range(1, 5))
    return Variant("ufp", {"channels": 16, "head_channels": 32, **options}, levels, backbone="test_resnet")


def fpt_variant(**options: Any) -> Variant:
    names = []
    for level in range(1, 5):
        names.append(f"transformed_level{level}")
        if options.get("rendering", True):
            names += [f"rendering_gate_from_level{finer}_level{level}" for finer in range(1, level)]
    return Variant("fpt", {"channels": 16, "head_channels": 32, **options}, tuple(names), backbone="test_resnet")


def looked_at_by_fpt(*, self_transformer: bool = True, grounding: str = "local", **others: Any) -> tuple[str, ...]:
    names = []
    for level in range(1, 5):
        names += [f"self_attention_level{level}"] if self_transformer else []
        if grounding != "none":
            names += [f"grounding_from_level{coarser}_level{level}" for coarser in range(level + 1, 5)]
    return tuple(names)


VARIANTS = {
    "fcn": Variant("fcn"),
    "fpn": agln_variant("fpn"),
    "fpn, 3x3 laterals": agln_variant("fpn", lateral_kernel_size=3),
    "pspnet": Variant(
        "pspnet", explained=("pooled_1x1", "pooled_2x2", "pooled_3x3", "pooled_6x6"), backbone="test_resnet"
    ),
    "deeplabv3": Variant(
        "deeplabv3",
        {"context_channels": 32},
        ("point", "rate_6", "rate_12", "rate_18", "image_level"),
        backbone="test_resnet",
    ),
    "ocnet": ocnet_variant(),
    "ocnet, one position": ocnet_variant(output_stride=32),
    "ocnet, no auxiliary loss": ocnet_variant(output_stride=16, auxiliary_weight=0.0),
    "pan": Variant("pan", explained=PAN_EXPLAINED),
    "pan on convnext_atto": pan_variant(*PAN_EXPLAINED, backbone="convnext_atto"),
    "pan on mobilenetv3_small_100": pan_variant(*PAN_EXPLAINED, backbone="mobilenetv3_small_100"),
    "pan, global pooling concatenated": pan_variant(*PAN_EXPLAINED, global_pooling="concat"),
    "pan, wide pyramid": pan_variant(*PAN_EXPLAINED, attention_channels=None, pooling="max", global_pooling=None),
    "pan, squeeze and excitation": pan_variant(*PAN_EXPLAINED, attention="squeeze_excitation"),
    "pan, no gates": pan_variant(attention=None, global_context=False, low_level_kernel_size=1),
    "agln": agln_variant("agln", *explained_by_agln(dense=True)),
    "agln, straight": agln_variant("agln", *explained_by_agln(), dense=False),
    "agln, lite": agln_variant("agln", *explained_by_agln(dense=True), lite=True),
    "agln, alpha and beta fixed": agln_variant(
        "agln", *explained_by_agln(), dense=False, learnable_alpha=False, learnable_beta=False
    ),
    "agln, refinement as printed": agln_variant(
        "agln", *explained_by_agln(), dense=False, shortcut=False, affinity_scaling="none"
    ),
    "agln, channel resampling alone": agln_variant(
        "agln", *explained_by_agln(gating=False), dense=False, spatial_gating=False, affinity_scaling="mean"
    ),
    "agln, spatial gating alone": agln_variant("agln", *explained_by_agln(), dense=False, channel_resampling=False),
    "agln-minus, global average pooling": agln_variant(
        "agln",
        *explained_by_agln(gating=False),
        dense=False,
        channel_resampling=False,
        spatial_gating=False,
        global_pooling="average",
    ),
    "ranet": ranet_variant(*RANET_EXPLAINED),
    "ranet, scores from res4": ranet_variant(*RANET_EXPLAINED, auxiliary="res4", representatives=2),
    "ranet, boundaries alone": ranet_variant(*RANET_EXPLAINED, regions="boundaries"),
    "ranet, semantics alone": ranet_variant(*RANET_EXPLAINED[1:], regions="semantics"),
    "ranet, many regions": ranet_variant(*RANET_EXPLAINED, threshold=0.999, representatives=1),
    "ranet, no exchange within regions": ranet_variant(*RANET_EXPLAINED, intra_region=False),
    "ranet, no exchange between regions": ranet_variant(*RANET_EXPLAINED, inter_region=False),
    "ufp": ufp_variant(),
    "ufp, object context": ufp_variant(object_context=True),
    "ufp, pyramid pooling": ufp_variant(pyramid="ppm"),
    "ufp, atrous pyramid": ufp_variant(pyramid="aspp", output_stride=16),
    "fpt": fpt_variant(),
    "fpt, grounding everywhere": fpt_variant(grounding="global", distance_scaling="square_root"),
    "fpt, self-transformer alone": fpt_variant(
        grounding="none", rendering=False, self_similarity="euclidean", output_stride=16
    ),
    "fpt, rendering alone": fpt_variant(grounding="none", self_transformer=False, keep_probability=1.0),
    "fpt, plain softmax": fpt_variant(normaliser="softmax", grounding_similarity="dot", pyramid="aspp"),
    "fpt on pyramid pooling": fpt_variant(pyramid="ppm", grounding_parts=2, square_size=3, output_stride=32),
    "pan, no decoder": pan_variant("attention", global_attention_upsample=False, output_stride=32),
}


TRACED = [
    *list_models("semantic"),
    *(
        pytest.param(variant, marks=pytest.mark.slow)
        for variant in (
            "pan, global pooling concatenated",
            "pan, squeeze and excitation",
            "agln-minus, global average pooling",
            "ranet, boundaries alone",
            "ranet, semantics alone",
            "fpt, grounding everywhere",
            "fpt, plain softmax",
        )
    ),
]
"""The variants that are compiled and exported: each network once, and those whose forward pass has steps that the
network's other ones lack. What is only left out, wider or of another number can't break a trace."""


def test_every_network_is_held_to_the_contract() -> None:
    assert {variant.name for variant in VARIANTS.values()} == set(list_models("semantic"))
    assert all(VARIANTS[name].name == name for name in list_models("semantic"))


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture(scope="module")
def pristine(variant: Variant) -> SegmentationNetwork:
    return with_moved_statistics(variant)


def with_moved_statistics(variant: Variant) -> SegmentationNetwork:
    """The network with batch norm statistics that a training has moved: those of a new one would hide mistakes."""
    torch.manual_seed(1)
    network = variant.create()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def network(pristine: SegmentationNetwork) -> SegmentationNetwork:
    return copy.deepcopy(pristine)


def some_images(batch: int = 2, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2))


def some_labels(batch: int = 2, size: tuple[int, int] = (64, 64)) -> Tensor:
    labels = torch.randint(0, NUM_CLASSES, (batch, *size), generator=torch.Generator().manual_seed(3))
    labels[:, :4] = IGNORE_INDEX
    return labels


def assert_same_logits(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Within a part of the spread that the logits have: logits of a new network are small."""
    spread = (expected.max() - expected.min()).item()
    assert spread > 1e-4
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * spread)


def assert_gradients(network: SegmentationNetwork, unused: dict[str, str]) -> None:
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name, p in parameters.items() if p.grad is None} == set(unused)
    for name, parameter in parameters.items():
        assert name in unused or parameter.grad.isfinite().all(), name


class TestContract:
    @pytest.mark.parametrize("batch", [1, 2])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_trains_and_predicts_at_any_size(
        self, network: SegmentationNetwork, variant: Variant, size: tuple[int, int], batch: int
    ) -> None:
        images, labels = some_images(batch, size), some_labels(batch, size)

        losses = network.losses(images, labels)
        assert isinstance(losses, dict)
        assert "segmentation" in losses
        for loss in losses.values():
            assert loss.shape == ()
            assert loss.dtype == torch.float32
            assert loss > 0
        torch.stack(list(losses.values())).sum().backward()
        assert_gradients(network, variant.unused)
        assert any(p.grad.abs().sum() > 0 for p in network.backbone.parameters())
        assert network(images).shape == (batch, NUM_CLASSES, *size)

        with torch.no_grad():
            logits = network.eval()(images)
        assert logits.shape == (batch, NUM_CLASSES, *size)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    def test_training_loss_is_that_of_the_logits(self, network: SegmentationNetwork) -> None:
        network.eval()
        with torch.no_grad():
            expected = pixel_cross_entropy(network(some_images()), some_labels())
            torch.testing.assert_close(network.losses(some_images(), some_labels())["segmentation"], expected)

    def test_labels_that_do_not_count_change_nothing(self, network: SegmentationNetwork, variant: Variant) -> None:
        losses = network.losses(some_images(), torch.full((2, 64, 64), IGNORE_INDEX))
        torch.stack(list(losses.values())).sum().backward()
        assert all(loss == 0 for loss in losses.values())
        assert_gradients(network, variant.unused)
        assert all(p.grad.abs().max() == 0 for p in network.parameters() if p.grad is not None)

    def test_explains_with_maps(self, network: SegmentationNetwork, variant: Variant) -> None:
        with torch.no_grad():
            explained = network.eval().explain(some_images(2, (64, 65)))
            with_pixel = network.explain(some_images(2, (64, 65)), at=(3, 60))
        assert tuple(explained) == variant.explained
        assert tuple(with_pixel) == (*variant.explained, *variant.explained_at)
        for name, x in with_pixel.items():
            assert x.ndim == 4, name
            assert len(x) == 2, name
            assert x.is_floating_point() or x.shape[1] == 1, name
            assert x.isfinite().all(), name

    def test_images_of_a_batch_are_alone_in_evaluation(self, network: SegmentationNetwork) -> None:
        images = some_images(3)
        images[1] *= 5
        network.eval()
        with torch.no_grad():
            alone = torch.cat([network(image[None]) for image in images])
            assert_same_logits(network(images), alone)

    def test_evaluation_changes_no_state(self, network: SegmentationNetwork) -> None:
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.eval()(some_images())
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    def test_is_the_same_after_saving_and_loading(self, network: SegmentationNetwork) -> None:
        colours = tuple((index, index, index) for index in range(NUM_CLASSES))
        network.labelling = Labelling(tuple("abcde"), colours, short_edge=64)
        with tempfile.TemporaryDirectory() as run, torch.no_grad():
            save_model(network, Path(run) / "model")
            loaded = load(run)
            assert not loaded.training
            assert loaded.labelling == network.labelling
            assert loaded.recipe.keys() == network.recipe.keys()
            assert torch.equal(loaded(some_images()), network.eval()(some_images()))

    def test_a_seed_decides_the_weights(self, variant: Variant) -> None:
        networks = []
        for seed in (4, 4, 5):
            torch.manual_seed(seed)
            networks.append(variant.create().eval())
        first, again, other = networks
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
        with torch.no_grad():
            logits = first(some_images())
            assert torch.equal(logits, again(some_images()))
            assert not torch.equal(logits, other(some_images()))

    def test_takes_channels_last(self, network: SegmentationNetwork) -> None:
        images = some_images(2, (64, 65))
        network.eval()
        with torch.no_grad():
            assert_same_logits(network(images.contiguous(memory_format=torch.channels_last)), network(images))

    def test_trains_in_bfloat16(self, network: SegmentationNetwork, variant: Variant) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = network.losses(some_images(), some_labels())
            logits = network(some_images())
        assert logits.shape == (2, NUM_CLASSES, 64, 64)
        assert logits.isfinite().all()
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        assert_gradients(network, variant.unused)


@pytest.mark.parametrize("name", TRACED)
class TestTracing:
    def test_can_be_exported(self, name: str) -> None:
        network, images = with_moved_statistics(VARIANTS[name]).eval(), some_images(2, (64, 65))
        with torch.no_grad():
            exported = torch.export.export(network, (images,)).module()
            assert_same_logits(exported(images), network(images), tolerance=1e-5)

    def test_can_be_compiled(self, name: str) -> None:
        network, images = with_moved_statistics(VARIANTS[name]).eval(), some_images(2, (64, 65))
        torch.compiler.reset()
        with torch.no_grad():
            compiled = torch.compile(network, backend="eager", fullgraph=True)
            assert_same_logits(compiled(images), network(images), tolerance=1e-5)
