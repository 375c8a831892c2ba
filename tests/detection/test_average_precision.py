"""COCO's figures: against plain pycocotools on the same JSON, and against figures worked out by hand."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from segweave.detection.average_precision import APFigures, coco_predictions, evaluate_detections
from segweave.errors import InputError

CATEGORIES = (3, 7, 20, 21)
"""With gaps; the last one never occurs."""
SIZE = (200, 240)
Box = tuple[float, float, float, float]


def ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    """The pixels of an ellipse in a box, (H, W)."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    across, down = (columns - x - width / 2) / (width / 2), (rows - y - height / 2) / (height / 2)
    return (across**2 + down**2 <= 1).astype(np.uint8)


def encoded(mask: np.ndarray) -> dict[str, Any]:
    code = run_lengths.encode(np.asfortranarray(mask))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def ground_truth(objects: list[dict[str, Any]], images: int, first_id: int = 1) -> dict[str, Any]:
    """Objects are dicts of image, category and box (x, y, width, height); perhaps iscrowd."""
    annotations = []
    for number, each in enumerate(objects, start=first_id):
        mask = ellipse(*each["box"])
        annotations.append(
            {
                "id": number,
                "image_id": each["image"],
                "category_id": each["category"],
                "bbox": list(each["box"]),
                "area": int(mask.sum()),
                "iscrowd": each.get("iscrowd", 0),
                "segmentation": encoded(mask),
            }
        )
    return {
        "images": [
            {"id": k, "file_name": f"{k}.png", "height": SIZE[0], "width": SIZE[1]} for k in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in CATEGORIES],
    }


def output(found: list[tuple[int, Box, float]], masks: bool = True) -> dict[str, Tensor]:
    """Detections as torchvision gives them, of (label, box (x, y, width, height), score)."""
    boxes = torch.tensor([box for _, box, _ in found], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    result = {
        "boxes": boxes,
        "labels": torch.tensor([label for label, _, _ in found], dtype=torch.int64),
        "scores": torch.tensor([score for _, _, score in found]),
    }
    if masks:
        drawn = [torch.from_numpy(ellipse(*box)) for _, box, _ in found]
        result["masks"] = 0.8 * torch.stack(drawn)[:, None].float() if found else torch.zeros(0, 1, *SIZE)
    return result


def scene(seed: int = 0, images: int = 9) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of all sizes, crowds and empty images; detections that are near, far, double, or of the wrong class."""
    generator = np.random.default_rng(seed)
    objects, predictions = [], []
    for image in range(1, images + 1):
        found = []
        for _ in range(0 if image % 4 == 0 else generator.integers(1, 7)):
            side = generator.choice([14, 60, 130])
            width, height = (side * generator.uniform(0.8, 1.2, 2)).round()
            box = (generator.uniform(0, SIZE[1] - width), generator.uniform(0, SIZE[0] - height), width, height)
            label = int(generator.integers(1, 4))
            objects.append(
                {
                    "image": image,
                    "category": CATEGORIES[label - 1],
                    "box": box,
                    "iscrowd": int(generator.random() < 0.2),
                }
            )
            for _ in range(generator.integers(0, 3)):
                jitter = generator.normal(0, 0.07, 4) * side
                near = tuple(float(value) for value in np.array(box) + jitter)
                guess = label if generator.random() < 0.8 else int(generator.integers(1, 5))
                found.append((guess, near, float(generator.random())))
        for _ in range(generator.integers(0, 3)):  # where nothing is
            x, y, width, height = generator.uniform(5, 100, 4)
            found.append((int(generator.integers(1, 5)), (x, y, width, height), float(generator.random())))
        predictions += coco_predictions(output(found), image, CATEGORIES)
    return ground_truth(objects, images), predictions


def plain(truth: dict[str, Any], results: Path, kind: str, most: int, folder: Path) -> COCOeval:
    """pycocotools alone, from files."""
    (folder / "truth.json").write_text(json.dumps(truth))
    annotations = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(annotations, annotations.loadRes(str(results)), kind)
    evaluation.params.maxDets = [1, 10, most]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def listed(figures: APFigures) -> list[float]:
    return [figures.ap, figures.ap50, figures.ap75, figures.ap_small, figures.ap_medium, figures.ap_large]


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_pycocotools_on_the_same_json(seed: int, tmp_path: Path) -> None:
    truth, predictions = scene(seed)
    assert any(each["iscrowd"] for each in truth["annotations"])
    (tmp_path / "results.json").write_text(json.dumps(predictions))
    result = evaluate_detections(truth, predictions)
    assert result.mask is not None
    for kind, figures in (("bbox", result.box), ("segm", result.mask)):
        expected = plain(truth, tmp_path / "results.json", kind, 100, tmp_path)
        expected.summarize()
        assert listed(figures) == pytest.approx(list(expected.stats[:6]), abs=1e-6)
        assert 0.05 < figures.ap < 0.95
        precision = expected.eval["precision"][:, :, :, 0, 2]  # (T, R, K)
        for index, number in enumerate(CATEGORIES[:3]):
            assert figures.class_ap[f"class {number}"] == pytest.approx(precision[:, :, index].mean(), abs=1e-6)
        np.testing.assert_allclose(figures.precision50, precision[0, :, :3].mean(axis=1), atol=1e-6)
        np.testing.assert_allclose(figures.precision75, precision[5, :, :3].mean(axis=1), atol=1e-6)
    again = evaluate_detections(truth, json.loads((tmp_path / "results.json").read_text()))
    assert again.box.ap == result.box.ap
    assert again.image_scores == pytest.approx(result.image_scores, nan_ok=True)


def crowded(count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An image of many small objects, all found exactly, and an empty one."""
    boxes = [(12.0 * (k % 19) + 1, 12.0 * (k // 19) + 1, 10.0, 9.0) for k in range(count)]
    truth = ground_truth([{"image": 1, "category": 7, "box": box} for box in boxes], 2)
    found = [(2, box, 0.9 - 0.001 * k) for k, box in enumerate(boxes)]
    return truth, coco_predictions(output(found), 1, CATEGORIES)


def test_more_than_100_objects_in_an_image_need_more_than_100_detections(tmp_path: Path) -> None:
    truth, predictions = crowded(110)
    assert evaluate_detections(truth, predictions, masks=False).box.ap == pytest.approx(91 / 101)  # recall 100 / 110
    result = evaluate_detections(truth, predictions, detections_per_image=110)
    assert result.detections_per_image == 110
    assert result.mask is not None
    assert (result.box.ap, result.mask.ap, result.box.ap_small) == pytest.approx((1, 1, 1))
    (tmp_path / "results.json").write_text(json.dumps(predictions))
    precision = plain(truth, tmp_path / "results.json", "bbox", 105, tmp_path).eval["precision"][:, :, 1, 0, 2]
    figures = evaluate_detections(truth, predictions, detections_per_image=105, masks=False).box
    assert figures.ap == pytest.approx(precision.mean(), abs=1e-6)


def test_what_is_found_exactly_counts_whatever_the_ids_of_the_annotations() -> None:
    """pycocotools itself takes an annotation whose id is 0 for one that nothing matches."""
    boxes = [(10.0, 10.0, 20.0, 20.0), (60.0, 60.0, 70.0, 70.0)]
    objects = [{"image": 1, "category": 3, "box": boxes[0]}, {"image": 1, "category": 20, "box": boxes[1]}]
    predictions = coco_predictions(output([(1, boxes[0], 0.9), (3, boxes[1], 0.8)]), 1, CATEGORIES)
    for first_id in (0, 5):
        result = evaluate_detections(ground_truth(objects, 2, first_id), predictions)
        assert listed(result.box) == pytest.approx([1, 1, 1, 1, 1, np.nan], nan_ok=True)
        assert result.box.class_ap == pytest.approx(
            {"class 3": 1, "class 7": np.nan, "class 20": 1, "class 21": np.nan}, nan_ok=True
        )
        assert result.classes == ("class 3", "class 7", "class 20", "class 21")
        assert result.image_scores == pytest.approx({"1.png": 1, "2.png": np.nan}, nan_ok=True)


def test_the_precision_at_each_recall() -> None:
    """Right, wrong, right: half of the objects at precision 1, the other half at 2/3."""
    boxes = [(10.0, 10.0, 40.0, 40.0), (60.0, 60.0, 40.0, 40.0)]
    truth = ground_truth([{"image": 1, "category": 3, "box": box} for box in boxes], 1)
    found = [(1, boxes[0], 0.9), (1, (150.0, 10.0, 40.0, 40.0), 0.8), (1, boxes[1], 0.7)]
    figures = evaluate_detections(truth, coco_predictions(output(found), 1, CATEGORIES)).box
    np.testing.assert_allclose(figures.precision50, [1.0] * 51 + [2 / 3] * 50)
    assert figures.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_image_scores_are_f1_from_a_score_of_a_half() -> None:
    boxes = [(10.0, 10.0, 40.0, 40.0), (60.0, 60.0, 40.0, 40.0), (120.0, 100.0, 40.0, 40.0)]
    objects: list[dict[str, Any]] = [{"image": 1, "category": 3, "box": box} for box in boxes]
    objects += [{"image": 3, "category": 3, "box": boxes[0], "iscrowd": 1}]
    far = (150.0, 10.0, 40.0, 40.0)
    found = [(1, boxes[0], 0.9), (1, boxes[0], 0.8), (2, boxes[1], 0.7), (1, boxes[2], 0.4), (1, far, 0.3)]
    predictions = coco_predictions(output(found), 1, CATEGORIES)
    predictions += coco_predictions(output([(1, far, 0.6)]), 2, CATEGORIES)
    predictions += coco_predictions(output([(1, boxes[0], 0.9)]), 3, CATEGORIES)
    predictions += coco_predictions(output([(1, far, 0.3)]), 4, CATEGORIES)
    scores = evaluate_detections(ground_truth(objects, 4), predictions, names={1: "a", 2: "b", 3: "c", 4: "d"})
    # one of three detections from 0.5 up is right, and one of three objects is found; a crowd counts for nothing
    assert scores.image_scores == pytest.approx({"a": 1 / 3, "b": 0, "c": np.nan, "d": np.nan}, nan_ok=True)


def test_image_scores_are_of_the_masks_where_there_are_any() -> None:
    box = (10.0, 10.0, 40.0, 40.0)
    truth = ground_truth([{"image": 1, "category": 3, "box": box}], 1)
    found = output([(1, box, 0.9)])
    found["masks"][..., 25:] = 0  # less than half of the object
    predictions = coco_predictions(found, 1, CATEGORIES)
    result = evaluate_detections(truth, predictions)
    assert result.mask is not None
    assert (result.box.ap, result.mask.ap) == pytest.approx((1, 0))
    assert result.image_scores == {"1.png": 0}
    result = evaluate_detections(truth, predictions, masks=False)
    assert (result.mask, result.image_scores) == (None, {"1.png": 1})


@pytest.mark.parametrize("masks", [False, True])
def test_no_predictions_at_all(masks: bool) -> None:
    truth, _ = scene()
    result = evaluate_detections(truth, [], masks=masks)
    assert (result.mask is not None) == masks
    assert result.box.ap == result.box.ap50 == 0
    assert result.box.class_ap["class 3"] == 0
    assert np.isnan(result.box.class_ap["class 21"])
    assert not result.box.precision50.any()
    assert evaluate_detections(truth, []).mask is None


@pytest.mark.parametrize("found", [[], [(1, (10.0, 10.0, 40.0, 40.0), 0.9)]])
def test_without_objects_there_are_no_figures(found: list[tuple[int, Box, float]]) -> None:
    result = evaluate_detections(ground_truth([], 2), coco_predictions(output(found), 2, CATEGORIES), masks=True)
    assert result.mask is not None
    for figures in (result.box, result.mask):
        assert np.isnan(listed(figures)).all()
        assert np.isnan(list(figures.class_ap.values())).all()
        assert np.isnan(figures.precision50).all()
    assert np.isnan(result.image_scores["1.png"])


def test_nothing_is_printed_or_changed(capsys: pytest.CaptureFixture[str]) -> None:
    truth, predictions = scene()
    before = copy.deepcopy((truth, predictions))
    evaluate_detections(truth, predictions)
    assert capsys.readouterr().out == ""
    assert (truth, predictions) == before


def test_predictions_are_in_the_format_for_results() -> None:
    found = output([(1, (10.5, 20.25, 30.0, 40.0), 0.75), (3, (0.0, 0.0, 240.0, 200.0), 0.5)])
    found["masks"][0, 0, :, 30:] = 0.5  # not above the threshold
    predictions = coco_predictions(found, 12, CATEGORIES)
    assert json.loads(json.dumps(predictions)) == predictions
    segmentations = [prediction.pop("segmentation") for prediction in predictions]
    assert predictions == [
        {"image_id": 12, "category_id": 3, "bbox": [10.5, 20.25, 30.0, 40.0], "score": 0.75},
        {"image_id": 12, "category_id": 20, "bbox": [0.0, 0.0, 240.0, 200.0], "score": 0.5},
    ]
    for segmentation, mask in zip(segmentations, found["masks"][:, 0], strict=True):
        assert np.array_equal(run_lengths.decode(segmentation), (mask > 0.5).numpy())
    assert (
        "segmentation" not in coco_predictions(output([(1, (1.0, 2.0, 3.0, 4.0), 0.5)], masks=False), 1, CATEGORIES)[0]
    )
    assert coco_predictions(output([]), 1, CATEGORIES) == []


def test_what_does_not_fit_is_named() -> None:
    truth, predictions = scene()
    with pytest.raises(InputError, match=r"predictions of image 99, expected images of the ground truth"):
        evaluate_detections(truth, [*predictions, {**predictions[0], "image_id": 99}])
    with pytest.raises(InputError, match="detections_per_image 0: expected 1"):
        evaluate_detections(truth, predictions, detections_per_image=0)
