"""How well a split was segmented: one confusion matrix, and the figures that are read off it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segweave.data.transforms import normalise
from segweave.networks.network import SegmentationNetwork
from segweave.results import Figure, Result
from segweave.segmentation.confusion import class_iou, confusion_matrix, mean_iou, pixel_accuracy
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.inference import Inference
from segweave.segmentation.samples import LabelledBatch, LabelledImage, SegmentationEvaluationSamples, collate
from segweave.task import Evaluator

Measure = Callable[[Tensor, Sequence[str]], Figure]
"""A figure of a confusion matrix (K, K), rows are the true classes, and of the names of the K classes."""


def mean_iou_figure(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """Mean over the classes that occur."""
    return Figure("mean_iou", "mIoU", mean_iou(confusion), logged=True)


def pixel_accuracy_figure(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """Share of labelled pixels that are right."""
    return Figure("pixel_accuracy", "pixel accuracy", pixel_accuracy(confusion), logged=True)


def class_iou_figure(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """IoU of each class; NaN for one that occurs neither in the truth nor in the predictions."""
    return Figure("class_iou", "IoU", dict(zip(classes, class_iou(confusion).tolist(), strict=True)))


MEASURES: list[Measure] = [mean_iou_figure, pixel_accuracy_figure, class_iou_figure]
"""What is read off a confusion matrix; a new figure is a line here."""


@dataclass(frozen=True)
class SegmentationResult(Result):
    """How well a split was segmented.

    Attributes:
        classes: The names of the K classes.
        confusion: (K, K), int64: pixels of the whole split by true class (rows) and predicted class (columns).
        image_scores: Mean IoU of each image, by name.
    """

    classes: Sequence[str]
    confusion: Tensor
    image_scores: dict[str, float]

    @property
    def figures(self) -> list[Figure]:
        return [measure(self.confusion, self.classes) for measure in MEASURES]

    def details(self) -> dict[str, object]:
        return {"confusion": self.confusion.tolist()}

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur, in [0, 1]."""
        return mean_iou(self.confusion)

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right, in [0, 1]."""
        return pixel_accuracy(self.confusion)

    @property
    def class_iou(self) -> dict[str, float]:
        """IoU of each class, in [0, 1]; NaN for one that occurs neither in the truth nor in the predictions."""
        return dict(zip(self.classes, class_iou(self.confusion).tolist(), strict=True))


class SegmentationEvaluator(Evaluator[LabelledBatch, SegmentationResult]):
    """Runs a network over a split and adds up one confusion matrix at the images' own sizes.

    Args:
        network: Its predictions are evaluated.
        dataset: The split.
        inference: How it is run over an image.
        coarse: Whether its coarse logits are evaluated (see `SegmentationNetwork.coarse_logits`).
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        dataset: SegmentationDataset,
        inference: Inference,
        *,
        coarse: bool = False,
    ) -> None:
        self.network = network
        self.dataset = dataset
        self.inference = inference
        self.logits = network.coarse_logits if coarse else network
        self.start()

    def loader(self, *, rank: int, processes: int, workers: int) -> DataLoader[LabelledImage]:
        """One image at a time, since their sizes differ."""
        samples = SegmentationEvaluationSamples(self.dataset, rank=rank, processes=processes)
        return DataLoader(
            samples, batch_size=1, num_workers=workers, persistent_workers=workers > 0, collate_fn=collate
        )

    def start(self) -> None:
        count = len(self.dataset.classes)
        self._confusion = torch.zeros(count, count, dtype=torch.int64)
        self._image_scores: dict[str, float] = {}

    def add(self, batch: LabelledBatch) -> None:
        backbone = self.network.backbone
        images = normalise(batch.images, backbone.mean, backbone.std)
        predictions = self.inference(self.logits, images, int(batch.numbers)).argmax(dim=1)
        for prediction, mask, name, counted in zip(predictions, batch.masks, batch.names, batch.counted, strict=True):
            if counted:
                confusion = confusion_matrix(prediction, mask, len(self._confusion)).cpu()
                self._confusion += confusion
                self._image_scores[name] = mean_iou(confusion)

    def result(self, gather: Callable[[object], list[object]]) -> SegmentationResult:
        confusion = torch.zeros_like(self._confusion)
        scores: dict[str, float] = {}
        for share in gather((self._confusion, self._image_scores)):
            assert isinstance(share, tuple)
            confusion += share[0]
            scores |= share[1]
        return SegmentationResult(tuple(self.dataset.classes), confusion, scores)
