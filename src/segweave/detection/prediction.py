"""Objects in images: `detect` for one image in memory, `predict_objects` (what `segweave predict` does with a detector)
for files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segweave.data.images import ImageLike, to_array
from segweave.detection.average_precision import coco_predictions
from segweave.detection.pictures import Objects, draw_detections
from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import Network
from segweave.networks.rcnn import DetectionNetwork

PREDICTIONS_FILE = "predictions.json"


@dataclass(frozen=True)
class Detections:
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
    palette: Sequence[tuple[int, int, int]]

    @property
    def objects(self) -> Objects:
        """The objects without the image."""
        return Objects(self.boxes, self.labels, self.scores, self.masks)

    def picture(self) -> Image.Image:
        """The image with all of the objects drawn on it."""
        return draw_detections(self.image, self.objects, self.classes, self.palette)


@torch.inference_mode()
def detect(network: Network, image: ImageLike, *, score: float = 0.5) -> Detections:
    """Finds the objects in one image.

    Args:
        network: From `segweave.load`.
        image: As in `segweave.segment`.
        score: The least score of an object that is told; nothing below the network's own `score_threshold` is found.

    Raises:
        InputError: The image can't be read, the network labels pixels or was never trained on named classes, or the
            score isn't one from 0 to 1.
    """
    if not 0 <= score <= 1:
        raise InputError(f"score {score}: expected 0 to 1")
    labelling = network.labelling
    if labelling is None:
        raise InputError("the network has no classes: expected one from segweave.load")
    if not isinstance(network, DetectionNetwork):
        raise InputError(f"a {network.recipe['model']} labels pixels: expected segweave.segment in place of detect")
    picture = to_array(image)
    found = _found(network, picture, score)
    return Detections(
        image=picture,
        boxes=found["boxes"].numpy(),
        labels=found["labels"].numpy(),
        scores=found["scores"].numpy(),
        masks=found["masks"][:, 0].numpy() if "masks" in found else None,
        classes=labelling.classes,
        palette=labelling.palette,
    )


def predict_objects(network: DetectionNetwork, targets: dict[Path, Path], out: Path, *, score: float) -> None:
    """Draws the objects in image files, and writes them all to OUT/predictions.json in COCO's format.

    Args:
        network: From `segweave.load`.
        targets: The image file of each picture's file.
        out: The folder of predictions.json.
        score: The least score of an object that is drawn and written.
    """
    assert network.labelling is not None
    category_ids = network.labelling.category_ids or tuple(range(1, network.num_classes + 1))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (target, source) in enumerate(targets.items(), start=1):
        detections = detect(network, source, score=score)
        height, width = detections.image.shape[:2]
        images.append({"id": number, "file_name": source.name, "height": height, "width": width})
        annotations += _annotations(detections, number, category_ids, first=len(annotations) + 1)
        with written_whole(target) as unfinished:
            detections.picture().save(unfinished, format="PNG")
    categories = [
        {"id": number, "name": name} for number, name in zip(category_ids, network.labelling.classes, strict=True)
    ]
    with written_whole(out / PREDICTIONS_FILE) as unfinished:
        unfinished.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))


def as_intensities(picture: NDArray[np.uint8], network: DetectionNetwork) -> torch.Tensor:
    """(H, W, 3), uint8 -> (3, H, W), float32 in [0, 1], where the network is: what it takes."""
    device = next(network.parameters()).device
    return torch.from_numpy(picture).permute(2, 0, 1).to(device, torch.float32) / 255


def _found(network: DetectionNetwork, picture: NDArray[np.uint8], score: float) -> dict[str, torch.Tensor]:
    """What the network finds in (H, W, 3) with a score at least as high, on the CPU; masks are bool."""
    training = network.training
    (found,) = network.eval().find([as_intensities(picture, network)], score=score)
    network.train(training)
    return {name: values.cpu() for name, values in found.items()}


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
