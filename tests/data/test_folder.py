"""A user's own folders: what is read, and that every mistake is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from segweave.errors import InputError
from segweave.segmentation.camvid import CLASSES, PALETTE, CamVid
from segweave.segmentation.folder import FolderDataset, available_splits, default_palette


def add_pair(root: Path, split: str, stem: str, mask: list[list[int]], size: tuple[int, int] | None = None) -> None:
    """Writes a random image and the mask, whose size is the image's unless given as (width, height)."""
    values = np.array(mask, dtype=np.uint8)
    width, height = size or values.shape[::-1]
    for folder in ("images", "masks"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / split / "images" / f"{stem}.png")
    Image.fromarray(values).save(root / split / "masks" / f"{stem}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_pair(tmp_path, "train", "b", [[0, 1, 2], [9, 255, 2]])
    add_pair(tmp_path, "train", "a", [[0, 0], [1, 1]])
    add_pair(tmp_path, "val", "c", [[3, 9]])
    (tmp_path / "dataset.yaml").write_text("classes: [road, tree, car, sky]\nignore_index: 9\n")
    return tmp_path


def test_labelled_images_keep_values_outside_the_classes(root: Path) -> None:
    add_pair(root, "val", "c", [[3, 9, 77]])
    image, labels, boxes = FolderDataset(root, "val").labelled(0)
    assert image.size == (3, 1)
    assert labels.tolist() == [[3, 255, 77]]
    assert boxes == []
    add_pair(root, "val", "c", [[3, 9, 0]], size=(4, 4))
    with pytest.raises(InputError, match="3x1 pixels: expected 4x4"):
        FolderDataset(root, "val").labelled(0)


def test_samples(root: Path) -> None:
    dataset = FolderDataset(root, "train")
    assert len(dataset) == 2
    assert list(dataset.classes) == ["road", "tree", "car", "sky"]
    assert [dataset.name(index) for index in range(2)] == ["train/images/a.png", "train/images/b.png"]
    image, mask = dataset[1]
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(mask, tv_tensors.Mask)
    assert (image.dtype, mask.dtype) == (torch.uint8, torch.int64)
    expected = np.asarray(Image.open(root / "train/images/b.png"))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert mask.tolist() == [[0, 1, 2], [255, 255, 2]]


def test_arguments_override_the_file(root: Path) -> None:
    classes = [f"kind {k}" for k in range(10)]
    dataset = FolderDataset(root, "train", classes=classes, ignore_index=[0, 1], palette=[(k, k, k) for k in range(10)])
    assert list(dataset.classes) == classes
    assert dataset.palette[9] == (9, 9, 9)
    assert dataset[1].mask.tolist() == [[255, 255, 2], [9, 255, 2]]


def test_classes_are_inferred_from_all_splits(root: Path) -> None:
    (root / "dataset.yaml").write_text("ignore_index: 9")
    for split in ("train", "val"):
        assert list(FolderDataset(root, split).classes) == ["class 0", "class 1", "class 2", "class 3"]
    (root / "dataset.yaml").unlink()
    assert len(FolderDataset(root, "train").classes) == 10


def test_masks_of_0_and_255_are_no_classes(tmp_path: Path) -> None:
    add_pair(tmp_path, "train", "a", [[0, 255]])
    with pytest.raises(InputError, match=r"a\.png: no values but 0 and those to ignore \(255\)"):
        FolderDataset(tmp_path, "train")


def test_inferring_refuses_too_many_classes(tmp_path: Path) -> None:
    add_pair(tmp_path, "train", "a", [[0, 1]])
    Image.fromarray(np.array([[0, 700]], dtype=np.uint16)).save(tmp_path / "train/masks/a.png")
    with pytest.raises(InputError, match=r"a\.png: value 700: expected classes from 0 to 254"):
        FolderDataset(tmp_path, "train")


def test_colour_masks_and_a_colour_for_void(root: Path) -> None:
    colours = np.array([[[10, 0, 0], [0, 20, 0], [0, 0, 0]], [[0, 20, 0]] * 3], dtype=np.uint8)
    Image.fromarray(colours).save(root / "train/masks/b.png")
    Image.fromarray(colours[:, :2]).save(root / "train/masks/a.png")
    (root / "dataset.yaml").write_text("classes: [x, y]\npalette: [[10, 0, 0], [0, 20, 0], [0, 0, 0]]\nignore_index: 2")
    dataset = FolderDataset(root, "train")
    assert dataset[1].mask.tolist() == [[0, 1, 255], [1, 1, 1]]
    assert list(dataset.palette) == [(10, 0, 0), (0, 20, 0)]
    (root / "dataset.yaml").write_text("palette: [[10, 0, 0], [0, 20, 0], [0, 0, 0]]\nignore_index: 2")
    assert list(FolderDataset(root, "train").classes) == ["class 0", "class 1"]


def test_value_outside_the_classes(root: Path) -> None:
    add_pair(root, "train", "a", [[204, 204], [0, 1]])
    dataset = FolderDataset(root, "train")
    with pytest.raises(InputError, match=r"masks/a\.png: value 204 \(2 pixels\): expected 0 to 3 or ignore 9 or 255"):
        dataset[0]


def test_mask_of_another_size(root: Path) -> None:
    add_pair(root, "train", "a", [[0, 0, 0]], size=(5, 4))
    with pytest.raises(InputError, match=r"masks/a\.png: 3x1 pixels: expected 5x4, as its image .*images/a\.png"):
        FolderDataset(root, "train")[0]


def test_missing_pairs_are_named(root: Path) -> None:
    (root / "train/masks/a.png").unlink()
    with pytest.raises(InputError, match=r"images: 1 file without a mask in .*masks: a\.png"):
        FolderDataset(root, "train")
    dataset = FolderDataset(root, "train", allow_unpaired=True)
    assert [path.name for path in dataset.image_paths] == ["b.png"]
    assert len(dataset.unpaired) == 1

    (root / "val/images/c.png").rename(root / "val/images/d.png")
    assert len(FolderDataset(root, "val", allow_unpaired=True).unpaired) == 2
    (root / "val/images/d.png").rename(root / "val/images/c.png")
    for k in range(7):
        (root / f"val/masks/extra{k}.png").touch()
    with pytest.raises(
        InputError, match=r"masks: 7 files without an image in .*images: extra0\.png, .*extra4\.png, \.\.\."
    ):
        FolderDataset(root, "val")


def test_one_stem_must_be_one_file(root: Path) -> None:
    (root / "train/images/a.jpg").touch()
    with pytest.raises(InputError, match=r"2 files whose stem another file has in .*: a\.jpg, a\.png"):
        FolderDataset(root, "train")


def test_wrong_folders(root: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        FolderDataset(root / "nowhere", "train")
    with pytest.raises(InputError, match="no split 'test': expected one of train, val"):
        FolderDataset(root, "test")
    with pytest.raises(InputError, match="no split 'train': expected subfolders SPLIT/images and SPLIT/masks"):
        FolderDataset(root / "train", "train")
    (root / "test/images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"test/masks: no such folder"):
        FolderDataset(root, "test")
    (root / "test/masks").mkdir()
    with pytest.raises(InputError, match=r"test/images: no images"):
        FolderDataset(root, "test")


def test_available_splits(root: Path) -> None:
    (root / "other").mkdir()
    assert available_splits(root) == ["train", "val"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clases: [a, b]", "unknown key clases: expected classes, palette, ignore_index"),
        ("classes: [a, b", "cannot be read as YAML"),
        ("[a, b]", "expected the keys"),
        ("classes: {0: a, 1: b}", "classes: .*expected a list"),
        ("classes: []", "classes: .*expected a list of 1 to 255 names"),
        ("classes: [yes, no]", "classes: True: expected a name"),
        ("classes: [a, b, a]", "classes: 'a' occurs more than once"),
        ("classes: [a, b]\npalette: [[1, 2, 3]]", "palette: 1 colours: expected 2"),
        ("classes: [a]\npalette: [[1, 2, 3], [3, 4, 5]]", "palette: 2 colours: expected 1"),
        ("palette: [[1, 2, 300]]", r"palette: \[1, 2, 300\]: expected \[red, green, blue\]"),
        ("palette: red", "palette: 'red': expected a list of colours"),
        ("ignore_index: void", "ignore_index: 'void': expected an integer"),
        ("ignore_index: [11, 1.5]", "ignore_index: 1.5: expected an integer"),
        ("ignore_index: true", "ignore_index: True: expected an integer"),
    ],
)
def test_mistakes_in_the_file_are_named(root: Path, text: str, message: str) -> None:
    (root / "dataset.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"dataset\.yaml: {message}") as error:
        FolderDataset(root, "train")
    assert "\n" not in str(error.value)


def test_default_palette_is_distinct_and_stable() -> None:
    palette = default_palette(255)
    assert len(set(palette)) == 255
    assert palette[:7] == default_palette(7)
    first = np.array(palette[:20], dtype=float)
    distances = np.linalg.norm(first[:, None] - first[None], axis=-1) + 1e9 * np.eye(20)
    assert distances.min() > 50
    assert default_palette(0) == []


def test_camvid_reads_both_folder_trees(tmp_path: Path) -> None:
    add_pair(tmp_path / "ours", "train", "a", [[0, 10, 11]])
    for name, folder in (("train", "images"), ("trainannot", "masks")):
        data = (tmp_path / "ours/train" / folder / "a.png").read_bytes()
        (tmp_path / "segnet" / name).mkdir(parents=True)
        (tmp_path / "segnet" / name / "a.png").write_bytes(data)
    for root in (tmp_path / "ours", tmp_path / "segnet"):
        assert CamVid.splits(root) == ["train"]
        dataset = CamVid(root, "train")
        assert dataset[0].mask.tolist() == [[0, 10, 255]]
        assert tuple(dataset.classes) == CLASSES
        assert tuple(dataset.palette) == PALETTE
        with pytest.raises(InputError, match="no split 'val': expected one of train"):
            CamVid(root, "val")
    assert CamVid(tmp_path / "segnet", "train").name(0) == "train/a.png"
