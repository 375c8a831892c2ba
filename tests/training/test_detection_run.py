"""A whole run of a detector: what it writes and chooses, what is done with it, and what stops it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

import segweave
from segweave import InputError, train
from segweave.commands.train import RUN_FILES
from segweave.detection.choices import ObjectSizes, anchor_sizes, detections_per_image
from segweave.networks.network import DetectionNetwork
from segweave.training.callbacks import read_metrics
from segweave.training.configuration import RunConfiguration, configure, read_settings, resolve
from tests.small_runs import flags


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, coco_folder: Path, detection_settings: dict[str, Any]) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    # a network that has seen so little is sure of nothing: what it is least unsure of counts too
    options = detection_settings["options"] | {"score_threshold": 0.0}
    train(coco_folder, out=out, **detection_settings | {"options": options})
    return out


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def test_a_run_folder_holds_what_is_promised(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == sorted(RUN_FILES)
    rows = read_metrics(run / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]  # nine images in batches of four
    assert {"val/box_ap", "val/box_ap50", "val/mask_ap", "train/loss", "train/loss_mask"} <= set(rows[0])
    network = segweave.load(run)
    assert isinstance(network, DetectionNetwork)
    assert network.labelling is not None
    assert network.labelling.classes == ("red", "green")
    assert (network.labelling.short_edge, network.labelling.long_edge) == (48, 80)
    report = (run / "report.html").read_text()
    assert "green" in report
    assert "http" not in report.split("<body")[1].replace("http://www.w3.org", "")


def test_config_yaml_repeats_the_run_whatever_the_workers(tmp_path: Path, run: Path) -> None:
    train(out=tmp_path / "again", config=run / "config.yaml", workers=2)
    assert weights(tmp_path / "again") == weights(run)


def test_settings_follow_the_objects(run: Path) -> None:
    settings = read_settings(run / "config.yaml")
    options = settings["options"]
    # a tenth of the boxes, of 10 to 24 by 10 to 20 pixels, are smaller than about 11
    assert options["anchor_sizes"] == [11.0, 22.0, 44.0, 88.0, 176.0]
    assert options["detections_per_image"] == 100
    assert (settings["short_edge"], settings["long_edge"], settings["crop_size"]) == (48, 80, None)


def test_without_a_model_the_data_chooses(
    tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any]
) -> None:
    settings = {name: value for name, value in detection_settings.items() if name != "model"}
    train(coco_folder, out=tmp_path / "run", **settings | {"epochs": 1})
    assert read_settings(tmp_path / "run" / "config.yaml")["model"] == "mask_rcnn"
    anchors = {"anchor_sizes": (11.0, 22.0, 44.0, 88.0, 176.0)}  # as chosen
    train(out=tmp_path / "run", resume=True, **settings | {"epochs": 1, "long_edge": 80, "options": anchors})
    with pytest.raises(InputError, match=r"the run has options \{'channels': 16\}, not \{'channels': 8\}"):
        train(out=tmp_path / "run", resume=True, options={"channels": 8})


def test_a_detector_that_starts_from_another_is_as_wide(
    tmp_path: Path, run: Path, coco_folder: Path, detection_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"rois_per_image": 16}
    settings = {name: value for name, value in detection_settings.items() if name != "learning_rate"}
    train(coco_folder, out=tmp_path / "tuned", init_from=run, **settings | {"options": options, "epochs": 1})
    chosen = read_settings(tmp_path / "tuned" / "config.yaml")
    assert {"channels": 16, "head_channels": 32, "rois_per_image": 16}.items() <= chosen["options"].items()
    assert (chosen["optimizer"], chosen["learning_rate"]) == ("sgd", 0.005)
    taken, count = re.search(r"(\d+) of (\d+) tensors start from", capsys.readouterr().out).groups()
    assert taken == count


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


def test_evaluate_is_what_training_told(tmp_path: Path, run: Path, coco_folder: Path) -> None:
    figures, found = tmp_path / "figures.json", tmp_path / "found.json"
    result = segweave.evaluate(run, data=coco_folder, workers=0, device="cpu", out=figures, predictions=found)
    best = max(float(row["val/mask_ap"]) for row in read_metrics(run / "metrics.csv"))
    assert result.mask.ap == pytest.approx(best, abs=1e-6)
    assert json.loads(figures.read_text())["mask"]["ap"] == pytest.approx(result.mask.ap)
    predictions = json.loads(found.read_text())
    assert predictions
    assert {each["category_id"] for each in predictions} <= {3, 7}
    with pytest.raises(InputError, match=r"found\.json: exists already"):
        segweave.evaluate(run, data=coco_folder, predictions=found)
    with pytest.raises(InputError, match="finds objects: expected no scales, flip"):
        segweave.evaluate(run, data=coco_folder, flip=True)


def test_predict_draws_and_writes_coco(tmp_path: Path, run: Path, coco_folder: Path) -> None:
    out = tmp_path / "out"
    paths = segweave.predict(run, coco_folder / "val" / "images", out=out, score=0.0, device="cpu")
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
        segweave.predict(run, coco_folder / "val" / "images", out=out)
    with pytest.raises(InputError, match="expected no scales, flip, window"):
        segweave.predict(run, coco_folder / "val" / "images", out=tmp_path / "other", flip=True)


def test_detect_tells_what_is_sure(run: Path, coco_folder: Path) -> None:
    network = segweave.load(run)
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


def test_explain_draws_what_fpt_used(
    tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any], run: Path
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
    with pytest.raises(InputError, match="explains nothing"):
        segweave.explain(run, image, out=tmp_path / "none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "pan"}, "instances, but no masks of classes"),
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
    with pytest.raises(InputError, match=r"no instances: expected SPLIT/instances\.json"):
        train(folder, out=tmp_path / "run", **detection_settings)


def sizes_of(*sizes: float, most: int = 1, short_edge: float = 100) -> ObjectSizes:
    return ObjectSizes(np.array(sizes), np.full(len(sizes), short_edge), np.full(len(sizes), 2 * short_edge), most)


def test_anchors_double_from_the_small_objects_on() -> None:
    objects = sizes_of(*range(10, 111))  # a tenth is smaller than 20
    assert anchor_sizes(objects, 100, 0) == (23.0, 46.0, 92.0, 184.0, 368.0)
    assert anchor_sizes(objects, 0, 0) == anchor_sizes(objects, 100, 200) == anchor_sizes(objects, 100, 0)
    assert anchor_sizes(objects, 50, 0) == anchor_sizes(objects, 100, 100) == (11.0, 22.0, 44.0, 88.0, 176.0)
    assert anchor_sizes(sizes_of(0.5), 100, 0) == (4.0, 8.0, 16.0, 32.0, 64.0)
    assert anchor_sizes(sizes_of(), 100, 0) is None


def test_anchors_reach_the_large_objects() -> None:
    objects = sizes_of(*[10.0] * 20, *[405.0] * 80)
    assert anchor_sizes(objects, 100, 0) == (11.0, 27.0, 67.0, 164.0, 405.0)


@pytest.mark.parametrize(("most", "expected"), [(0, 100), (66, 100), (67, 150), (100, 150), (375, 600)])
def test_the_limit_on_detections(most: int, expected: int) -> None:
    assert detections_per_image(sizes_of(most=most)) == expected


def test_resolve_for_objects() -> None:
    def chosen(image_size: tuple[int, int] = (480, 640), **settings: Any) -> RunConfiguration:
        configuration = configure({"data": "shapes", "model": "mask_rcnn", "device": "cpu", **settings})
        return resolve(configuration, images=400, image_size=image_size, objects=sizes_of(30.0, short_edge=480))

    plain = chosen()
    assert (plain.short_edge, plain.long_edge, plain.batch_size, plain.learning_rate) == (320, 533, 4, 0.001)
    assert (plain.optimizer, plain.epochs) == ("adamw", 8)
    assert {"channels": 64, "head_channels": 256, "rois_per_image": 128}.items() <= plain.options.items()
    assert chosen(optimizer="sgd").learning_rate == 0.01
    assert "test_proposals" not in plain.options
    crowded = configure({"data": "shapes", "model": "mask_rcnn", "device": "cpu"})
    crowded = resolve(crowded, images=400, image_size=(480, 640), objects=sizes_of(30.0, most=375))
    assert (crowded.options["detections_per_image"], crowded.options["test_proposals"]) == (600, (2400, 2400))
    assert chosen(image_size=(256, 2048)).long_edge == 2560  # scaled up by 1.25
    assert chosen(image_size=(256, 2048), scale_range=(0.5, 1.0)).long_edge == 2048
    assert chosen(image_size=(28, 28)).short_edge == 32
    assert (chosen(pretrained=True).optimizer, chosen(pretrained=True).learning_rate) == ("sgd", 0.005)
    assert chosen(short_edges=(400, 600, 800)).short_edge == 600
    assert chosen(short_edges=(400, 600, 800)).long_edge == 1333
    assert chosen(options={"anchor_sizes": [8, 16, 32, 64, 128]}).options["anchor_sizes"][0] == 8
    assert torch.tensor(plain.options["anchor_sizes"]).diff().gt(0).all()
