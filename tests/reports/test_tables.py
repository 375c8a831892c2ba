"""The figures of a result on a terminal."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from segweave.reports.tables import class_table, print_result
from segweave.results import Figure, Result


@dataclass(frozen=True)
class Listed(Result):
    """A result of any figures."""

    listed: list[Figure]
    told: str = ""
    image_scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> list[Figure]:
        return self.listed

    @property
    def note(self) -> str:
        return self.told


NAN = float("nan")
ODD = "[bold]sea[/bold] [/] [red]"
"""The name of a class that a terminal would take for markup."""


def printed(result: Result, *, colours: bool = False) -> str:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=colours, color_system="truecolor" if colours else None)
    print_result(console, result)
    return output.getvalue()


def rows(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_one_group() -> None:
    figures = [
        Figure("mean_iou", "mIoU", 0.4833),
        Figure("pixel_accuracy", "pixel accuracy", NAN),
        Figure("class_iou", "IoU", {"road": 0.61, ODD: NAN, "car": 1.0}),
        Figure("class_recall", "recall", {"road": 0.5, ODD: 0.25, "car": 0.0}),
    ]
    assert rows(printed(Listed(figures))) == [
        "class IoU recall",
        "road 61.00 % 50.00 %",
        f"{ODD} - 25.00 %",
        "car 100.00 % 0.00 %",
        "mIoU 48.33 % pixel accuracy -",
    ]
    assert "\nmIoU 48.33 %   pixel accuracy -\n" in printed(Listed(figures))


def test_one_group_without_classes() -> None:
    assert rows(printed(Listed([Figure("mean_iou", "mIoU", 0.5)]))) == ["mIoU 50.00 %"]


def test_a_long_line_of_figures_is_not_broken() -> None:
    many = [Figure(f"measure_{k}", f"measure {k}", 0.1) for k in range(12)]
    (line,) = printed(Listed(many)).splitlines()
    assert len(line) > 200


@pytest.fixture
def of_boxes_and_masks() -> list[Figure]:
    return [
        Figure("ap", "AP", 0.4, group="box"),
        Figure("ap_large", "AP large", NAN, group="box"),
        Figure("class_ap", "AP", {"cell": 0.3, ODD: 0.5}, group="box"),
        Figure("ap", "AP", 0.25, group="mask"),
        Figure("ap_large", "AP large", 0.75, group="mask"),
        Figure("class_ap", "AP", {"cell": NAN, ODD: 0.25}, group="mask"),
    ]


def test_two_groups(of_boxes_and_masks: list[Figure]) -> None:
    text = printed(Listed(of_boxes_and_masks, "of at most 100 detections [of a class]"))
    assert rows(text) == [
        "box mask",
        "AP 40.00 % 25.00 %",
        "AP large - 75.00 %",
        "of at most 100 detections [of a class]",
        "class box AP mask AP",
        "cell 30.00 % -",
        f"{ODD} 50.00 % 25.00 %",
    ]
    assert "class]\n\n" in text, "the classes stand apart"


def test_a_group_of_its_own_is_named(of_boxes_and_masks: list[Figure]) -> None:
    assert rows(printed(Listed(of_boxes_and_masks[:3])))[:2] == ["box", "AP 40.00 %"]


def test_what_only_one_group_has_leaves_a_gap(of_boxes_and_masks: list[Figure]) -> None:
    del of_boxes_and_masks[1]
    assert rows(printed(Listed(of_boxes_and_masks)))[1:3] == ["AP 40.00 % 25.00 %", "AP large 75.00 %"]


def test_a_single_class_is_not_listed_beside_all(of_boxes_and_masks: list[Figure]) -> None:
    figures = [of_boxes_and_masks[0], Figure("class_ap", "AP", {"cell": 0.4}, group="box")]
    assert rows(printed(Listed(figures))) == ["box", "AP 40.00 %"]


def test_names_are_neither_markup_nor_coloured(of_boxes_and_masks: list[Figure]) -> None:
    """On a terminal, too: rich would make [bold] bold, and numbers and quoted words blue and green."""
    names = {ODD: 0.5, "class 7": 0.25, "'tree'": 0.1}
    for figures in (
        [Figure("class_iou", "IoU", names)],
        [Figure("ap", "AP", 0.5, "box"), Figure("c", "AP", names, "box")],
    ):
        text = printed(Listed(figures), colours=True)
        for name in names:
            assert name in text


def test_columns_of_figures_are_aligned_to_the_right() -> None:
    table = class_table([Figure("class_iou", "IoU [%]", {"a": 0.05, "b": 1.0})])
    output = io.StringIO()
    Console(file=output, width=60).print(table)
    header, first, second = output.getvalue().splitlines()
    assert header.rstrip().endswith("IoU [%]")
    assert len(first.rstrip()) == len(second.rstrip()) == len(header.rstrip())
