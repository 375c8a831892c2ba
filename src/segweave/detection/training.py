"""Training for objects: the Lightning module, and what a run does around it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.markup import escape
from torch import Tensor
from torch.utils.data import DataLoader

from segweave.detection.checks import DetectionCheck
from segweave.detection.choices import measure_objects
from segweave.detection.dataset import DetectionDataset
from segweave.detection.evaluation import DetectionEvaluator, EvaluatedDetections, evaluate_detector
from segweave.detection.samples import DetectionBatch, DetectionTrainingSamples, collate, training_transform
from segweave.errors import InputError
from segweave.networks.network import DetectionNetwork
from segweave.reports.run import report_detection_run
from segweave.task import FinishedRun, Task
from segweave.training.configuration import RunConfiguration
from segweave.training.steps import TrainingSteps

NAMED_AT_MOST = 8
"""How many of a split's warnings are printed; `segweave data check` prints them all."""


class DetectionTraining(TrainingSteps, DetectionEvaluator):
    """Trains a network with the sum of its own losses; validates as `DetectionEvaluator` does.

    Args:
        network: Is trained.
        configuration: Resolved (see `segweave.training.configuration.resolve`).
        train: The split to train on.
        val: The split to validate on.
    """

    def __init__(
        self,
        network: DetectionNetwork,
        configuration: RunConfiguration,
        *,
        train: DetectionDataset,
        val: DetectionDataset,
    ) -> None:
        if network.has_masks and not (train.has_masks and val.has_masks):
            raise InputError(
                f"{configuration.data}: objects without masks: expected masks, or model faster_rcnn, which looks at "
                "boxes alone"
            )
        super().__init__(network, val, detections_per_image=network.detections_per_image)
        self.configuration = configuration
        self.train_dataset = train

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        return self.total_of(self.network(batch.images, batch.targets), batch.names)

    def train_dataloader(self) -> DataLoader[DetectionBatch]:
        settings = self.configuration
        assert settings.scale_range is not None
        transform = training_transform(
            short_edges=settings.training_short_edges,
            long_edge=settings.long_edge or None,
            scale_range=settings.scale_range,
            flip_probability=settings.flip_probability,
            brightness=settings.brightness,
        )
        samples = DetectionTrainingSamples(self.train_dataset, transform, seed=settings.seed)
        return self.loader_of(samples, self.train_dataset, collate)

    def val_dataloader(self) -> DataLoader[DetectionBatch]:
        assert self.configuration.workers is not None
        return self.val_loader(self.dataset, self.trainer, self.configuration.workers)


class Detection(Task):
    """Objects: AP of masks, or of boxes where a network gives no masks, decides."""

    name = "instance"

    def figures(self, configuration: RunConfiguration) -> Mapping[str, str]:
        of_boxes = {"val/box_ap": "box AP", "val/box_ap50": "box AP50"}
        return {"val/mask_ap": "mask AP", **of_boxes} if configuration.model == "mask_rcnn" else of_boxes

    def describe(self, check: DetectionCheck) -> list[str]:
        each = ", ".join(
            f"{escape(name)} {count}" for name, count in zip(check.classes, check.class_objects, strict=True)
        )
        warnings = [f"[yellow]warning:[/] {escape(warning)}" for warning in check.warnings[:NAMED_AT_MOST]]
        return [f"objects of {check.split}: {each}", *warnings]

    def known_data(self, train: DetectionDataset) -> dict[str, Any]:
        truth = train.ground_truth(masks=False)
        images = truth["images"]
        height, width = (int(np.median([image[side] for image in images])) for side in ("height", "width"))
        return {"image_size": (height, width), "objects": measure_objects(truth)}

    def training(
        self,
        network: DetectionNetwork,
        configuration: RunConfiguration,
        *,
        train: DetectionDataset,
        val: DetectionDataset,
    ) -> DetectionTraining:
        return DetectionTraining(network, configuration, train=train, val=val)

    def evaluate(
        self, network: DetectionNetwork, configuration: RunConfiguration, val: DetectionDataset
    ) -> EvaluatedDetections:
        return evaluate_detector(
            network,
            val,
            detections_per_image=network.detections_per_image,
            device=configuration.device,
            devices=configuration.devices,
            workers=configuration.workers or 0,
        )

    def report(
        self, finished: FinishedRun, network: DetectionNetwork, val: DetectionDataset, result: EvaluatedDetections
    ) -> str:
        report_detection_run(
            finished.folder,
            network,
            val,
            result.result,
            result.predictions,
            dataclasses.asdict(finished.configuration),
            finished.seconds,
            finished.versions,
            finished.metrics,
        )
        kinds = {"box": result.result.box, "mask": result.result.mask}
        return ", ".join(
            f"{kind} AP [bold]{100 * figures.ap:.2f} %[/bold], {kind} AP50 {100 * figures.ap50:.2f} %"
            for kind, figures in kinds.items()
            if figures is not None
        )
