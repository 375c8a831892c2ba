"""The things of `shapes`, the embedded data set, as objects to detect."""

from typing import Any

import numpy as np

from segweave.data.shapes_drawings import ShapesDrawings, Things
from segweave.data.shapes_scene import CLASSES, PALETTE, THINGS
from segweave.detection import coco_masks
from segweave.detection.dataset import DetectionDataset, DetectionSample, detection_target


class ShapesDetectionDataset(DetectionDataset):
    """The things on the drawings of the embedded data set: what can be counted, as far as it is visible.

    No pixel belongs to two of them, and none is a group.

    Args:
        split: "train" or "val"; they share no drawing.
        size: Height and width in pixels, from 32 up.
        length: How many drawings; 600 ("train") and 100 ("val") by default.
        seed: Another non-negative seed is another data set of the same world.

    Raises:
        InputError: As `segweave.data.shapes_drawings.ShapesDrawings`.
    """

    classes = tuple(CLASSES[k] for k in THINGS)
    palette = tuple(PALETTE[k] for k in THINGS)
    category_ids = tuple(range(1, len(THINGS) + 1))

    def __init__(
        self, split: str = "train", *, size: tuple[int, int] = (128, 160), length: int | None = None, seed: int = 0
    ) -> None:
        self.drawings = ShapesDrawings(split, size=size, length=length, seed=seed)
        self.split = split

    def __len__(self) -> int:
        return len(self.drawings)

    def __getitem__(self, index: int) -> DetectionSample:
        image, _, things = self.drawings[index]
        target = detection_target(
            boxes=things.boxes.numpy(),
            labels=_labels(things),
            masks=things.masks.numpy(),
            crowd=[False] * len(things.labels),
            areas=things.masks.sum((1, 2)).tolist(),
            image_id=self.image_id(index),
        )
        return DetectionSample(image, target)

    def name(self, index: int) -> str:
        """The sample's name, such as "shapes/train/000012"."""
        return self.drawings.name(index)

    def image_id(self, index: int) -> int:
        """From 1 on."""
        return index % len(self) + 1

    def ground_truth(self, *, masks: bool = True) -> dict[str, Any]:
        height, width = self.drawings.size
        images = [
            {"id": self.image_id(index), "file_name": self.name(index), "width": width, "height": height}
            for index in range(len(self))
        ]
        annotations = [
            annotation
            for index in range(len(self))
            for annotation in _as_coco(self.drawings.things(index), index + 1, masks)
        ]
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
        categories = [{"id": k, "name": name} for k, name in zip(self.category_ids, self.classes, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}


def _labels(things: Things) -> list[int]:
    return [THINGS.index(label) + 1 for label in things.labels.tolist()]


def _as_coco(things: Things, image_id: int, masks: bool) -> list[dict[str, Any]]:
    annotations = []
    for box, label, mask in zip(things.boxes.tolist(), _labels(things), things.masks.numpy(), strict=True):
        left, top, right, bottom = box
        annotation: dict[str, Any] = {
            "image_id": image_id,
            "category_id": label,
            "bbox": [left, top, right - left, bottom - top],
            "area": float(mask.sum(dtype=np.int64)),
            "iscrowd": 0,
        }
        annotations.append({**annotation, "segmentation": coco_masks.encode(mask)} if masks else annotation)
    return annotations
