"""`evaluate` on a tiny run: against a plain loop, in one process and in two, from Python and from the command line."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

import segweave
from segweave.cli import main
from segweave.commands.evaluate import evaluate
from segweave.data.transforms import normalise
from segweave.detection.evaluation import DetectionEvaluator
from segweave.errors import InputError
from segweave.networks.network import DetectionNetwork, SegmentationNetwork
from segweave.results import worst_and_best
from segweave.saving import save_model
from segweave.segmentation.confusion import confusion_matrix
from segweave.segmentation.evaluation import SegmentationResult
from segweave.segmentation.inference import Inference
from segweave.tasks import open_dataset
from segweave.training.trainer import run_evaluator
from tests.commands.coarse import coarse_by_hand

HERE: dict[str, Any] = {"device": "cpu", "workers": 0}


def plain_loop(run: Path, root: Path, short_edge: int | None = None) -> np.ndarray:
    """The confusion matrix, without anything of what is under test but the network itself."""
    network = segweave.load(run).eval()
    classes = network.num_classes
    mean = np.array(network.backbone.mean)
    std = np.array(network.backbone.std)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for path in sorted((root / "val" / "images").iterdir()):
        pixels = (np.asarray(Image.open(path)) / 255 - mean) / std
        truth = np.asarray(Image.open(root / "val" / "masks" / path.name))
        image = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            if short_edge is not None:
                factor = short_edge / min(truth.shape)
                size = [round(side * factor) for side in truth.shape]
                image = F.interpolate(image, size, mode="bilinear", antialias=True)
            logits = F.interpolate(network(image), truth.shape, mode="bilinear")
        prediction = logits[0].argmax(dim=0).numpy()
        for y, x in np.ndindex(truth.shape):
            if truth[y, x] != 255:
                confusion[truth[y, x], prediction[y, x]] += 1
    return confusion


def segmented(run: Any, **arguments: Any) -> SegmentationResult:
    """What `evaluate` gives for a network that labels pixels."""
    result = evaluate(run, **arguments)
    assert isinstance(result, SegmentationResult)
    return result


@pytest.fixture(scope="module")
def result(run: Path, drawn_folder: Path) -> SegmentationResult:
    return segmented(run, data=drawn_folder, **HERE)


def test_result_is_that_of_a_plain_loop(run: Path, drawn_folder: Path, result: SegmentationResult) -> None:
    expected = plain_loop(run, drawn_folder)
    assert (expected.sum(axis=0) > 0).sum() > 1, "predictions of one class alone prove little"
    difference = np.abs(result.confusion.numpy() - expected).sum() / 2
    assert difference <= 0.001 * expected.sum()  # pixels at a tie
    assert int(result.confusion.sum()) == expected.sum()
    counts = result.confusion.double().numpy()
    assert result.pixel_accuracy == pytest.approx(np.trace(counts) / counts.sum())
    iou = [
        counts[k, k] / union
        for k in range(len(counts))
        if (union := counts[k].sum() + counts[:, k].sum() - counts[k, k])
    ]
    assert result.mean_iou == pytest.approx(np.mean(iou))
    assert list(result.class_iou) == list(result.classes)
    assert list(result.image_scores) == [f"val/images/{index}.png" for index in range(7)]


def test_images_are_resized_as_they_were_in_training(run: Path, small_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to(run / "model" / "model.safetensors")
    configuration = json.loads((run / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**configuration, "short_edge": 96}))
    expected = plain_loop(run, small_folder, short_edge=96)
    other = segmented(tmp_path, data=small_folder, **HERE)
    assert np.abs(other.confusion.numpy() - expected).sum() / 2 <= 0.001 * expected.sum()
    plain = segmented(run, data=small_folder, **HERE)
    assert not torch.equal(other.confusion, plain.confusion)


def test_figures_are_printed_and_written_as_json(
    run: Path, drawn_folder: Path, result: SegmentationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures" / "val.json"
    evaluate(run, data=drawn_folder, out=out, **HERE)
    figures = json.loads(out.read_text())
    assert figures["confusion"] == result.confusion.tolist()
    assert figures["mean_iou"] == pytest.approx(result.mean_iou)
    assert figures["pixel_accuracy"] == pytest.approx(result.pixel_accuracy)
    assert list(figures["class_iou"]) == list(result.classes)
    printed = capsys.readouterr().out
    assert all(name in printed for name in result.classes)
    assert f"mIoU {100 * result.mean_iou:.2f} %" in printed


def test_existing_figures_are_not_overwritten(run: Path, drawn_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "val.json"
    out.write_text("precious")
    with pytest.raises(InputError, match=r"val\.json: exists already"):
        evaluate(run, data=drawn_folder, out=out, **HERE)
    assert out.read_text() == "precious"
    evaluate(run, data=drawn_folder, out=out, overwrite=True, **HERE)
    assert "mean_iou" in json.loads(out.read_text())


def test_classes_that_occur_nowhere_have_no_figure(constant_run: Path, drawn_folder: Path, tmp_path: Path) -> None:
    """A network that sees class 0 everywhere, and masks of classes 0 and 1 alone."""
    for index in range(2):
        for kind in ("images", "masks"):
            (tmp_path / "val" / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36)).save(tmp_path / "val" / "images" / f"{index}.png")
        Image.new("L", (40, 36), index).save(tmp_path / "val" / "masks" / f"{index}.png")
    (tmp_path / "dataset.yaml").write_text((drawn_folder / "dataset.yaml").read_text())
    out = tmp_path / "figures.json"
    result = segmented(constant_run, data=tmp_path, out=out, **HERE)
    assert result.pixel_accuracy == 0.5
    assert result.mean_iou == 0.25
    iou = list(result.class_iou.values())
    assert iou[:2] == [0.5, 0.0]
    assert all(map(math.isnan, iou[2:]))
    assert result.image_scores == {"val/images/0.png": 1.0, "val/images/1.png": 0.0}

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    figures = json.loads(out.read_text(), parse_constant=refuse)
    assert list(figures["class_iou"].values()) == [0.5, 0.0, *[None] * 10]


def test_data_of_other_classes_is_refused(run: Path, drawn_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to(drawn_folder / "val")
    names = [*yaml.safe_load((drawn_folder / "dataset.yaml").read_text())["classes"], "cactus"]
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"classes": names}))
    with pytest.raises(InputError) as error:
        evaluate(run, data=tmp_path, **HERE)
    message = str(error.value)
    assert "\n" not in message
    assert "13 classes" in message
    assert "cactus" in message
    assert "expected the 12" in message
    assert str(run) in message
    assert str(tmp_path) in message


def test_as_many_classes_of_other_names_are_refused(run: Path, drawn_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to(drawn_folder / "val")
    names = [f"class {index}" for index in range(12)]
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"classes": names}))
    with pytest.raises(InputError, match="12 classes class 0, class 1"):
        evaluate(run, data=tmp_path, **HERE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "no split 'test': expected one of val"),
        ({"data": "nowhere"}, "'nowhere'"),
        ({"device": "toaster"}, "device 'toaster'"),
        ({"scales": ()}, "scales"),
        ({"window": (8, 8)}, r"window \[8, 8\]"),
    ],
)
def test_what_cannot_be_used_is_named(run: Path, drawn_folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(run, **{**HERE, "data": drawn_folder, **change})


def test_a_run_without_a_model_is_named(drawn_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        evaluate(tmp_path, data=drawn_folder, **HERE)


def test_command_line_takes_scales_flip_and_window(run: Path, small_folder: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"scales": (0.5, 1.0), "flip": True, "window": (40, 48)}
    expected = segmented(run, data=small_folder, **asked, **HERE)
    out = tmp_path / "cli.json"
    words = ["evaluate", str(run), "--data", str(small_folder), "--split", "val", "--scales", "0.5", "1.0", "--flip"]
    words += ["--window", "40", "48", "--device", "cpu", "--workers", "0", "--out", str(out)]
    assert main(words) == 0
    assert json.loads(out.read_text())["confusion"] == expected.confusion.tolist()
    plain = segmented(run, data=small_folder, **HERE)
    assert not torch.equal(plain.confusion, expected.confusion)


def test_random_views_differ_from_image_to_image_and_with_the_seed(
    run: Path, small_folder: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"random_views": 2, "scale_range": (0.5, 1.5)}
    seeds = [segmented(run, data=small_folder, **asked, seed=seed, **HERE).confusion for seed in (0, 0, 1)]
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])
    network, dataset = segweave.load(run), open_dataset(small_folder, None, "val", task="segmentation")
    inference = Inference(short_edge=network.labelling.short_edge, seed=1, **asked)
    confusion = torch.zeros_like(seeds[2])
    for number in range(len(dataset)):
        image, mask = dataset[number]
        pixels = normalise(image[None].as_subclass(torch.Tensor), network.backbone.mean, network.backbone.std)
        with torch.no_grad():
            prediction = inference(network, pixels, number).argmax(dim=1)[0]
        confusion += confusion_matrix(prediction, mask.as_subclass(torch.Tensor), len(dataset.classes))
    assert torch.equal(confusion, seeds[2])


def test_command_line_takes_random_views(run: Path, small_folder: Path, tmp_path: Path) -> None:
    expected = segmented(run, data=small_folder, random_views=2, scale_range=(0.5, 1.5), seed=3, **HERE)
    out = tmp_path / "cli.json"
    words = ["evaluate", str(run), "--data", str(small_folder), "--random-views", "2", "--scale-range", "0.5", "1.5"]
    words += ["--seed", "3", "--device", "cpu", "--workers", "0", "--out", str(out)]
    assert main(words) == 0
    assert json.loads(out.read_text())["confusion"] == expected.confusion.tolist()


def test_command_line_answers_bad_input_in_one_line(
    run: Path, drawn_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--data", str(drawn_folder), "--split", "test"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("segweave: ")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["torch.distributed.run", "--nproc-per-node", "2", "-m"]])
def test_two_processes_count_as_one_does(
    run: Path, drawn_folder: Path, result: SegmentationResult, tmp_path: Path, launcher: list[str]
) -> None:
    """Seven images make uneven shares. Lightning starts the second process itself, unless torchrun has done so."""
    out = tmp_path / "two.json"
    command = [sys.executable, "-m", *launcher, "segweave", "evaluate", str(run), "--data", str(drawn_folder)]
    command += ["--split", "val", "--device", "cpu", "--devices", "2", "--workers", "0", "--out", str(out)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["confusion"] == result.confusion.tolist()
    assert done.stdout.count("mIoU") == 1


def test_a_network_whose_classes_the_data_has_not_is_called_the_network(
    ranet: SegmentationNetwork, drawn_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "val").symlink_to(drawn_folder / "val")
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"classes": [f"class {index}" for index in range(12)]}))
    with pytest.raises(InputError, match="expected the 12 that the network was trained on: "):
        evaluate(ranet, data=tmp_path, **HERE)


def test_worst_and_best_images_do_not_overlap() -> None:
    scores = {"a": 0.5, "b": 0.1, "c": 0.9, "d": math.nan, "e": 0.3}
    assert worst_and_best(scores, 2) == (["b", "e"], ["c", "a"])
    assert worst_and_best(scores, 9) == (["b", "e"], ["c", "a"])
    assert worst_and_best({"a": 0.5, "b": 0.1, "c": 0.9}, 2) == (["b", "a"], ["c"])
    assert worst_and_best({"a": 0.5}, 3) == (["a"], [])
    assert worst_and_best({"a": math.nan}, 3) == ([], [])


def test_objects_are_evaluated_and_written(detector: DetectionNetwork, coco_folder: Path, tmp_path: Path) -> None:
    save_model(detector, tmp_path / "run" / "model")
    out, predictions = tmp_path / "figures.json", tmp_path / "predictions.json"
    result = evaluate(tmp_path / "run", data=coco_folder, out=out, predictions=predictions, **HERE)
    dataset = open_dataset(coco_folder, None, "val", task="detection")
    expected = run_evaluator(DetectionEvaluator(detector, dataset), **HERE)
    assert result.to_json() == expected.to_json()
    assert json.loads(out.read_text()) == expected.to_json()
    assert expected.predictions
    assert json.loads(predictions.read_text()) == expected.predictions
    with pytest.raises(InputError, match=r"predictions\.json: exists already: .* another --predictions"):
        evaluate(detector, data=coco_folder, predictions=predictions, **HERE)
    assert evaluate(detector, data=coco_folder, **HERE).to_json() == expected.to_json()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"flip": False}, "flip"),
        ({"scales": (0.5, 1.0), "window": (64, 64)}, "scales and no window"),
        ({"random_views": 3, "seed": 0}, "random_views and no seed"),
        ({"coarse": True}, "coarse"),
    ],
    ids=str,
)
def test_options_for_pixels_are_refused_by_name_for_a_detector(
    detector: DetectionNetwork, coco_folder: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=f"^the network: a mask_rcnn finds objects: expected no {named}$"):
        evaluate(detector, data=coco_folder, **options, **HERE)


def test_options_for_objects_are_refused_by_name_for_pixels(run: Path, small_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{run}: a pan labels pixels: expected no predictions$"):
        evaluate(run, data=small_folder, predictions=tmp_path / "predictions.json", **HERE)
    assert not (tmp_path / "predictions.json").exists()


def test_the_coarse_segmentation_is_the_one_that_the_context_is_made_from(
    ranet: SegmentationNetwork, small_folder: Path, tmp_path: Path
) -> None:
    fine = segmented(ranet, data=small_folder, **HERE)
    coarse = segmented(ranet, data=small_folder, coarse=True, **HERE)
    dataset = open_dataset(small_folder, None, "val", task="segmentation")
    expected = torch.zeros_like(fine.confusion)
    for image, mask in (dataset[number] for number in range(len(dataset))):
        pixels = normalise(image[None].as_subclass(torch.Tensor), ranet.backbone.mean, ranet.backbone.std)
        prediction = coarse_by_hand(ranet, pixels).argmax(dim=1)[0]
        expected += confusion_matrix(prediction, mask.as_subclass(torch.Tensor), len(dataset.classes))
    assert torch.equal(coarse.confusion, expected)
    assert not torch.equal(coarse.confusion, fine.confusion)
    save_model(ranet, tmp_path / "run" / "model")
    out = tmp_path / "cli.json"
    words = ["evaluate", str(tmp_path / "run"), "--data", str(small_folder), "--coarse", "--out", str(out)]
    assert main([*words, "--device", "cpu", "--workers", "0"]) == 0
    assert json.loads(out.read_text())["confusion"] == coarse.confusion.tolist()


def test_a_network_without_a_coarse_segmentation_is_refused(run: Path, small_folder: Path) -> None:
    with pytest.raises(InputError, match=r"PAN has no coarse segmentation: .* expected a RANet"):
        evaluate(run, data=small_folder, coarse=True, **HERE)
