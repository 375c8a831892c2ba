"""`check`, the function behind `segweave data check`: reads a whole data set before anything is trained on it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segweave.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from segweave.data.check_results import DatasetCheck


def check(
    root: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    contact_sheet: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    most_problems: int = 20,
    progress: bool = True,
    task: Literal["segmentation", "detection"] | None = None,
) -> "DatasetCheck":
    """Reads every image and annotation of a data set and collects all problems, rather than stop at the first.

    Args:
        root: The folder that holds the splits.
        splits: The names of those to check; all there are if none is named.
        contact_sheet: Where to save a PNG of some images with their masks (and boxes) laid over.
        overwrite: Whether the contact sheet may replace a file.
        most_problems: How many lines to give for each split; a last one counts the rest.
        progress: Whether a progress bar is shown on a terminal.
        task: What to check in a folder that has both masks of classes and objects; if it isn't given, the masks.

    Raises:
        InputError: There is no such folder, or no split in it, or nothing for this task, or the contact sheet exists.
    """
    from segweave.data.check_results import DatasetCheck
    from segweave.reports.contact_sheet import draw_contact_sheet
    from segweave.tasks import task_of_folder

    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    kind = task_of_folder(root, task)
    if contact_sheet is not None and Path(contact_sheet).exists() and not overwrite:
        raise InputError(f"{contact_sheet}: exists already: expected --overwrite to replace it, or another file")
    names = kind.splits(root) if splits is None else list(splits)
    if not names:
        raise InputError(f"{root}: no splits: expected {kind.tree}")
    opened, problems = [], []
    for name in names:
        try:
            opened.append(kind.open_to_check(root, name))
        except InputError as error:
            problems.append(str(error))
    problems = list(dict.fromkeys(problems))  # a mistake in dataset.yaml is the same for every split
    problems += kind.differences(opened)
    found = [kind.check(split, most_problems=most_problems, progress=progress) for split in opened]
    checked = [split for split in found if split is not None]
    if contact_sheet is not None and opened:
        drawn = [labelled for split in opened if (labelled := kind.labelled(split)) is not None]
        if not drawn:
            raise InputError(f"{contact_sheet}: there is no contact sheet for {kind.name}")
        draw_contact_sheet(drawn, Path(contact_sheet))
    count = len(problems) + sum(split.problem_count for split in checked)
    return DatasetCheck(root, checked, [*problems, *(line for split in checked for line in split.problems)], count)


def print_check(check: "DatasetCheck", console: "Console") -> None:
    """Prints tables of what the splits hold, then the warnings and problems."""
    from rich.text import Text

    contents = [f"{sum(split.images for split in check.splits)} images"]
    if check.splits:
        console.print(*check.splits[0].tables(check.splits), sep="\n")
        contents += [f"{sum(split.counted[what] for split in check.splits)} {what}" for what in check.splits[0].counted]
    for title, style, lines in (("warning", "yellow", check.warnings), ("problem", "red", check.problems)):
        for line in lines:  # as text: rich would take [brackets] in file names for markup
            console.print(Text.assemble((f"{title}: ", style), line), soft_wrap=True)
    verdict = {0: "no problems", 1: "1 problem"}.get(check.problem_count, f"{check.problem_count} problems")
    summary = f"{check.root}: {', '.join(contents)}, {verdict}"
    console.print(Text(summary, style="green" if check.ok else "red"), soft_wrap=True)
