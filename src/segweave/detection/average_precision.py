"""COCO's figures for boxes and masks: average precision (AP) through pycocotools, and a score for each image.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; the figures are those of cocodataset.org's detection
evaluation.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from segweave.detection.coco_masks import encode
from segweave.errors import InputError
from segweave.networks.rcnn_parts import MASK_THRESHOLD
from segweave.results import Figure, Result

SHOWN_SCORE = 0.5
"""Detections from this score up count in the score of an image."""
RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads the precision."""
Precision = NDArray[np.float64]
"""(T, R, K, A), NaN where no object is there to be found: at 10 IoU thresholds from 0.50 to 0.95, at each of `RECALLS`,
of each class, and for 4 ranges of areas: all, small, medium, large."""


@dataclass(frozen=True)
class Measure:
    """A figure that is one number.

    Attributes:
        title: What people call it.
        of: Computes it, in [0, 1], NaN where it isn't defined.
        logged: Whether it is followed through training.
    """

    title: str
    of: Callable[[Precision], float]
    logged: bool = False


MEASURES: dict[str, Measure] = {
    "ap": Measure("AP", lambda precision: mean_of_defined(precision[..., 0]), logged=True),
    "ap50": Measure("AP50", lambda precision: mean_of_defined(precision[0, ..., 0]), logged=True),
    "ap75": Measure("AP75", lambda precision: mean_of_defined(precision[5, ..., 0])),
    "ap_small": Measure("AP small", lambda precision: mean_of_defined(precision[..., 1])),
    "ap_medium": Measure("AP medium", lambda precision: mean_of_defined(precision[..., 2])),
    "ap_large": Measure("AP large", lambda precision: mean_of_defined(precision[..., 3])),
}
"""The figures of boxes and of masks that are one number, by the keys that files call them by; a new one is a line
here."""


@dataclass(frozen=True)
class APFigures:
    """COCO's figures of one kind, boxes or masks. All are in [0, 1], and NaN where no object is there to be found.

    Attributes:
        numbers: Each of `MEASURES`, by its key.
        class_ap: The `ap` of each class, by name.
        precision50: (101,), the precision at each of `RECALLS` at IoU 0.5, mean over the classes that have objects.
        precision75: The same at IoU 0.75.
    """

    numbers: Mapping[str, float]
    class_ap: dict[str, float]
    precision50: NDArray[np.float64]
    precision75: NDArray[np.float64]

    @property
    def ap(self) -> float:
        """Mean over the classes and over the IoU thresholds 0.50, 0.55, ... 0.95."""
        return self.numbers["ap"]

    @property
    def ap50(self) -> float:
        """Mean over the classes at IoU 0.5."""
        return self.numbers["ap50"]

    @property
    def ap75(self) -> float:
        """The same at 0.75."""
        return self.numbers["ap75"]

    @property
    def ap_small(self) -> float:
        """As `ap`, for objects of up to 32^2 pixels."""
        return self.numbers["ap_small"]

    @property
    def ap_medium(self) -> float:
        """From 32^2 to 96^2 pixels."""
        return self.numbers["ap_medium"]

    @property
    def ap_large(self) -> float:
        """From 96^2 pixels."""
        return self.numbers["ap_large"]

    def listed(self, kind: str) -> list[Figure]:
        """As figures of a kind, "box" or "mask"."""
        figures = [
            Figure(key, MEASURES[key].title, value, group=kind, logged=MEASURES[key].logged)
            for key, value in self.numbers.items()
        ]
        return [*figures, Figure("class_ap", "AP", self.class_ap, group=kind)]


@dataclass(frozen=True)
class DetectionResult(Result):
    """How well the objects of a split were found.

    Attributes:
        classes: The names of the K classes.
        box: The figures of the boxes.
        mask: The figures of the masks, if there are any.
        image_scores: By the image's name, the F1 score of what was found with a score from 0.5 up, at IoU 0.5 of the
            masks, or of the boxes where there are no masks; NaN for an image without objects in which none was found.
        detections_per_image: How many detections of a class count in an image, those of the highest scores.
        predictions: What was found, in COCO's format for results, in the order of the images' ids.
    """

    classes: Sequence[str]
    box: APFigures
    mask: APFigures | None
    image_scores: dict[str, float]
    detections_per_image: int
    predictions: Sequence[Mapping[str, Any]] = ()

    @property
    def kinds(self) -> dict[str, APFigures]:
        """The figures of boxes and, if there are any, of masks."""
        return {"box": self.box} if self.mask is None else {"box": self.box, "mask": self.mask}

    @property
    def figures(self) -> list[Figure]:
        return [figure for kind, figures in self.kinds.items() for figure in figures.listed(kind)]

    @property
    def note(self) -> str:
        return f"of at most {self.detections_per_image} detections of a class in an image (COCO's own figures: 100)"

    def to_json(self) -> dict[str, object]:
        """The figures of boxes and of masks, null if there are none, and of how many detections they are."""
        return {"detections_per_image": self.detections_per_image, "box": None, "mask": None, **super().to_json()}


def coco_predictions(output: Mapping[str, Tensor], image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """What a network found in an image, in COCO's format for results.

    Args:
        output: torchvision's detections, at the image's own size: boxes (N, 4) in pixels, left, top, right and bottom;
            labels (N,), from 1 to K; scores (N,); and masks (N, 1, H, W) in [0, 1] or bool, if the network gives any.
        image_id: Of the image, in its annotations.
        category_ids: The number of each of the K classes in the annotations.

    Returns:
        A dict of numbers, strings and lists for each detection, in the order given: image_id, category_id, bbox (left,
        top, width and height), score and, with masks, segmentation (compressed run lengths).
    """
    corners = output["boxes"].float().cpu()
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    labels, scores = output["labels"].tolist(), output["scores"].float().tolist()
    predictions: list[dict[str, Any]] = [
        {"image_id": int(image_id), "category_id": int(category_ids[label - 1]), "bbox": box, "score": score}
        for box, label, score in zip(boxes, labels, scores, strict=True)
    ]
    if "masks" in output:
        masks = output["masks"][:, 0]
        inside = masks if masks.dtype == torch.bool else masks > MASK_THRESHOLD
        for prediction, mask in zip(predictions, inside.cpu().numpy(), strict=True):
            prediction["segmentation"] = encode(mask)
    return predictions


def evaluate_detections(
    ground_truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    *,
    detections_per_image: int = 100,
    masks: bool | None = None,
    names: Mapping[int, str] | None = None,
) -> DetectionResult:
    """COCO's figures, the same as pycocotools' `COCO.loadRes` and `COCOeval` give for the same ground truth and list.

    As there, where predictions have both a box and a mask, the box's area is a prediction's size; AP, AP50 and AP75
    don't depend on it.

    Args:
        ground_truth: "images", "annotations" and "categories" in COCO's format; it isn't changed.
        predictions: As `coco_predictions` gives them, of all images together.
        detections_per_image: How many detections of a class count in an image, those of the highest scores. COCO's own
            figures are of 100.
        masks: Whether masks are evaluated too; by default, if any prediction has one.
        names: What the images are called, by id; by default, by their file names.

    Raises:
        InputError: A prediction is of an image that isn't there, or `detections_per_image` is below 1.
    """
    if detections_per_image < 1:
        raise InputError(f"detections_per_image {detections_per_image}: expected 1 or more")
    if masks is None:
        masks = any("segmentation" in prediction for prediction in predictions)
    if names is None:
        names = {image["id"]: image["file_name"] for image in ground_truth["images"]}
    truth = _truth(ground_truth)
    found = _found(truth, predictions)
    categories = {category["id"]: category["name"] for category in ground_truth["categories"]}
    boxes = _evaluated(truth, found, "bbox", detections_per_image)
    segmentations = _evaluated(truth, found, "segm", detections_per_image) if masks else None
    return DetectionResult(
        classes=tuple(categories.values()),
        box=_figures(boxes, categories),
        mask=None if segmentations is None else _figures(segmentations, categories),
        image_scores={names[image]: score for image, score in _image_scores(segmentations or boxes).items()},
        detections_per_image=detections_per_image,
        predictions=predictions,
    )


@contextmanager
def _silence() -> Iterator[None]:
    """pycocotools prints what it does."""
    with redirect_stdout(io.StringIO()):
        yield


def _truth(ground_truth: Mapping[str, Any]) -> COCO:
    """Of annotations of its own: pycocotools writes into them, and takes one whose id is 0 for no match at all."""
    truth = COCO()
    annotations = [
        {"iscrowd": 0, **annotation, "id": number}
        for number, annotation in enumerate(ground_truth["annotations"], start=1)
    ]
    truth.dataset = {**ground_truth, "annotations": annotations}
    with _silence():
        truth.createIndex()
    return truth


def _found(truth: COCO, predictions: Sequence[Mapping[str, Any]]) -> COCO:
    unknown = {prediction["image_id"] for prediction in predictions} - set(truth.imgs)
    if unknown:
        raise InputError(f"predictions of image {min(unknown)}, expected images of the ground truth")
    with _silence():
        if predictions:
            return truth.loadRes([dict(prediction) for prediction in predictions])
        found = COCO()  # loadRes can't take an empty list
        found.dataset = {**truth.dataset, "annotations": []}
        found.createIndex()
        return found


def _evaluated(truth: COCO, found: COCO, kind: str, detections_per_image: int) -> COCOeval:
    """Matched and counted; not summarised, since `summarize` gives -1 for any number of detections but 100."""
    evaluation = COCOeval(truth, found, kind)
    evaluation.params.maxDets = [detections_per_image]
    with _silence():
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _figures(evaluation: COCOeval, categories: Mapping[int, str]) -> APFigures:
    precision = evaluation.eval["precision"][..., 0]
    precision = np.where(precision < 0, np.nan, precision)
    everything, numbers = precision[..., 0], evaluation.params.catIds  # of K classes in the order of their ids
    return APFigures(
        numbers={key: measure.of(precision) for key, measure in MEASURES.items()},
        class_ap={name: mean_of_defined(everything[..., numbers.index(number)]) for number, name in categories.items()},
        precision50=np.array([mean_of_defined(at_recall) for at_recall in everything[0]]),
        precision75=np.array([mean_of_defined(at_recall) for at_recall in everything[5]]),
    )


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """The mean of what is defined; NaN, without a warning, if nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _image_scores(evaluation: COCOeval) -> dict[int, float]:
    """F1 of each image, by id. Matches are made from the highest score down, so they hold from any score up."""
    counts = {int(image): np.zeros(3, np.int64) for image in evaluation.params.imgIds}
    for matches in evaluation.evalImgs:
        if matches is None or matches["aRng"] != evaluation.params.areaRng[0]:
            continue
        shown = (np.array(matches["dtScores"]) >= SHOWN_SCORE) & ~matches["dtIgnore"][0]
        right = shown & (matches["dtMatches"][0] > 0)
        objects = np.count_nonzero(matches["gtIgnore"] == 0)
        counts[int(matches["image_id"])] += np.array([right.sum(), shown.sum(), objects])
    return {
        image: float(2 * right / (shown + objects)) if shown + objects else float("nan")
        for image, (right, shown, objects) in counts.items()
    }
