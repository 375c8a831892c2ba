"""The check of a whole data set: it collects everything that is wrong."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segweave.commands.check import check, print_check
from segweave.errors import InputError
from segweave.segmentation.checks import SegmentationCheck, check_split
from segweave.segmentation.dataset import Sample, SegmentationDataset
from segweave.segmentation.folder import FolderDataset
from segweave.segmentation.task import Segmentation
from segweave.training.run import Splits, checked


class Drawn(SegmentationDataset):
    """A data set without files."""

    classes = ("a", "b")
    palette = ((0, 0, 0), (255, 255, 255))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("there is nothing to read")

    def name(self, index: int) -> str:
        return str(index)


def save_pair(root: Path, split: str, stem: str, mask: np.ndarray, size: tuple[int, int] | None = None) -> None:
    for folder in ("images", "masks"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    width, height = size or mask.shape[::-1]
    pixels = np.random.default_rng(len(stem)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / split / "images" / f"{stem}.jpg")
    Image.fromarray(mask.astype(np.uint8)).save(root / split / "masks" / f"{stem}.png")


def stripes(height: int, width: int) -> np.ndarray:
    """Columns of the values 0, 1, 11, 0, 1, 11, ..."""
    return np.tile(np.array([0, 1, 11] * width)[:width], (height, 1))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for stem, size in (("a", (6, 9)), ("b", (8, 9)), ("c", (10, 12))):
        save_pair(root, "train", stem, stripes(*size))
    save_pair(root, "val", "d", stripes(6, 6))
    (root / "dataset.yaml").write_text("classes: [road, tree]\npalette: [[250, 0, 0], [0, 250, 0]]\nignore_index: 11")
    return root


def checked_splits(root: Path, **arguments: Any) -> list[SegmentationCheck]:
    splits = []
    for split in check(root, **arguments).splits:
        assert isinstance(split, SegmentationCheck)
        splits.append(split)
    return splits


def printed(root: Path) -> str:
    output = io.StringIO()
    print_check(check(root), Console(file=output, width=60))
    return output.getvalue()


def test_a_valid_data_set(root: Path) -> None:
    result = check(root)
    assert result.ok
    assert (result.problems, result.warnings) == ([], [])
    train = checked_splits(root)[0]
    assert (train.split, train.images) == ("train", 3)
    assert train.class_pixels.tolist() == [82, 82]
    assert train.ignored_pixels == 82
    assert train.sizes == ((9, 6), (9, 8), (12, 10))
    assert train.unseen_classes == []
    assert checked_splits(root, splits=["val"])[0].class_pixels.tolist() == [12, 12]


def test_all_problems_are_collected(root: Path) -> None:
    save_pair(root, "train", "e", np.full((4, 5), 204))
    save_pair(root, "train", "f", np.array([[204, 0, 77]]))
    save_pair(root, "train", "g", stripes(4, 5), size=(7, 8))
    noise = root / "train/images/a.jpg"
    noise.write_bytes(noise.read_bytes()[:-150])
    (root / "train/masks/b.png").write_bytes(b"no picture")
    (root / "val/masks/d.png").rename(root / "val/masks/x.png")
    result = check(root)
    problems = "\n".join(result.problems)
    for part in (
        "a.jpg: cannot be read as an image",
        "b.png: not an image",
        "g.png: 5x4 pixels: expected 7x8",
        "e.png and 1 other mask: value 204 (21 pixels): expected 0 to 1 or ignore 11 or 255",
        "f.png: value 77 (1 pixels)",
        "1 file without a mask in",
        "1 file without an image in",
    ):
        assert part in problems
    assert len(result.problems) == result.problem_count == 7
    assert not result.ok


def test_a_split_that_cannot_be_opened_is_a_problem(root: Path) -> None:
    (root / "test/images").mkdir(parents=True)
    result = check(root)
    assert [split.split for split in result.splits] == ["train", "val"]
    assert len(result.problems) == 1
    assert "test/masks: no such folder" in result.problems[0]
    (root / "dataset.yaml").write_text("classes: 3")
    assert ["dataset.yaml: classes" in problem for problem in check(root, splits=["train", "val"]).problems] == [True]


def test_inferring_classes_survives_broken_masks(root: Path) -> None:
    (root / "dataset.yaml").unlink()
    (root / "train/masks/b.png").write_bytes(b"")
    result = check(root)
    assert len(result.problems) == 1
    assert "b.png: an empty file" in result.problems[0]
    assert len(result.splits[0].classes) == 12
    assert any("9 of 12 classes have no pixel: class 2" in warning for warning in result.warnings)


def test_many_problems_are_cut(root: Path) -> None:
    for index in range(5):
        save_pair(root, "val", f"bad{index}", stripes(4, 5), size=(7, 8))
    found = check_split(FolderDataset(root, "val"), most_problems=2)
    assert len(found.problems) == 3
    assert "and 3 more problems" in found.problems[-1]
    assert found.problem_count == 5


def test_warnings(root: Path) -> None:
    save_pair(root, "test", "a", np.array([[0, 11, 11]]))
    Image.fromarray(np.zeros((1, 3), dtype=np.uint8)).save(root / "test/masks/b.jpg")
    save_pair(root, "test", "b", np.array([[11, 11, 11]]))
    (root / "test/masks/b.png").unlink()
    warnings = "\n".join(check(root, splits=["test"]).warnings)
    assert "1 of 2 classes have no pixel: tree" in warnings
    assert "b.jpg: a mask as JPEG" in warnings
    assert "ignored" not in warnings
    (root / "test/masks/b.jpg").unlink()
    (root / "test/images/b.jpg").unlink()
    assert any("67% of the pixels are ignored" in warning for warning in check(root, splits=["test"]).warnings)


def test_wrong_roots(root: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        check(root / "nowhere")
    with pytest.raises(InputError, match="images: no splits: expected SPLIT/masks beside SPLIT/images"):
        check(root / "train/images")


def test_a_run_refuses_data_with_problems(root: Path) -> None:
    task = Segmentation()
    train, val = FolderDataset(root, "train"), FolderDataset(root, "val")
    assert task.check(Drawn(), most_problems=20, progress=False) is None
    (found,) = checked(task, Splits[SegmentationDataset](Drawn(), train))
    assert isinstance(found, SegmentationCheck)
    assert found.class_pixels.tolist() == [82, 82]
    Image.fromarray(np.full((6, 6), 204, dtype=np.uint8)).save(root / "val/masks/d.png")
    with pytest.raises(InputError, match=r"d\.png: value 204 .* or 255$"):
        checked(task, Splits[SegmentationDataset](train, val))
    (root / "train/images/a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.jpg: an empty file \(and 1 more: segweave data check tells them all\)$"):
        checked(task, Splits[SegmentationDataset](train, val))


def test_printed_tables_and_long_lines(root: Path) -> None:
    text = printed(root)
    assert "1 tree" in text
    assert "4 images, no problems" in text
    (root / "train/images/[red]x.jpg").touch()
    text = printed(root)
    assert "[red]x.jpg" in text
    problem = check(root).problems[0]
    assert f"problem: {problem}\n" in text  # neither wrapped nor cut
    assert "1 problem\n" in text


def test_contact_sheet(root: Path, tmp_path: Path) -> None:
    (root / "train/images/a.jpg").write_bytes(b"")  # what cannot be drawn is left out
    path = tmp_path / "new" / "sheet.png"
    check(root, contact_sheet=path)
    pixels = np.asarray(Image.open(path)).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    assert ((red == 250) & (green == 0) & (blue == 0)).sum() > 100, "the legend shows the class's colour"
    assert (red - green > 100).mean() > 0.02, "the overlay shows the class"
    assert (pixels == 255).all(axis=-1).mean() < 0.9

    before = path.read_bytes()
    with pytest.raises(InputError, match=r"sheet\.png: exists"):
        check(root, contact_sheet=path)
    assert path.read_bytes() == before
    check(root, splits=["val"], contact_sheet=path, overwrite=True)
    assert path.read_bytes() != before


def test_contact_sheet_draws_a_dozen_images_at_most(root: Path, tmp_path: Path) -> None:
    for index in range(15):
        save_pair(root, "val", f"more{index}", stripes(6, 6))
    check(root, splits=["val"], contact_sheet=tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").height < 4 * (240 + 22) + 150


def test_another_folder_tree(tmp_path: Path) -> None:
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "train/a.png")
    Image.new("L", (4, 3), 204).save(tmp_path / "trainannot/a.png")
    result = check(tmp_path)
    assert len(result.problems) == 1
    assert "trainannot/a.png: value 204 (12 pixels): expected 0 to 10 or ignore 11 or 255" in result.problems[0]
