"""Charts: what is read out of the metrics, and that the drawing is well-formed and in its frame."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from segweave.errors import InputError
from segweave.reports.charts import HEIGHT, WIDTH, Line, confusion_chart, format_number, line_chart, read_lines


def points_of(svg: str) -> np.ndarray:
    lines = [element for element in ElementTree.fromstring(svg) if element.tag == "polyline"]
    return np.array([[float(v) for v in point.split(",")] for line in lines for point in line.get("points").split()])


def test_empty_missing_and_broken_cells_are_left_out():
    rows = [
        {"step": "0", "train/loss": "2.5"},
        {"step": 10, "train/loss": "", "val/mean_iou": 0.1},
        {"step": 20, "train/loss": float("nan")},
        {"train/loss": 9.0},
        {"step": 30, "train/loss": 1.5},
    ]
    (line,) = read_lines(rows, {"train/loss": "sum", "train/other": "other"}, "step")
    assert line.name == "sum"
    assert line.x.tolist() == [0, 30]
    assert line.y.tolist() == [2.5, 1.5]


def test_a_cell_that_is_no_number_is_named():
    with pytest.raises(InputError, match="row 2: 'train/loss' is 'abc'"):
        read_lines([{"step": 0}, {"step": 1, "train/loss": "abc"}], {"train/loss": "sum"}, "step")


@pytest.mark.parametrize("count", [1, 2, 50, 100, 5000])
def test_lines_stay_in_the_frame(count):
    rng = np.random.default_rng(count)
    line = Line("loss", np.arange(count, dtype=float), rng.normal(scale=1e-3, size=count))
    places = points_of(line_chart([line], "step"))
    assert len(places) <= 2 * 600
    assert (places >= 0).all()
    assert (places <= [WIDTH, HEIGHT]).all()


def test_greater_values_are_drawn_higher():
    line = Line("rate", np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.3, 0.2]))
    first, second, third = points_of(line_chart([line], "step"))[:, 1]
    assert second < third < first


def test_line_names_are_escaped():
    svg = line_chart([Line("<b>&", np.zeros(1), np.ones(1))], "step")
    assert "<b>" not in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12000, "12\u2009000"), (0.0025, "0.0025"), (-2, "\u22122"), (0.30000000000000004, "0.3")],
)
def test_format_number(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize("count", [1, 2, 21, 41, 150])
def test_confusion_chart_is_well_formed(count):
    classes = [f"<class> {k} with a long name" for k in range(count)]
    svg = confusion_chart(np.random.default_rng(0).integers(0, 9, (count, count)), classes)
    root = ElementTree.fromstring(svg)
    assert len(svg) < 400_000
    assert len(root.findall("text")) <= 2 * count


def test_confusion_chart_divides_by_the_true_pixels():
    svg = confusion_chart(np.array([[30, 10], [0, 0]]), ["cat", "dog"])
    titles = [element.text for element in ElementTree.fromstring(svg).iter("title")]
    assert titles == ["cat → cat: 75.0%", "cat → dog: 25.0%", "dog → cat: 0.0%", "dog → dog: 0.0%"]
