"""A whole run of a detector: what it writes and chooses, what is done with it, and what stops it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

import segweave
from segweave import InputError, train
from segweave.detection.average_precision import DetectionResult
from segweave.networks.network import DetectionNetwork
from segweave.training.callbacks import read_metrics
from segweave.training.configuration import read_settings
from segweave.training.folder import RUN_FILES
from tests.small_runs import flags, weights


def test_a_run_folder_holds_what_is_promised(detection_run: Path) -> None:
    assert sorted(path.name for path in detection_run.iterdir()) == sorted(RUN_FILES)
    rows = read_metrics(detection_run / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]  # nine images in batches of four
    assert {"val/box_ap", "val/box_ap50", "val/mask_ap", "train/loss", "train/loss_mask"} <= set(rows[0])
    network = segweave.load(detection_run)
    assert isinstance(network, DetectionNetwork)
    assert network.labelling is not None
    assert network.labelling.classes == ("red", "green")
    assert (network.labelling.short_edge, network.labelling.long_edge) == (48, 80)
    report = (detection_run / "report.html").read_text()
    assert "green" in report
    assert "http" not in report.split("<body")[1].replace("http://www.w3.org", "")


@pytest.mark.usefixtures("no_report")
def test_config_yaml_repeats_the_run_whatever_the_workers(tmp_path: Path, detection_run: Path) -> None:
    train(out=tmp_path / "again", config=detection_run / "config.yaml", workers=2)
    assert weights(tmp_path / "again") == weights(detection_run)


def test_settings_follow_the_objects(detection_run: Path) -> None:
    settings = read_settings(detection_run / "config.yaml")
    options = settings["options"]
    # a tenth of the boxes, of 10 to 24 by 10 to 20 pixels, are smaller than about 11
    assert options["anchor_sizes"] == [11.0, 22.0, 44.0, 88.0, 176.0]
    assert options["detections_per_image"] == 100
    assert (settings["short_edge"], settings["long_edge"], settings["crop_size"]) == (48, 80, None)


def test_without_a_model_the_data_chooses(
    tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {name: value for name, value in detection_settings.items() if name != "model"}
    train(coco_folder, out=tmp_path / "run", **settings | {"epochs": 1})
    line = r"^epoch 1/1  step 2  loss [\d.]+  mask AP [\d.]+ %  box AP [\d.]+ %  box AP50 [\d.]+ %  mask AP50 [\d.]+ %$"
    assert re.search(line, capsys.readouterr().out, re.MULTILINE)
    assert read_settings(tmp_path / "run" / "config.yaml")["model"] == "mask_rcnn"
    anchors = {"anchor_sizes": (11.0, 22.0, 44.0, 88.0, 176.0)}  # as chosen
    train(out=tmp_path / "run", resume=True, **settings | {"epochs": 1, "long_edge": 80, "options": anchors})
    with pytest.raises(InputError, match=r"the run has options \{'channels': 16\}, not \{'channels': 8\}"):
        train(out=tmp_path / "run", resume=True, options={"channels": 8})


def test_boxes_without_masks_choose_a_detector_of_boxes_alone(
    tmp_path: Path, boxes_folder: Path, detection_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {name: value for name, value in detection_settings.items() if name != "model"}
    result = train(boxes_folder, out=tmp_path / "run", **settings | {"epochs": 1})
    printed = capsys.readouterr().out
    assert "faster_rcnn on test_resnet" in printed
    assert re.search(r"^ *model +faster_rcnn +--model *$", printed, re.MULTILINE)  # among what was chosen
    assert read_settings(tmp_path / "run" / "config.yaml")["model"] == "faster_rcnn"
    assert isinstance(result, DetectionResult)
    assert result.mask is None
    assert (tmp_path / "run" / "report.html").exists()


def test_a_detector_of_masks_is_not_trained_on_boxes(
    tmp_path: Path, boxes_folder: Path, detection_settings: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="objects without masks: expected masks, or model faster_rcnn"):
        train(boxes_folder, out=tmp_path / "run", **detection_settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_report")
def test_a_detector_that_starts_from_another_is_as_wide(
    tmp_path: Path,
    detection_run: Path,
    coco_folder: Path,
    detection_settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"rois_per_image": 16}
    settings = {name: value for name, value in detection_settings.items() if name != "learning_rate"}
    train(coco_folder, out=tmp_path / "tuned", init_from=detection_run, **settings | {"options": options, "epochs": 1})
    chosen = read_settings(tmp_path / "tuned" / "config.yaml")
    assert {"channels": 16, "head_channels": 32, "rois_per_image": 16}.items() <= chosen["options"].items()
    assert (chosen["optimizer"], chosen["learning_rate"]) == ("sgd", 0.005)
    told = re.search(r"(\d+) of (\d+) tensors start from", capsys.readouterr().out)
    assert told is not None
    assert told[1] == told[2]


def test_a_detector_of_boxes_alone(tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any]) -> None:
    frozen = {"model": "faster_rcnn", "freeze_batch_norm": True, "epochs": 1, "milestones": (0.5,)}
    result = train(coco_folder, out=tmp_path / "run", **detection_settings | frozen)
    assert result.mask is None
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0.001)
    assert "val/mask_ap" not in rows[0]
    network = segweave.load(tmp_path / "run")
    tracked = [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert tracked
    assert all(module.num_batches_tracked == 0 for module in tracked)


def test_evaluate_is_what_training_told(tmp_path: Path, detection_run: Path, coco_folder: Path) -> None:
    figures, found = tmp_path / "figures.json", tmp_path / "found.json"
    result = segweave.evaluate(detection_run, data=coco_folder, workers=0, device="cpu", out=figures, predictions=found)
    best = max(float(row["val/mask_ap"]) for row in read_metrics(detection_run / "metrics.csv"))
    assert result.mask.ap == pytest.approx(best, abs=1e-6)
    assert json.loads(figures.read_text())["mask"]["ap"] == pytest.approx(result.mask.ap)
    predictions = json.loads(found.read_text())
    assert predictions
    assert {each["category_id"] for each in predictions} <= {3, 7}
    with pytest.raises(InputError, match=r"found\.json: exists already"):
        segweave.evaluate(detection_run, data=coco_folder, predictions=found)
    with pytest.raises(InputError, match=r"a mask_rcnn finds objects: expected no flip$"):
        segweave.evaluate(detection_run, data=coco_folder, flip=True)


def test_predict_draws_and_writes_coco(tmp_path: Path, detection_run: Path, coco_folder: Path) -> None:
    out = tmp_path / "out"
    paths = segweave.predict(detection_run, coco_folder / "val" / "images", out=out, score=0.0, device="cpu")
    assert [path.name for path in paths] == [f"{index}.png" for index in range(5)]
    written = COCO(str(out / "predictions.json"))
    assert len(written.imgs) == 5
    assert written.anns
    assert {each["name"] for each in written.cats.values()} == {"red", "green"}
    assert {each["category_id"] for each in written.anns.values()} <= {3, 7}  # as in what it was trained on
    annotation = next(iter(written.anns.values()))
    assert annotation["area"] == written.annToMask(annotation).sum()
    assert written.annToMask(annotation).shape == (48, 64)
    assert 0 <= annotation["score"] <= 1
    picture = np.asarray(Image.open(paths[0]).convert("RGB"))
    assert picture.std() > 0
    with pytest.raises(InputError, match="exists already"):
        segweave.predict(detection_run, coco_folder / "val" / "images", out=out)
    with pytest.raises(InputError, match=r"a mask_rcnn finds objects: expected no flip$"):
        segweave.predict(detection_run, coco_folder / "val" / "images", out=tmp_path / "other", flip=True)


def test_detect_tells_what_is_sure(detection_run: Path, coco_folder: Path) -> None:
    network = segweave.load(detection_run)
    image = coco_folder / "val" / "images" / "0.png"
    with pytest.raises(InputError, match=r"score 1\.5: expected 0 to 1"):
        segweave.detect(network, image, score=1.5)
    everything = segweave.detect(network, image, score=0.0)
    assert len(everything.scores) > 0
    count = len(everything.scores) // 2 + 1
    limit = float(everything.scores[count - 1])  # an object of just this score is told
    sure = segweave.detect(network, image, score=limit)
    assert 0 < len(sure.scores) < len(everything.scores)
    assert sure.masks.shape == (len(sure.scores), 48, 64)
    for name in ("boxes", "labels", "scores", "masks"):
        np.testing.assert_array_equal(getattr(sure, name), getattr(everything, name)[: len(sure.scores)])
    assert len(sure.scores) == (everything.scores >= limit).sum() >= count
    np.testing.assert_array_equal(segweave.detect(network, image, score=0.0).scores, everything.scores)


@pytest.mark.usefixtures("no_report")
def test_explain_draws_what_fpt_used(
    tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any], detection_run: Path
) -> None:
    options = detection_settings["options"] | {"neck": "fpt"}
    short = {"options": options, "epochs": 1, "short_edge": 40}
    train(coco_folder, out=tmp_path / "fpt", **detection_settings | short)
    image = coco_folder / "val" / "images" / "0.png"
    (sheet,) = segweave.explain(tmp_path / "fpt", image, out=tmp_path / "out", at=(63, 47), maps=True, device="cpu")
    assert Image.open(sheet).height > 1000
    maps = np.load(sheet.with_suffix(".npz"))
    assert maps["transformed_level1"].shape == (16, 10, 14)  # 48x64 resized to 40x53, at stride 4, without padding
    attention = maps["grounding_from_level4_level1"]
    assert attention.sum() == pytest.approx(1, abs=1e-4)
    (sheet,) = segweave.explain(detection_run, image, out=tmp_path / "fpn", maps=True, device="cpu")
    assert set(np.load(sheet.with_suffix(".npz"))) == {"level1", "level2", "level3", "level4"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "pan"}, "holds data for detection, not for segmentation: expected SPLIT/masks beside SPLIT/images"),
        ({"crop_size": (32, 32)}, r"crop_size \[32, 32\]: mask_rcnn sees whole images"),
        ({"compile": True}, "compile: not for mask_rcnn"),
        ({"long_edge": 5}, "long_edge 5: expected 0"),
        ({"milestones": (0.8, 0.5)}, r"milestones \[0.8, 0.5\]: expected shares of the run, rising"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained(
    tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    options = {} if "model" in settings else detection_settings["options"]
    with pytest.raises(InputError, match=message):
        train(coco_folder, out=tmp_path / "run", **detection_settings | {"options": options} | settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes(tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any]) -> None:
    out = tmp_path / "run"
    options = {**detection_settings["options"], "neck": "fpt"}
    settings = {**detection_settings, "epochs": 1, "options": options}
    words = ["--data", str(coco_folder), "--out", str(out), "--devices", "2", *flags(settings)]
    subprocess.run([sys.executable, "-m", "segweave", "train", *words], check=True, capture_output=True, timeout=300)
    told = read_metrics(out / "metrics.csv")[-1]
    again = segweave.evaluate(out, data=coco_folder, workers=0, device="cpu")
    assert again.box.ap == pytest.approx(float(told["val/box_ap"]), abs=1e-6)
    assert again.box.ap > 0
    assert again.mask.ap == pytest.approx(float(told["val/mask_ap"]), abs=1e-6)


def test_masks_cannot_train_a_detector(tmp_path: Path, folder: Path, detection_settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"not for detection: expected SPLIT/instances\.json beside SPLIT/images"):
        train(folder, out=tmp_path / "run", **detection_settings)
