"""The part of a run's report that is about objects."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from segweave.data.colours import Colour
from segweave.detection.average_precision import (
    MEASURES,
    RECALLS,
    SHOWN_SCORE,
    APFigures,
    DetectionResult,
)
from segweave.detection.dataset import DetectionDataset
from segweave.detection.pictures import Objects, draw_detections, objects_of
from segweave.networks.network import DetectionNetwork
from segweave.reports.charts import Line, line_chart, line_colour
from segweave.reports.page import PICTURE_WIDTH, Example, Page, Row, css_colour, data_uri, in_columns, percent, render
from segweave.reports.pictures import IGNORE_COLOUR, Picture
from segweave.results import defined, worst_and_best
from segweave.task import FinishedRun

EXAMPLES = 4
"""How many of the best and how many of the worst images are shown."""

FinishedDetection = FinishedRun[DetectionNetwork, DetectionDataset, DetectionResult]


def detection_page(finished: FinishedDetection) -> Page:
    """Average precision, its curves, and the best and the worst validation images; the network isn't run again."""
    result, dataset = finished.result, finished.dataset
    several = len(dataset.classes) > 1
    worst, best = (
        [_ShownImage(finished, name) for name in names] for names in worst_and_best(result.image_scores, EXAMPLES)
    )
    shown = sorted(set().union(*(each.labels for each in [*worst, *best])))
    any_crowd = any(each.has_crowd for each in [*worst, *best])
    return Page(
        sections=_sections(result, dataset),
        anchors={"precision": "Average precision", **({"classes": "Classes"} if several else {})},
        worst=[each.drawn() for each in worst],
        best=[each.drawn() for each in best],
        legend=[(dataset.classes[label - 1], dataset.palette[label - 1]) for label in shown] if several else [],
        marks=[("crowd", IGNORE_COLOUR)] if any_crowd else [],
        example_note=f"Detections with a score from {SHOWN_SCORE:g} up are drawn, and count in F1 at IoU 0.5."
        + ("" if several else " Each object has a colour of its own."),
    )


def _sections(result: DetectionResult, dataset: DetectionDataset) -> Markup:
    """The figures, their curves, and those of each class, in HTML."""
    kinds = result.kinds
    annotations = dataset.ground_truth(masks=False)["annotations"]
    objects = Counter(annotation["category_id"] for annotation in annotations if not annotation["iscrowd"])
    counts = [objects[number] for number in dataset.category_ids]
    several = len(dataset.classes) > 1
    return render(
        "detection/figures.html.jinja",
        kinds={kind: line_colour(index) for index, kind in enumerate(kinds)},
        detections_per_image=result.detections_per_image,
        summary=_summary(kinds),
        curves=[
            *_curve("Precision by recall at IoU 0.5", {kind: (f.precision50, f.ap50) for kind, f in kinds.items()}),
            *_curve("Precision by recall at IoU 0.75", {kind: (f.precision75, f.ap75) for kind, f in kinds.items()}),
        ],
        tables=in_columns(_class_rows(kinds, dataset.classes, dataset.palette, counts)) if several else [],
        means={kind: defined(each.ap) for kind, each in kinds.items()},
    )


def _summary(figures: Mapping[str, APFigures]) -> list[Row]:
    return [
        {
            "name": measure.title,
            "colour": None,
            "aps": {kind: defined(each.numbers[key]) for kind, each in figures.items()},
        }
        for key, measure in MEASURES.items()
    ]


def _class_rows(
    figures: Mapping[str, APFigures], classes: Sequence[str], palette: Sequence[Colour], counts: Sequence[int]
) -> list[Row]:
    return [
        {
            "name": name,
            "colour": css_colour(colour),
            "aps": {kind: defined(each.class_ap[name]) for kind, each in figures.items()},
            "count": count,
        }
        for name, colour, count in zip(classes, palette, counts, strict=True)
    ]


def _curve(title: str, lines: Mapping[str, tuple[np.ndarray, float]]) -> list[Row]:
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


class _ShownImage:
    """An image of the validation split with its objects and what was found in it.

    Attributes:
        labels: Of the objects that are drawn, from 1 up.
        has_crowd: Whether a group of objects is among them.
    """

    def __init__(self, finished: FinishedDetection, name: str) -> None:
        dataset, with_masks = finished.dataset, finished.result.mask is not None
        index = next(index for index in range(len(dataset)) if dataset.name(index) == name)
        image, target = dataset[index]
        image_id = dataset.image_id(index)
        found = objects_of(
            [each for each in finished.result.predictions if each["image_id"] == image_id], dataset.category_ids
        )
        self.name, self.score = name, finished.result.image_scores[name]
        self.image: Picture = image.permute(1, 2, 0).numpy()
        self.found = found if with_masks else found._replace(masks=None)
        self.truth = Objects(
            boxes=target["boxes"].numpy(),
            labels=target["labels"].numpy(),
            masks=target["masks"].numpy() if with_masks else None,
            crowd=target["iscrowd"].numpy(),
        )
        self.classes, self.palette = dataset.classes, dataset.palette

    @property
    def labels(self) -> set[int]:
        scores, found = self.found.scores, self.found.labels
        drawn = found if scores is None else found[scores >= SHOWN_SCORE]
        return {*self.truth.labels.tolist(), *drawn.tolist()}

    @property
    def has_crowd(self) -> bool:
        return self.truth.crowd is not None and bool(self.truth.crowd.any())

    def drawn(self) -> Example:
        """The image, what was found, and the truth."""
        width = self.image.shape[1]
        scale = PICTURE_WIDTH / width if width > PICTURE_WIDTH else None
        found, truth = (
            draw_detections(self.image, objects, self.classes, self.palette, SHOWN_SCORE, scale)
            for objects in (self.found, self.truth)
        )
        image = Image.fromarray(self.image).resize(truth.size, Image.Resampling.LANCZOS)
        # thin lines keep their colours only without subsampling
        pictures = {"image": image, "prediction": found, "truth": truth}
        addresses = {
            caption: data_uri(picture, "JPEG", quality=88, subsampling=0) for caption, picture in pictures.items()
        }
        return Example(self.name, f"F1 {percent(self.score)}%", addresses, truth.size)
