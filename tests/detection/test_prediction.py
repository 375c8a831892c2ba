"""`detect` for one image in memory, and what it gives."""

from pathlib import Path

import numpy as np
import pytest
import torch

import segweave
from segweave.detection.pictures import draw_detections
from segweave.detection.prediction import Detections, detect
from segweave.errors import InputError
from segweave.networks.network import DetectionNetwork, Labelling
from segweave.saving import save_model
from tests.networks.detection_samples import narrow
from tests.pictures import picture

CLASSES = ("cell", "tree")
PALETTE = ((250, 0, 0), (0, 200, 0))
RGB = picture(48, 64)


@pytest.fixture(scope="module")
def network() -> DetectionNetwork:
    """Random weights: the scores are about a third."""
    torch.manual_seed(0)
    network: DetectionNetwork = segweave.create_model("mask_rcnn", num_classes=2, backbone="test_resnet", **narrow())
    network.labelling = Labelling(CLASSES, PALETTE)
    return network


def found(labels: list[int], classes: tuple[str, ...] = CLASSES, *, masks: bool = False) -> Detections:
    count = len(labels)
    return Detections(
        image=RGB,
        boxes=np.tile(np.array([2, 3, 20, 30], np.float32), (count, 1)),
        labels=np.array(labels, np.int64),
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
        masks=np.zeros((count, 48, 64), np.bool_) if masks else None,
        classes=classes,
        palette=PALETTE,
    )


def test_a_run_is_given_as_its_folder_or_as_a_network(network: DetectionNetwork, tmp_path: Path) -> None:
    save_model(network, tmp_path / "model")
    expected = detect(network, RGB, score=0.2)
    assert len(expected.scores) > 0
    for model in (tmp_path, str(tmp_path), tmp_path / "model", segweave.load(tmp_path)):
        result = segweave.detect(model, RGB, score=0.2)
        for name in ("image", "boxes", "labels", "scores", "masks"):
            np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
        assert (result.classes, result.palette) == (CLASSES, PALETTE)


def test_what_is_found_is_that_of_the_network_from_the_score_up(network: DetectionNetwork) -> None:
    was_training = network.training
    everything = detect(network, RGB, score=0)
    assert network.training == was_training
    least = float(np.median(everything.scores))
    surer = detect(network, RGB, score=least)
    assert 0 < len(surer.scores) < len(everything.scores)
    assert (surer.scores >= least).all()
    kept = everything.scores >= least
    np.testing.assert_array_equal(surer.boxes, everything.boxes[kept])
    assert surer.masks is not None
    assert everything.masks is not None
    assert surer.masks.dtype == np.bool_
    np.testing.assert_array_equal(surer.masks, everything.masks[kept])
    assert len(detect(network, RGB).scores) == (everything.scores >= 0.5).sum()


def test_the_overlay_draws_all_that_was_found(network: DetectionNetwork) -> None:
    result = detect(network, RGB, score=0.2)
    expected = draw_detections(RGB, result.objects, CLASSES, PALETTE)
    np.testing.assert_array_equal(np.asarray(result.overlay()), np.asarray(expected))
    assert result.heading().caption == "objects"


def test_detections_show_themselves_in_a_short_line() -> None:
    assert repr(found([2, 1, 2])) == "<Detections in 64x48 pixels: 2 tree, 1 cell>"
    assert repr(found([1], masks=True)) == "<Detections in 64x48 pixels: 1 cell, with masks>"
    assert repr(found([])) == "<Detections in 64x48 pixels: nothing found>"
    many = tuple(f"class {number}" for number in range(80))
    shown = repr(found([1, 1, *range(1, 81)], many))
    assert shown.startswith("<Detections in 64x48 pixels: 3 class 0, 1 class 1, ")
    assert shown.endswith("1 class 4 and 75 more>")


def test_a_network_for_pixels_is_sent_to_segment() -> None:
    network = segweave.create_model("fcn", num_classes=2, backbone="test_resnet")
    with pytest.raises(InputError, match=r"^a fcn labels pixels: expected segweave\.segment in place of detect$"):
        detect(network, RGB)


def test_a_network_without_classes_is_refused() -> None:
    network = segweave.create_model("faster_rcnn", num_classes=2, backbone="test_resnet", **narrow())
    with pytest.raises(InputError, match=r"the network has no classes: expected one from segweave\.load"):
        detect(network, RGB)


@pytest.mark.parametrize("score", [-0.1, 1.5, float("nan")])
def test_what_is_no_score_is_refused(network: DetectionNetwork, score: float) -> None:
    with pytest.raises(InputError, match=f"score {score}: expected 0 to 1"):
        detect(network, RGB, score=score)
