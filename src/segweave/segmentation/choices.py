"""What is chosen for a run that labels pixels where its settings leave it open."""

import numpy as np

from segweave.errors import InputError
from segweave.segmentation.dataset import SegmentationDataset
from segweave.training.configuration import Choices, chosen_short_edge, middle
from segweave.training.settings import Optimizer, RunSettings

LARGEST_CROP = {"cpu": 320, "cuda": 512}
"""Pixels a side. 512 is the crop of PAN's ablations (Section 4.1); on a CPU a run should take minutes, not days."""

LONGEST_SHORT_EDGE = {"cpu": 240, "cuda": 1024}
"""Pixels. Larger images are resized before anything else, so that a crop shows more than a corner of them."""

OPTIMISER_STEPS = {"cpu": 2000, "cuda": 20_000}
"""How long a run is if its epochs aren't given."""

IMAGES_A_STEP = {"cpu": 8, "cuda": 16}

SCALE_RANGE = (0.5, 2.0)
"""PAN, Section 4."""


def choose(settings: RunSettings, train: SegmentationDataset, kind: str) -> Choices:
    """Chooses the size of crops and images, and how long and with which rate is trained.

    Args:
        settings: Of the run.
        train: The split to train on.
        kind: Of the device, "cpu" or "cuda".

    Raises:
        InputError: A setting is for objects alone.
    """
    if settings.long_edge is not None:
        raise InputError(f"long_edge {settings.long_edge}: for objects alone: expected none with {settings.model}")
    image_size = _typical_size(train)
    short_edge = chosen_short_edge(settings, image_size, LONGEST_SHORT_EDGE[kind])
    edges = settings.training_short_edges or ((short_edge,) if short_edge else None)
    scale = middle(edges) / min(image_size) if edges is not None else 1.0
    height, width = (max(min(round(side * scale), LARGEST_CROP[kind]), 32) for side in image_size)

    def learning_rate(optimizer: Optimizer, batch_size: int) -> float:
        """PAN's 4e-3 at batch size 16 for trained weights, in proportion to the batch; from random ones ten times
        that."""
        if optimizer == "adamw":
            return 1e-4 if settings.starts_trained else 1e-3
        return round(4e-3 * batch_size / 16 * (1 if settings.starts_trained else 10), 6)

    return Choices(
        batch_size=IMAGES_A_STEP[kind],
        steps=OPTIMISER_STEPS[kind],
        short_edge=short_edge,
        crop_size=(height, width),
        scale_range=SCALE_RANGE,
        optimizer="sgd",
        learning_rate=learning_rate,
    )


def _typical_size(dataset: SegmentationDataset) -> tuple[int, int]:
    """(height, width) in the middle of a few images of the split: the medians of both."""
    indices = np.linspace(0, len(dataset) - 1, num=min(len(dataset), 9)).astype(int)
    sizes = [dataset[int(index)].mask.shape for index in indices]
    height, width = (int(np.median(sides)) for sides in zip(*sizes, strict=True))
    return height, width
