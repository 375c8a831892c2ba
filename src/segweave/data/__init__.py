"""Data sets: one a file, and `open_dataset` for them all."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from segweave.data.camvid import CamVid, recognise
from segweave.data.checks import check
from segweave.data.dataset import Sample, SegmentationDataset
from segweave.data.folder import FolderDataset
from segweave.data.shapes import ShapesDataset
from segweave.errors import InputError

__all__ = ["DATASETS", "Sample", "SegmentationDataset", "ShapesDataset", "check", "open_dataset"]

DATASETS: dict[str, Callable[[Path, str], SegmentationDataset]] = {
    "folder": FolderDataset,
    "camvid": CamVid,
}


def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
) -> SegmentationDataset:
    """Opens a split of a data set.

    Args:
        name: "shapes" (drawn by code), "folder" or "camvid", or itself a folder, whose format is then recognised.
        root: The folder in which a data set named by `name` lies. `shapes` has none.
        split: The name of the split: "train", "val", or another that the folder has.
        classes: What the classes of a folder without dataset.yaml are called; by default its masks are searched for
            them.

    Raises:
        InputError: The name is unknown, a folder is missing, or the split is empty; the message says which.
    """
    if name == "shapes":
        if root is not None:
            raise InputError(f"data set 'shapes' is drawn by code: expected no root, got {root}")
        return ShapesDataset(split)
    if name in DATASETS:
        if root is None:
            raise InputError(f"data set {name!r} needs a root: the folder in which it lies")
        return DATASETS[str(name)](Path(root), split)
    folder = Path(name)
    if not folder.is_dir():
        names = ", ".join(["shapes", *DATASETS])
        raise InputError(f"data {str(name)!r}: expected an existing folder, or one of the data sets {names}")
    if root is not None:
        raise InputError(f"data {str(name)!r} is a folder itself: expected no root, got {root}")
    dataset_class = recognise(folder)
    if dataset_class is FolderDataset and not (folder / "dataset.yaml").exists():
        return FolderDataset(folder, split, classes=classes)
    return dataset_class(folder, split)
