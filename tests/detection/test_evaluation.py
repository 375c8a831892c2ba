"""Evaluation of a detector: what it finds is scored once, whatever the number of processes."""

import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from segweave.detection.average_precision import DetectionResult, coco_predictions, evaluate_detections
from segweave.detection.evaluation import DetectionEvaluator
from segweave.detection.samples import DetectionBatch
from segweave.reports.tables import print_result
from segweave.training.steps import EvaluationSteps
from segweave.training.trainer import create_trainer, run_evaluator
from tests.detection.evaluation_fakes import NumberedDrawings, Oracle


def oracle(**options: Any) -> Any:
    return Oracle(**options)


@pytest.fixture(scope="module")
def dataset() -> NumberedDrawings:
    return NumberedDrawings()


@pytest.fixture(scope="module")
def result(dataset: NumberedDrawings) -> DetectionResult:
    return evaluated(oracle(), dataset)


def evaluated(network: Any, dataset: NumberedDrawings, **options: Any) -> DetectionResult:
    return run_evaluator(DetectionEvaluator(network, dataset, **options), device="cpu", workers=0)


def test_everything_found_is_scored(dataset: NumberedDrawings, result: DetectionResult) -> None:
    network = oracle().eval()
    expected: list[dict[str, Any]] = []
    for index in (4, 3, 2, 1, 0):  # their ids rise
        image = dataset[index].image.float() / 255
        expected += coco_predictions(network.find([image])[0], 100 - 7 * index, dataset.category_ids)
    assert result.predictions == expected
    assert json.loads(json.dumps(result.predictions)) == result.predictions
    plain = evaluate_detections(dataset.ground_truth(), expected)
    assert result.mask is not None
    assert plain.mask is not None
    assert 0 < result.box.ap < 1
    assert 0 < result.mask.ap < 1
    assert (result.box.ap, result.mask.ap) == (plain.box.ap, plain.mask.ap)
    assert result.classes == tuple(dataset.classes)
    assert result.image_scores == {dataset.name(k): plain.image_scores[f"shapes/val/{k:06d}"] for k in (4, 3, 2, 1, 0)}


def validated(network: Any, dataset: NumberedDrawings) -> tuple[dict[str, float], EvaluationSteps[DetectionResult]]:
    """What is logged, and what has run."""
    trainer = create_trainer("cpu", 1, logger=False, enable_checkpointing=False)
    steps = EvaluationSteps(DetectionEvaluator(network, dataset), workers=0)
    trainer.validate(steps, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, steps


def test_logs_the_figures(dataset: NumberedDrawings, result: DetectionResult) -> None:
    logged, _ = validated(oracle(), dataset)
    assert result.mask is not None
    assert logged == pytest.approx(
        {
            "val/box_ap": result.box.ap,
            "val/box_ap50": result.box.ap50,
            "val/mask_ap": result.mask.ap,
            "val/mask_ap50": result.mask.ap50,
        }
    )


def test_a_second_validation_starts_from_nothing(dataset: NumberedDrawings, result: DetectionResult) -> None:
    _, steps = validated(oracle(), dataset)
    steps.trainer.validate(steps, verbose=False)
    assert steps.result is not None
    assert steps.result.predictions == result.predictions
    assert steps.result.to_json() == result.to_json()


def test_a_network_without_masks(dataset: NumberedDrawings, result: DetectionResult) -> None:
    logged, steps = validated(oracle(masks=False), dataset)
    assert set(logged) == {"val/box_ap", "val/box_ap50"}
    assert steps.result is not None
    assert steps.result.mask is None
    assert steps.result.box.ap == result.box.ap


def test_masks_are_not_scored_where_the_data_has_none() -> None:
    dataset = NumberedDrawings()
    dataset.has_masks = False
    assert evaluated(oracle(), dataset).mask is None


def test_only_as_many_detections_of_an_image_count_as_are_asked_for(
    dataset: NumberedDrawings, result: DetectionResult
) -> None:
    fewer = evaluated(oracle(), dataset, detections_per_image=1)
    assert fewer.detections_per_image == 1
    assert fewer.box.ap < result.box.ap
    network = oracle()
    network.detections_per_image = 2
    assert evaluated(network, dataset).detections_per_image == 2, "as many as the network finds"


def test_shares_of_several_processes_add_up(dataset: NumberedDrawings, result: DetectionResult) -> None:
    """Five images in three shares: one is filled with an image that counts for nothing."""
    networks = [oracle().eval() for _ in range(3)]
    evaluators = [DetectionEvaluator(network, dataset) for network in networks]
    for rank, evaluator in enumerate(evaluators):
        batches: list[DetectionBatch] = list(evaluator.loader(rank=rank, processes=3, workers=0))
        assert len(batches) == 2
        for batch in batches:
            evaluator.add(batch)
    assert [network.seen for network in networks] == [2, 2, 1]
    shares = [(evaluator._found, evaluator._gives_masks) for evaluator in evaluators]

    def gather(share: object) -> list[object]:
        assert share in shares
        return list(pickle.loads(pickle.dumps(shares)))

    for evaluator in evaluators:
        together = evaluator.result(gather)
        assert together.predictions == result.predictions
        assert together.to_json() == result.to_json()


@pytest.mark.slow
def test_two_processes_find_what_one_does(result: DetectionResult, tmp_path: Path) -> None:
    out = tmp_path / "two.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.detection.evaluation_fakes", str(out)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == [result.to_json(), result.predictions]


def test_figures_are_json_without_nan(result: DetectionResult) -> None:
    assert np.isnan(result.box.ap_large)
    box = dataclasses.replace(result.box, class_ap={**result.box.class_ap, "tree": np.nan})
    figures: Any = dataclasses.replace(result, box=box, mask=None).to_json()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["mask"] is None
    assert figures["box"]["ap50"] == box.ap50
    assert figures["box"]["ap_large"] is None
    assert figures["box"]["class_ap"] == {**box.class_ap, "tree": None}
    assert figures["detections_per_image"] == 100
    assert result.mask is not None
    both: Any = result.to_json()
    assert both["mask"]["ap"] == result.mask.ap


def printed(result: DetectionResult) -> list[list[str]]:
    stream = io.StringIO()
    print_result(Console(file=stream, width=100), result)
    return [line.split() for line in stream.getvalue().splitlines()]


def test_prints_the_figures(result: DetectionResult) -> None:
    assert result.mask is not None
    lines = printed(result)
    assert ["box", "mask"] in lines
    assert ["AP", f"{100 * result.box.ap:.2f}", "%", f"{100 * result.mask.ap:.2f}", "%"] in lines
    assert ["AP", "large", "-", "-"] in lines
    for name in result.classes:
        assert any(line[:1] == [name] for line in lines)
    boxes = printed(evaluated(oracle(masks=False), NumberedDrawings()))
    assert ["AP", f"{100 * result.box.ap:.2f}", "%"] in boxes
    assert ["box", "mask"] not in boxes
