"""What kind of data set lies in a folder."""

from pathlib import Path
from typing import Literal

from segweave.data import camvid
from segweave.data.coco import CocoDataset
from segweave.data.folder import FolderDataset
from segweave.errors import InputError

Task = Literal["semantic", "instance"]


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
