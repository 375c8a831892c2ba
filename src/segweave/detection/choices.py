"""What is chosen for a run that finds objects where its settings leave it open.

Much of it follows the objects of the training split: how large they are, and how many an image holds.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segweave.detection.dataset import DetectionDataset
from segweave.errors import InputError
from segweave.models import NETWORKS, model_options
from segweave.networks.network import DetectionNetwork, Network
from segweave.saving import saved_recipe
from segweave.training.configuration import Choices, chosen_short_edge
from segweave.training.settings import Optimizer, RunSettings

LONGEST_SHORT_EDGE = {"cpu": 320, "cuda": 800}
"""Pixels. A detector sees whole images: FPT's have a short edge of 800 (Section 4.1)."""

LONG_EDGE_SHARE = 5 / 3
"""Of the short edge, or what typical images need, scaled up, if that is more: about MS-COCO's usual 1333 to 800. FPT's
is 1000 to 800 (its recipes say so)."""

OPTIMISER_STEPS = {"cpu": 800, "cuda": 20_000}
"""How long a run is if its epochs aren't given."""

IMAGES_A_STEP = {"cpu": 4, "cuda": 8}

WIDTHS: dict[str, dict[str, int]] = {
    "cpu": {"channels": 64, "head_channels": 256, "rois_per_image": 128},
    "cuda": {"channels": 256, "head_channels": 1024, "rois_per_image": 512},
}
"""On a CPU heads of the papers' width and number of boxes would take most of a step's time; with a quarter of each, a
step takes a tenth of it."""

PROPOSALS_OF_A_DETECTION = 4
"""At least, in evaluation, where an image may hold many objects: 1,000 are enough for 250."""

ANCHOR_LEVELS = 5
"""Levels of the pyramid that proposals are made on; each has anchors of one size (FPN, Section 4.1)."""

SMALL_SHARE = 0.1
"""Share of objects allowed below the smallest anchor."""

LARGE_SHARE = 0.9
"""Share of objects that the largest anchor reaches."""


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


def choose(settings: RunSettings, train: DetectionDataset, kind: str) -> Choices:
    """Chooses what whole images of one short edge need; anchors and the limit on detections follow the objects.

    Args:
        settings: Of the run.
        train: The split to train on.
        kind: Of the device, "cpu" or "cuda".

    Raises:
        InputError: A setting is for pixels alone.
    """
    if settings.crop_size is not None:
        raise InputError(
            f"crop_size {list(settings.crop_size)}: {settings.model} sees whole images: expected short_edge and "
            "long_edge"
        )
    if settings.compile:
        raise InputError(f"compile: not for {settings.model}, whose shapes change with what it finds: expected none")
    truth = train.ground_truth(masks=False)
    height, width = (int(np.median([image[side] for image in truth["images"]])) for side in ("height", "width"))
    image_size, objects = (height, width), measure_objects(truth)
    short_edge = chosen_short_edge(settings, image_size, LONGEST_SHORT_EDGE[kind])
    if settings.short_edge is None:
        short_edge = short_edge or max(min(image_size), 32)
    long_edge, scale_range = settings.long_edge, settings.scale_range or (0.8, 1.25)
    if long_edge is None:
        shape = max(LONG_EDGE_SHARE, max(image_size) / min(image_size) * max(scale_range[1], 1.0))
        long_edge = round(shape * max(settings.short_edges or (short_edge,)))

    def learning_rate(optimizer: Optimizer, batch_size: int) -> float:
        """MS-COCO's usual 0.02 at batch size 16, in proportion to the batch; from random weights twice that."""
        if optimizer == "adamw":
            return 1e-4 if settings.starts_trained else 1e-3
        return round(0.02 * batch_size / 16 * (1 if settings.starts_trained else 2), 6)

    return Choices(
        batch_size=IMAGES_A_STEP[kind],
        steps=OPTIMISER_STEPS[kind],
        short_edge=short_edge,
        long_edge=long_edge,
        scale_range=scale_range,
        optimizer="sgd" if settings.starts_trained else "adamw",
        learning_rate=learning_rate,
        options=_options(settings, objects, short_edge, long_edge, kind),
    )


def _options(
    settings: RunSettings, objects: ObjectSizes, short_edge: int, long_edge: int, kind: str
) -> dict[str, object]:
    """Of the detector: its widths, how much it finds, and its anchors."""
    limit = detections_per_image(objects)
    options: dict[str, object] = {**WIDTHS[kind], "detections_per_image": limit}
    if settings.init_from is not None:
        options |= _widths_of(settings.init_from)
    if (proposals := PROPOSALS_OF_A_DETECTION * limit) > 1000:
        options["test_proposals"] = (proposals, proposals)
    if (sizes := anchor_sizes(objects, short_edge, long_edge)) is not None:
        options["anchor_sizes"] = sizes
    return options


def _widths_of(run: str) -> dict[str, int]:
    """How wide a run's detector is, which another has to be to take its weights; nothing of other networks."""
    model, options = saved_recipe(run)
    if not issubclass(NETWORKS.get(model, Network), DetectionNetwork):
        return {}
    usual = model_options(model)
    return {name: options.get(name, usual[name]) for name in ("channels", "head_channels")}
