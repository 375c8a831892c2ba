"""What kind of data set lies in a folder, and how it is opened."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, overload

from segweave.detection.coco import CocoDataset
from segweave.detection.dataset import DetectionDataset
from segweave.detection.shapes import ShapesDetectionDataset
from segweave.errors import InputError
from segweave.segmentation import camvid
from segweave.segmentation.camvid import CamVid
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.folder import FolderDataset
from segweave.segmentation.shapes import ShapesSegmentationDataset

Task = Literal["semantic", "instance"]

DATASETS: dict[str, Callable[[Path, str], SegmentationDataset | DetectionDataset]] = {
    "folder": FolderDataset,
    "camvid": CamVid,
    "coco": CocoDataset,
}


@overload
def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    task: Literal["semantic"],
) -> SegmentationDataset: ...


@overload
def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    task: Literal["instance"],
) -> DetectionDataset: ...


@overload
def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
) -> SegmentationDataset | DetectionDataset: ...


def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
) -> SegmentationDataset | DetectionDataset:
    """Opens a split of a data set.

    Args:
        name: "shapes" (drawn by code), "folder", "camvid" or "coco", or itself a folder, whose format is then
            recognised.
        root: The folder in which a data set named by `name` lies. `shapes` has none.
        split: The name of the split: "train", "val", or another that the folder has.
        classes: What the classes of a folder with masks, but without dataset.yaml, are called; by default its masks are
            searched for them.
        task: "semantic" for masks of classes, "instance" for objects. None for what there is: of `shapes`, and of a
            folder that has both, masks of classes.

    Raises:
        InputError: The name is unknown, a folder is missing, the split is empty, or the data isn't for this task; the
            message says which.
    """
    if name == "shapes":
        if root is not None:
            raise InputError(f"data set 'shapes' is drawn by code: expected no root, got {root}")
        return ShapesDetectionDataset(split) if task == "instance" else ShapesSegmentationDataset(split)
    if name in DATASETS:
        if root is None:
            raise InputError(f"data set {name!r} needs a root: the folder in which it lies")
        _require_task(str(name), task)
        return DATASETS[str(name)](Path(root), split)
    folder = Path(name)
    if not folder.is_dir():
        names = ", ".join(["shapes", *DATASETS])
        raise InputError(f"data {str(name)!r}: expected an existing folder, or one of the data sets {names}")
    if root is not None:
        raise InputError(f"data {str(name)!r} is a folder itself: expected no root, got {root}")
    dataset_class = recognise(folder, task)
    if dataset_class is FolderDataset and not (folder / "dataset.yaml").exists():
        return FolderDataset(folder, split, classes=classes)
    return dataset_class(folder, split)


def is_coco(name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> bool:
    """Whether `open_dataset`, given no task, would look for instances in COCO's format.

    Args:
        name: As for `open_dataset`; False for what it doesn't know.
        root: As for `open_dataset`; it plays no part, since the name says enough.
    """
    if name == "shapes" or name in DATASETS:
        return name == "coco"
    return Path(name).is_dir() and recognise(Path(name)) is CocoDataset


def _require_task(name: str, task: Task | None) -> None:
    has_instances = name == "coco"
    if task == "instance" and not has_instances:
        raise InputError(f"data set {name!r} has masks of classes, no objects: expected 'coco' or 'shapes'")
    if task == "semantic" and has_instances:
        others = ", ".join(repr(other) for other in ("shapes", *DATASETS) if other != name)
        raise InputError(f"data set {name!r} has objects, no masks of classes: expected one of {others}")


def recognise(root: Path, task: Task | None = None) -> type[FolderDataset] | type[CocoDataset]:
    """The class of the data set whose folder tree lies under `root`.

    Args:
        root: A folder.
        task: What it is wanted for: "semantic" for masks of classes, "instance" for objects. None for whatever is
            there; in a folder that has both, masks of classes.

    Raises:
        InputError: There is no such folder, or it holds nothing for this task.
    """
    has_instances = bool(CocoDataset.splits(root))
    semantic = camvid.recognise(root)
    has_masks = semantic is not FolderDataset or any(folder.is_dir() for folder in root.glob("*/masks"))
    if task == "instance" and not has_instances:
        raise InputError(
            f"{root}: no instances: expected SPLIT/instances.json beside SPLIT/images, "
            "or annotations/instances_SPLIT.json beside SPLIT, as the task is to find objects"
        )
    if task == "semantic" and has_instances and not has_masks:
        raise InputError(
            f"{root}: instances, but no masks of classes: expected SPLIT/masks beside SPLIT/images, "
            "as the task is semantic segmentation"
        )
    return CocoDataset if has_instances and (task == "instance" or not has_masks) else semantic
