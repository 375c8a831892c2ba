"""The figures of a result as tables on a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from segweave.results import Figure, Result, per_cent


def print_result(console: Console, result: Result) -> None:
    """Prints the figures of all classes together, those of each class, and how they are counted."""
    figures = result.figures
    whole = [figure for figure in figures if not isinstance(figure.value, Mapping)]
    of_classes = [figure for figure in figures if isinstance(figure.value, Mapping)]
    groups = list(dict.fromkeys(figure.group for figure in figures))
    if groups == [""]:
        if of_classes:
            console.print(class_table(of_classes))
        console.print(Text("   ".join(f"{figure.title} {per_cent(figure.total)}" for figure in whole)), soft_wrap=True)
    else:
        console.print(_group_table(whole, groups))
    if result.note:
        console.print(result.note, highlight=False)
    if groups != [""] and any(len(figure.value) > 1 for figure in of_classes if isinstance(figure.value, Mapping)):
        console.print()
        console.print(class_table(of_classes))


def class_table(figures: Sequence[Figure]) -> Table:
    """A row for each class, a column for each figure."""
    table = Table("class", *(Column(Text(figure.label)) for figure in figures), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    values = [figure.value for figure in figures if isinstance(figure.value, Mapping)]
    for name in values[0]:
        table.add_row(Text(name), *(per_cent(value[name]) for value in values))
    return table


def _group_table(figures: Sequence[Figure], groups: Sequence[str]) -> Table:
    """A row for each figure, a column for each group."""
    table = Table("", *groups, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    cells = {(figure.title, figure.group): per_cent(figure.total) for figure in figures}
    for title in dict.fromkeys(figure.title for figure in figures):
        table.add_row(title, *(cells.get((title, group), "") for group in groups))
    return table
