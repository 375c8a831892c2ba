"""What an evaluation gives: figures, and the one list of them that log, files, tables and reports are made from."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import segweave
from segweave.detection import average_precision
from segweave.detection.average_precision import RECALLS, APFigures, DetectionResult
from segweave.results import Figure, Result, defined, per_cent, worst_and_best
from segweave.segmentation import evaluation
from segweave.segmentation.evaluation import SegmentationResult
from segweave.training.callbacks import read_metrics
from tests.reports.pages import ParsedPage

NAN = float("nan")


def segmented(confusion: Sequence[Sequence[int]] = ((6, 2, 0), (0, 2, 0), (0, 0, 0))) -> SegmentationResult:
    return SegmentationResult(("road", "tree", "car"), torch.tensor(confusion), {"a": 0.5, "b": NAN})


def figures(ap: float) -> APFigures:
    return APFigures(
        numbers={"ap": ap, "ap50": 0.75, "ap75": 0.25, "ap_small": NAN, "ap_medium": 0.5, "ap_large": NAN},
        class_ap={"cell": ap, "leaf": NAN},
        precision50=np.zeros(len(RECALLS)),
        precision75=np.zeros(len(RECALLS)),
    )


def detected(*, masks: bool) -> DetectionResult:
    mask = figures(0.125) if masks else None
    return DetectionResult(("cell", "leaf"), figures(0.5), mask, {"a": 0.5}, 150, [{"image_id": 3, "score": 0.5}])


def test_a_figure_has_a_name_for_the_log_and_a_label_for_people() -> None:
    whole = Figure("mean_iou", "mIoU", 0.5)
    assert (whole.name, whole.label, whole.total, whole.logged) == ("mean_iou", "mIoU", 0.5, False)
    grouped = Figure("ap50", "AP50", 0.25, group="box", logged=True)
    assert (grouped.name, grouped.label, grouped.total, grouped.logged) == ("box_ap50", "box AP50", 0.25, True)
    assert math.isnan(Figure("class_iou", "IoU", {"road": 0.5}).total)


def test_what_is_undefined() -> None:
    assert (defined(0.25), defined(0.0), defined(NAN)) == (0.25, 0.0, None)
    assert (per_cent(0.48333), per_cent(0.48333, 1), per_cent(1.0), per_cent(NAN)) == (
        "48.33 %", "48.3 %", "100.00 %", "-",
    )  # fmt: skip


def test_figures_of_segmentation() -> None:
    result = segmented()
    assert [(figure.name, figure.title) for figure in result.figures] == [
        ("mean_iou", "mIoU"), ("pixel_accuracy", "pixel accuracy"), ("class_iou", "IoU"),
    ]  # fmt: skip
    assert [figure.name for figure in result.logged()] == ["mean_iou", "pixel_accuracy"]
    assert (result.mean_iou, result.pixel_accuracy) == (0.625, 0.8)
    assert [figure.total for figure in result.logged()] == [result.mean_iou, result.pixel_accuracy]
    assert result.class_iou["road"] == 0.75
    assert math.isnan(result.class_iou["car"])
    assert (result.note, result.predictions) == ("", ())


def test_figures_of_detection() -> None:
    result = detected(masks=True)
    keys = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "class_ap"]
    assert [figure.name for figure in result.figures] == [f"{kind}_{key}" for kind in ("box", "mask") for key in keys]
    logged = {figure.name: figure.total for figure in result.logged()}
    assert logged == {"box_ap": 0.5, "box_ap50": 0.75, "mask_ap": 0.125, "mask_ap50": 0.75}
    assert [figure.name for figure in detected(masks=False).logged()] == ["box_ap", "box_ap50"]
    assert "at most 150 detections of a class" in result.note


def test_segmentation_as_json() -> None:
    written = json.dumps(segmented().to_json(), allow_nan=False)
    assert written == (
        '{"mean_iou": 0.625, "pixel_accuracy": 0.8, "class_iou": {"road": 0.75, "tree": 0.5, "car": null}, '
        '"confusion": [[6, 2, 0], [0, 2, 0], [0, 0, 0]]}'
    )
    nothing = segmented([[0] * 3] * 3).to_json()
    assert (nothing["mean_iou"], nothing["pixel_accuracy"]) == (None, None)


@pytest.mark.parametrize("masks", [True, False])
def test_detection_as_json(masks: bool) -> None:
    def part(ap: float) -> str:
        return (
            f'{{"ap": {ap}, "ap50": 0.75, "ap75": 0.25, "ap_small": null, "ap_medium": 0.5, "ap_large": null, '
            f'"class_ap": {{"cell": {ap}, "leaf": null}}}}'
        )

    mask = part(0.125) if masks else "null"
    written = json.dumps(detected(masks=masks).to_json(), allow_nan=False)
    assert written == f'{{"detections_per_image": 150, "box": {part(0.5)}, "mask": {mask}}}'


@dataclass(frozen=True)
class Mixed(Result):
    """Figures with and without a group, and details."""

    image_scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> list[Figure]:
        return [
            Figure("quality", "PQ", 0.5, logged=True),
            Figure("quality", "PQ", {"sea": NAN}, group="stuff"),
            Figure("quality", "PQ", 0.25, group="things", logged=True),
            Figure("seen", "seen", 0.75, group="stuff"),
        ]

    def details(self) -> dict[str, object]:
        return {"images": 3}


def test_groups_are_nested_in_json() -> None:
    assert Mixed().to_json() == {
        "quality": 0.5, "stuff": {"quality": {"sea": None}, "seen": 0.75}, "things": {"quality": 0.25}, "images": 3,
    }  # fmt: skip
    assert [figure.name for figure in Mixed().logged()] == ["quality", "things_quality"]


@pytest.mark.parametrize(
    ("scores", "count", "worst", "best"),
    [
        ({}, 2, [], []),
        ({"a": NAN}, 2, [], []),
        ({"a": 0.5}, 2, ["a"], []),
        ({"a": 0.5, "b": 0.1}, 4, ["b"], ["a"]),
        ({"a": 0.5, "b": 0.1, "c": 0.9}, 2, ["b", "a"], ["c"]),
        ({"a": 0.5, "b": 0.1, "c": 0.9, "d": NAN, "e": 0.0, "f": 0.7}, 2, ["e", "b"], ["c", "f"]),
        ({"b": 0.5, "a": 0.5, "c": 0.5, "d": 0.5}, 1, ["a"], ["d"]),
    ],
)
def test_the_worst_and_the_best_images(scores: dict[str, float], count: int, worst: list[str], best: list[str]) -> None:
    assert worst_and_best(scores, count) == (worst, best)


def blue_share(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """A measure that segweave hasn't."""
    return Figure("blue_share", "blue [share]", float(confusion[2].sum() / confusion.sum()), logged=True)


def class_recall(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """Another one, by class and not logged."""
    recall = confusion.diagonal() / confusion.sum(dim=1)
    return Figure("class_recall", "recall", dict(zip(classes, recall.tolist(), strict=True)))


@pytest.mark.slow
def test_a_new_measure_of_segmentation_is_everywhere(
    tmp_path: Path,
    folder: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the log, on the progress display, in the report, in the table and in the file of `evaluate`."""
    monkeypatch.setattr(evaluation, "MEASURES", [*evaluation.MEASURES, blue_share, class_recall])
    out = tmp_path / "run"
    result = segweave.train(folder, out=out, **{**settings, "epochs": 1})
    share = next(figure.total for figure in result.figures if figure.key == "blue_share")
    assert 0 < share < 1

    (row,) = read_metrics(out / "metrics.csv")
    assert float(row["val/blue_share"]) == pytest.approx(share)
    assert not any("class_recall" in name for name in row)
    printed = capsys.readouterr().out.replace("\n", " ")
    assert f"blue [share] {100 * share:.1f} %" in printed, "after the validation"
    assert f"blue [share] {100 * share:.2f} %" in printed, "at the end"
    texts = ParsedPage((out / "report.html").read_text()).texts
    assert texts.count("blue [share]") >= 2, "among the headline figures, and in a chart"
    assert f"{100 * share:.1f} %" in texts

    segweave.evaluate(out, data=folder, workers=0, out=tmp_path / "figures.json")
    printed = capsys.readouterr().out
    assert f"blue [share] {100 * share:.2f} %" in printed
    assert "recall" in printed.splitlines()[0]
    written = json.loads((tmp_path / "figures.json").read_text())
    assert list(written) == ["mean_iou", "pixel_accuracy", "class_iou", "blue_share", "class_recall", "confusion"]
    assert written["blue_share"] == pytest.approx(share)
    assert list(written["class_recall"]) == ["red", "green", "blue"]


def test_a_measure_of_detection_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the log and in the file, without another line."""
    ap90 = average_precision.Measure(
        "AP90", lambda precision: average_precision.mean_of_defined(precision[8, ..., 0]), logged=True
    )
    monkeypatch.setitem(average_precision.MEASURES, "ap90", ap90)
    image = {"id": 1, "file_name": "a.png", "height": 100, "width": 100}
    cell = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100], "area": 1e4, "iscrowd": 0}
    truth = {"images": [image], "categories": [{"id": 1, "name": "cell"}], "annotations": [cell]}
    for width, expected in ((92, 1.0), (88, 0.0)):  # as large as so many hundredths of the cell
        found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, width, 100], "score": 0.9}]
        result = average_precision.evaluate_detections(truth, found)
        assert {figure.label: figure.value for figure in result.logged()}["box AP90"] == pytest.approx(expected)
        assert result.to_json()["box"]["ap90"] == pytest.approx(expected)
        assert result.box.ap75 == pytest.approx(1)
