"""Evaluation of a network over a split, in one process or several; no prediction is kept, only counts and scores."""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from segweave.data.transforms import normalise
from segweave.errors import InputError
from segweave.networks.network import SegmentationNetwork
from segweave.segmentation.confusion import class_iou, confusion_matrix, mean_iou, pixel_accuracy
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.inference import Inference
from segweave.segmentation.samples import LabelledImage, SegmentationEvaluationSamples


@dataclass(frozen=True)
class SegmentationResult:
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


class SegmentationEvaluator(lightning.LightningModule):
    """Runs a network over a split and adds up one confusion matrix at the images' own sizes.

    Args:
        network: Its predictions are evaluated.
        classes: The names of its K classes.
        inference: How it is run over an image.
    """

    def __init__(self, network: SegmentationNetwork, classes: Sequence[str], inference: Inference) -> None:
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        self.inference = inference
        self.result: SegmentationResult | None = None

    def on_validation_epoch_start(self) -> None:
        self._confusion = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64, device=self.device)
        self._image_scores: dict[str, float] = {}

    def validation_step(self, batch: LabelledImage, batch_idx: int) -> None:
        backbone = self.network.backbone
        images = normalise(batch.image, backbone.mean, backbone.std)
        predictions = self.inference(self.network, images, int(batch.number)).argmax(dim=1)
        for prediction, mask, name, counted in zip(predictions, batch.mask, batch.name, batch.counted, strict=True):
            if counted:
                confusion = confusion_matrix(prediction, mask, len(self.classes))
                self._confusion += confusion
                self._image_scores[name] = mean_iou(confusion)

    def on_validation_epoch_end(self) -> None:
        confusion = self._confusion
        scores = self._image_scores
        if self.trainer.world_size > 1:
            confusion = self.trainer.strategy.reduce(confusion, reduce_op="sum")
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, scores)
            scores = {name: score for share in gathered for name, score in share.items()}
        self.result = SegmentationResult(self.classes, confusion.cpu(), scores)
        self.log_dict(
            {"val/mean_iou": self.result.mean_iou, "val/pixel_accuracy": self.result.pixel_accuracy},
            rank_zero_only=True,
        )

    @staticmethod
    def val_loader(dataset: SegmentationDataset, trainer: lightning.Trainer, workers: int) -> DataLoader[LabelledImage]:
        """The loader of this process's share of a split, one image at a time, since their sizes differ."""
        samples = SegmentationEvaluationSamples(dataset, rank=trainer.global_rank, processes=trainer.world_size)
        return DataLoader(samples, batch_size=1, num_workers=workers, persistent_workers=workers > 0)


def is_first_process() -> bool:
    """Whether this is the process that prints and writes for all that share a run."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def create_trainer(device: str, devices: int, **options: Any) -> lightning.Trainer:
    """Lightning's trainer on a device that `choose_device` gave, without Lightning's own messages.

    Raises:
        InputError: The machine has not so many devices.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*torch.utils.data.DataLoader.*")
    try:
        return lightning.Trainer(
            accelerator="gpu" if device == "cuda" else device,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            use_distributed_sampler=False,
            **options,
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"{devices} devices of kind {device}: {' '.join(str(error).split())}") from error


def worst_and_best(scores: dict[str, float], count: int) -> tuple[list[str], list[str]]:
    """The names of the `count` images with the lowest scores and the `count` with the highest, no image in both.

    Images without a labelled pixel have no score (NaN) and are left out.
    """
    ranked = sorted((score, name) for name, score in scores.items() if not math.isnan(score))
    names = [name for _, name in ranked]
    worst = names[: min(count, (len(names) + 1) // 2)]
    best = names[len(worst) :][-count:][::-1]
    return worst, best
