"""Checks a data set before anything is trained on it: every file is read, and all that is wrong is named."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast, overload

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from segweave.data.check_results import (
    CheckedSplit,
    DatasetCheck,
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
from segweave.detection.checks import (
    DetectionCheck,
    check_detection,
    check_detection_split,
    detection_tables,
    different_classes,
)
from segweave.detection.coco import CocoDataset
from segweave.detection.dataset import DetectionDataset
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX
from segweave.reports.contact_sheet import draw_contact_sheet
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.folder import FolderDataset
from segweave.tasks import Task, recognise


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


def check(
    root: str | Path,
    *,
    splits: Sequence[str] | None = None,
    contact_sheet: str | Path | None = None,
    overwrite: bool = False,
    most_problems: int = 20,
    progress: bool = False,
    dataset_class: type[FolderDataset] | None = None,
    task: Task | None = None,
) -> DatasetCheck[SegmentationCheck] | DatasetCheck[DetectionCheck]:
    """Reads every image and annotation of a data set and collects all problems, rather than stop at the first.

    Args:
        root: The folder that holds the splits.
        splits: The names of those to check; None: all there are.
        contact_sheet: Where to save a PNG of some images with their masks (and boxes) laid over; None: nowhere.
        overwrite: Replace the contact sheet if it exists.
        most_problems: How many lines to give for each split; a last one counts the rest.
        progress: Show a progress bar on the terminal.
        dataset_class: The kind of data set; by default the one whose folder tree it is.
        task: Whether to check masks of classes or instances in a folder that has both: by default the masks.

    Raises:
        InputError: There is no such folder, or no split in it, or nothing for this task, or the contact sheet exists.
    """
    root = Path(root)
    kind = dataset_class or recognise(root, task)
    if contact_sheet is not None and Path(contact_sheet).exists() and not overwrite:
        raise InputError(f"{contact_sheet}: exists: expected a new file's name, or overwrite")
    if issubclass(kind, CocoDataset):
        found, opened = check_detection(root, splits=splits, most_problems=most_problems, progress=progress)
        if contact_sheet is not None and opened:
            draw_contact_sheet(opened, contact_sheet)
        return found
    names = kind.splits(root) if splits is None else list(splits)
    if not names:
        raise InputError(f"{root}: no splits: expected folders such as train/images and train/masks")
    datasets, problems = _open_all(kind, root, names)
    checks = [check_split(dataset, most_problems=most_problems, progress=progress) for dataset in datasets]
    problem_count = len(problems) + sum(each.problem_count for each in checks)
    problems += [problem for each in checks for problem in each.problems]
    if contact_sheet is not None and datasets:
        draw_contact_sheet(datasets, contact_sheet)
    return DatasetCheck(root, checks, problems, problem_count, _warnings(datasets, checks))


@overload
def check_split(dataset: FolderDataset, *, most_problems: int = 20, progress: bool = False) -> SegmentationCheck: ...


@overload
def check_split(dataset: CocoDataset, *, most_problems: int = 20, progress: bool = False) -> DetectionCheck: ...


def check_split(
    dataset: FolderDataset | CocoDataset, *, most_problems: int = 20, progress: bool = False
) -> SegmentationCheck | DetectionCheck:
    """Reads every image and annotation of a split; see `check`.

    Args:
        dataset: The split.
        most_problems: How many lines of problems to give; a last one counts the rest.
        progress: Show a progress bar on the terminal.
    """
    if isinstance(dataset, CocoDataset):
        return check_detection_split(dataset, most_problems=most_problems, progress=progress)
    with ThreadPoolExecutor() as pool:
        inspected = pool.map(lambda index: _inspect(dataset, index), range(len(dataset)))
        title = f"Checking {dataset.split}"
        findings = list(track(inspected, title, total=len(dataset), disable=not progress))
    problems = [
        *dataset.unpaired,
        *(problem for finding in findings for problem in finding.problems),
        *_invalid_values(dataset, findings),
    ]
    if not problems and all(finding.pixels.keys() <= {IGNORE_INDEX} for finding in findings):
        problems.append(f"{dataset.root / dataset.split}: no labelled pixel: expected masks that are not void all over")
    return SegmentationCheck(
        split=dataset.split,
        classes=tuple(dataset.classes),
        palette=tuple(dataset.palette),
        images=len(dataset),
        sizes=typical_sizes([finding.size for finding in findings if finding.size]),
        problems=cut(problems, most_problems, dataset.root / dataset.split, "problems"),
        problem_count=len(problems),
        class_pixels=np.array([_pixels_of(k, findings) for k in range(len(dataset.classes))], dtype=np.int64),
        ignored_pixels=_pixels_of(IGNORE_INDEX, findings),
    )


@overload
def require_valid(*datasets: SegmentationDataset) -> list[SegmentationCheck | None]: ...


@overload
def require_valid(*datasets: DetectionDataset) -> list[DetectionCheck | None]: ...


@overload
def require_valid(
    *datasets: SegmentationDataset | DetectionDataset,
) -> list[SegmentationCheck | DetectionCheck | None]: ...


def require_valid(
    *datasets: SegmentationDataset | DetectionDataset,
) -> list[SegmentationCheck | None] | list[DetectionCheck | None] | list[SegmentationCheck | DetectionCheck | None]:
    """Checks what is about to be trained on.

    Args:
        *datasets: Splits; those that are not read from files have nothing to check.

    Returns:
        For each data set its check, or None where there was nothing to check.

    Raises:
        InputError: There are problems; the message gives the first one.
    """
    from_files = [each for each in datasets if isinstance(each, FolderDataset | CocoDataset)]
    found = [check_split(each) for each in from_files]
    of_all = different_classes([each for each in from_files if isinstance(each, CocoDataset)])
    problems = [*of_all, *(problem for each in found for problem in each.problems)]
    if problems:
        roots = dict.fromkeys(str(each.root) for each in from_files)
        rest = len(of_all) + sum(each.problem_count for each in found) - 1
        raise InputError(problems[0] + (f" (and {rest} more: segweave data check {' '.join(roots)})" if rest else ""))
    checks = iter(found)
    return [next(checks) if each in from_files else None for each in datasets]


def print_check(check: DatasetCheck[SegmentationCheck] | DatasetCheck[DetectionCheck], console: Console) -> None:
    """Prints tables of the splits and of the classes' shares, then the warnings and problems."""
    contents = f"{sum(split.images for split in check.splits)} images"
    if check.splits and isinstance(check.splits[0], DetectionCheck):
        instances = cast(DatasetCheck[DetectionCheck], check)
        console.print(*detection_tables(instances), sep="\n")
        contents += f", {sum(split.objects for split in instances.splits)} objects"
    elif check.splits:
        masks = cast(DatasetCheck[SegmentationCheck], check)
        console.print(_splits_table(masks))
        console.print(_classes_table(masks))
    for title, style, lines in (("warning", "yellow", check.warnings), ("problem", "red", check.problems)):
        for line in lines:  # as text: rich would take [brackets] in file names for markup
            console.print(Text.assemble((f"{title}: ", style), line), soft_wrap=True)
    verdict = {0: "no problems", 1: "1 problem"}.get(check.problem_count, f"{check.problem_count} problems")
    console.print(Text(f"{check.root}: {contents}, {verdict}", style="green" if check.ok else "red"), soft_wrap=True)


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


def _open_all(
    dataset_class: type[FolderDataset], root: Path, splits: Iterable[str]
) -> tuple[list[FolderDataset], list[str]]:
    """The splits that can be opened, and why the others cannot."""
    datasets, problems = [], []
    for split in splits:
        try:
            datasets.append(dataset_class(root, split, allow_unpaired=True))
        except InputError as error:
            problems.append(str(error))
    return datasets, list(dict.fromkeys(problems))  # a mistake in dataset.yaml is the same for every split


def _warnings(datasets: Sequence[FolderDataset], checks: Sequence[SegmentationCheck]) -> list[str]:
    warnings: list[str] = []
    for dataset, found in zip(datasets, checks, strict=True):
        where = dataset.root / dataset.split
        warnings += unseen_warning(where, found.classes, found.class_pixels, "pixel")
        if found.ignored_share > 0.5:
            warnings.append(f"{where}: {found.ignored_share:.0%} of the pixels are ignored")
        if lossy := [path for path in dataset.mask_paths if path.suffix.lower() in (".jpg", ".jpeg")]:
            warnings.append(f"{lossy[0]}: a mask as JPEG, which changes values at edges: expected PNG")
    return warnings


def _splits_table(check: DatasetCheck[SegmentationCheck]) -> Table:
    table = Table("split", box=box.SIMPLE_HEAD)
    for title in ("images", "smallest", "median", "largest", "ignored", "problems"):
        table.add_column(title, justify="right")
    for split in check.splits:
        ignored = f"{split.ignored_share:.1%}"
        table.add_row(Text(split.split), str(split.images), *size_cells(split), ignored, problem_cell(split))
    return table


def _classes_table(check: DatasetCheck[SegmentationCheck]) -> Table:
    table = Table("", "class", box=box.SIMPLE_HEAD)
    for split in check.splits:
        table.add_column(Text(f"{split.split} pixels"), justify="right")
    first = check.splits[0]
    for k, (name, colour) in enumerate(zip(first.classes, first.palette, strict=True)):
        shares = []
        for split in check.splits:
            pixels = int(split.class_pixels[k])
            share = pixels / max(int(split.class_pixels.sum()), 1)
            shares.append(f"{share:.2%}" if pixels else Text("none", style="yellow"))
        table.add_row(colour_cell(colour), Text(f"{k} {name}"), *shares)
    return table
