"""One function opens every data set, by name or by folder, and says what is missing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segweave.data import DATASETS, ShapesDataset, open_dataset
from segweave.data.camvid import CamVid
from segweave.data.folder import FolderDataset
from segweave.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val", "night"):
        for kind, pixels in (("images", np.zeros((32, 40, 3), np.uint8)), ("masks", np.eye(32, 40, dtype=np.uint8))):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / split / kind / f"{split}.png")
    return tmp_path


def test_shapes_has_no_root() -> None:
    assert isinstance(open_dataset("shapes"), ShapesDataset)
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
    with pytest.raises(InputError, match=r"no-such-data.*shapes, folder, camvid"):
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
