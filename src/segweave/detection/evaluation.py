"""Evaluation of a detection network over a split, in one process or several, and its figures for readers and files."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch.utils.data import DataLoader

from segweave.detection.average_precision import (
    FIGURES,
    APFigures,
    DetectionResult,
    coco_predictions,
    evaluate_detections,
)
from segweave.detection.dataset import DetectionDataset
from segweave.detection.samples import DetectionBatch, DetectionEvaluationSamples, collate
from segweave.devices import choose_device
from segweave.networks.network import DetectionNetwork
from segweave.segmentation.confusion import defined
from segweave.segmentation.evaluation import create_trainer


class EvaluatedDetections(NamedTuple):
    """What a network found in a split, and how well."""

    result: DetectionResult
    predictions: list[dict[str, Any]]
    """In COCO's format for results, in the order of the images' ids."""


class DetectionEvaluator(lightning.LightningModule):
    """Runs a network over a split and keeps what it found: boxes, and masks as run lengths.

    Args:
        network: Its detections are evaluated.
        dataset: The split, which the loader's samples are of.
        detections_per_image: How many detections of a class count in an image, those of the highest scores; at least as
            many as an image has objects. COCO's own figures are of 100.

    Attributes:
        result: The figures of the last validation, in every process.
        predictions: What was found in it, of all processes together, in the order of the images' ids.
    """

    def __init__(
        self, network: DetectionNetwork, dataset: DetectionDataset, *, detections_per_image: int = 100
    ) -> None:
        super().__init__()
        self.network = network
        self.dataset = dataset
        self.detections_per_image = detections_per_image
        self.result: DetectionResult | None = None
        self.predictions: list[dict[str, Any]] = []
        self._ground_truth: dict[str, Any] | None = None  # read once it is needed, and once for all validations

    def on_validation_epoch_start(self) -> None:
        self._found: list[dict[str, Any]] = []
        self._gives_masks = False

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        kept = [place for place, counted in enumerate(batch.counted) if counted]
        if not kept:
            return
        outputs = self.network.find([batch.images[place] for place in kept])
        for place, output in zip(kept, outputs, strict=True):
            image_id = self.dataset.image_id(batch.numbers[place])
            self._found += coco_predictions(output, image_id, self.dataset.category_ids)
            self._gives_masks |= "masks" in output

    def on_validation_epoch_end(self) -> None:
        shares: list[Any] = [(self._found, self._gives_masks)]
        if self.trainer.world_size > 1:
            shares = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, (self._found, self._gives_masks))
        self._found = []
        # an image is one process's, so that its detections keep their order
        found = (prediction for share, _ in shares for prediction in share)
        self.predictions = sorted(found, key=lambda prediction: prediction["image_id"])
        if self._ground_truth is None:
            self._ground_truth = self.dataset.ground_truth()
        self.result = evaluate_detections(
            self._ground_truth,
            self.predictions,
            detections_per_image=self.detections_per_image,
            masks=self.dataset.has_masks and any(gives_masks for _, gives_masks in shares),
            names={self.dataset.image_id(index): self.dataset.name(index) for index in range(len(self.dataset))},
        )
        self.log_dict(_logged(self.result), rank_zero_only=True)

    @staticmethod
    def val_loader(dataset: DetectionDataset, trainer: lightning.Trainer, workers: int) -> DataLoader[DetectionBatch]:
        """The loader of this process's share of a split, one image at a time, which takes the least memory."""
        samples: Any = DetectionEvaluationSamples(dataset, rank=trainer.global_rank, processes=trainer.world_size)
        return DataLoader(
            samples, batch_size=1, num_workers=workers, persistent_workers=workers > 0, collate_fn=collate
        )


def evaluate_detector(
    network: DetectionNetwork,
    dataset: DetectionDataset,
    *,
    detections_per_image: int = 100,
    device: str = "auto",
    devices: int = 1,
    workers: int = 2,
) -> EvaluatedDetections:
    """Runs a network over a split.

    Args:
        network: Its detections are evaluated.
        dataset: The split.
        detections_per_image: How many detections of a class count in an image (see `DetectionEvaluator`).
        device: auto, cpu, cuda or mps.
        devices: Processes that share the split.
        workers: Processes that load the images, for each of them.
    """
    trainer = create_trainer(
        choose_device(device),
        devices,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    evaluator = DetectionEvaluator(network, dataset, detections_per_image=detections_per_image)
    trainer.validate(evaluator, evaluator.val_loader(dataset, trainer, workers), verbose=False)
    assert evaluator.result is not None
    return EvaluatedDetections(evaluator.result, evaluator.predictions)


def detection_figures(result: DetectionResult) -> dict[str, object]:
    """The figures as JSON has them: null for what is undefined."""
    kinds = {"box": result.box, "mask": result.mask}
    return {
        "detections_per_image": result.detections_per_image,
        **{kind: None if figures is None else _numbers(figures) for kind, figures in kinds.items()},
    }


def print_detections(console: Console, result: DetectionResult) -> None:
    """Prints the figures, of how many detections they are, and those of the classes if there are several."""
    kinds = {"box": result.box} if result.mask is None else {"box": result.box, "mask": result.mask}
    rows = {title: [getattr(figures, name) for figures in kinds.values()] for name, title in FIGURES.items()}
    console.print(_table("", list(kinds), rows))
    console.print(
        f"of at most {result.detections_per_image} detections of a class in an image (COCO's own figures: 100)",
        highlight=False,
    )
    if len(result.classes) > 1:
        classes = {name: [figures.class_ap[name] for figures in kinds.values()] for name in result.classes}
        console.print()
        console.print(_table("class", [f"{kind} AP" for kind in kinds], classes))


def _logged(result: DetectionResult) -> dict[str, float]:
    figures = {"val/box_ap": result.box.ap, "val/box_ap50": result.box.ap50}
    if result.mask is not None:
        figures |= {"val/mask_ap": result.mask.ap, "val/mask_ap50": result.mask.ap50}
    return figures


def _numbers(figures: APFigures) -> dict[str, object]:
    one_by_one: dict[str, object] = {name: defined(getattr(figures, name)) for name in FIGURES}
    return {**one_by_one, "class_ap": {name: defined(ap) for name, ap in figures.class_ap.items()}}


def _table(title: str, columns: Sequence[str], rows: dict[str, list[float]]) -> Table:
    table = Table(title, *columns, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in rows.items():
        table.add_row(escape(name), *("-" if math.isnan(value) else f"{100 * value:.2f} %" for value in values))
    return table
