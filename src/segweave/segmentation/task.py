"""Segmentation as a task: a class for each pixel; the mean IoU decides."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segweave.data.labelled import LabelledSplit
from segweave.networks.network import Labelling, Network, SegmentationNetwork, required_labelling
from segweave.reports.page import Page
from segweave.segmentation import camvid, choices
from segweave.segmentation.camvid import CamVid
from segweave.segmentation.checks import SegmentationCheck, check_split
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.evaluation import SegmentationEvaluator, SegmentationResult
from segweave.segmentation.folder import FolderDataset
from segweave.segmentation.inference import Inference
from segweave.segmentation.page import segmentation_page
from segweave.segmentation.prediction import (
    SegmentationPrediction,
    SegmentationPredictor,
    inference_of,
    predict_classes,
)
from segweave.segmentation.shapes import ShapesSegmentationDataset
from segweave.segmentation.training import SegmentationLessons
from segweave.task import EvaluationOptions, FinishedRun, PredictionOptions, Task
from segweave.training.configuration import Choices, RunConfiguration
from segweave.training.settings import RunSettings

DATASETS: dict[str, Callable[[Path, str], SegmentationDataset]] = {
    "folder": FolderDataset,
    "camvid": CamVid,
}
"""The data sets that have a name and lie in a folder, each made from (root, split)."""


class Segmentation(Task[SegmentationNetwork, SegmentationDataset, SegmentationResult]):
    """Classes of pixels."""

    name = "segmentation"
    does = "labels pixels"
    tree = "SPLIT/masks beside SPLIT/images"
    network_class = SegmentationNetwork
    evaluation_options = frozenset({"scales", "flip", "window", "random_views", "scale_range", "seed", "coarse"})
    prediction_options = frozenset({"scales", "flip", "window", "coarse", "probabilities", "overlays"})

    def __init__(self) -> None:
        self.datasets = DATASETS
        self.drawn = {"shapes": ShapesSegmentationDataset}

    def recognises(self, folder: Path) -> bool:
        if camvid.recognise(folder) is not FolderDataset:
            return True
        return any(masks.is_dir() for masks in folder.glob("*/masks"))

    def splits(self, folder: Path) -> list[str]:
        return camvid.recognise(folder).splits(folder)

    def open_folder(self, folder: Path, split: str, *, classes: Sequence[str] | None = None) -> SegmentationDataset:
        dataset_class = camvid.recognise(folder)
        if dataset_class is FolderDataset and not (folder / "dataset.yaml").exists():
            return FolderDataset(folder, split, classes=classes)
        return dataset_class(folder, split)

    def open_to_check(self, folder: Path, split: str) -> SegmentationDataset:
        return camvid.recognise(folder)(folder, split, allow_unpaired=True)

    def check(self, split: SegmentationDataset, *, most_problems: int, progress: bool) -> SegmentationCheck | None:
        if not isinstance(split, FolderDataset):
            return None
        return check_split(split, most_problems=most_problems, progress=progress)

    def labelled(self, split: SegmentationDataset) -> LabelledSplit | None:
        return split if isinstance(split, FolderDataset) else None

    def default_model(self, train: SegmentationDataset) -> str:
        return "pan"

    def choose(self, settings: RunSettings, train: SegmentationDataset, kind: str) -> Choices:
        return choices.choose(settings, train, kind)

    def labelling(self, dataset: SegmentationDataset, configuration: RunConfiguration) -> Labelling:
        return Labelling(tuple(dataset.classes), tuple(dataset.palette), short_edge=configuration.short_edge or None)

    def lessons(
        self, network: SegmentationNetwork, configuration: RunConfiguration, train: SegmentationDataset
    ) -> SegmentationLessons:
        return SegmentationLessons(network, configuration, train)

    def deciding(self, network: SegmentationNetwork) -> str:
        return "mean_iou"

    def require_options(self, options: EvaluationOptions | PredictionOptions, network: Network, where: str) -> None:
        super().require_options(options, network, where)
        inference_of(options, required_labelling(network))  # a value that can't be used is refused before data is read

    def evaluator(
        self, network: SegmentationNetwork, dataset: SegmentationDataset, options: EvaluationOptions
    ) -> SegmentationEvaluator:
        inference = inference_of(options, required_labelling(network))
        return SegmentationEvaluator(network, dataset, inference, coarse=bool(options.coarse))

    def predict(
        self, network: SegmentationNetwork, image: NDArray[np.uint8], options: PredictionOptions
    ) -> SegmentationPrediction:
        return predict_classes(network, image, options)

    def predictor(self, network: SegmentationNetwork, out: Path, options: PredictionOptions) -> SegmentationPredictor:
        return SegmentationPredictor(network, options)

    def page(self, finished: FinishedRun[SegmentationNetwork, SegmentationDataset, SegmentationResult]) -> Page:
        return segmentation_page(finished, Inference(short_edge=finished.configuration.short_edge or None))
