"""What every data set for detection is: images with their objects, each with a box, a class and a mask."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from segweave.data.dataset import SplitDataset
from segweave.data.labelled import NO_OBJECT, Labelled


class DetectionTarget(TypedDict):
    """The N objects of an image (H, W), as torchvision's detection networks take them. N may be 0."""

    boxes: tv_tensors.BoundingBoxes
    """(N, 4), float32: left, top, right, bottom in pixels of the image; right and bottom are exclusive."""
    labels: Tensor
    """(N,), int64: 1 to K; 0 would be the background."""
    masks: tv_tensors.Mask
    """(N, H, W), uint8: 1 on the object."""
    iscrowd: Tensor
    """(N,), int64: 1 where what is marked is a group of objects, not one."""
    area: Tensor
    """(N,), float32: in pixels, as the annotations give it; by it COCO's figures tell small objects from large ones."""
    image_id: int
    """By which the annotations call the image."""


class DetectionSample(NamedTuple):
    """An image and its objects, at the image's own size."""

    image: tv_tensors.Image
    """(3, H, W), uint8, RGB."""
    target: DetectionTarget


class DetectionDataset(SplitDataset[DetectionSample]):
    """A split of a data set of objects: class k has the label k + 1.

    Attributes:
        category_ids: What the annotations call each class; there may be gaps between them.
        has_masks: Whether the objects have masks of their own. If not, masks are filled boxes: fit to train a detector
            that looks at boxes alone, and nothing else.
    """

    category_ids: Sequence[int]
    has_masks: bool = True

    def labelled(self, index: int) -> Labelled:
        """An image with its objects, later ones over earlier ones.

        Raises:
            InputError: The sample can't be read, or something in it is wrong.
        """
        image, target = self[index]
        classes = (target["labels"] - 1).tolist()
        labels = np.full(image.shape[1:], NO_OBJECT, np.int64)
        for k, mask in zip(classes, target["masks"].numpy(), strict=True):
            labels[mask > 0] = k
        boxes = list(zip(classes, target["boxes"].tolist(), strict=True))
        return Labelled(Image.fromarray(image.permute(1, 2, 0).numpy()), labels, boxes)

    @abstractmethod
    def image_id(self, index: int) -> int:
        """By which the annotations call the image."""

    @abstractmethod
    def ground_truth(self, *, masks: bool = True) -> dict[str, Any]:
        """The split in COCO's format, as pycocotools' `COCO` has it in `dataset`. No image is read.

        Args:
            masks: Whether to include the masks, which take most of the time.

        Returns:
            A structure made for this call, which the caller may change: "images", "categories" and "annotations". An
            annotation has id (never 0, which pycocotools takes for "no match"), image_id, category_id, bbox (left, top,
            width, height), area, iscrowd and, if the data set has masks, segmentation: checked run lengths as text.
        """


def detection_target(
    *,
    boxes: npt.ArrayLike,
    labels: Sequence[int],
    masks: npt.NDArray[np.uint8],
    crowd: Sequence[bool],
    areas: Sequence[float],
    image_id: int,
) -> DetectionTarget:
    """Brings what is known of N objects into the form of `DetectionTarget`.

    Args:
        boxes: (N, 4): left, top, right, bottom.
        labels: N labels from 1 to K.
        masks: (N, H, W).
        crowd: Which of them are groups of objects.
        areas: N areas in pixels.
        image_id: By which the annotations call the image.
    """
    corners = torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4))
    return DetectionTarget(
        boxes=tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=masks.shape[1:]),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=tv_tensors.Mask(torch.from_numpy(masks)),
        iscrowd=torch.tensor(crowd, dtype=torch.int64),
        area=torch.tensor(areas, dtype=torch.float32),
        image_id=image_id,
    )
