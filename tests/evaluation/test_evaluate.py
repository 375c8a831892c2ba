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
from segweave.errors import InputError
from segweave.segmentation.confusion import confusion_matrix
from segweave.segmentation.evaluation import SegmentationResult, worst_and_best
from segweave.segmentation.inference import Inference
from segweave.tasks import open_dataset

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


@pytest.fixture(scope="module")
def result(run: Path, folder: Path) -> SegmentationResult:
    return evaluate(run, data=folder, **HERE)


def test_result_is_that_of_a_plain_loop(run: Path, folder: Path, result: SegmentationResult) -> None:
    expected = plain_loop(run, folder)
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
    other = evaluate(tmp_path, data=small_folder, **HERE)
    assert np.abs(other.confusion.numpy() - expected).sum() / 2 <= 0.001 * expected.sum()
    plain = evaluate(run, data=small_folder, **HERE)
    assert not torch.equal(other.confusion, plain.confusion)


def test_figures_are_printed_and_written_as_json(
    run: Path, folder: Path, result: SegmentationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures" / "val.json"
    evaluate(run, data=folder, out=out, **HERE)
    figures = json.loads(out.read_text())
    assert figures["confusion"] == result.confusion.tolist()
    assert figures["mean_iou"] == pytest.approx(result.mean_iou)
    assert figures["pixel_accuracy"] == pytest.approx(result.pixel_accuracy)
    assert list(figures["class_iou"]) == list(result.classes)
    printed = capsys.readouterr().out
    assert all(name in printed for name in result.classes)
    assert f"mIoU {100 * result.mean_iou:.2f} %" in printed


def test_existing_figures_are_not_overwritten(run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "val.json"
    out.write_text("precious")
    with pytest.raises(InputError, match=r"val\.json: exists already"):
        evaluate(run, data=folder, out=out, **HERE)
    assert out.read_text() == "precious"
    evaluate(run, data=folder, out=out, overwrite=True, **HERE)
    assert "mean_iou" in json.loads(out.read_text())


def test_classes_that_occur_nowhere_have_no_figure(constant_run: Path, folder: Path, tmp_path: Path) -> None:
    """A network that sees class 0 everywhere, and masks of classes 0 and 1 alone."""
    for index in range(2):
        for kind in ("images", "masks"):
            (tmp_path / "val" / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36)).save(tmp_path / "val" / "images" / f"{index}.png")
        Image.new("L", (40, 36), index).save(tmp_path / "val" / "masks" / f"{index}.png")
    (tmp_path / "dataset.yaml").write_text((folder / "dataset.yaml").read_text())
    out = tmp_path / "figures.json"
    result = evaluate(constant_run, data=tmp_path, out=out, **HERE)
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


def test_data_of_other_classes_is_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to(folder / "val")
    names = [*yaml.safe_load((folder / "dataset.yaml").read_text())["classes"], "cactus"]
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


def test_as_many_classes_of_other_names_are_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to(folder / "val")
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
def test_what_cannot_be_used_is_named(run: Path, folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(run, **{**HERE, "data": folder, **change})


def test_a_run_without_a_model_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        evaluate(tmp_path, data=folder, **HERE)


def test_command_line_takes_scales_flip_and_window(run: Path, small_folder: Path, tmp_path: Path) -> None:
    asked = {"scales": (0.5, 1.0), "flip": True, "window": (40, 48)}
    expected = evaluate(run, data=small_folder, **asked, **HERE)
    out = tmp_path / "cli.json"
    words = ["evaluate", str(run), "--data", str(small_folder), "--split", "val", "--scales", "0.5", "1.0", "--flip"]
    words += ["--window", "40", "48", "--device", "cpu", "--workers", "0", "--out", str(out)]
    assert main(words) == 0
    assert json.loads(out.read_text())["confusion"] == expected.confusion.tolist()
    plain = evaluate(run, data=small_folder, **HERE)
    assert not torch.equal(plain.confusion, expected.confusion)


def test_random_views_differ_from_image_to_image_and_with_the_seed(
    run: Path, small_folder: Path, tmp_path: Path
) -> None:
    asked = {"random_views": 2, "scale_range": (0.5, 1.5)}
    seeds = [evaluate(run, data=small_folder, **asked, seed=seed, **HERE).confusion for seed in (0, 0, 1)]
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])
    network, dataset = segweave.load(run), open_dataset(small_folder, None, "val")
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
    expected = evaluate(run, data=small_folder, random_views=2, scale_range=(0.5, 1.5), seed=3, **HERE)
    out = tmp_path / "cli.json"
    words = ["evaluate", str(run), "--data", str(small_folder), "--random-views", "2", "--scale-range", "0.5", "1.5"]
    words += ["--seed", "3", "--device", "cpu", "--workers", "0", "--out", str(out)]
    assert main(words) == 0
    assert json.loads(out.read_text())["confusion"] == expected.confusion.tolist()


def test_command_line_answers_bad_input_in_one_line(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--data", str(folder), "--split", "test"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("segweave: ")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["torch.distributed.run", "--nproc-per-node", "2", "-m"]])
def test_two_processes_count_as_one_does(
    run: Path, folder: Path, result: SegmentationResult, tmp_path: Path, launcher: list[str]
) -> None:
    """Seven images make uneven shares. Lightning starts the second process itself, unless torchrun has done so."""
    out = tmp_path / "two.json"
    command = [sys.executable, "-m", *launcher, "segweave", "evaluate", str(run), "--data", str(folder)]
    command += ["--split", "val", "--device", "cpu", "--devices", "2", "--workers", "0", "--out", str(out)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["confusion"] == result.confusion.tolist()
    assert done.stdout.count("mIoU") == 1


def test_worst_and_best_images_do_not_overlap() -> None:
    scores = {"a": 0.5, "b": 0.1, "c": 0.9, "d": math.nan, "e": 0.3}
    assert worst_and_best(scores, 2) == (["b", "e"], ["c", "a"])
    assert worst_and_best(scores, 9) == (["b", "e"], ["c", "a"])
    assert worst_and_best({"a": 0.5, "b": 0.1, "c": 0.9}, 2) == (["b", "a"], ["c"])
    assert worst_and_best({"a": 0.5}, 3) == (["a"], [])
    assert worst_and_best({"a": math.nan}, 3) == ([], [])
