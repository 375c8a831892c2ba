"""`segment` for every kind of image in memory, and what it gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

import segweave
from segweave.data.transforms import normalise
from segweave.errors import InputError
from segweave.networks.network import Labelling, SegmentationNetwork
from segweave.saving import save_model
from segweave.segmentation.prediction import SegmentationPrediction, segment
from tests.networks.detection_samples import narrow
from tests.pictures import picture

CLASSES = ("road", "tree", "sky", "car", "sign")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200))


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    """Random weights, but batch norm that knows the picture, so that the predictions vary."""
    torch.manual_seed(0)
    network = segweave.create_model("pan", num_classes=len(CLASSES), backbone="resnet18", decoder_channels=32)
    network.labelling = Labelling(CLASSES, PALETTE)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of what is seen
            module.reset_running_stats()
    with torch.no_grad():
        image = torch.from_numpy(picture()).permute(2, 0, 1)
        network(normalise(torch.stack([image, image.flip(-1)]), network.backbone.mean, network.backbone.std))
    return network.eval()


def assert_same(first: SegmentationPrediction, second: SegmentationPrediction) -> None:
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)


def test_prediction_is_that_of_the_network(network: SegmentationNetwork) -> None:
    result = segment(network, picture(), probabilities=True)
    pixels = (picture() / 255 - np.array(network.backbone.mean)) / np.array(network.backbone.std)
    with torch.no_grad():
        logits = network(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0]
    assert result.probabilities is not None
    np.testing.assert_allclose(result.probabilities, logits.softmax(dim=0).numpy(), atol=1e-3)
    np.testing.assert_array_equal(result.mask, result.probabilities.argmax(axis=0))
    assert len(np.unique(result.mask)) > 1, "predictions of one class alone prove little"
    assert (result.mask.dtype, result.image.dtype, result.probabilities.dtype) == (np.uint8, np.uint8, np.float32)
    assert result.mask.shape == (40, 56)
    assert result.classes == CLASSES
    assert result.palette == PALETTE
    assert segment(network, picture()).probabilities is None


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"scales": [0.9, 1.0]}, {"window": (32, 32)}], ids=str)
def test_probabilities_sum_to_one(network: SegmentationNetwork, settings: dict[str, Any]) -> None:
    probabilities = segment(network, picture(), probabilities=True, **settings).probabilities
    assert probabilities is not None
    assert probabilities.shape == (len(CLASSES), 40, 56)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)


RGB = picture()
ALPHA = np.arange(40 * 56, dtype=np.uint8).reshape(40, 56, 1)
TENSOR = torch.from_numpy(RGB).permute(2, 0, 1).contiguous()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RGB),
        Image.fromarray(np.concatenate([RGB, ALPHA], axis=2)),
        np.concatenate([RGB, ALPHA], axis=2),
        RGB.astype(np.uint16) * 257,
        np.concatenate([RGB, ALPHA], axis=2).astype(np.uint16) * 257,
        np.asfortranarray(RGB),
        TENSOR,
        tv_tensors.Image(TENSOR),
        TENSOR.float() / 255,
        TENSOR.double() / 255,
    ],
    ids=["PIL RGB", "PIL RGBA", "RGBA", "uint16", "uint16 RGBA", "fortran", "uint8", "tv_tensor", "float", "double"],
)
def test_all_kinds_of_a_colour_image_give_one_prediction(network: SegmentationNetwork, image: Any) -> None:
    result = segment(network, image)
    np.testing.assert_array_equal(result.image, RGB)
    assert_same(result, segment(network, RGB))


GREY = RGB[..., 0]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(GREY.astype(np.uint16) * 257),
        GREY,
        GREY.astype(np.uint16) * 257,
        TENSOR[:1].expand(3, -1, -1),
    ],
    ids=["L", "P", "I;16", "uint8", "uint16", "expanded tensor"],
)
def test_all_kinds_of_a_grey_image_give_one_prediction(network: SegmentationNetwork, image: Any) -> None:
    expected = np.stack([GREY] * 3, axis=2)
    result = segment(network, image)
    np.testing.assert_array_equal(result.image, expected)
    assert_same(result, segment(network, expected))


def test_sixteen_bits_are_rounded_alike_in_grey_and_colour(network: SegmentationNetwork) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (33, 47), dtype=np.uint16)
    assert_same(segment(network, np.stack([deep] * 3, axis=2)), segment(network, deep))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_files_are_read(network: SegmentationNetwork, tmp_path: Path, name: str) -> None:
    Image.fromarray(RGB).save(tmp_path / name)
    assert_same(segment(network, tmp_path / name), segment(network, RGB))
    assert_same(segment(network, str(tmp_path / name)), segment(network, RGB))


def test_a_rotated_file_comes_out_upright(network: SegmentationNetwork, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(RGB, -1)
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        result = segment(network, image)
        np.testing.assert_array_equal(result.image, upright)
        assert result.mask.shape == (56, 40)


def test_a_prediction_does_not_share_its_image_with_the_caller(network: SegmentationNetwork) -> None:
    for image in (RGB.copy(), TENSOR.clone()):
        result = segment(network, image)
        image[:] = 0
        np.testing.assert_array_equal(result.image, RGB)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.astype(np.float32), r"float32.*expected uint8 or uint16"),
        (RGB[None], r"\(1, 40, 56, 3\)"),
        (np.zeros((40, 56, 5), np.uint8), r"\(40, 56, 5\)"),
        (np.zeros((3, 40, 56), np.uint8), r"\(3, 40, 56\)"),
        (TENSOR[None], r"\(1, 3, 40, 56\)"),
        (TENSOR[:1], r"\(1, 40, 56\)"),
        (TENSOR.float(), "expected 0 to 1"),
        (TENSOR.float() / 255 - 0.5, "expected 0 to 1"),
        (torch.full((3, 40, 56), float("nan")), "expected 0 to 1"),
        (TENSOR.long() * 257, "expected uint8"),
        (Image.fromarray(GREY.astype(np.float32)), "mode F"),
        ("nowhere.png", r"nowhere\.png: no such file"),
    ],
)
def test_what_is_no_image_is_named(network: SegmentationNetwork, image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segment(network, image)


def test_a_network_without_classes_is_refused() -> None:
    network = segweave.create_model("fcn", num_classes=2, backbone="resnet18")
    with pytest.raises(InputError, match=r"segweave\.load"):
        segment(network, RGB)


def test_pictures_of_a_prediction(network: SegmentationNetwork) -> None:
    result = segment(network, RGB)
    mask = result.mask_image()
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), result.mask)
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), np.array(PALETTE, np.uint8)[result.mask])
    assert result.overlay().height > 40  # the legend is set under it


def test_a_run_is_given_as_its_folder_or_as_a_network(network: SegmentationNetwork, tmp_path: Path) -> None:
    save_model(network, tmp_path / "run" / "model")
    expected = segment(network, RGB, probabilities=True)
    for model in (str(tmp_path / "run"), tmp_path / "run", tmp_path / "run" / "model", segweave.load(tmp_path / "run")):
        result = segweave.segment(model, RGB, probabilities=True)
        assert_same(result, expected)
        np.testing.assert_array_equal(result.probabilities, expected.probabilities)
        assert result.classes == CLASSES
    with pytest.raises(InputError, match="nowhere: expected the folder of a run"):
        segweave.segment("nowhere", RGB)


def test_a_prediction_shows_itself_in_a_short_line() -> None:
    mask = np.zeros((40, 56), np.uint8)
    mask[30:] = 2
    mask[:1, :28] = 4
    result = SegmentationPrediction(RGB, mask, None, CLASSES, PALETTE)
    assert repr(result) == "<SegmentationPrediction of 56x40 pixels: road 73.8%, sky 25.0%, sign 1.2%>"
    sure = np.zeros((5, 40, 56), np.float32)
    shown = repr(SegmentationPrediction(RGB, mask, sure, CLASSES, PALETTE))
    assert shown == "<SegmentationPrediction of 56x40 pixels: road 73.8%, sky 25.0%, sign 1.2%, with probabilities>"


def test_many_classes_stay_a_short_line() -> None:
    classes = [f"a class with a long name, the {number}th" for number in range(150)]
    mask = np.arange(150, dtype=np.uint8).reshape(10, 15).repeat(4, axis=0).repeat(4, axis=1)
    palette = [(number, 0, 0) for number in range(150)]
    shown = repr(SegmentationPrediction(np.zeros((40, 60, 3), np.uint8), mask, None, classes, palette))
    assert "\n" not in shown
    assert len(shown) < 300
    assert shown.endswith("the 4th 0.7% and 145 more>")


def test_a_detector_is_sent_to_detect() -> None:
    detector = segweave.create_model("faster_rcnn", num_classes=2, backbone="test_resnet", **narrow())
    with pytest.raises(
        InputError, match=r"^a faster_rcnn finds objects: expected segweave\.detect in place of segment$"
    ):
        segment(detector, RGB)
