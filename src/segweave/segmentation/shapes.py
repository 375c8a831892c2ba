"""`shapes`, the embedded data set, as masks of classes."""

from segweave.data.shapes_drawings import ShapesDrawings
from segweave.data.shapes_scene import CLASSES, PALETTE
from segweave.segmentation.dataset import Sample, SegmentationDataset


class ShapesSegmentationDataset(SegmentationDataset):
    """The embedded data set, drawn by code: for demonstrations, tests and small experiments about context.

    What it shows, and why only context tells its classes apart, is told in `segweave.data.shapes_scene`.

    Args:
        split: "train" or "val"; they share no drawing.
        size: Height and width in pixels, from 32 up.
        length: How many drawings; 600 ("train") and 100 ("val") by default.
        seed: Another non-negative seed is another data set of the same world.

    Raises:
        InputError: As `segweave.data.shapes_drawings.ShapesDrawings`.
    """

    classes = CLASSES
    palette = PALETTE

    def __init__(
        self, split: str = "train", *, size: tuple[int, int] = (128, 160), length: int | None = None, seed: int = 0
    ) -> None:
        self.drawings = ShapesDrawings(split, size=size, length=length, seed=seed)
        self.split = split

    def __len__(self) -> int:
        return len(self.drawings)

    def __getitem__(self, index: int) -> Sample:
        image, mask, _ = self.drawings[index]
        return Sample(image, mask)

    def name(self, index: int) -> str:
        """The sample's name, such as "shapes/train/000012"."""
        return self.drawings.name(index)
