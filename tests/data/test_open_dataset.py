"""One function opens every data set, by name or by folder, and says what is missing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segweave.detection.coco import CocoDataset
from segweave.detection.shapes import ShapesDetectionDataset
from segweave.errors import InputError
from segweave.segmentation.camvid import CamVid
from segweave.segmentation.folder import FolderDataset
from segweave.segmentation.shapes import ShapesSegmentationDataset
from segweave.tasks import DATASETS, is_coco, open_dataset
from tests.data.coco_files import write


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


@pytest.mark.parametrize("name", DATASETS)
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
    for task in (None, "instance"):
        dataset = open_dataset(root, task=task)
        assert isinstance(dataset, CocoDataset)
        assert dataset.name(0) == "train/images/a.png"
    assert isinstance(open_dataset("coco", root), CocoDataset)
    with pytest.raises(InputError, match=r"no split 'val': expected one of train"):
        open_dataset(root, split="val")
    with pytest.raises(InputError, match="instances, but no masks of classes: expected SPLIT/masks"):
        open_dataset(root, task="semantic")
    assert is_coco(root)
    assert is_coco("coco", root)


def test_a_folder_of_masks_has_no_instances(folder: Path) -> None:
    assert isinstance(open_dataset(folder, task="semantic"), FolderDataset)
    with pytest.raises(InputError, match=r"no instances: expected SPLIT/instances\.json beside SPLIT/images"):
        open_dataset(folder, task="instance")
    assert not any(is_coco(name) for name in (folder, folder / "nowhere", "shapes", "camvid", "no-such-data"))


def test_the_task_decides_in_a_folder_that_has_both(folder: Path) -> None:
    write(folder)
    assert isinstance(open_dataset(folder, task="instance"), CocoDataset)
    assert not is_coco(folder)
    for name in ("a.png", "empty.png"):  # have no mask
        (folder / "train/images" / name).unlink()
    for task in (None, "semantic"):
        assert isinstance(open_dataset(folder, task=task), FolderDataset)


def test_names_and_tasks(folder: Path) -> None:
    assert isinstance(open_dataset("shapes", split="val", task="instance"), ShapesDetectionDataset)
    assert isinstance(open_dataset("shapes", task="semantic"), ShapesSegmentationDataset)
    with pytest.raises(InputError, match="'coco' has objects, no masks of classes: expected one of 'shapes', 'folder'"):
        open_dataset("coco", folder, task="semantic")
    for name in ("folder", "camvid"):
        with pytest.raises(InputError, match=f"'{name}' has masks of classes, no objects: expected 'coco' or 'shapes'"):
            open_dataset(name, folder, task="instance")
