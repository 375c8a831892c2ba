"""The HTML page of a training run: one file that opens without a network."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from segweave.data.colours import Colour
from segweave.errors import InputError
from segweave.files import written_whole
from segweave.networks.losses import IGNORE_INDEX
from segweave.reports.charts import (
    HOVER_CLASSES,
    Line,
    confusion_chart,
    line_chart,
    line_colour,
    read_lines,
)
from segweave.reports.pictures import (
    CORRECT_COLOUR,
    IGNORE_COLOUR,
    WRONG_COLOUR,
    Mask,
    Picture,
    difference,
    palette_png,
)
from segweave.segmentation.confusion import class_iou

PICTURE_WIDTH = 640
SHARP_WIDTH = 320
"""Narrower pictures are enlarged with sharp pixels, not smoothly."""
ONE_COLUMN = 24
"""More classes are listed in two columns."""
CONFUSIONS_LISTED = 10
MARKS = {"right": CORRECT_COLOUR, "wrong": WRONG_COLOUR, "ignored": IGNORE_COLOUR}
DASH = "\N{EN DASH}"

KNOWN_NAMES = {
    "train/loss": "sum",
    "val/mean_iou": "mIoU",
    "val/pixel_accuracy": "pixel accuracy",
    "val/box_ap": "box AP",
    "val/box_ap50": "box AP50",
    "val/mask_ap": "mask AP",
    "val/mask_ap50": "mask AP50",
}


@dataclass(frozen=True)
class ExamplePicture:
    """An image of the validation split with what was predicted.

    Attributes:
        name: As the data set calls it.
        score: The mean IoU over this image, 0 to 1.
        image: (H, W, 3), uint8.
        prediction: (H, W), integers.
        truth: (H, W), integers; 255 where no pixel counts.
    """

    name: str
    score: float
    image: Picture
    prediction: Mask
    truth: Mask


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    metrics: Sequence[Mapping[str, float | str]],
    classes: Sequence[str],
    palette: Sequence[Colour],
    confusion: NDArray[np.int64],
    best: Sequence[ExamplePicture],
    worst: Sequence[ExamplePicture],
    configuration: Mapping[str, object],
    versions: Mapping[str, str],
) -> None:
    """Writes the page. The file appears whole or not at all, and replaces an older one.

    Args:
        path: The page's file, in a folder that exists.
        title: The heading.
        facts: The headline figures, by name, already formatted.
        metrics: The rows of metrics.csv: `step` (or `epoch`) and whichever of `learning_rate`, `train/...`, `val/...` a
            row has; cells may be missing, empty, numbers or their text.
        classes: The names of the K classes.
        palette: The colour of each.
        confusion: (K, K), validation pixels by true class (rows) and predicted class (columns).
        best: The validation images predicted best, in the order shown.
        worst: The same for the worst.
        configuration: The run's settings; mappings in mappings are shown with dotted names.
        versions: What the run was made with.

    Raises:
        InputError: Classes, palette and confusion matrix don't fit each other, a mask holds an unknown value, or a cell
            of `metrics` is not a number.
    """
    count = len(classes)
    if count == 0 or len(palette) != count or confusion.shape != (count, count):
        raise InputError(
            f"{path}: {count} classes, {len(palette)} colours and a confusion matrix of {confusion.shape}, "
            "expected as many of each, at least one"
        )
    rows = _class_rows(classes, palette, confusion)
    scored = [row["iou"] for row in rows if row["iou"] is not None]
    write_page(
        path,
        "segmentation.html.jinja",
        title=title,
        facts=facts,
        metrics=metrics,
        configuration=configuration,
        versions=versions,
        anchors={"classes": "Classes", "confusion": "Confusion matrix"},
        examples=([_example(e, palette) for e in worst], [_example(e, palette) for e in best]),
        legend=_legend([*worst, *best], classes, palette),
        marks=[(name, css_colour(colour)) for name, colour in MARKS.items()],
        tables=in_columns(rows),
        mean_iou=float(np.mean(scored)) if scored else None,
        absent=count - len(scored),
        wide_confusion=count > HOVER_CLASSES,
        confusion=confusion_chart(confusion, classes),
        confusions=_largest_confusions(classes, confusion),
    )


def write_page(
    path: Path,
    template: str,
    *,
    title: str,
    facts: Mapping[str, str],
    metrics: Sequence[Mapping[str, float | str]],
    configuration: Mapping[str, object],
    versions: Mapping[str, str],
    anchors: Mapping[str, str],
    examples: tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]],
    legend: Sequence[tuple[str, Markup]],
    marks: Sequence[tuple[str, Markup]] = (),
    example_note: str = "",
    **figures: Any,
) -> None:
    """Writes the page of any kind of network. The file appears whole or not at all, and replaces an older one.

    Args:
        path: As `title`, `facts`, `metrics`, `configuration` and `versions`, see `write_report`.
        template: Of the package, one that extends `page.html.jinja` by the block `figures`.
        anchors: The ids of that block's sections, and what links to them are called.
        examples: The worst and the best ones, in the order shown; each has `name`, `score` (formatted), `pictures`
            (data URIs by caption), `width`, `height` and `sharp` (whether it is enlarged with sharp pixels).
        legend: The names and colours of the classes that the examples show.
        marks: The names and colours of other marks in them.
        example_note: A sentence about the examples.
        figures: What else the template asks for.
    """
    environment = Environment(
        loader=PackageLoader("segweave", "reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["percent"] = percent
    worst, best = examples
    page = environment.get_template(template).render(
        title=title,
        facts=facts,
        charts=_charts(metrics),
        anchors=anchors,
        groups=[
            {"title": "Worst predictions", "anchor": "worst", "examples": worst},
            {"title": "Best predictions", "anchor": "best", "examples": best},
        ],
        columns=max((len(example["pictures"]) for example in [*worst, *best]), default=1),
        legend=legend,
        marks=marks,
        example_note=example_note,
        configuration=list(_flattened(configuration)),
        versions=versions,
        **figures,
    )
    with written_whole(Path(path)) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def in_columns(rows: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
    """The rows of one table, or of two tables side by side if there are many."""
    half = (len(rows) + 1) // 2
    return [rows] if len(rows) <= ONE_COLUMN else [rows[:half], rows[half:]]


def percent(value: float, digits: int = 1) -> str:
    """A part of 1 in per cent, without the sign."""
    return f"{100 * value:.{digits}f}"


def _class_rows(
    classes: Sequence[str], palette: Sequence[Colour], confusion: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Name, colour, IoU (None where the class never occurs) and share of the true pixels of each class."""
    iou = class_iou(torch.as_tensor(confusion)).tolist()
    shares = confusion.sum(axis=1) / max(confusion.sum(), 1)
    return [
        {"name": name, "colour": css_colour(colour), "iou": None if np.isnan(score) else score, "share": float(share)}
        for name, colour, score, share in zip(classes, palette, iou, shares, strict=True)
    ]


def _charts(metrics: Sequence[Mapping[str, float | str]]) -> list[dict[str, Any]]:
    keys = list(dict.fromkeys(key for row in metrics for key in row))
    x_key = next((key for key in ("step", "epoch") if key in keys), None)
    if x_key is None:
        return []
    losses = sorted((key for key in keys if key.startswith("train/")), key=lambda key: key != "train/loss")
    scores = [key for key in keys if key.startswith("val/")]
    wanted = {"Training loss": losses, "Validation": scores, "Learning rate": ["learning_rate"]}
    charts = []
    for title, chart_keys in wanted.items():
        lines = read_lines(metrics, {key: _line_name(key) for key in chart_keys}, x_key)
        if lines:
            charts.append(_chart(title, lines, x_key))
    return charts


def _chart(title: str, lines: Sequence[Line], x_label: str) -> dict[str, Any]:
    is_score = title == "Validation" and all(line.y.min() >= 0 and line.y.max() <= 1 for line in lines)
    entries = [
        {"name": line.name, "colour": line_colour(index), "last": f"{line.y[-1]:#.3g}"}
        for index, line in enumerate(lines)
    ]
    return {
        "title": title,
        "entries": entries,
        "svg": line_chart(lines, x_label, (0.0, 1.0) if is_score else None),
    }


def _line_name(key: str) -> str:
    return KNOWN_NAMES.get(key, key.partition("/")[2].replace("_", " ") or key.replace("_", " "))


def _largest_confusions(classes: Sequence[str], confusion: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The pairs of classes that took most pixels from each other, as shares of the true class's pixels."""
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, confusion)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:CONFUSIONS_LISTED]
    pairs = [divmod(int(flat), len(classes)) for flat in order]
    return [
        {
            "truth": classes[row],
            "prediction": classes[column],
            "share_of_class": float(wrong[row, column] / confusion[row].sum()),
            "share_of_errors": float(wrong[row, column] / wrong.sum()),
        }
        for row, column in pairs
        if wrong[row, column] > 0
    ]


def _example(example: ExamplePicture, palette: Sequence[Colour]) -> dict[str, Any]:
    """The four pictures of an example as data URIs."""
    wrong = difference(example.prediction, example.truth)
    size = _fitting_size(example.image)
    pictures = {
        "image": data_uri(Image.fromarray(example.image).resize(size, Image.Resampling.LANCZOS), "JPEG", quality=82),
        "prediction": _png(palette_png(example.prediction, palette), size),
        "truth": _png(palette_png(example.truth, palette), size),
        "difference": _png(Image.fromarray(wrong), size),
    }
    return {
        "name": example.name,
        "score": f"mIoU {percent(example.score)}%",
        "pictures": pictures,
        "width": size[0],
        "height": size[1],
        "sharp": size[0] < SHARP_WIDTH,
    }


def _fitting_size(image: Picture) -> tuple[int, int]:
    height, width = image.shape[:2]
    scale = min(1.0, PICTURE_WIDTH / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _png(picture: Image.Image, size: tuple[int, int]) -> str:
    return data_uri(picture.resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def data_uri(picture: Image.Image, file_format: str, **options: Any) -> str:
    """A picture as the address of itself."""
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return f"data:image/{file_format.lower()};base64," + base64.b64encode(stream.getvalue()).decode()


def _legend(
    examples: Sequence[ExamplePicture], classes: Sequence[str], palette: Sequence[Colour]
) -> list[tuple[str, Markup]]:
    """Name and colour of the classes that the examples show."""
    shown: set[int] = set()
    for example in examples:
        shown.update(np.unique(example.prediction).tolist(), np.unique(example.truth).tolist())
    return [(classes[k], css_colour(palette[k])) for k in sorted(shown - {IGNORE_INDEX})]


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
