"""Which tasks there are, and which of them a network, a folder or a name belongs to."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from segweave.data.dataset import SplitDataset
from segweave.detection.dataset import DetectionDataset
from segweave.detection.task import Detection
from segweave.errors import InputError
from segweave.models import NETWORKS, Network
from segweave.nearest import nearest
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.task import Segmentation
from segweave.task import Task

AnyTask = Task[Any, Any, Any]
"""A task of which nothing more is known: its network, data and results fit each other."""

TASKS: dict[str, AnyTask] = {task.name: task for task in (Segmentation(), Detection())}
"""By name. Of a folder that holds data for several, the first is meant."""

OTHER_NAMES = {"semantic": "segmentation", "instance": "detection"}
"""What `open_dataset` also calls the tasks."""


def task_named(name: str) -> AnyTask:
    """The task of a name.

    Raises:
        InputError: It is unknown.
    """
    task = TASKS.get(OTHER_NAMES.get(name, name))
    if task is None:
        raise InputError(f"unknown task {name!r}: {nearest(name, list(TASKS))}")
    return task


def task_of_model(name: str) -> AnyTask:
    """The task of a network's name.

    Raises:
        InputError: The name is unknown.
    """
    if name not in NETWORKS:
        raise InputError(f"unknown model {name!r}: {nearest(name, list(NETWORKS))}")
    return next(task for task in TASKS.values() if issubclass(NETWORKS[name], task.network_class))


def task_of_network(network: Network) -> AnyTask:
    """The task that a network is for."""
    return next(task for task in TASKS.values() if isinstance(network, task.network_class))


def task_of_folder(folder: Path, name: str | None = None) -> AnyTask:
    """The task that a folder holds data for.

    Args:
        folder: It exists.
        name: Of the task that it is wanted for; the first that finds data if None.

    Raises:
        InputError: The folder holds data, but none for the task that it is wanted for.
    """
    finding = [task for task in TASKS.values() if task.recognises(folder)]
    if name is None:
        return finding[0] if finding else next(iter(TASKS.values()))
    wanted = task_named(name)
    if finding and wanted not in finding:
        others = " and ".join(task.name for task in finding)
        raise InputError(f"{folder}: holds data for {others}, not for {wanted.name}: expected {wanted.tree}")
    return wanted


def task_of_data(name: str | os.PathLike[str], wanted: str | None = None) -> AnyTask:
    """The task of a data set's name, or of a folder.

    Args:
        name: As for `open_dataset`.
        wanted: The name of the task that it is wanted for; the first that has such data if None.

    Raises:
        InputError: The name is unknown, or the data isn't for this task.
    """
    having = [task for task in TASKS.values() if name in task.drawn or name in task.datasets]
    if having:
        task = having[0] if wanted is None else task_named(wanted)
        if task not in having:
            known = ", ".join(repr(known) for known in (*task.drawn, *task.datasets))
            raise InputError(f"data set {str(name)!r} is for {having[0].name}, not for {task.name}: expected {known}")
        return task
    if not Path(name).is_dir():
        names = list(dict.fromkeys(known for task in TASKS.values() for known in (*task.drawn, *task.datasets)))
        raise InputError(f"data {str(name)!r}: expected an existing folder, or one of the data sets {', '.join(names)}")
    return task_of_folder(Path(name), wanted)


@overload
def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    task: Literal["segmentation", "semantic"],
) -> SegmentationDataset: ...


@overload
def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    task: Literal["detection", "instance"],
) -> DetectionDataset: ...


@overload
def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    task: str | None = None,
) -> SplitDataset[object]: ...


def open_dataset(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    task: str | None = None,
) -> SplitDataset[object]:
    """Opens a split of a data set.

    Args:
        name: "shapes" (drawn by code), "folder", "camvid" or "coco", or itself a folder, whose format is then
            recognised.
        root: The folder in which a data set named by `name` lies. `shapes` has none.
        split: The name of the split: "train", "val", or another that the folder has.
        classes: What the classes of a folder with masks, but without dataset.yaml, are called; by default its masks are
            searched for them.
        task: "segmentation" for masks of classes, "detection" for objects. None for what there is: of `shapes`, and of
            a folder that has both, masks of classes.

    Raises:
        InputError: The name is unknown, a folder is missing, the split is empty, or the data isn't for this task; the
            message says which.
    """
    place = None if root is None else os.fspath(root)
    dataset: SplitDataset[object] = task_of_data(name, task).open(os.fspath(name), place, split, classes=classes)
    return dataset
