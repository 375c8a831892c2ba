"""Checks a split in COCO's format: every annotation, image and mask is read, and all that is wrong is named."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table
from rich.text import Text

from segweave.data.check_results import (
    CheckedSplit,
    Size,
    colour_cell,
    cut,
    problem_cell,
    size_cells,
    typical_sizes,
    unseen,
    unseen_warning,
)
from segweave.data.images import read_image
from segweave.detection import coco_masks
from segweave.detection.coco import CocoDataset
from segweave.detection.coco_annotations import CocoImage, CocoObject
from segweave.errors import InputError
from segweave.progress import followed

SMALL, MEDIUM = 32**2, 96**2
"""The areas in pixels below which COCO's figures call an object small, and medium."""
_AGREEMENT = 2
"""How far, in pixels, a box's edges may be from its mask's: tools round differently."""


@dataclass(frozen=True)
class DetectionCheck(CheckedSplit):
    """What a split of objects holds, and what is wrong with it. What could not be read is not counted."""

    category_ids: tuple[int, ...]
    """What the annotations call each class."""
    class_objects: npt.NDArray[np.int64]
    """(K,), the number of objects of each class, groups aside."""
    groups: int
    """The number of annotations that mark a group of objects."""
    objects_per_image: tuple[int, int, int] | None
    """The fewest, the median and the most objects of an image, groups aside; None if there is no image."""
    size_shares: tuple[float, float, float]
    """The shares, 0 to 1, of small, medium and large objects, as COCO's figures tell them apart."""

    @property
    def objects(self) -> int:
        """The number of objects, groups aside."""
        return int(self.class_objects.sum())

    @property
    def unseen_classes(self) -> list[str]:
        """The names of the classes without a single object."""
        return unseen(self.classes, self.class_objects)

    @property
    def contents(self) -> str:
        each = ", ".join(f"{name} {count}" for name, count in zip(self.classes, self.class_objects, strict=True))
        return f"objects of {self.split}: {each}"

    @property
    def counted(self) -> dict[str, int]:
        return {"objects": self.objects}

    @classmethod
    def tables(cls, splits: Sequence[CheckedSplit]) -> list[Table]:
        own = [split for split in splits if isinstance(split, cls)]
        return [_images_table(own), _objects_table(own), _classes_table(own)]


def check_split(dataset: CocoDataset, *, most_problems: int = 20, progress: bool = False) -> DetectionCheck:
    """Reads every image and mask of a split.

    Args:
        dataset: The split.
        most_problems: How many lines of problems, and of warnings, to give; a last one counts the rest.
        progress: Whether a progress bar is shown.
    """
    with ThreadPoolExecutor() as pool:
        inspected = pool.map(lambda index: _inspect(dataset, index), range(len(dataset)))
        findings = list(followed(inspected, len(dataset), f"checking {dataset.split}", shown=progress))
    objects = [each for finding in findings for each in finding.objects]
    problems = [*dataset.problems, *(problem for finding in findings for problem in finding.problems)]
    if not problems and not any(not each.crowd for each in objects):
        problems.append(f"{dataset.annotation_file}: no objects: expected at least one that is no group")
    counts = sorted(sum(not each.crowd for each in finding.objects) for finding in findings)
    class_objects = _count(objects, dataset.category_ids)
    warnings = [
        *unseen_warning(dataset.annotation_file, dataset.classes, class_objects, "object"),
        *dataset.warnings,
        *(warning for finding in findings for warning in finding.warnings),
    ]
    return DetectionCheck(
        split=dataset.split,
        classes=tuple(dataset.classes),
        palette=tuple(dataset.palette),
        images=len(dataset),
        sizes=typical_sizes([finding.size for finding in findings if finding.size]),
        problems=cut(problems, most_problems, dataset.annotation_file, "problems"),
        problem_count=len(problems),
        category_ids=tuple(dataset.category_ids),
        class_objects=class_objects,
        groups=sum(each.crowd for each in objects),
        objects_per_image=(counts[0], counts[len(counts) // 2], counts[-1]) if counts else None,
        size_shares=_size_shares([each.area for each in objects if not each.crowd]),
        warnings=cut(warnings, most_problems, dataset.annotation_file, "warnings"),
    )


def different_classes(datasets: Sequence[CocoDataset]) -> list[str]:
    """One line for each split whose classes aren't those of the first: their labels would mean something else."""
    return [
        f"{each.annotation_file}: categories {', '.join(each.classes)}: expected {', '.join(datasets[0].classes)}, as "
        f"{datasets[0].annotation_file} has them, in the order of their ids"
        for each in datasets
        if list(each.classes) != list(datasets[0].classes)
    ]


class _Object(NamedTuple):
    category_id: int
    area: float
    crowd: bool


class _Finding(NamedTuple):
    """What one image and its annotations hold."""

    size: Size | None
    objects: list[_Object]
    problems: list[str]
    warnings: list[str]


def _inspect(dataset: CocoDataset, index: int) -> _Finding:
    finding = _Finding(None, [], [], [])
    try:
        image = read_image(dataset.image_path(index))
        finding = finding._replace(size=image.size)
        dataset.require_size(index, image)
    except InputError as error:
        finding.problems.append(str(error))
    entry = dataset.images[index]
    for each in dataset.objects(index):
        try:
            mask = dataset.run_lengths(entry, each)
            why = dataset.why_left_out(entry, each, mask)
        except InputError as error:
            finding.problems.append(str(error))
            continue
        if why is not None:
            finding.warnings.append(why)
            continue
        area = coco_masks.area(mask) if each.area is None else each.area
        finding.objects.append(_Object(each.category_id, area, each.crowd))
        finding.warnings.extend(_disagreement(dataset.annotation_file, entry, each, mask))
    return finding


def _disagreement(file: Path, image: CocoImage, found: CocoObject, mask: coco_masks.IntArray) -> list[str]:
    """A warning if the mask lies elsewhere than the box."""
    if found.segmentation is None:
        return []
    box, reached = found.corners(image), coco_masks.extent(mask, image.height)
    if max(abs(edge - other) for edge, other in zip(box, reached, strict=True)) <= _AGREEMENT:
        return []
    left, top, right, bottom = reached
    return [
        f"{file}: annotation {found.id}: bbox {[round(each, 2) for each in found.box]}: expected "
        f"{[left, top, right - left, bottom - top]}, as its mask has it"
    ]


def _count(objects: Sequence[_Object], category_ids: Sequence[int]) -> npt.NDArray[np.int64]:
    counts = Counter(each.category_id for each in objects if not each.crowd)
    return np.array([counts[category_id] for category_id in category_ids], np.int64)


def _size_shares(areas: Sequence[float]) -> tuple[float, float, float]:
    small = sum(area < SMALL for area in areas)
    medium = sum(SMALL <= area < MEDIUM for area in areas)
    total = max(len(areas), 1)
    return small / total, medium / total, (len(areas) - small - medium) / total


def _images_table(splits: Sequence[DetectionCheck]) -> Table:
    table = Table("split", box=box.SIMPLE_HEAD)
    for title in ("images", "smallest", "median", "largest", "problems"):
        table.add_column(title, justify="right")
    for split in splits:
        table.add_row(Text(split.split), str(split.images), *size_cells(split), problem_cell(split))
    return table


def _objects_table(splits: Sequence[DetectionCheck]) -> Table:
    title = "objects; in an image: fewest, median, most; shares by area"
    table = Table("split", box=box.SIMPLE_HEAD, title=title)
    for column in ("objects", "groups", "fewest", "median", "most", "<32x32", "<96x96", "larger"):
        table.add_column(column, justify="right")
    for split in splits:
        counts = [str(count) for count in split.objects_per_image] if split.objects_per_image else ["-"] * 3
        shares = [f"{share:.0%}" for share in split.size_shares]
        table.add_row(Text(split.split), str(split.objects), str(split.groups), *counts, *shares)
    return table


def _classes_table(splits: Sequence[DetectionCheck]) -> Table:
    table = Table("", "id", "class", box=box.SIMPLE_HEAD)
    for split in splits:
        table.add_column(Text(f"{split.split} objects"), justify="right")
    first = splits[0]
    for k, name in enumerate(first.classes):
        counts = [int(split.class_objects[k]) if k < len(split.classes) else 0 for split in splits]
        cells = [str(count) if count else Text("none", style="yellow") for count in counts]
        table.add_row(colour_cell(first.palette[k]), str(first.category_ids[k]), Text(name), *cells)
    return table
