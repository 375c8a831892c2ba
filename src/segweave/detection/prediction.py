"""Objects in images: `detect` for one image in memory, and what `segweave predict` writes for files."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segweave.data.colours import Colour
from segweave.data.images import ImageLike, to_array
from segweave.detection.average_precision import coco_predictions
from segweave.detection.pictures import Objects, detection_heading, draw_detections
from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import Network
from segweave.networks.network import DetectionNetwork, evaluating, required_labelling
from segweave.reports.explanation import Heading
from segweave.saving import network_of
from segweave.task import Prediction, Predictor, in_a_line

PREDICTIONS_FILE = "predictions.json"

SHOWN_SCORE = 0.5
"""The least score of an object that is told, if no other is given."""


@dataclass(frozen=True, repr=False)
class Detections(Prediction):
    """The N objects that a network sees in an image, the surest first.

    Attributes:
        image: (H, W, 3), uint8: the image as the network was given it, upright and in RGB.
        boxes: (N, 4), float32: left, top, right, bottom in pixels of the image.
        labels: (N,), int64: 1 to K; class k has the label k + 1.
        scores: (N,), float32, in [0, 1].
        masks: (N, H, W), bool, or None from a network that gives boxes alone.
        classes: The names of the K classes.
        palette: Their colours.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_] | None
    classes: Sequence[str]
    palette: Sequence[Colour]

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        counts = Counter(self.classes[label - 1] for label in self.labels.tolist())
        found = in_a_line([f"{count} {name}" for name, count in counts.most_common()]) or "nothing found"
        with_masks = ", with masks" if self.masks is not None else ""
        return f"<Detections in {width}x{height} pixels: {found}{with_masks}>"

    @property
    def objects(self) -> Objects:
        """For pictures."""
        return Objects(self.boxes, self.labels, self.scores, self.masks)

    def overlay(self) -> Image.Image:
        """The image with all objects drawn on it."""
        return draw_detections(self.image, self.objects, self.classes, self.palette)

    def heading(self) -> Heading:
        return detection_heading(self.image, self.objects, self.classes, self.palette)


def detect(model: str | os.PathLike[str] | Network, image: ImageLike, *, score: float = SHOWN_SCORE) -> Detections:
    """Finds the objects in one image.

    Args:
        model: A run folder, or a network from `segweave.load`.
        image: As in `segweave.segment`.
        score: The least score of an object that is told; nothing below the network's own `score_threshold` is found.

    Raises:
        InputError: The image can't be read, the network labels pixels or was never trained on named classes, or the
            score isn't one from 0 to 1.
    """
    network = network_of(model)
    if not isinstance(network, DetectionNetwork):
        raise InputError(f"a {network.recipe['model']} labels pixels: expected segweave.segment in place of detect")
    return find_objects(network, to_array(image), score)


@torch.inference_mode()
def find_objects(network: DetectionNetwork, image: NDArray[np.uint8], score: float) -> Detections:
    """Finds the objects in an image.

    Args:
        network: Trained on named classes.
        image: (H, W, 3), RGB.
        score: The least score of an object that is told.
    """
    require_score(score)
    labelling = required_labelling(network)
    device = next(network.parameters()).device
    pixels = torch.from_numpy(image).permute(2, 0, 1).to(device, torch.float32) / 255
    with evaluating(network):
        (output,) = network.find([pixels], score=score)
    found = {name: values.cpu() for name, values in output.items()}
    return Detections(
        image=image,
        boxes=found["boxes"].numpy(),
        labels=found["labels"].numpy(),
        scores=found["scores"].numpy(),
        masks=found["masks"][:, 0].numpy() if "masks" in found else None,
        classes=labelling.classes,
        palette=labelling.palette,
    )


def require_score(score: float) -> None:
    """Refuses what isn't a score.

    Raises:
        InputError: It isn't one from 0 to 1.
    """
    if not 0 <= score <= 1:
        raise InputError(f"score {score}: expected 0 to 1")


class DetectionPredictor(Predictor):
    """Draws the objects on each image, NAME.png, and writes them all to OUT/predictions.json in COCO's format.

    Args:
        network: Trained on named classes.
        out: The folder of predictions.json.
        score: The least score of an object that is drawn and written.
    """

    def __init__(self, network: DetectionNetwork, out: Path, score: float) -> None:
        require_score(score)
        labelling = required_labelling(network)
        self.network = network
        self.file = out / PREDICTIONS_FILE
        self.score = score
        self.classes = labelling.classes
        self.category_ids = labelling.category_ids or tuple(range(1, network.num_classes + 1))
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def companions(self, picture: Path) -> list[Path]:
        return [self.file]

    def write(self, picture: Path, source: Path, image: NDArray[np.uint8]) -> None:
        detections = find_objects(self.network, image, self.score)
        with written_whole(picture) as unfinished:
            detections.overlay().save(unfinished, format="PNG")
        number, (height, width) = len(self.images) + 1, image.shape[:2]
        self.images.append({"id": number, "file_name": source.name, "height": height, "width": width})
        self.annotations += _annotations(detections, number, self.category_ids, first=len(self.annotations) + 1)

    def finish(self) -> None:
        categories = [
            {"id": number, "name": name} for number, name in zip(self.category_ids, self.classes, strict=True)
        ]
        content = {"images": self.images, "categories": categories, "annotations": self.annotations}
        with written_whole(self.file) as unfinished:
            unfinished.write_text(json.dumps(content))


def _annotations(
    detections: Detections, image_id: int, category_ids: Sequence[int], *, first: int
) -> list[dict[str, Any]]:
    """COCO's annotations, with a score each, numbered from `first`."""
    output = {
        "boxes": torch.from_numpy(detections.boxes),
        "labels": torch.from_numpy(detections.labels),
        "scores": torch.from_numpy(detections.scores),
    }
    if detections.masks is not None:
        output["masks"] = torch.from_numpy(detections.masks)[:, None]
    found = coco_predictions(output, image_id, category_ids)
    if detections.masks is None:
        areas = [each["bbox"][2] * each["bbox"][3] for each in found]
    else:
        areas = detections.masks.sum(axis=(1, 2)).tolist()
    return [
        {"id": first + place, "iscrowd": 0, "area": area, **each}
        for place, (each, area) in enumerate(zip(found, areas, strict=True))
    ]
