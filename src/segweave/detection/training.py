"""What a detector is trained on."""

from torch import Tensor

from segweave.detection.dataset import DetectionDataset
from segweave.detection.samples import DetectionBatch, DetectionTrainingSamples, collate, training_transform
from segweave.errors import InputError
from segweave.networks.network import DetectionNetwork
from segweave.task import Lessons
from segweave.training.configuration import RunConfiguration


class DetectionLessons(Lessons[DetectionBatch]):
    """Whole images with their objects, and the network's own losses of a batch of them.

    Args:
        network: Is trained.
        configuration: Of the run.
        train: The split to train on.

    Raises:
        InputError: The network learns masks, and the data has none.
    """

    def __init__(self, network: DetectionNetwork, configuration: RunConfiguration, train: DetectionDataset) -> None:
        if network.has_masks and not train.has_masks:
            raise InputError(
                f"{configuration.data}: objects without masks: expected masks, or model faster_rcnn, which looks at "
                "boxes alone"
            )
        transform = training_transform(
            short_edges=configuration.training_short_edges,
            long_edge=configuration.long_edge or None,
            scale_range=configuration.scale_range,
            flip_probability=configuration.flip_probability,
            brightness=configuration.brightness,
        )
        self.network = network
        self.samples = DetectionTrainingSamples(train, transform, seed=configuration.seed)
        self.length = len(train)
        self.collate = collate

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        losses = self.network(batch.images, batch.targets)
        assert isinstance(losses, dict)
        return losses

    def names(self, batch: DetectionBatch) -> list[str]:
        return batch.names
