"""What a network for pixels is trained on."""

from collections.abc import Callable

import torch
from torch import Tensor

from segweave.errors import InputError
from segweave.networks.network import SegmentationNetwork
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.samples import LabelledBatch, SegmentationTrainingSamples, collate, training_transform
from segweave.task import Lessons
from segweave.training.configuration import RunConfiguration


class SegmentationLessons(Lessons[LabelledBatch]):
    """Crops of images with their masks, and the network's own losses of a batch of them.

    Args:
        network: Is trained.
        configuration: Of the run.
        train: The split to train on.
    """

    def __init__(
        self, network: SegmentationNetwork, configuration: RunConfiguration, train: SegmentationDataset
    ) -> None:
        if configuration.crop_size is None:
            raise InputError(f"crop_size is missing: expected one to train a {configuration.model}")
        transform = training_transform(
            crop_size=configuration.crop_size,
            mean=network.backbone.mean,
            std=network.backbone.std,
            scale_range=configuration.scale_range,
            flip_probability=configuration.flip_probability,
            brightness=configuration.brightness,
            short_edges=configuration.training_short_edges,
        )
        self.samples = SegmentationTrainingSamples(train, transform, seed=configuration.seed)
        self.length = len(train)
        self.collate = collate
        self.compute_losses: Callable[[Tensor, Tensor], dict[str, Tensor]] = network.losses
        if configuration.compile:
            self.compute_losses = torch.compile(network.losses)

    def losses(self, batch: LabelledBatch) -> dict[str, Tensor]:
        return self.compute_losses(batch.images.contiguous(memory_format=torch.channels_last), batch.masks)

    def names(self, batch: LabelledBatch) -> list[str]:
        return batch.names
