"""Training for pixels: the Lightning module, and what a run does around it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from torch import Tensor
from torch.utils.data import DataLoader

from segweave.commands.check import SegmentationCheck
from segweave.commands.evaluate import evaluate_network
from segweave.networks.network import SegmentationNetwork
from segweave.reports.run import report_run
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.evaluation import SegmentationEvaluator, SegmentationResult
from segweave.segmentation.inference import Inference
from segweave.segmentation.samples import LabelledImage, SegmentationTrainingSamples, training_transform
from segweave.task import FinishedRun, Task
from segweave.training.configuration import RunConfiguration
from segweave.training.steps import TrainingSteps


class SegmentationTraining(TrainingSteps, SegmentationEvaluator):
    """Trains a network with the sum of its own losses; validates as `SegmentationEvaluator` does.

    Args:
        network: Is trained.
        configuration: Resolved (see `segweave.training.configuration.resolve`).
        train: The split to train on.
        val: The split to validate on.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        configuration: RunConfiguration,
        *,
        train: SegmentationDataset,
        val: SegmentationDataset,
    ) -> None:
        super().__init__(network, train.classes, _inference(configuration))
        self.configuration = configuration
        self.train_dataset = train
        self.val_dataset = val
        self.compute_losses: Callable[[Tensor, Tensor], dict[str, Tensor]] = network.losses
        if configuration.compile:
            self.compute_losses = torch.compile(network.losses)

    def training_step(self, batch: LabelledImage, batch_idx: int) -> Tensor:
        losses = self.compute_losses(batch.image.contiguous(memory_format=torch.channels_last), batch.mask)
        return self.total_of(losses, list(batch.name))

    def train_dataloader(self) -> DataLoader[LabelledImage]:
        settings = self.configuration
        assert settings.crop_size is not None
        assert settings.scale_range is not None
        transform = training_transform(
            crop_size=settings.crop_size,
            mean=self.network.backbone.mean,
            std=self.network.backbone.std,
            scale_range=settings.scale_range,
            flip_probability=settings.flip_probability,
            brightness=settings.brightness,
            short_edges=settings.training_short_edges,
        )
        return self.loader_of(
            SegmentationTrainingSamples(self.train_dataset, transform, seed=settings.seed), self.train_dataset
        )

    def val_dataloader(self) -> DataLoader[LabelledImage]:
        assert self.configuration.workers is not None
        return self.val_loader(self.val_dataset, self.trainer, self.configuration.workers)


class Segmentation(Task):
    """Classes of pixels: mean IoU decides."""

    name = "semantic"

    def figures(self, configuration: RunConfiguration) -> Mapping[str, str]:
        return {"val/mean_iou": "mIoU", "val/pixel_accuracy": "pixel accuracy"}

    def describe(self, check: SegmentationCheck) -> list[str]:
        shares = check.class_pixels / max(check.class_pixels.sum(), 1)
        each = ", ".join(
            f"{escape(name)} {100 * share:.1f} %" for name, share in zip(check.classes, shares, strict=True)
        )
        never = f"[yellow]warning:[/] classes never seen in {check.split}: {escape(', '.join(check.unseen_classes))}"
        return [f"pixels of {check.split}: {each}", *([never] if check.unseen_classes else [])]

    def known_data(self, train: SegmentationDataset) -> dict[str, Any]:
        return {"image_size": _typical_size(train)}

    def training(
        self,
        network: SegmentationNetwork,
        configuration: RunConfiguration,
        *,
        train: SegmentationDataset,
        val: SegmentationDataset,
    ) -> SegmentationTraining:
        return SegmentationTraining(network, configuration, train=train, val=val)

    def evaluate(
        self, network: SegmentationNetwork, configuration: RunConfiguration, val: SegmentationDataset
    ) -> SegmentationResult:
        return evaluate_network(
            network,
            val,
            inference=_inference(configuration),
            device=configuration.device,
            devices=configuration.devices,
            workers=configuration.workers or 0,
        )

    def report(
        self, finished: FinishedRun, network: SegmentationNetwork, val: SegmentationDataset, result: SegmentationResult
    ) -> str:
        report_run(
            finished.folder,
            network,
            val,
            result,
            _inference(finished.configuration),
            dataclasses.asdict(finished.configuration),
            finished.seconds,
            finished.versions,
            finished.metrics,
        )
        accuracy = f"pixel accuracy {100 * result.pixel_accuracy:.2f} %"
        return f"mIoU [bold]{100 * result.mean_iou:.2f} %[/bold], {accuracy}"


def _inference(configuration: RunConfiguration) -> Inference:
    return Inference(short_edge=configuration.short_edge or None)


def _typical_size(dataset: SegmentationDataset) -> tuple[int, int]:
    """(height, width) in the middle of a few images of the split: the medians of both."""
    indices = np.linspace(0, len(dataset) - 1, num=min(len(dataset), 9)).astype(int)
    sizes = [dataset[int(index)].mask.shape for index in indices]
    height, width = (int(np.median(sides)) for sides in zip(*sizes, strict=True))
    return height, width
