"""Evaluation of a detector over a split, in one process or several."""

from collections.abc import Callable, Iterable
from typing import Any

from segweave.data.loading import loader_of
from segweave.detection.average_precision import DetectionResult, coco_predictions, evaluate_detections
from segweave.detection.dataset import DetectionDataset
from segweave.detection.samples import DetectionBatch, DetectionEvaluationSamples, collate
from segweave.networks.network import DetectionNetwork
from segweave.task import Evaluator


class DetectionEvaluator(Evaluator[DetectionBatch, DetectionResult]):
    """Runs a network over a split and keeps what it found: boxes, and masks as run lengths.

    Args:
        network: Its detections are evaluated.
        dataset: The split, which the loader's samples are of.
        detections_per_image: How many detections of a class count in an image, those of the highest scores; by default
            as many as the network finds. COCO's own figures are of 100.
    """

    network: DetectionNetwork

    def __init__(
        self, network: DetectionNetwork, dataset: DetectionDataset, *, detections_per_image: int | None = None
    ) -> None:
        self.network = network
        self.dataset = dataset
        self.detections_per_image = (
            network.detections_per_image if detections_per_image is None else detections_per_image
        )
        self._ground_truth: dict[str, Any] | None = None  # read once it is needed, and once for all validations
        self.start()

    def loader(self, *, rank: int, processes: int, workers: int) -> Iterable[object]:
        """One image at a time, which takes the least memory."""
        samples = DetectionEvaluationSamples(self.dataset, rank=rank, processes=processes)
        return loader_of(samples, collate, batch_size=1, num_workers=workers, persistent_workers=workers > 0)

    def start(self) -> None:
        self._found: list[dict[str, Any]] = []
        self._gives_masks = False

    def add(self, batch: DetectionBatch) -> None:
        kept = [place for place, counted in enumerate(batch.counted) if counted]
        if not kept:
            return
        outputs = self.network.find([batch.images[place] for place in kept])
        for place, output in zip(kept, outputs, strict=True):
            image_id = self.dataset.image_id(batch.numbers[place])
            self._found += coco_predictions(output, image_id, self.dataset.category_ids)
            self._gives_masks |= "masks" in output

    def result(self, gather: Callable[[object], list[object]]) -> DetectionResult:
        found: list[dict[str, Any]] = []
        gives_masks = False
        for share in gather((self._found, self._gives_masks)):
            assert isinstance(share, tuple)
            found += share[0]
            gives_masks |= share[1]
        self._found = []
        if self._ground_truth is None:
            self._ground_truth = self.dataset.ground_truth()
        return evaluate_detections(
            self._ground_truth,
            # an image is one process's, so that its detections keep their order
            sorted(found, key=lambda prediction: prediction["image_id"]),
            detections_per_image=self.detections_per_image,
            masks=self.dataset.has_masks and gives_masks,
            names={self.dataset.image_id(index): self.dataset.name(index) for index in range(len(self.dataset))},
        )
