"""Detection as a task: boxes of objects, and masks where a network gives any; AP decides."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segweave.data.labelled import LabelledSplit
from segweave.detection import choices
from segweave.detection.average_precision import DetectionResult
from segweave.detection.checks import DetectionCheck, check_split, different_classes
from segweave.detection.coco import CocoDataset
from segweave.detection.dataset import DetectionDataset
from segweave.detection.evaluation import DetectionEvaluator
from segweave.detection.page import detection_page
from segweave.detection.prediction import SHOWN_SCORE, DetectionPredictor, Detections, find_objects
from segweave.detection.shapes import ShapesDetectionDataset
from segweave.detection.training import DetectionLessons
from segweave.networks.network import DetectionNetwork, Labelling
from segweave.reports.page import Page
from segweave.task import EvaluationOptions, FinishedRun, PredictionOptions, Task
from segweave.training.configuration import Choices, RunConfiguration
from segweave.training.settings import RunSettings

DATASETS: dict[str, Callable[[Path, str], DetectionDataset]] = {
    "coco": CocoDataset,
}
"""The data sets that have a name and lie in a folder, each made from (root, split)."""


class Detection(Task[DetectionNetwork, DetectionDataset, DetectionResult]):
    """Boxes and masks of objects."""

    name = "detection"
    does = "finds objects"
    tree = "SPLIT/instances.json beside SPLIT/images, or annotations/instances_SPLIT.json beside SPLIT"
    network_class = DetectionNetwork
    evaluation_options = frozenset({"predictions"})
    prediction_options = frozenset({"score"})

    def __init__(self) -> None:
        self.datasets = DATASETS
        self.drawn = {"shapes": ShapesDetectionDataset}

    def recognises(self, folder: Path) -> bool:
        return bool(CocoDataset.splits(folder))

    def splits(self, folder: Path) -> list[str]:
        return CocoDataset.splits(folder)

    def open_folder(self, folder: Path, split: str, *, classes: Sequence[str] | None = None) -> DetectionDataset:
        return CocoDataset(folder, split)

    def open_to_check(self, folder: Path, split: str) -> DetectionDataset:
        return CocoDataset(folder, split, allow_problems=True)

    def check(self, split: DetectionDataset, *, most_problems: int, progress: bool) -> DetectionCheck | None:
        if not isinstance(split, CocoDataset):
            return None
        return check_split(split, most_problems=most_problems, progress=progress)

    def labelled(self, split: DetectionDataset) -> LabelledSplit | None:
        return split if isinstance(split, CocoDataset) else None

    def differences(self, splits: Sequence[DetectionDataset]) -> list[str]:
        return different_classes([split for split in splits if isinstance(split, CocoDataset)])

    def default_model(self, train: DetectionDataset) -> str:
        return "mask_rcnn" if train.has_masks else "faster_rcnn"

    def choose(self, settings: RunSettings, train: DetectionDataset, kind: str) -> Choices:
        return choices.choose(settings, train, kind)

    def labelling(self, dataset: DetectionDataset, configuration: RunConfiguration) -> Labelling:
        return Labelling(
            tuple(dataset.classes),
            tuple(dataset.palette),
            short_edge=configuration.short_edge or None,
            long_edge=configuration.long_edge or None,
            category_ids=tuple(dataset.category_ids),
        )

    def lessons(
        self, network: DetectionNetwork, configuration: RunConfiguration, train: DetectionDataset
    ) -> DetectionLessons:
        return DetectionLessons(network, configuration, train)

    def deciding(self, network: DetectionNetwork) -> str:
        return "mask_ap" if network.has_masks else "box_ap"

    def evaluator(
        self, network: DetectionNetwork, dataset: DetectionDataset, options: EvaluationOptions
    ) -> DetectionEvaluator:
        return DetectionEvaluator(network, dataset)

    def predict(self, network: DetectionNetwork, image: NDArray[np.uint8], options: PredictionOptions) -> Detections:
        return find_objects(network, image, SHOWN_SCORE if options.score is None else options.score)

    def predictor(self, network: DetectionNetwork, out: Path, options: PredictionOptions) -> DetectionPredictor:
        return DetectionPredictor(network, out, SHOWN_SCORE if options.score is None else options.score)

    def page(self, finished: FinishedRun[DetectionNetwork, DetectionDataset, DetectionResult]) -> Page:
        return detection_page(finished)
