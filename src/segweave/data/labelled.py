"""Labelled images as a contact sheet draws them, whatever is to be predicted."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segweave.data.colours import Colour

NO_OBJECT = -1
"""In labels: pixels that belong to no object."""


class Labelled(NamedTuple):
    """An image with the labels of its pixels and the boxes of its objects, at the image's own size."""

    image: Image.Image
    """RGB."""
    labels: NDArray[np.int64]
    """(H, W): classes from 0 up, 255 where no pixel counts, -1 where there is no object. Other values are mistakes in
    the data set, which are drawn as if there were no label."""
    boxes: Sequence[tuple[int, Sequence[float]]]
    """The class of each object and its box: left, top, right and bottom in pixels."""


class LabelledSplit(Protocol):
    """A split of a data set in a folder that gives its images with their labels."""

    @property
    def root(self) -> Path:
        """The data set's folder."""

    @property
    def split(self) -> str:
        """The split's name."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the K classes."""

    @property
    def palette(self) -> Sequence[Colour]:
        """Their colours."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """By which messages call an image: its path."""

    def labelled(self, index: int) -> Labelled:
        """Reads an image and its labels.

        Raises:
            InputError: They can't be read, or don't fit each other.
        """
