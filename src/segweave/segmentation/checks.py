"""Checks a split of images and masks: every file is read, and all that is wrong is named."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX
from segweave.progress import followed
from segweave.segmentation.folder import FolderDataset


@dataclass(frozen=True)
class SegmentationCheck(CheckedSplit):
    """What a split of images and masks holds, and what is wrong with it. Files that could not be read are not
    counted."""

    class_pixels: npt.NDArray[np.int64]
    """(K,), the number of pixels of each class."""
    ignored_pixels: int

    @property
    def unseen_classes(self) -> list[str]:
        """The names of the classes without a single pixel."""
        return unseen(self.classes, self.class_pixels)

    @property
    def ignored_share(self) -> float:
        """The share of pixels that count nowhere, 0 to 1."""
        return self.ignored_pixels / max(self.ignored_pixels + int(self.class_pixels.sum()), 1)

    @property
    def contents(self) -> str:
        shares = self.class_pixels / max(self.class_pixels.sum(), 1)
        each = ", ".join(f"{name} {100 * share:.1f} %" for name, share in zip(self.classes, shares, strict=True))
        return f"pixels of {self.split}: {each}"

    @property
    def counted(self) -> dict[str, int]:
        return {}

    @classmethod
    def tables(cls, splits: Sequence[CheckedSplit]) -> list[Table]:
        own = [split for split in splits if isinstance(split, cls)]
        return [_splits_table(own), _classes_table(own)]


def check_split(dataset: FolderDataset, *, most_problems: int = 20, progress: bool = False) -> SegmentationCheck:
    """Reads every image and mask of a split.

    Args:
        dataset: The split.
        most_problems: How many lines of problems to give; a last one counts the rest.
        progress: Whether a progress bar is shown.
    """
    where = dataset.root / dataset.split
    with ThreadPoolExecutor() as pool:
        inspected = pool.map(lambda index: _inspect(dataset, index), range(len(dataset)))
        findings = list(followed(inspected, len(dataset), f"checking {dataset.split}", shown=progress))
    problems = [
        *dataset.unpaired,
        *(problem for finding in findings for problem in finding.problems),
        *_invalid_values(dataset, findings),
    ]
    if not problems and all(finding.pixels.keys() <= {IGNORE_INDEX} for finding in findings):
        problems.append(f"{where}: no labelled pixel: expected masks that are not void all over")
    class_pixels = np.array([_pixels_of(k, findings) for k in range(len(dataset.classes))], dtype=np.int64)
    ignored_pixels = _pixels_of(IGNORE_INDEX, findings)
    return SegmentationCheck(
        split=dataset.split,
        classes=tuple(dataset.classes),
        palette=tuple(dataset.palette),
        images=len(dataset),
        sizes=typical_sizes([finding.size for finding in findings if finding.size]),
        problems=cut(problems, most_problems, where, "problems"),
        problem_count=len(problems),
        warnings=_warnings(dataset, class_pixels, ignored_pixels),
        class_pixels=class_pixels,
        ignored_pixels=ignored_pixels,
    )


def _warnings(dataset: FolderDataset, class_pixels: npt.NDArray[np.int64], ignored_pixels: int) -> list[str]:
    where = dataset.root / dataset.split
    warnings = unseen_warning(where, dataset.classes, class_pixels, "pixel")
    ignored_share = ignored_pixels / max(ignored_pixels + int(class_pixels.sum()), 1)
    if ignored_share > 0.5:
        warnings.append(f"{where}: {ignored_share:.0%} of the pixels are ignored")
    if lossy := [path for path in dataset.mask_paths if path.suffix.lower() in (".jpg", ".jpeg")]:
        warnings.append(f"{lossy[0]}: a mask as JPEG, which changes values at edges: expected PNG")
    return warnings


class _Finding(NamedTuple):
    """What one image and its mask hold."""

    size: Size | None
    pixels: dict[int, int]
    """The number of pixels of each label; ignored ones are under 255."""
    problems: list[str]


def _inspect(dataset: FolderDataset, index: int) -> _Finding:
    image, labels, problems = None, None, []
    try:
        image = read_image(dataset.image_paths[index])
    except InputError as error:
        problems.append(str(error))
    try:
        labels = dataset.read_labels(index)
        if image is not None:
            dataset.require_same_size(index, image, labels)
    except InputError as error:
        problems.append(str(error))
    pixels: dict[int, int] = {}
    if labels is not None:
        values, counts = np.unique(labels, return_counts=True)
        pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return _Finding(None if image is None else image.size, pixels, problems)


def _pixels_of(label: int, findings: Sequence[_Finding]) -> int:
    return sum(finding.pixels.get(label, 0) for finding in findings)


def _invalid_values(dataset: FolderDataset, findings: Sequence[_Finding]) -> list[str]:
    """One line for each value that is neither a class nor ignored, over all masks, the most frequent first."""
    seen = np.array(sorted({value for finding in findings for value in finding.pixels}), dtype=np.int64)
    lines = []
    for value in seen[dataset.invalid(seen)].tolist():
        holders = [index for index, finding in enumerate(findings) if value in finding.pixels]
        pixels = _pixels_of(value, findings)
        others = f" and {len(holders) - 1} other masks" if len(holders) > 2 else " and 1 other mask"
        where = f"{dataset.mask_paths[holders[0]]}{others if len(holders) > 1 else ''}"
        lines.append((pixels, f"{where}: value {value} ({pixels} pixels): {dataset.expected_values}"))
    return [line for _, line in sorted(lines, key=lambda each: -each[0])]


def _splits_table(splits: Sequence[SegmentationCheck]) -> Table:
    table = Table("split", box=box.SIMPLE_HEAD)
    for title in ("images", "smallest", "median", "largest", "ignored", "problems"):
        table.add_column(title, justify="right")
    for split in splits:
        ignored = f"{split.ignored_share:.1%}"
        table.add_row(Text(split.split), str(split.images), *size_cells(split), ignored, problem_cell(split))
    return table


def _classes_table(splits: Sequence[SegmentationCheck]) -> Table:
    table = Table("", "class", box=box.SIMPLE_HEAD)
    for split in splits:
        table.add_column(Text(f"{split.split} pixels"), justify="right")
    first = splits[0]
    for k, (name, colour) in enumerate(zip(first.classes, first.palette, strict=True)):
        shares = []
        for split in splits:
            pixels = int(split.class_pixels[k])
            share = pixels / max(int(split.class_pixels.sum()), 1)
            shares.append(f"{share:.2%}" if pixels else Text("none", style="yellow"))
        table.add_row(colour_cell(colour), Text(f"{k} {name}"), *shares)
    return table
