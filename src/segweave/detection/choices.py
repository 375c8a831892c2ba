"""What a detector's settings follow in the data: how large objects are, and how many an image holds."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ANCHOR_LEVELS = 5
"""Levels of the pyramid that proposals are made on; each has anchors of one size (FPN, Section 4.1)."""

SMALL_SHARE = 0.1
"""Of the objects may be smaller than the smallest anchors."""

LARGE_SHARE = 0.9
"""Of the objects should be no larger than the largest anchors."""


class ObjectSizes(NamedTuple):
    """The N objects of a split, crowds left out."""

    sizes: NDArray[np.float64]
    """(N,): the root of each box's area, in pixels."""
    short_edges: NDArray[np.float64]
    """(N,): the short edge of the image that it is in, in pixels."""
    long_edges: NDArray[np.float64]
    """(N,): its long edge."""
    most: int
    """Objects in one image at most."""


def measure_objects(truth: Mapping[str, Any]) -> ObjectSizes:
    """Reads them from a split in COCO's format (see `DetectionDataset.ground_truth`); no image is opened."""
    edges_of = {image["id"]: sorted((image["height"], image["width"])) for image in truth["images"]}
    objects = [annotation for annotation in truth["annotations"] if not annotation.get("iscrowd", 0)]
    sizes = [float(np.sqrt(each["bbox"][2] * each["bbox"][3])) for each in objects]
    edges = np.array([edges_of[each["image_id"]] for each in objects], float).reshape(-1, 2)
    counts = Counter(each["image_id"] for each in objects)
    return ObjectSizes(np.array(sizes, float), edges[:, 0], edges[:, 1], max(counts.values(), default=0))


def anchor_sizes(objects: ObjectSizes, short_edge: int, long_edge: int) -> tuple[float, ...] | None:
    """A size for each level, the finest first, each twice the one before as the strides are, or more if it takes more
    to reach the large objects.

    The smallest is as large as a small object of the data, a power of the root of 2 (so that the sizes are as round as
    the sides that they stand for).

    Args:
        objects: Of the training split.
        short_edge: To which images are resized, in pixels; 0 for their own size.
        long_edge: What the long edge is at most then, in pixels; 0 for no limit.

    Returns:
        Pixels of the resized image; None for a split without objects.
    """
    if not len(objects.sizes):
        return None
    scales = short_edge / objects.short_edges if short_edge else np.ones_like(objects.sizes)
    if long_edge:
        scales = np.minimum(scales, long_edge / objects.long_edges)
    small, large = np.quantile(objects.sizes * scales, [SMALL_SHARE, LARGE_SHARE])
    smallest = max(round(2 ** (round(2 * np.log2(max(small, 1.0))) / 2)), 4)
    ratio = max((large / smallest) ** (1 / (ANCHOR_LEVELS - 1)), 2.0)
    return tuple(float(round(smallest * ratio**level)) for level in range(ANCHOR_LEVELS))


def detections_per_image(objects: ObjectSizes) -> int:
    """Half as many again as the fullest training image holds, in fifties; MS-COCO's 100 at least."""
    return max(100, -(-3 * objects.most // 100) * 50)
