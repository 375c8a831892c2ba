"""The HTML page of a run that detects objects."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from segweave.data.colours import Colour
from segweave.detection.average_precision import FIGURES, RECALLS, SHOWN_SCORE, APFigures, DetectionResult
from segweave.detection.pictures import Objects, draw_detections
from segweave.errors import InputError
from segweave.reports.charts import Line, line_chart, line_colour
from segweave.reports.page import PICTURE_WIDTH, css_colour, data_uri, in_columns, percent, write_page
from segweave.reports.pictures import IGNORE_COLOUR, Picture
from segweave.segmentation.confusion import defined


@dataclass(frozen=True)
class DetectionExample:
    """An image of the validation split with its objects and what was found.

    Attributes:
        name: As the data set calls it.
        score: F1 of this image, 0 to 1.
        image: (H, W, 3), uint8.
        prediction: What was found.
        truth: Its objects, without scores.
    """

    name: str
    score: float
    image: Picture
    prediction: Objects
    truth: Objects


def write_detection_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    metrics: Sequence[Mapping[str, float | str]],
    classes: Sequence[str],
    palette: Sequence[Colour],
    counts: Sequence[int],
    result: DetectionResult,
    best: Sequence[DetectionExample],
    worst: Sequence[DetectionExample],
    configuration: Mapping[str, object],
    versions: Mapping[str, str],
) -> None:
    """Writes the page. The file appears whole or not at all, and replaces an older one.

    Args:
        path: As `title`, `facts`, `metrics`, `configuration` and `versions`, see `segweave.reports.page.write_report`.
        classes: The names of the K classes.
        palette: The colour of each.
        counts: How many objects of each the validation images hold.
        result: The figures, of the same classes.
        best: The validation images predicted best, in the order shown.
        worst: The same for the worst.

    Raises:
        InputError: Classes, palette, counts and result don't fit each other, an object's label is of no class, or a
            cell of `metrics` is not a number.
    """
    if not len(classes) == len(palette) == len(counts) == len(result.classes) or set(classes) != set(result.classes):
        raise InputError(
            f"{path}: {len(classes)} classes, {len(palette)} colours, {len(counts)} counts and figures of "
            f"{len(result.classes)} classes, expected the same classes everywhere"
        )
    figures = {"box": result.box} if result.mask is None else {"box": result.box, "mask": result.mask}
    several = len(classes) > 1
    write_page(
        path,
        "detection.html.jinja",
        title=title,
        facts=facts,
        metrics=metrics,
        configuration=configuration,
        versions=versions,
        anchors={"precision": "Average precision", **({"classes": "Classes"} if several else {})},
        examples=([_example(e, classes, palette) for e in worst], [_example(e, classes, palette) for e in best]),
        legend=_legend([*worst, *best], classes, palette) if several else [],
        marks=[("crowd", css_colour(IGNORE_COLOUR))] if _any_crowd([*worst, *best]) else [],
        example_note=f"Detections with a score from {SHOWN_SCORE:g} up are drawn, and count in F1 at IoU 0.5."
        + ("" if several else " Each object has a colour of its own."),
        kinds={kind: line_colour(index) for index, kind in enumerate(figures)},
        detections_per_image=result.detections_per_image,
        summary=_summary(figures),
        curves=[
            *_curve("Precision by recall at IoU 0.5", {kind: (f.precision50, f.ap50) for kind, f in figures.items()}),
            *_curve("Precision by recall at IoU 0.75", {kind: (f.precision75, f.ap75) for kind, f in figures.items()}),
        ],
        tables=in_columns(_class_rows(figures, classes, palette, counts)) if several else [],
        means={kind: defined(each.ap) for kind, each in figures.items()},
    )


def _summary(figures: Mapping[str, APFigures]) -> list[dict[str, Any]]:
    return [
        {
            "name": title,
            "colour": None,
            "aps": {kind: defined(getattr(each, name)) for kind, each in figures.items()},
        }
        for name, title in FIGURES.items()
    ]


def _class_rows(
    figures: Mapping[str, APFigures], classes: Sequence[str], palette: Sequence[Colour], counts: Sequence[int]
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "colour": css_colour(colour),
            "aps": {kind: defined(each.class_ap[name]) for kind, each in figures.items()},
            "count": count,
        }
        for name, colour, count in zip(classes, palette, counts, strict=True)
    ]


def _curve(title: str, lines: Mapping[str, tuple[np.ndarray, float]]) -> list[dict[str, Any]]:
    """A chart of precision-recall curves, or none where nothing is defined."""
    curves = {kind: (precision, ap) for kind, (precision, ap) in lines.items() if not math.isnan(ap)}
    if not curves:
        return []
    drawn = [Line(kind, RECALLS, precision) for kind, (precision, _) in curves.items()]
    return [
        {
            "title": title,
            "entries": [
                {"name": kind, "colour": line_colour(index), "last": f"AP {percent(ap)}%"}
                for index, (kind, (_, ap)) in enumerate(curves.items())
            ],
            "svg": line_chart(drawn, "recall", (0.0, 1.0), averaged=False),
        }
    ]


def _example(example: DetectionExample, classes: Sequence[str], palette: Sequence[Colour]) -> dict[str, Any]:
    """The pictures of an example as data URIs: the image, what was found, and the truth."""
    width = example.image.shape[1]
    scale = PICTURE_WIDTH / width if width > PICTURE_WIDTH else None

    def drawn(objects: Objects) -> Image.Image:
        return draw_detections(example.image, objects, classes, palette, SHOWN_SCORE, scale)

    prediction, truth = drawn(example.prediction), drawn(example.truth)
    image = Image.fromarray(example.image).resize(truth.size, Image.Resampling.LANCZOS)
    # thin lines keep their colours only without subsampling
    pictures = {"image": image, "prediction": prediction, "truth": truth}
    return {
        "name": example.name,
        "score": f"F1 {percent(example.score)}%",
        "pictures": {
            caption: data_uri(picture, "JPEG", quality=88, subsampling=0) for caption, picture in pictures.items()
        },
        "width": truth.width,
        "height": truth.height,
        "sharp": False,
    }


def _legend(
    examples: Sequence[DetectionExample], classes: Sequence[str], palette: Sequence[Colour]
) -> list[tuple[str, Markup]]:
    """Name and colour of the classes that the examples show."""
    shown: set[int] = set()
    for example in examples:
        scores = example.prediction.scores
        found = example.prediction.labels
        shown.update(example.truth.labels.tolist())
        shown.update((found if scores is None else found[scores >= SHOWN_SCORE]).tolist())
    return [(classes[label - 1], css_colour(palette[label - 1])) for label in sorted(shown)]


def _any_crowd(examples: Sequence[DetectionExample]) -> bool:
    return any(example.truth.crowd is not None and example.truth.crowd.any() for example in examples)
