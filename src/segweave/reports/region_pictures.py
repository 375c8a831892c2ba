"""Pictures of regions: the positions of a map that have equal labels, each region in a colour of its own."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segweave.data.colours import default_palette
from segweave.reports.pictures import Picture, blend, contours

CHOICE, APART = 8, 80.0
"""How many colours are tried for a region, and how far they should be from its neighbours' (of 255 a channel)."""


def region_map(labels: NDArray[np.integer], image: Picture) -> Picture:
    """Lays regions over the image, each in its own colour, with a thin contour in full colour where two meet.

    Args:
        labels: (h, w): the positions of equal labels are a region. Enlarged to the image without new values.
        image: (H, W, 3); shown in grey, so that colour means region alone.

    Returns:
        (H, W, 3).
    """
    height, width = image.shape[:2]
    grey = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
    ranks, palette = _ranked_regions(labels)
    enlarged = _enlarged(ranks, (width, height))
    return blend(grey, palette[enlarged], np.where(contours(enlarged), 0.95, 0.55)[..., None])


def region_colours(labels: NDArray[np.integer], size: tuple[int, int]) -> Picture:
    """The colours of `region_map` alone.

    Args:
        labels: (h, w), as there.
        size: Width and height of the picture.

    Returns:
        (height, width, 3).
    """
    ranks, palette = _ranked_regions(labels)
    return palette[_enlarged(ranks, size)]


def _ranked_regions(labels: NDArray[np.integer]) -> tuple[NDArray[np.int32], Picture]:
    """The labels (h, w) as numbers from 0 up, and the colour of each, (R, 3): neighbours' are far from each other.

    The largest region is given the first colour of the default palette, and so on; colours too near to a neighbour's
    are left out. (Thousands of regions have colours that can hardly be told apart, but neighbours' can.)
    """
    values, ranks = np.unique(labels, return_inverse=True)
    ranks = ranks.reshape(labels.shape).astype(np.int32)
    neighbours = _neighbours(ranks, len(values))
    sequence, start = np.array(default_palette(len(values) * CHOICE), dtype=np.uint8), 0
    palette = np.full((len(values), 3), np.inf)  # infinitely far from all: no colour yet
    for region in np.argsort(-np.bincount(ranks.ravel()), kind="stable"):
        choice = sequence[start : start + CHOICE]
        differences = choice[:, None] - palette[neighbours[region]]  # (CHOICE, T, 3)
        distances = np.sqrt((differences**2).sum(axis=-1)).min(axis=1, initial=np.inf)
        chosen = int((distances >= min(APART, distances.max())).argmax())  # the first far enough, or the farthest
        palette[region] = choice[chosen]
        start += chosen + 1
    return ranks, palette.astype(np.uint8)


def _neighbours(ranks: NDArray[np.int32], count: int) -> list[NDArray[np.int64]]:
    """For each region of (h, w), those that it touches: side by side or at a corner."""
    pairs = [
        np.stack([first.ravel(), second.ravel()], axis=1)
        for first, second in (
            (ranks[:, :-1], ranks[:, 1:]),
            (ranks[:-1], ranks[1:]),
            (ranks[:-1, :-1], ranks[1:, 1:]),
            (ranks[:-1, 1:], ranks[1:, :-1]),
        )
    ]
    both = np.concatenate([*pairs, *(pair[:, ::-1] for pair in pairs)]).astype(np.int64)
    both = np.unique(both[both[:, 0] != both[:, 1]], axis=0)  # (E, 2), sorted
    return np.split(both[:, 1], np.searchsorted(both[:, 0], np.arange(1, count)))


def _enlarged(ranks: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    return np.asarray(Image.fromarray(ranks).resize(size, Image.Resampling.NEAREST))
