"""The check of a data set in COCO's format: it collects everything that is wrong."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segweave.commands.check import check, print_check
from segweave.detection.checks import DetectionCheck, check_split
from segweave.detection.coco import CocoDataset
from segweave.detection.dataset import DetectionDataset
from segweave.detection.shapes import ShapesDetectionDataset
from segweave.detection.task import Detection
from segweave.errors import InputError
from segweave.training.run import Splits, checked
from tests.detection.coco_files import HEIGHT, WIDTH, annotation, content, disc, write, write_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        write(tmp_path / "data", split)
    return tmp_path / "data"


def checked_splits(root: Path, **arguments: Any) -> list[DetectionCheck]:
    splits = []
    for split in check(root, **arguments).splits:
        assert isinstance(split, DetectionCheck)
        splits.append(split)
    return splits


def printed(root: Path) -> str:
    output = io.StringIO()
    print_check(check(root), Console(file=output, width=80))
    return output.getvalue()


def test_a_valid_data_set(root: Path) -> None:
    result = check(root)
    assert result.ok
    assert (result.problems, result.problem_count) == ([], 0)
    assert [split.split for split in result.splits] == ["train", "val"]
    train = checked_splits(root)[0]
    assert (train.images, train.objects, train.groups) == (3, 3, 1)
    assert train.classes == ("cell", "rare", "leaf")
    assert train.class_objects.tolist() == [2, 0, 1]
    assert train.unseen_classes == ["rare"]
    assert train.objects_per_image == (0, 1, 2)
    assert train.size_shares == (1, 0, 0)
    assert train.sizes == ((20, 10), (40, 30), (40, 30))
    assert result.warnings == [
        f"{root}/{split}/instances.json: 1 of 3 classes have no object: rare" for split in ("train", "val")
    ]
    assert [split.split for split in check(root, splits=["val"]).splits] == ["val"]


def test_sizes_are_told_apart_as_coco_does(tmp_path: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        for each, area in zip(made["annotations"], (1023.5, 1024, 9216, 5), strict=True):
            each["area"] = area  # the last one is a group

    train = checked_splits(write(tmp_path, change=change))[0]
    assert train.size_shares == pytest.approx((1 / 3,) * 3)


def test_all_problems_are_collected(root: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        made["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [7, 9]}
        mask = disc(30, 20, 6)
        made["annotations"] += [
            annotation(60, 7, 2, mask, segmentation={"size": [HEIGHT, WIDTH], "counts": "0" * 9}),
            annotation(61, 7, 3, mask),
            annotation(62, 8, 2, mask),
            annotation(63, 7, 2, mask, bbox=[1, 1, 0, 4]),
            annotation(64, 7, 2, mask, bbox=[1, 50, 2, 4]),
            annotation(65, 7, 2, mask, segmentation=[[50, 4, 60, 4, 60, 14]]),
            annotation(66, 7, 2, mask, segmentation={"size": [WIDTH, HEIGHT], "counts": "0"}),
            annotation(40, 7, 2, mask),
            annotation(67, 7, 2, mask, segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        ]

    write(root, change=change)
    (root / "train/images/empty.png").unlink()
    (root / "train/images/more/b.jpg").write_bytes(b"no picture")
    Image.new("RGB", (8, 9)).save(root / "train/images/a.png")
    result = check(root)
    file = f"{root}/train/instances.json: "
    for part in (
        f"{root}/train/images/a.png: 8x9 pixels: expected 40x30, as {file}"[:-2] + " has it",
        f"{root}/train/images/more/b.jpg: not an image",
        f"{root}/train/images/empty.png: no such file: expected image 12",
        f"{file}annotation 11: run lengths with the sum 16: expected 1200",
        f"{file}annotation 60: run lengths with the sum 0: expected 1200",
        f"{file}annotation 61: category_id 3: expected the id of one of the categories, 2, 5, 90",
        f"{file}annotation 62: image_id 8: expected the id of one of the images, 3, 7, 12",
        f"{file}annotation 63: bbox [1.0, 1.0, 0.0, 4.0]: expected a width and a height above 0",
        f"{file}annotation 64: bbox [1.0, 50.0, 2.0, 4.0]: outside the image: expected a box within 40x30",
        f"{file}annotation 65: a mask without a pixel: expected one within 40x30",
        f"{file}annotation 66: segmentation of 30x40 pixels: expected 40x30",
        f"{file}annotation 40: the id occurs more than once",
        f"{file}annotation 67: a mask without a pixel",
    ):
        assert sum(problem.startswith(part) for problem in result.problems) == 1, part
    assert len(result.problems) == result.problem_count == result.splits[0].problem_count == 13
    assert result.splits[1].problem_count == 0
    assert not result.ok


def test_files_that_cannot_be_opened_are_problems(root: Path) -> None:
    (root / "val/instances.json").write_text("{")
    (root / "test").mkdir()
    (root / "test/instances.json").write_text(json.dumps({**content(), "images": []}))
    (root / "test/images").mkdir()
    result = check(root)
    assert [split.split for split in result.splits] == ["train"]
    assert len(result.problems) == 2
    assert "test/instances.json: no images: expected at least one" in result.problems[0]
    assert "val/instances.json: cannot be read as JSON" in result.problems[1]


def test_a_split_without_objects_is_a_problem(root: Path) -> None:
    write(root, change=lambda made: made.update(annotations=made["annotations"][3:]))  # the group
    result = check(root)
    assert result.problems == [f"{root}/train/instances.json: no objects: expected at least one that is no group"]


def test_warnings(root: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        made["annotations"][0]["bbox"] = [-5, 4, 23, 10]
        made["annotations"][1]["bbox"] = [24, 14, 12, 9]
        made["annotations"][2]["bbox"][0] += 2  # near enough
        made["annotations"].append(annotation(0, 7, 5, disc(30, 20, 6)))

    write(root, change=change)
    Image.new("L", (3, 3)).save(root / "train/images/unlisted.png")
    (root / "train/images/notes.txt").write_text("")
    result = check(root, splits=["train"])
    file = f"{root}/train/instances.json"
    assert result.ok
    assert sorted(result.warnings) == sorted(
        [
            f"{file}: annotation 11: bbox [-5.0, 4.0, 23.0, 10.0]: 5 pixels beyond the image, which is 40x30: "
            "the box is clipped",
            f"{file}: annotation 11: bbox [-5.0, 4.0, 23.0, 10.0]: expected [3, 4, 15, 10], as its mask has it",
            f"{file}: annotation 40: bbox [24.0, 14.0, 12.0, 9.0]: expected [24, 14, 12, 12], as its mask has it",
            f"{file}: annotation 0: pycocotools takes id 0 for no match: expected ids from 1",
            f"{root}/train/images: 1 image not in {file}: unlisted.png",
        ]
    )


def test_many_lines_are_cut(root: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        mask = disc(30, 20, 6)
        made["annotations"] += [annotation(100 + k, 99, 2, mask) for k in range(5)]
        made["annotations"] += [annotation(200 + k, 7, 2, mask, bbox=[20, 14, 16, 12]) for k in range(5)]

    found = check_split(CocoDataset(write(root, change=change), "train", allow_problems=True), most_problems=2)
    assert len(found.problems) == len(found.warnings) == 3
    assert found.problems[-1] == f"{root}/train/instances.json: and 3 more problems"
    assert found.problem_count == 5
    assert found.warnings[-1] == f"{root}/train/instances.json: and 4 more warnings"


def test_other_classes_in_another_split(root: Path) -> None:
    write(root, "val", lambda made: made["categories"][0].update(name="leaves"))
    result = check(root)
    assert result.problems == [
        f"{root}/val/instances.json: categories cell, rare, leaves: expected cell, rare, leaf, as "
        f"{root}/train/instances.json has them, in the order of their ids"
    ]
    with pytest.raises(InputError, match=r"expected cell, rare, leaf, as .* in the order of their ids$"):
        checked(Detection(), Splits[DetectionDataset](CocoDataset(root, "train"), CocoDataset(root, "val")))


def test_ms_cocos_own_folders(tmp_path: Path) -> None:
    made = content()
    flat = [[5, 6, 5, 6, 6.03, 6]]
    made["annotations"].append(annotation(50, 7, 2, disc(9, 9, 3), bbox=[5, 6, 1.03, 0.0], segmentation=flat))
    made["annotations"].append(annotation(51, 7, 2, disc(9, 9, 3), segmentation=[[9.1, 9.1, 9.2, 9.1, 9.2, 9.2]]))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(made))
    write_images(tmp_path / "train2017")
    result = check(tmp_path)
    assert result.ok
    assert [split.split for split in result.splits] == ["train2017"]
    assert checked_splits(tmp_path)[0].objects == 3
    assert [warning.partition(": ")[2] for warning in result.warnings[1:]] == [
        "annotation 50: a box without area: the object is left out",
        "annotation 51: a mask without a pixel: the object is left out",
    ]
    assert check(tmp_path, splits=["train"]).splits[0].split == "train"


def test_boxes_alone_are_no_problem(tmp_path: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        for each in made["annotations"]:
            del each["segmentation"]

    result = check(write(tmp_path, change=change))
    assert result.ok
    assert any("no annotation has a segmentation" in warning for warning in result.warnings)


def test_wrong_roots_and_tasks(root: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        check(root / "nowhere")
    with pytest.raises(InputError, match=r"data: holds data for detection, not for segmentation: expected SPLIT/masks"):
        check(root, task="segmentation")
    (root / "train/masks").mkdir()
    assert "the masks: no values" in check(root, splits=["train"]).problems[0]
    assert checked_splits(root, task="detection")[0].objects == 3


def test_a_run_refuses_data_with_problems(root: Path) -> None:
    task = Detection()
    train, val = CocoDataset(root, "train"), CocoDataset(root, "val")
    drawn = ShapesDetectionDataset("val")
    assert task.check(drawn, most_problems=20, progress=False) is None
    (found,) = checked(task, Splits[DetectionDataset](drawn, train))
    assert isinstance(found, DetectionCheck)
    assert found.objects == 3
    Image.new("RGB", (8, 9)).save(root / "val/images/a.png")
    with pytest.raises(InputError, match=r"val/images/a\.png: 8x9 pixels: expected 40x30, as .* has it$"):
        checked(task, Splits[DetectionDataset](train, val))
    (root / "train/images/a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png: an empty file \(and 1 more: segweave data check tells them all\)$"):
        checked(task, Splits[DetectionDataset](train, val))


def test_printed_tables(root: Path) -> None:
    text = printed(root)
    assert "6 objects, no problems" in text
    for row in (
        "train 3 20x10 40x30 40x30 0",
        "train 3 1 0 1 2 100% 0% 0%",
        "90 leaf 1 1",
        "5 rare none none",
    ):
        assert row in "\n".join(" ".join(line.replace("█", "").split()) for line in text.splitlines())
    (root / "train/images/a.png").write_bytes(b"")
    text = printed(root)
    assert f"problem: {root}/train/images/a.png: an empty file\n" in text
    assert "1 problem\n" in text


def test_contact_sheet(root: Path, tmp_path: Path) -> None:
    (root / "train/images/a.png").write_bytes(b"")  # what cannot be drawn is left out
    path = tmp_path / "sheet.png"
    check(root, contact_sheet=path)
    pixels = np.asarray(Image.open(path)).astype(int)
    for colour in CocoDataset(root, "val").palette[::2]:
        exact = (pixels == colour).all(axis=-1)
        assert exact.sum() > 400, "the legend and the boxes show the class's colour"
    with pytest.raises(InputError, match=r"sheet\.png: exists"):
        check(root, contact_sheet=path)
