"""Progress of long work on a terminal: how much is done, how fast, and how long it will take."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")


class RateColumn(ProgressColumn):
    """How many a second, or how many seconds for one.

    Args:
        unit: What is counted, as one: "image", "step".
    """

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f} {self.unit}s/s" if speed >= 1 else f"{1 / speed:.1f} s/{self.unit}")


def progress_bar(console: Console, unit: str, *, before: str, after: str = "") -> Progress:
    """A bar with count, rate, time passed and time left.

    Args:
        console: Where it is drawn.
        unit: What is counted, as one.
        before: What stands before the bar, of the task's fields.
        after: What stands behind the count.
    """
    return Progress(
        TextColumn(before, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *([TextColumn(after, markup=False)] if after else []),
        RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def followed(
    items: Iterable[Item], total: int, title: str, *, unit: str = "image", shown: bool = True
) -> Iterator[Item]:
    """Passes items on, and shows on a terminal how many have been worked on; nothing where there is no terminal.

    Args:
        items: Passed on one by one.
        total: How many there are.
        title: What is done with them: "predicting".
        unit: What one of them is.
        shown: Whether anything is shown at all.
    """
    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield from items
        return
    with progress_bar(console, unit, before="{task.description}") as progress:
        task = progress.add_task(title, total=total)
        for item in items:
            yield item
            # `Progress.track` counts ten times a second, too seldom to tell a rate of short work
            progress.advance(task)
