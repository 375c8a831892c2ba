"""Evaluation of a detector: what it finds is scored once, whatever the number of processes."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from segweave.detection.average_precision import coco_predictions, evaluate_detections
from segweave.detection.evaluation import (
    DetectionEvaluator,
    EvaluatedDetections,
    detection_figures,
    evaluate_detector,
    print_detections,
)
from segweave.detection.samples import DetectionEvaluationSamples, collate
from segweave.segmentation.evaluation import create_trainer
from tests.evaluation.detection_fakes import NumberedDrawings, Oracle

HERE: dict[str, Any] = {"device": "cpu", "workers": 0}
QUIET: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def oracle(**options: Any) -> Any:
    return Oracle(**options)


@pytest.fixture(scope="module")
def dataset() -> NumberedDrawings:
    return NumberedDrawings()


@pytest.fixture(scope="module")
def evaluated(dataset: NumberedDrawings) -> EvaluatedDetections:
    return evaluate_detector(oracle(), dataset, **HERE)


def test_everything_found_is_scored(dataset: NumberedDrawings, evaluated: EvaluatedDetections) -> None:
    network = oracle().eval()
    expected: list[dict[str, Any]] = []
    for index in (4, 3, 2, 1, 0):  # their ids rise
        image = dataset[index].image.float() / 255
        expected += coco_predictions(network.find([image])[0], 100 - 7 * index, dataset.category_ids)
    result, predictions = evaluated
    assert predictions == expected
    assert json.loads(json.dumps(predictions)) == predictions
    plain = evaluate_detections(dataset.ground_truth(), expected)
    assert result.mask is not None
    assert plain.mask is not None
    assert 0 < result.box.ap < 1
    assert 0 < result.mask.ap < 1
    assert (result.box.ap, result.mask.ap) == (plain.box.ap, plain.mask.ap)
    assert result.classes == tuple(dataset.classes)
    assert result.image_scores == {dataset.name(k): plain.image_scores[f"shapes/val/{k:06d}"] for k in (4, 3, 2, 1, 0)}


def test_logs_the_figures(dataset: NumberedDrawings, evaluated: EvaluatedDetections) -> None:
    trainer = create_trainer("cpu", 1, **QUIET)
    evaluator = DetectionEvaluator(oracle(), dataset)
    trainer.validate(evaluator, evaluator.val_loader(dataset, trainer, 0), verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    result = evaluated.result
    assert result.mask is not None
    assert logged == pytest.approx(
        {
            "val/box_ap": result.box.ap,
            "val/box_ap50": result.box.ap50,
            "val/mask_ap": result.mask.ap,
            "val/mask_ap50": result.mask.ap50,
        }
    )
    again = evaluator.predictions
    trainer.validate(evaluator, evaluator.val_loader(dataset, trainer, 0), verbose=False)
    assert evaluator.predictions == again, "a second validation starts from nothing"


def test_a_network_without_masks(dataset: NumberedDrawings, evaluated: EvaluatedDetections) -> None:
    trainer = create_trainer("cpu", 1, **QUIET)
    evaluator = DetectionEvaluator(oracle(masks=False), dataset)
    trainer.validate(evaluator, evaluator.val_loader(dataset, trainer, 0), verbose=False)
    assert set(trainer.callback_metrics) == {"val/box_ap", "val/box_ap50"}
    assert evaluator.result is not None
    assert evaluator.result.mask is None
    assert evaluator.result.box.ap == evaluated.result.box.ap


def test_masks_are_not_scored_where_the_data_has_none() -> None:
    dataset = NumberedDrawings()
    dataset.has_masks = False
    assert evaluate_detector(oracle(), dataset, **HERE).result.mask is None


def test_only_as_many_detections_of_an_image_count_as_are_asked_for(
    dataset: NumberedDrawings, evaluated: EvaluatedDetections
) -> None:
    result = evaluate_detector(oracle(), dataset, detections_per_image=1, **HERE).result
    assert result.detections_per_image == 1
    assert result.box.ap < evaluated.result.box.ap


def test_shares_of_several_processes_add_up(
    dataset: NumberedDrawings, evaluated: EvaluatedDetections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five images in three shares: one is filled with an image that counts for nothing."""
    evaluators = [DetectionEvaluator(oracle(), dataset).eval() for _ in range(3)]
    for rank, evaluator in enumerate(evaluators):
        evaluator._trainer = SimpleNamespace(world_size=3)  # type: ignore[assignment]
        evaluator.on_validation_epoch_start()
        samples = DetectionEvaluationSamples(dataset, rank=rank, processes=3)
        assert len(samples) == 2
        for position in range(len(samples)):
            evaluator.validation_step(collate([samples[position]]), position)
    assert [evaluator.network.seen for evaluator in evaluators] == [2, 2, 1]
    shares = [(evaluator._found, evaluator._gives_masks) for evaluator in evaluators]

    def gather(gathered: list[Any], share: Any) -> None:
        assert share in shares
        gathered[:] = json.loads(json.dumps(shares))

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    for evaluator in evaluators:
        logged: dict[str, Any] = {}
        monkeypatch.setattr(evaluator, "log_dict", lambda figures, logged=logged, **_: logged.update(figures))
        evaluator.on_validation_epoch_end()
        assert evaluator.predictions == evaluated.predictions
        assert evaluator.result is not None
        assert detection_figures(evaluator.result) == detection_figures(evaluated.result)
        assert logged["val/box_ap"] == evaluated.result.box.ap


@pytest.mark.slow
def test_two_processes_find_what_one_does(evaluated: EvaluatedDetections, tmp_path: Path) -> None:
    out = tmp_path / "two.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.detection_fakes", str(out)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == [detection_figures(evaluated.result), evaluated.predictions]


def test_figures_are_json_without_nan(evaluated: EvaluatedDetections) -> None:
    result = evaluated.result
    assert np.isnan(result.box.ap_large)
    box = dataclasses.replace(result.box, class_ap={**result.box.class_ap, "tree": np.nan})
    figures: Any = detection_figures(dataclasses.replace(result, box=box, mask=None))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["mask"] is None
    assert figures["box"]["ap50"] == box.ap50
    assert figures["box"]["ap_large"] is None
    assert figures["box"]["class_ap"] == {**box.class_ap, "tree": None}
    assert figures["detections_per_image"] == 100
    assert result.mask is not None
    both: Any = detection_figures(result)
    assert both["mask"]["ap"] == result.mask.ap


def printed(result: Any) -> list[list[str]]:
    stream = io.StringIO()
    print_detections(Console(file=stream, width=100), result)
    return [line.split() for line in stream.getvalue().splitlines()]


def test_prints_the_figures(evaluated: EvaluatedDetections) -> None:
    result = evaluated.result
    assert result.mask is not None
    lines = printed(result)
    assert ["box", "mask"] in lines
    assert ["AP", f"{100 * result.box.ap:.2f}", "%", f"{100 * result.mask.ap:.2f}", "%"] in lines
    assert ["AP", "large", "-", "-"] in lines
    for name in result.classes:
        assert any(line[:1] == [name] for line in lines)
    boxes = printed(evaluate_detector(oracle(masks=False), NumberedDrawings(), **HERE).result)
    assert ["AP", f"{100 * result.box.ap:.2f}", "%"] in boxes
