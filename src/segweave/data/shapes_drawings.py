"""The drawings of `shapes`, the embedded data set: which there are, and what is seen in each."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from segweave.data.shapes_scene import COATS, LOOK_ALIKES, THINGS, Canvas, Hero, draw_scene
from segweave.errors import InputError

SPLITS = {"train": 600, "val": 100}
"""The default length of each split."""


class Things(NamedTuple):
    """The N things of a drawing, as far as they are visible."""

    boxes: Tensor
    """(N, 4), float32: x1, y1, x2, y2 in pixels; the right and the bottom edge are exclusive."""
    labels: Tensor
    """(N,), int64: indices into `CLASSES`."""
    masks: Tensor
    """(N, H, W), uint8: 1 on the thing's visible pixels. No pixel belongs to two things."""


class Drawing(NamedTuple):
    """A picture, the class of each of its pixels, and its things, which agree pixel by pixel."""

    image: tv_tensors.Image
    """(3, H, W), uint8, RGB."""
    mask: tv_tensors.Mask
    """(H, W), int64: the class of each pixel, 255 where none counts."""
    things: Things


class ShapesDrawings:
    """The drawings of a split, drawn on demand: the same seed, split, index and size give the same one everywhere.

    Every six consecutive drawings, from the first on, have each look-alike class once as their large thing, at one
    intended size and in one colour. Birds belong to no class: their pixels are 255.

    Args:
        split: "train" or "val"; they share no drawing.
        size: Height and width in pixels, from 32 up.
        length: How many drawings; 600 ("train") and 100 ("val") by default.
        seed: Another non-negative seed is another data set of the same world.

    Raises:
        InputError: For an unknown split, a size below 32, a length below 1 or a negative seed.
    """

    def __init__(
        self, split: str = "train", *, size: tuple[int, int] = (128, 160), length: int | None = None, seed: int = 0
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"shapes: unknown split {split!r}, expected one of {', '.join(SPLITS)}")
        if len(size) != 2 or min(size) < 32:
            raise InputError(f"shapes: size {tuple(size)}, expected a height and a width of at least 32 pixels")
        if length is not None and length < 1:
            raise InputError(f"shapes: length {length}, expected at least 1")
        if seed < 0:
            raise InputError(f"shapes: seed {seed}, expected 0 or above")
        self.split = split
        self.size = (int(size[0]), int(size[1]))
        self.length = SPLITS[split] if length is None else length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Drawing:
        canvas = self._draw(index)
        image = tv_tensors.Image(torch.from_numpy(canvas.picture.astype(np.uint8)))
        mask = tv_tensors.Mask(torch.from_numpy(np.asarray(canvas.labels, np.int64)[canvas.owners]))
        return Drawing(image, mask, _things(canvas))

    def name(self, index: int) -> str:
        """The drawing's name, such as "shapes/train/000012"."""
        return f"shapes/{self.split}/{self._position(index):06d}"

    def things(self, index: int) -> Things:
        """The things (not the stuff) visible in a drawing."""
        return _things(self._draw(index))

    def _position(self, index: int) -> int:
        if not -self.length <= index < self.length:
            raise IndexError(f"shapes: index {index}, but {self.split} has {self.length} drawings")
        return int(index) % self.length

    def _generator(self, purpose: int, number: int) -> np.random.Generator:
        key = (list(SPLITS).index(self.split), purpose, number)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _draw(self, index: int) -> Canvas:
        index = self._position(index)
        # A round has each look-alike once, alike in size and colour: the pairs are balanced by construction.
        round_number, turn = divmod(index, len(LOOK_ALIKES))
        shared = self._generator(0, round_number)
        shape, ground = list(LOOK_ALIKES)[shared.permutation(len(LOOK_ALIKES))[turn]]
        width = min(self.size) * (0.25 + 0.25 * shared.random())
        hero = Hero(shape, ground, width, int(shared.integers(len(COATS))))
        return draw_scene(self._generator(1, index), self.size, hero)


def _things(canvas: Canvas) -> Things:
    owners = [int(owner) for owner in np.unique(canvas.owners) if canvas.labels[owner] in THINGS]
    masks = canvas.owners[None] == np.asarray(owners, np.int64)[:, None, None]
    boxes = np.zeros((len(owners), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    labels = torch.tensor([canvas.labels[owner] for owner in owners], dtype=torch.int64)
    return Things(torch.from_numpy(boxes), labels, torch.from_numpy(masks.astype(np.uint8)))
