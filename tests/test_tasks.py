"""Which task a name, a folder or a network is for; one function opens every data set and says what is missing."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segweave
from segweave.detection.coco import CocoDataset
from segweave.detection.shapes import ShapesDetectionDataset
from segweave.errors import InputError
from segweave.networks.network import Labelling
from segweave.segmentation.camvid import CamVid
from segweave.segmentation.folder import FolderDataset
from segweave.segmentation.shapes import ShapesSegmentationDataset
from segweave.task import EvaluationOptions, PredictionOptions
from segweave.tasks import TASKS, AnyTask, open_dataset, task_of_data, task_of_model, task_of_network
from tests.detection.coco_files import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val", "night"):
        for kind, pixels in (("images", np.zeros((32, 40, 3), np.uint8)), ("masks", np.eye(32, 40, dtype=np.uint8))):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / split / kind / f"{split}.png")
    return tmp_path


def test_shapes_has_no_root() -> None:
    assert isinstance(open_dataset("shapes"), ShapesSegmentationDataset)
    assert len(open_dataset("shapes", split="val")) == 100
    with pytest.raises(InputError, match=r"shapes.*expected no root, got there"):
        open_dataset("shapes", "there")


@pytest.mark.parametrize("given", [str, Path])
def test_a_folder_is_recognised(folder: Path, given: type) -> None:
    dataset = open_dataset(given(folder))
    assert isinstance(dataset, FolderDataset)
    assert dataset.name(0) == "train/images/train.png"
    assert open_dataset(given(folder), split="night").name(0) == "night/images/night.png"
    with pytest.raises(InputError, match="is a folder itself: expected no root"):
        open_dataset(given(folder), folder)


def test_names_open_their_classes(folder: Path) -> None:
    assert type(open_dataset("folder", folder, "val")) is FolderDataset
    assert type(open_dataset("camvid", str(folder), "val")) is CamVid


@pytest.mark.parametrize("name", [name for task in TASKS.values() for name in task.datasets])
def test_a_name_needs_a_root(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}.*needs a root"):
        open_dataset(name)


def test_what_is_unknown_is_named_beside_what_is_known(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no-such-data.*shapes, folder, camvid, coco"):
        open_dataset("no-such-data")
    with pytest.raises(InputError, match=r"'test'.*night, train, val"):
        open_dataset(folder, split="test")
    with pytest.raises(InputError, match=r"'test'.*train, val"):
        open_dataset("shapes", split="test")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_dataset("camvid", folder / "nowhere")
    file = folder / "train" / "images" / "train.png"
    with pytest.raises(InputError, match=r"train\.png.*expected an existing folder"):
        open_dataset(file)


def test_a_folder_of_instances_is_recognised(tmp_path: Path) -> None:
    root = write(tmp_path)
    for task in (None, "detection", "instance"):
        dataset = open_dataset(root, task=task)
        assert isinstance(dataset, CocoDataset)
        assert dataset.name(0) == "train/images/a.png"
    assert isinstance(open_dataset("coco", root), CocoDataset)
    with pytest.raises(InputError, match=r"no split 'val': expected one of train"):
        open_dataset(root, split="val")
    with pytest.raises(InputError, match="holds data for detection, not for segmentation: expected SPLIT/masks"):
        open_dataset(root, task="segmentation")
    for name in (root, "coco"):
        assert task_of_data(name) is TASKS["detection"]


def test_a_folder_of_masks_has_no_instances(folder: Path) -> None:
    assert isinstance(open_dataset(folder, task="segmentation"), FolderDataset)
    expected = r"holds data for segmentation, not for detection: expected SPLIT/instances\.json beside SPLIT/images"
    with pytest.raises(InputError, match=expected):
        open_dataset(folder, task="detection")
    for name in (folder, "shapes", "camvid", "folder"):
        assert task_of_data(name) is TASKS["segmentation"]


def test_the_task_decides_in_a_folder_that_has_both(folder: Path) -> None:
    write(folder)
    assert isinstance(open_dataset(folder, task="detection"), CocoDataset)
    assert task_of_data(folder) is TASKS["segmentation"]
    for name in ("a.png", "empty.png"):  # have no mask
        (folder / "train/images" / name).unlink()
    for task in (None, "segmentation", "semantic"):
        assert isinstance(open_dataset(folder, task=task), FolderDataset)


def test_names_and_tasks(folder: Path) -> None:
    for task in ("detection", "instance"):
        assert isinstance(open_dataset("shapes", split="val", task=task), ShapesDetectionDataset)
    for task in ("segmentation", "semantic"):
        assert isinstance(open_dataset("shapes", task=task), ShapesSegmentationDataset)
    expected = "'coco' is for detection, not for segmentation: expected 'shapes', 'folder', 'camvid'$"
    with pytest.raises(InputError, match=expected):
        open_dataset("coco", folder, task="segmentation")
    for name in ("folder", "camvid"):
        expected = f"'{name}' is for segmentation, not for detection: expected 'shapes', 'coco'$"
        with pytest.raises(InputError, match=expected):
            open_dataset(name, folder, task="detection")


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown task 'segmentatoin': did you mean segmentation\?$"):
        open_dataset("shapes", task="segmentatoin")
    with pytest.raises(InputError, match=r"unknown task 'pose': expected one of segmentation, detection$"):
        open_dataset("shapes", task="pose")


def test_the_task_of_a_network_is_found_by_its_name_and_by_itself() -> None:
    assert {name: task_of_model(name).name for name in ("pan", "fpt", "faster_rcnn", "mask_rcnn")} == {
        "pan": "segmentation", "fpt": "segmentation", "faster_rcnn": "detection", "mask_rcnn": "detection",
    }  # fmt: skip
    for name in ("fcn", "faster_rcnn"):
        network = segweave.create_model(name, num_classes=3, backbone="test_resnet", pretrained=False)
        assert task_of_network(network) is task_of_model(name)
    with pytest.raises(InputError, match=r"unknown model 'fastr_rcnn': did you mean faster_rcnn\?$"):
        task_of_model("fastr_rcnn")


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_refuses_the_options_of_another(task: AnyTask) -> None:
    name = task.default_model(open_dataset("shapes", split="val", task=task.name))
    network = segweave.create_model(name, num_classes=3, backbone="test_resnet", pretrained=False)
    network.labelling = Labelling(("a", "b", "c"), ((0, 0, 0),) * 3)
    usable = {"scales": [1.0], "window": (64, 64), "scale_range": (0.5, 2.0), "flip": False, "random_views": 0}
    for kind, known in ((EvaluationOptions, task.evaluation_options), (PredictionOptions, task.prediction_options)):
        names = {field.name for field in fields(kind)}
        assert known
        assert known < names
        every: dict[str, Any] = dict.fromkeys(names, 1)
        for option in known:
            beside = {"random_views": 1} if option in ("scale_range", "seed") else {}
            task.require_options(kind(**{option: usable.get(option, 1), **beside}), network, "RUN")
        others = [each.name for each in fields(kind) if each.name not in known]
        with pytest.raises(InputError) as raised:
            task.require_options(kind(**every), network, "RUN")
        assert str(raised.value) == f"RUN: a {name} {task.does}: expected no {' and no '.join(others)}"
