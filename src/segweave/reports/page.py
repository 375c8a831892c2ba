"""The HTML page of a training run: one file that opens without a network."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from segweave.data.colours import Colour
from segweave.files import written_whole
from segweave.reports.charts import Line, line_chart, line_colour, read_lines

PICTURE_WIDTH = 640
"""Wider pictures are made smaller."""
ONE_COLUMN = 24
"""More classes are listed in two columns."""
DASH = "\N{EN DASH}"

Row = Mapping[str, object]
"""A row of a table, by the names that its template uses."""


@dataclass(frozen=True)
class Example:
    """An image of the validation split, drawn.

    Attributes:
        name: As the data set calls it.
        score: How well it was predicted, as people read it: "mIoU 61.2%".
        pictures: As addresses (see `data_uri`), by caption, in the order shown.
        size: Their width and height in pixels.
        sharp: Whether they are enlarged with sharp pixels, not smoothly.
    """

    name: str
    score: str
    pictures: Mapping[str, str]
    size: tuple[int, int]
    sharp: bool = False


@dataclass(frozen=True)
class Page:
    """The part of a run's page that depends on what was predicted.

    Attributes:
        sections: What is shown below the curves of the training, in HTML: `<section id=...>` elements.
        anchors: The ids of the sections, and what links to them are called.
        worst: The validation images that were predicted worst, in the order shown.
        best: The same for the best.
        legend: The names and colours of the classes that the examples show.
        marks: The names and colours of other marks in them.
        example_note: A sentence about the examples.
    """

    sections: Markup = field(default_factory=Markup)
    anchors: Mapping[str, str] = field(default_factory=dict)
    worst: Sequence[Example] = ()
    best: Sequence[Example] = ()
    legend: Sequence[tuple[str, Colour]] = ()
    marks: Sequence[tuple[str, Colour]] = ()
    example_note: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What the page of any run tells.

    Attributes:
        title: The heading.
        facts: The headline figures, by name, already formatted.
        metrics: The rows of metrics.csv: `step` (or `epoch`) and whichever of `learning_rate`, `train/...`, `val/...` a
            row has; cells may be missing, empty, numbers or their text.
        names: What the columns of `metrics` are called in charts; others go by their own name.
        configuration: The run's settings; mappings in mappings are shown with dotted names.
        versions: What the run was made with.
    """

    title: str
    facts: Mapping[str, str]
    metrics: Sequence[Mapping[str, float | str]]
    names: Mapping[str, str]
    configuration: Mapping[str, object]
    versions: Mapping[str, str]


def write_page(path: Path, run: RunFacts, page: Page) -> None:
    """Writes the page of a run. The file appears whole or not at all, and replaces an older one.

    Args:
        path: The page's file, in a folder that exists.
        run: What any page tells.
        page: What depends on what was predicted.

    Raises:
        InputError: A cell of the metrics is not a number, or the file can't be written.
    """
    examples = [*page.worst, *page.best]
    html = render(
        "reports/page.html.jinja",
        title=run.title,
        facts=run.facts,
        charts=_charts(run.metrics, run.names),
        anchors=page.anchors,
        sections=page.sections,
        groups=[
            {"title": "Worst predictions", "anchor": "worst", "examples": page.worst},
            {"title": "Best predictions", "anchor": "best", "examples": page.best},
        ],
        columns=max((len(example.pictures) for example in examples), default=1),
        legend=[(name, css_colour(colour)) for name, colour in page.legend],
        marks=[(name, css_colour(colour)) for name, colour in page.marks],
        example_note=page.example_note,
        configuration=list(_flattened(run.configuration)),
        versions=run.versions,
    )
    with written_whole(Path(path)) as unfinished:
        unfinished.write_text(html, encoding="utf-8")


def render(template: str, **values: object) -> Markup:
    """Fills a template of the package, such as "segmentation/figures.html.jinja".

    Args:
        template: Its path within the package.
        values: What it asks for; text among them is shown as text, never as markup.
    """
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    loader = PackageLoader("segweave", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals["percent"] = percent
    return environment


def in_columns(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """The rows of one table, or of two tables side by side if there are many."""
    half = (len(rows) + 1) // 2
    return [rows] if len(rows) <= ONE_COLUMN else [rows[:half], rows[half:]]


def percent(value: float, digits: int = 1) -> str:
    """A part of 1 in per cent, without the sign."""
    return f"{100 * value:.{digits}f}"


def _charts(metrics: Sequence[Mapping[str, float | str]], names: Mapping[str, str]) -> list[dict[str, object]]:
    keys = list(dict.fromkeys(key for row in metrics for key in row))
    x_key = next((key for key in ("step", "epoch") if key in keys), None)
    if x_key is None:
        return []
    losses = sorted((key for key in keys if key.startswith("train/")), key=lambda key: key != "train/loss")
    scores = [key for key in keys if key.startswith("val/")]
    wanted = {"Training loss": losses, "Validation": scores, "Learning rate": ["learning_rate"]}
    charts = []
    for title, chart_keys in wanted.items():
        lines = read_lines(metrics, {key: names.get(key, _own_name(key)) for key in chart_keys}, x_key)
        if lines:
            charts.append(_chart(title, lines, x_key))
    return charts


def _chart(title: str, lines: Sequence[Line], x_label: str) -> dict[str, object]:
    is_score = title == "Validation" and all(line.y.min() >= 0 and line.y.max() <= 1 for line in lines)
    entries = [
        {"name": line.name, "colour": line_colour(index), "last": f"{line.y[-1]:#.3g}"}
        for index, line in enumerate(lines)
    ]
    return {"title": title, "entries": entries, "svg": line_chart(lines, x_label, (0.0, 1.0) if is_score else None)}


def _own_name(key: str) -> str:
    if key == "train/loss":
        return "sum"
    return key.partition("/")[2].replace("_", " ") or key.replace("_", " ")


def data_uri(picture: Image.Image, file_format: str, **options: object) -> str:
    """A picture as the address of itself.

    Args:
        picture: Is encoded.
        file_format: "PNG" or "JPEG".
        options: Of Pillow's encoder.
    """
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return f"data:image/{file_format.lower()};base64," + base64.b64encode(stream.getvalue()).decode()


def _flattened(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value)) or DASH
        else:
            yield f"{prefix}{key}", DASH if value is None else str(value)


def css_colour(colour: Colour) -> Markup:
    """As style sheets write it."""
    return Markup("rgb({:d} {:d} {:d})").format(*map(int, colour))
