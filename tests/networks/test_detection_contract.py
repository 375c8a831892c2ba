"""What every network for objects promises, whatever is in it."""

import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segweave.errors import InputError
from segweave.models import create_model, list_models
from segweave.networks.necks import NeckName
from segweave.networks.network import DetectionNetwork, Labelling
from segweave.saving import load, save_model
from tests.networks.detection_samples import narrow, some_images, some_objects

NUM_CLASSES = 3
LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
BATCHES = [[(32, 32)], [(33, 47), (64, 50), (40, 65)]]
CLASSES = tuple("abc"), ((0, 0, 0), (1, 1, 1), (2, 2, 2))


@dataclass(frozen=True)
class Variant:
    """A network to hold to its promises.

    Attributes:
        name: Its name in `segweave.models.NETWORKS`.
        neck: Its pyramid.
        options: What `create_model` is given beside.
    """

    name: str
    neck: NeckName
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def has_masks(self) -> bool:
        return self.name == "mask_rcnn"

    def create(self) -> DetectionNetwork:
        options = narrow(neck=self.neck, **self.options)
        return create_model(self.name, num_classes=NUM_CLASSES, backbone="test_resnet", **options)


VARIANTS = {
    f"{name}, {neck}": Variant(name, neck) for name in list_models("detection") for neck in NeckName.__args__
} | {
    "faster_rcnn, dilated backbone, augmented head": Variant(
        "faster_rcnn", "bpa", {"augmented_head": True, "output_stride": 16}
    ),
    "faster_rcnn, non-local backbone": Variant("faster_rcnn", "bfp", {"backbone_attention": "non_local"}),
    "mask_rcnn, fpt, augmented head": Variant("mask_rcnn", "fpt", {"augmented_head": True}),
}


def test_every_network_is_held_to_the_contract_with_every_neck() -> None:
    held = {(variant.name, variant.neck) for variant in VARIANTS.values()}
    assert held == {(name, neck) for name in list_models("detection") for neck in ("bfp", "fpn", "bpa", "fpt")}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture(scope="module")
def pristine(variant: Variant) -> DetectionNetwork:
    """The network with batch norm statistics and scores that a training has moved: those of a new one, near 0 and 1 or
    all the same, would hide mistakes."""
    torch.manual_seed(1)
    network = variant.create()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for name, parameter in network.named_parameters():
        if name.endswith(("cls_score.weight", "bbox_pred.weight", "cls_logits.weight", "mask_fcn_logits.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
    return network


@pytest.fixture
def network(pristine: DetectionNetwork) -> DetectionNetwork:
    return copy.deepcopy(pristine)


def some_targets(images: list[Tensor], *counts: int) -> list[dict[str, Tensor]]:
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    return [
        some_objects(size, count, num_classes=NUM_CLASSES, seed=number)
        for number, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]


def backward(losses: dict[str, Tensor]) -> None:
    torch.stack(list(losses.values())).sum().backward()


def assert_gradients(network: DetectionNetwork) -> None:
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def assert_detections(found: list[dict[str, Tensor]], images: list[Tensor], variant: Variant) -> None:
    assert len(found) == len(images)
    for each, image in zip(found, images, strict=True):
        height, width = image.shape[1:]
        count = len(each["scores"])
        assert count > 0  # a network whose scores differ is sure of something
        assert set(each) == {"boxes", "labels", "scores", *(["masks"] if variant.has_masks else [])}
        assert each["boxes"].shape == (count, 4)
        assert each["boxes"].dtype == each["scores"].dtype == torch.float32
        assert (each["boxes"][:, :2] < each["boxes"][:, 2:]).all()
        assert each["boxes"].min() >= 0
        assert (each["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert each["labels"].dtype == torch.int64
        assert set(each["labels"].tolist()) <= set(range(1, NUM_CLASSES + 1))
        assert ((each["scores"] > 0.05) & (each["scores"] <= 1)).all()
        assert (each["scores"].diff() <= 0).all()
        if variant.has_masks:
            assert each["masks"].shape == (count, 1, height, width)
            assert each["masks"].dtype == torch.float32
            assert ((each["masks"] >= 0) & (each["masks"] <= 1)).all()


def assert_same_detections(actual: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-3)


class TestContract:
    @pytest.mark.parametrize("sizes", BATCHES, ids=str)
    def test_trains_and_detects_at_any_size(
        self, network: DetectionNetwork, variant: Variant, sizes: list[tuple[int, int]]
    ) -> None:
        images = some_images(*sizes)
        losses = network(images, some_targets(images, *[2] * len(images)))
        assert set(losses) == LOSSES | ({"loss_mask"} if variant.has_masks else set())
        for name, loss in losses.items():
            assert loss.shape == (), name
            assert loss.dtype == torch.float32, name
            assert loss > 0, name
        backward(losses)
        assert_gradients(network)
        for part in (network.backbone, network.neck, network.rpn, network.roi_heads):
            assert any(parameter.grad.abs().sum() > 0 for parameter in part.parameters())
        with torch.no_grad():
            assert_detections(network.eval()(images), images, variant)

    @pytest.mark.parametrize("counts", [(0, 2), (0,)], ids=str)
    def test_images_without_objects(self, network: DetectionNetwork, counts: tuple[int, ...]) -> None:
        images = some_images((40, 33), (32, 64))[: len(counts)]
        losses = network(images, some_targets(images, *counts))
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["loss_objectness"] > 0
        assert losses["loss_classifier"] > 0
        if not any(counts):  # no box is on an object then
            assert all(loss == 0 for name, loss in losses.items() if name.endswith(("box_reg", "mask")))
        backward(losses)
        assert_gradients(network)

    def test_evaluation_is_repeatable_and_changes_nothing(self, network: DetectionNetwork) -> None:
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        images = some_images((40, 64), (64, 50), (33, 33))
        pixels = copy.deepcopy(images)
        network.eval()
        with torch.no_grad():
            found = network(images)
            for one, other in zip(network(images), found, strict=True):
                assert all(torch.equal(one[name], other[name]) for name in one)
            # of one padded size: beside a larger one, an image is padded more, and what is near its edge sees it
            assert_same_detections([network([image])[0] for image in images], found)
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert all(torch.equal(image, unchanged) for image, unchanged in zip(images, pixels, strict=True))

    def test_finds_what_forward_gives(self, network: DetectionNetwork, variant: Variant) -> None:
        images = some_images((40, 64), (33, 33))
        with pytest.raises(RuntimeError, match=r"expected eval\(\)"):
            network.find(images)
        network.eval()
        with torch.inference_mode():
            given = network(images)
            score = float(given[0]["scores"].median())
            sure = [{name: values[each["scores"] >= score] for name, values in each.items()} for each in given]
            for found, expected in ((network.find(images), given), (network.find(images, score=score), sure)):
                for each, other in zip(found, expected, strict=True):
                    assert each.keys() == other.keys()
                    for name in each:
                        assert torch.equal(each[name], other[name] > 0.5 if name == "masks" else other[name]), name
        assert 0 < len(sure[0]["scores"]) < len(given[0]["scores"])

    def test_may_find_nothing(self, network: DetectionNetwork, variant: Variant) -> None:
        network.eval().roi_heads.score_thresh = 1.0
        with torch.inference_mode():
            images = some_images((40, 64), (33, 33))
            found = network(images)
            assert all(len(each["scores"]) == 0 for each in network.find(images))
        for each, (height, width) in zip(found, ((40, 64), (33, 33)), strict=True):
            assert each["boxes"].shape == (0, 4)
            assert len(each["labels"]) == len(each["scores"]) == 0
            assert not variant.has_masks or each["masks"].shape == (0, 1, height, width)

    def test_training_leaves_images_and_targets_as_they_are(self, network: DetectionNetwork) -> None:
        images = some_images((40, 64))
        targets = some_targets(images, 2)
        pixels, objects = copy.deepcopy(images), copy.deepcopy(targets)
        network(images, targets)
        assert torch.equal(images[0], pixels[0])
        assert targets[0].keys() == objects[0].keys()
        assert all(torch.equal(targets[0][name], objects[0][name]) for name in objects[0])

    def test_is_the_same_after_saving_and_loading(self, network: DetectionNetwork) -> None:
        network.labelling = Labelling(*CLASSES, short_edge=48, long_edge=96)
        images = some_images((40, 64))
        with tempfile.TemporaryDirectory() as run, torch.no_grad():
            save_model(network, Path(run) / "model")
            loaded = load(run)
            assert not loaded.training
            assert type(loaded) is type(network)
            assert loaded.labelling == network.labelling
            assert loaded.detections_per_image == network.detections_per_image == 10
            (expected,), (actual,) = network.eval()(images), loaded(images)
            assert all(torch.equal(actual[name], expected[name]) for name in expected)

    def test_a_seed_decides_the_weights_and_leaves_all_undecided(self, variant: Variant) -> None:
        """Whatever the pyramid: the first losses are those of a network that thinks all equally likely."""
        torch.manual_seed(6)
        network = variant.create()
        torch.manual_seed(6)
        again = variant.create().state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())
        images = some_images((64, 64), (64, 64))
        with torch.no_grad():
            losses = network(images, some_targets(images, 3, 3))
        assert losses["loss_objectness"] == pytest.approx(0.693, abs=0.1)
        assert losses["loss_classifier"] == pytest.approx(1.386, abs=0.3)
        if variant.has_masks:
            assert losses["loss_mask"] == pytest.approx(0.693, abs=0.1)

    def test_trains_and_detects_in_bfloat16(self, network: DetectionNetwork, variant: Variant) -> None:
        images = some_images((40, 64), (64, 33))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = network(images, some_targets(images, 2, 0))
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        backward(losses)
        assert_gradients(network)
        network.eval()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert_detections(network(images), images, variant)

    def test_explains_what_its_neck_has(self, network: DetectionNetwork, variant: Variant) -> None:
        images = torch.randn(1, 3, 64, 65)
        with torch.no_grad():
            explained = network.eval().explain(images)
            with_pixel = network.explain(images, at=(64, 3))
        if variant.neck != "fpt":
            assert set(explained) == {"level1", "level2", "level3", "level4"}
            looks = set(with_pixel) - set(explained)
            assert all(name.startswith("influence_from_res") for name in looks)
            assert bool(looks) == (variant.neck != "bfp")
            return
        assert {f"transformed_level{level}" for level in range(1, 5)} <= set(explained)
        assert set(explained) <= set(with_pixel)
        looks = {name for name in with_pixel if name.startswith(("self_attention", "grounding_from"))}
        assert set(with_pixel) - set(explained) == looks != set()
        assert all(x.shape[0] == 1 and x.isfinite().all() for x in with_pixel.values())


@pytest.fixture(scope="module")
def detector() -> DetectionNetwork:
    torch.manual_seed(7)
    network = create_model("mask_rcnn", num_classes=NUM_CLASSES, backbone="test_resnet", **narrow())
    for name, parameter in network.named_parameters():
        if name.endswith(("cls_score.weight", "bbox_pred.weight", "cls_logits.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
    return network


class TestSizes:
    @pytest.mark.parametrize(
        ("edges", "size"),
        [((96, None), (96, 120)), ((96, 100), (80, 100)), ((None, 70), (56, 70)), ((None, 300), (64, 80))],
        ids=str,
    )
    @torch.no_grad()
    def test_images_are_resized_in_evaluation_and_results_mapped_back(
        self, detector: DetectionNetwork, edges: tuple[int | None, int | None], size: tuple[int, int]
    ) -> None:
        (image,) = some_images((64, 80))
        resized = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0] if size != (64, 80) else image
        network = copy.deepcopy(detector).eval()
        (expected,) = network([resized])
        network.labelling = Labelling(*CLASSES, *edges)
        (found,) = network([image])
        factors = torch.tensor([80 / size[1], 64 / size[0]] * 2)
        torch.testing.assert_close(found["boxes"], expected["boxes"] * factors, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
        assert found["masks"].shape[2:] == (64, 80)
        for mask, (left, top, right, bottom) in zip(found["masks"][:, 0], found["boxes"], strict=True):
            rows, columns = mask.nonzero().unbind(1)  # a mask lies in its box, which pasting widens by a 28th part
            slack_x, slack_y = 2 + (right - left) / 28, 2 + (bottom - top) / 28
            assert columns.min() >= left - slack_x
            assert columns.max() <= right + slack_x
            assert rows.min() >= top - slack_y
            assert rows.max() <= bottom + slack_y

    def test_images_are_not_resized_in_training(self, detector: DetectionNetwork) -> None:
        images = some_images((64, 80))
        losses = []
        for edges in ((None, None), (96, 100)):
            network = copy.deepcopy(detector)
            network.labelling = Labelling(*CLASSES, *edges)
            torch.manual_seed(8)
            losses.append(network(images, some_targets(images, 2)))
        assert losses[0] == losses[1]

    @torch.no_grad()
    def test_images_are_normalised_as_the_backbone_says(self, detector: DetectionNetwork) -> None:
        (image,) = some_images((64, 64))
        network = copy.deepcopy(detector).eval()
        (expected,) = network([image])
        mean, std = (torch.tensor(values)[:, None, None] for values in (network.backbone.mean, network.backbone.std))
        network.backbone.mean, network.backbone.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        (found,) = network([(image - mean) / std])
        assert_same_detections([found], [expected])


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"boxes": torch.tensor([[4.0, 4.0, 4.0, 9.0]])},
                "a box of image 1 of the batch has no area: expected x1 <",
            ),
            (
                {"boxes": torch.tensor([[4.0, 9.0, 6.0, 8.0]])},
                "a box of image 1 of the batch has no area: expected x1 <",
            ),
            ({"labels": torch.tensor([0])}, "a label of image 1 of the batch: expected 1 to 3"),
            ({"labels": torch.tensor([4])}, "a label of image 1 of the batch: expected 1 to 3"),
            ({"boxes": torch.full((1, 4), torch.nan)}, "a box of image 1 of the batch has no area"),
            ({"masks": torch.ones(1, 32, 64, dtype=torch.uint8)}, r"masks \(1, 32, 64\) of image 1 of the batch"),
            ({"labels": torch.tensor([1, 2])}, r"boxes \(1, 4\) of image 1 of the batch: expected \(2, 4\)"),
        ],
        ids=str,
    )
    def test_targets_that_cannot_be_learnt(
        self, detector: DetectionNetwork, change: dict[str, Tensor], message: str
    ) -> None:
        images = some_images((64, 64), (64, 64))
        first, second = some_targets(images, 1, 1)
        with pytest.raises(InputError, match=message):
            detector(images, [first, {**second, **change}])

    def test_training_without_targets(self, detector: DetectionNetwork) -> None:
        with pytest.raises(InputError, match="targets None: expected those of each image"):
            detector(some_images((64, 64)))

    def test_fewer_targets_than_images(self, detector: DetectionNetwork) -> None:
        images = some_images((64, 64), (64, 64))
        with pytest.raises(InputError, match="targets of 1 images: expected those of each image, of 2"):
            detector(images, some_targets(images[:1], 1))

    def test_masks_are_missing(self, detector: DetectionNetwork) -> None:
        images = some_images((64, 64))
        (target,) = some_targets(images, 1)
        del target["masks"]
        with pytest.raises(InputError, match="targets of image 0 of the batch: expected masks too"):
            detector(images, [target])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"neck": "fpn", "grounding": "none"}, "grounding 'none' with neck 'fpn': it is FPT's"),
            ({"neck": "bfp", "keep_probability": 0.5}, "keep_probability 0.5 with neck 'bfp'"),
            ({"score_threshold": 1.0}, "score_threshold 1.0: expected 0 or more, and less than 1"),
        ],
        ids=str,
    )
    def test_options_that_would_do_nothing(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            create_model("mask_rcnn", num_classes=2, backbone="test_resnet", **options)

    def test_more_classes_than_a_mask_of_pixels_could_have(self) -> None:
        network = create_model("faster_rcnn", num_classes=365, backbone="test_resnet", **narrow())
        assert network.num_classes == 365
