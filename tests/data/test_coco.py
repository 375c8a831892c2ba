"""COCO's format: what is read, from both folder trees, and that every mistake is named."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torchvision import tv_tensors

from segweave.detection.coco import CocoDataset
from segweave.errors import InputError
from tests.data.coco_files import HEIGHT, WIDTH, annotation, content, disc, write, write_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path)


def ms_coco(root: Path, year: str = "2017", change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
    for split in ("train", "val"):
        made = content()
        if change is not None:
            change(made)
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{split}{year}.json").write_text(json.dumps(made))
        write_images(root / f"{split}{year}")
    return root


def first_of(made: dict[str, Any]) -> dict[str, Any]:
    return made["annotations"][0]


def test_what_a_split_is(root: Path) -> None:
    dataset = CocoDataset(root, "train")
    assert (len(dataset), dataset.split, dataset.has_masks) == (3, "train", True)
    assert (dataset.classes, dataset.category_ids) == (["cell", "rare", "leaf"], [2, 5, 90])
    assert len(set(dataset.palette)) == 3
    names = [dataset.name(index) for index in range(3)]
    assert names == ["train/images/a.png", "train/images/more/b.jpg", "train/images/empty.png"]
    assert [dataset.image_id(index) for index in range(3)] == [7, 3, 12]
    assert (dataset.problems, dataset.warnings) == ([], [])


def test_labelled_images_have_the_classes_of_their_objects_and_boxes(root: Path) -> None:
    dataset = CocoDataset(root, "train")
    image, labels, boxes = dataset.labelled(0)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(root / "train/images/a.png")))
    expected = np.full((HEIGHT, WIDTH), -1)
    expected[4:14, 3:18] = 0
    expected[disc(30, 20, 6) > 0] = 2
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.int64
    assert boxes == [(0, [3, 4, 18, 14]), (2, [24, 14, 36, 26])]
    assert (dataset.labelled(2).labels == -1).all()
    assert dataset.labelled(2).boxes == []
    Image.new("RGB", (5, 5)).save(root / "train/images/a.png")
    with pytest.raises(InputError, match=r"a\.png: 5x5 pixels"):
        dataset.labelled(0)


def test_samples(root: Path) -> None:
    image, target = CocoDataset(root, "train")[0]
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    expected = np.asarray(Image.open(root / "train/images/a.png"))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    boxes, masks = target["boxes"], target["masks"]
    assert isinstance(boxes, tv_tensors.BoundingBoxes)
    assert (boxes.format, boxes.canvas_size) == (tv_tensors.BoundingBoxFormat.XYXY, (HEIGHT, WIDTH))
    assert boxes.tolist() == [[3, 4, 18, 14], [24, 14, 36, 26]]
    assert target["labels"].tolist() == [1, 3]  # of ids 2 and 90: gaps close
    assert target["iscrowd"].tolist() == [0, 0]
    assert isinstance(masks, tv_tensors.Mask)
    square = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    square[4:14, 3:18] = 1
    assert torch.equal(masks.as_subclass(torch.Tensor)[0], square)
    np.testing.assert_array_equal(masks[1].numpy(), disc(30, 20, 6))
    assert target["area"].tolist() == [150, int(disc(30, 20, 6).sum())]
    assert target["image_id"] == 7
    kinds = {key: value.dtype for key, value in target.items() if isinstance(value, torch.Tensor)}
    assert kinds == {
        "boxes": torch.float32, "labels": torch.int64, "masks": torch.uint8, "iscrowd": torch.int64,
        "area": torch.float32,
    }  # fmt: skip


def test_groups_and_images_without_objects(root: Path) -> None:
    dataset = CocoDataset(root, "train")
    target = dataset[1].target
    assert target["iscrowd"].tolist() == [0, 1]
    np.testing.assert_array_equal(target["masks"].numpy(), np.stack([disc(8, 9, 5), disc(20, 15, 14)]))
    image, nothing = dataset[2]
    assert image.shape == (3, 10, 20)
    assert nothing["boxes"].shape == (0, 4)
    assert nothing["masks"].shape == (0, 10, 20)
    assert nothing["boxes"].canvas_size == (10, 20)
    assert [len(nothing[key]) for key in ("labels", "iscrowd", "area")] == [0, 0, 0]


def test_ground_truth_is_what_pycocotools_reads(root: Path) -> None:
    dataset = CocoDataset(root, "train")
    truth = dataset.ground_truth()
    json.dumps(truth)
    coco = COCO()
    coco.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    for index in range(len(dataset)):
        target = dataset[index].target
        found = coco.imgToAnns[dataset.image_id(index)]
        assert [each["category_id"] for each in found] == [dataset.category_ids[k - 1] for k in target["labels"]]
        for each, mask in zip(found, target["masks"].numpy(), strict=True):
            np.testing.assert_array_equal(coco.annToMask(each), mask)
    written = {each["id"]: each for each in content()["annotations"]}
    assert {each["id"] for each in truth["annotations"]} == set(written)
    for each in truth["annotations"]:
        for key in ("image_id", "category_id", "bbox", "area", "iscrowd"):
            assert each[key] == written[each["id"]][key]
    assert [each["id"] for each in truth["categories"]] == [2, 5, 90]
    assert truth["categories"][0]["supercategory"] == "life"
    assert truth["images"] == content()["images"]


def test_ground_truth_may_be_changed_and_goes_without_masks(root: Path) -> None:
    dataset = CocoDataset(root, "train")
    expected = dataset.ground_truth()
    changed = dataset.ground_truth()
    changed["annotations"][0]["bbox"][0] = -1
    changed["images"][0]["width"] = -1
    changed["annotations"][1]["segmentation"]["counts"] = ""
    assert dataset.ground_truth() == expected
    for each in expected["annotations"]:
        del each["segmentation"]
    assert dataset.ground_truth(masks=False) == expected


def test_an_annotation_with_id_0_gets_another_one(tmp_path: Path) -> None:
    """For pycocotools it would count as never found."""
    dataset = CocoDataset(write(tmp_path, change=lambda made: first_of(made).update(id=0)), "train")
    assert [each["id"] for each in dataset.ground_truth()["annotations"]] == [42, 40, 41, 5]
    assert any("annotation 0: pycocotools takes id 0 for no match" in warning for warning in dataset.warnings)


def test_area_and_iscrowd_may_be_missing(tmp_path: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        for each in made["annotations"]:
            each.pop("area")
            each.pop("iscrowd")

    dataset = CocoDataset(write(tmp_path, change=change), "train")
    assert dataset[0].target["area"].tolist() == [150, int(disc(30, 20, 6).sum())]
    assert dataset[1].target["iscrowd"].tolist() == [0, 0]
    assert dataset.ground_truth(masks=False)["annotations"][0]["area"] == 150


def test_boxes_are_clipped_to_the_image(tmp_path: Path) -> None:
    root = write(tmp_path, change=lambda made: first_of(made).update(bbox=[-2.5, 4, 60, 10]))
    dataset = CocoDataset(root, "train")
    assert dataset[0].target["boxes"][0].tolist() == [0, 4, 40, 14]
    assert dataset.ground_truth()["annotations"][0]["bbox"] == [-2.5, 4, 60, 10]  # as COCO's own figures take it
    assert dataset.warnings == [
        f"{root}/train/instances.json: annotation 11: bbox [-2.5, 4.0, 60.0, 10.0]: 17.5 pixels beyond the image, "
        "which is 40x30: the box is clipped"
    ]
    rounded = write(tmp_path / "rounded", change=lambda made: first_of(made).update(bbox=[-0.3, 4, 18, 10]))
    assert CocoDataset(rounded, "train").warnings == []


def test_boxes_alone(tmp_path: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        for each, nothing in zip(made["annotations"], (None, [], None, []), strict=True):
            each["segmentation"] = nothing
        first_of(made)["bbox"] = [3.4, 4.4, 14.2, 9.8]
        made["annotations"][1]["bbox"] = [39.8, 29.7, 0.2, 0.3]

    dataset = CocoDataset(write(tmp_path, change=change), "train")
    assert not dataset.has_masks
    assert "boxes alone" in dataset.warnings[0]
    masks = dataset[0].target["masks"].numpy()
    expected = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    expected[0, 4:14, 3:18] = 1
    expected[1, 29, 39] = 1
    np.testing.assert_array_equal(masks, expected)
    assert all("segmentation" not in each for each in dataset.ground_truth()["annotations"])


@pytest.mark.parametrize(("split", "year"), [("train", "2017"), ("val", "2014"), ("val2017", "2017"), ("val", "")])
def test_ms_cocos_own_folders(tmp_path: Path, split: str, year: str) -> None:
    root = ms_coco(tmp_path, year)
    dataset = CocoDataset(root, split)
    folder = split if split.endswith(year) else split + year
    assert dataset.name(0) == f"{folder}/a.png"
    assert dataset.split == split
    assert len(dataset[0].target["labels"]) == 2
    assert CocoDataset.splits(root) == [f"train{year}", f"val{year}"]
    with pytest.raises(InputError, match=f"no split 'test': expected one of train{year}, val{year}"):
        CocoDataset(root, "test")


def test_what_ms_coco_has_without_area_is_left_out_of_samples_alone(tmp_path: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        tiny = [[29.1, 19.1, 29.2, 19.1, 29.2, 19.2]]
        made["annotations"] += [
            annotation(50, 7, 2, disc(30, 20, 6), bbox=[5, 6, 1.03, 0.0], segmentation=[[5, 6, 5, 6, 6.03, 6]]),
            annotation(51, 7, 2, disc(30, 20, 6), bbox=[29.1, 19.1, 0.1, 0.1], segmentation=tiny),
        ]

    dataset = CocoDataset(ms_coco(tmp_path, change=change), "train")
    assert dataset[0].target["labels"].tolist() == [1, 3]
    assert len(dataset.ground_truth()["annotations"]) == 6
    own = write(tmp_path / "own", change=change)
    with pytest.raises(InputError, match=r"annotation 50: bbox \[5.0, 6.0, 1.03, 0.0\]: expected a width"):
        CocoDataset(own, "train")
    forgiving = CocoDataset(own, "train", allow_problems=True)
    with pytest.raises(InputError, match=r"annotation 51: a mask without a pixel: expected one within 40x30"):
        forgiving[0]


def test_missing_folders_and_splits(root: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        CocoDataset(root / "nowhere", "train")
    with pytest.raises(InputError, match=r"no split 'val': expected one of train"):
        CocoDataset(root, "val")
    with pytest.raises(InputError, match=r"no instances: expected SPLIT/instances\.json"):
        CocoDataset(root / "train", "val")
    (root / "train/images").rename(root / "train/pictures")
    with pytest.raises(InputError, match=r"train/images: no such folder: expected the images of .*instances\.json"):
        CocoDataset(root, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("\udcff", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "expected COCO's lists images, annotations, categories, found a list"),
        ('{"images": [], "boxes": {}}', r"expected COCO's lists .* found images \(list\), boxes \(dict\)"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no images: expected at least"),
        ('{"images": [{}], "annotations": [], "categories": []}', "no categories: expected at least one"),
    ],
)
def test_broken_files(root: Path, text: str, message: str) -> None:
    (root / "train/instances.json").write_bytes(text.encode(errors="surrogateescape"))
    for allow_problems in (False, True):
        with pytest.raises(InputError, match=rf"train/instances\.json: {message}"):
            CocoDataset(root, "train", allow_problems=allow_problems)


def edit(key: str, position: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda made: made[key][position].update(values)


MISTAKES = [
    (edit("annotations", 0, image_id=8), "annotation 11: image_id 8: expected the id of one of the images, 3, 7, 12"),
    (edit("annotations", 0, category_id=1), "annotation 11: category_id 1: expected .* categories, 2, 5, 90"),
    (edit("annotations", 0, category_id="2"), 'annotation 11: category_id "2": expected an integer'),
    (edit("annotations", 0, image_id=None), "annotation 11: image_id is missing: expected an integer"),
    (edit("annotations", 0, id=40), "annotation 40: the id occurs more than once"),
    (edit("annotations", 0, id="x"), r'annotations\[0\]: id "x": expected an integer'),
    (edit("annotations", 0, id=1.5), r"annotations\[0\]: id 1.5: expected an integer"),
    (lambda made: made["annotations"].insert(0, 3), r"annotations\[0\]: 3: expected an object with an id"),
    (edit("annotations", 0, bbox=None), "annotation 11: bbox is missing: expected"),
    (edit("annotations", 0, bbox=[1, 2, 3]), r"annotation 11: bbox \[1, 2, 3\]: expected \[left, top, width, height\]"),
    (edit("annotations", 0, bbox=[1, 2, 3, None]), r"bbox \[1, 2, 3, null\]: expected \[left"),
    (edit("annotations", 0, bbox=[1, 2, 3, float("nan")]), r"bbox \[1, 2, 3, NaN\]: expected \[left"),
    (edit("annotations", 0, bbox=[1, 2, 10**400, 5]), r"bbox \[1, 2, 1000.*: expected \[left"),
    (edit("annotations", 0, bbox=[5, 5, 0, 3]), r"bbox \[5.0, 5.0, 0.0, 3.0\]: expected a width and a height above 0"),
    (edit("annotations", 0, bbox=[5, 5, 3, -1]), "expected a width and a height above 0"),
    (edit("annotations", 0, bbox=[40, 5, 3, 3]), "outside the image: expected a box within 40x30, as image 7"),
    (edit("annotations", 0, bbox=[5, -9, 3, 3]), "outside the image"),
    (edit("annotations", 0, area=-1), "annotation 11: area -1: expected a number of pixels"),
    (edit("annotations", 0, iscrowd=2), "annotation 11: iscrowd 2: expected 0 or 1"),
    (edit("annotations", 0, iscrowd="no"), 'annotation 11: iscrowd "no": expected 0 or 1'),
    (edit("annotations", 0, segmentation=[[1, 2]]), r"annotation 11: polygon \[1, 2\]: expected"),
    (edit("annotations", 0, segmentation=None), "annotation 11: no segmentation: expected polygons or run lengths"),
    (edit("annotations", 0, segmentation={"size": [40, 30], "counts": "0"}),
     r"annotation 11: segmentation of 30x40 pixels: expected 40x30, as image 7 \(a\.png\)"),
    (edit("images", 0, id=3), "image 3: the id occurs more than once"),
    (edit("images", 0, file_name="more/b.jpg"), "image 3: file_name 'more/b.jpg', as 7 has: expected each"),
    (edit("images", 0, file_name=""), 'image 7: file_name "": expected a file'),
    (edit("images", 0, width=None), "image 7: width is missing: expected an integer"),
    (edit("images", 0, height=0), r"image 7 \(a\.png\): 40x0 pixels: expected a width and a height from 1"),
    (edit("categories", 0, id=2), "category 2: the id occurs more than once"),
    (edit("categories", 0, name="cell"), "category 90: name 'cell', as 2 has: expected each name once"),
    (edit("categories", 0, name=" "), 'category 90: name " ": expected a name'),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_mistakes_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    root = write(tmp_path, change=change)
    with pytest.raises(InputError, match=rf"^.*train/instances\.json: .*{message}") as caught:
        CocoDataset(root, "train")
    dataset = CocoDataset(root, "train", allow_problems=True)
    assert str(caught.value) in dataset.problems
    for index in range(len(dataset)):  # what is left makes sense
        assert len(dataset[index].target["labels"]) <= 2


def test_mistakes_within_masks_are_named_when_they_are_read(tmp_path: Path) -> None:
    broken = {"size": [HEIGHT, WIDTH], "counts": [7, 9]}
    dataset = CocoDataset(write(tmp_path, change=edit("annotations", 0, segmentation=broken)), "train")
    message = r"train/instances\.json: annotation 11: run lengths with the sum 16: expected 1200"
    with pytest.raises(InputError, match=message):
        dataset[0]
    with pytest.raises(InputError, match=message):
        dataset.ground_truth()
    outside = [[50, 4, 60, 4, 60, 14]]
    dataset = CocoDataset(write(tmp_path, change=edit("annotations", 0, segmentation=outside)), "train")
    with pytest.raises(
        InputError, match="annotation 11: a mask without a pixel: expected one within 40x30, as image 7"
    ):
        dataset[0]


def test_missing_and_unlisted_images(root: Path) -> None:
    (root / "train/images/a.png").rename(root / "train/images/z.png")
    with pytest.raises(InputError, match=r"images/a\.png: no such file: expected image 7 of .*instances\.json"):
        CocoDataset(root, "train")
    dataset = CocoDataset(root, "train", allow_problems=True)
    assert [dataset.image_id(index) for index in range(len(dataset))] == [3, 12]
    assert len(dataset.ground_truth()["annotations"]) == 2
    assert dataset.warnings == [
        f"{root}/train/images: 1 image not in {root}/train/instances.json: z.png",
    ]


def test_images_that_cannot_be_used(root: Path) -> None:
    dataset = CocoDataset(root, "train")
    (root / "train/images/a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png: not an image"):
        dataset[0]
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "train/images/a.png")
    with pytest.raises(InputError, match=r"a\.png: 30x40 pixels: expected 40x30, as .*json has it; .*EXIF"):
        dataset[0]
