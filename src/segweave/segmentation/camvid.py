"""CamVid: road scenes from a driving car, in the 11-class version of the SegNet tutorial (480x360).

Brostow, Fauqueur, Cipolla: "Semantic object classes in video: a high-definition ground truth database", 2009.
"""

from pathlib import Path

from segweave.data.colours import Colour
from segweave.segmentation.folder import FolderDataset

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
PALETTE: tuple[Colour, ...] = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
VOID = 11
"""The masks' value of pixels without a class."""


class CamVid(FolderDataset):
    """A split of CamVid, street scenes in 11 classes, in its own folders or the SegNet tutorial's.

    Two folder trees are recognised: ROOT/SPLIT/images and ROOT/SPLIT/masks, and the SegNet tutorial's own, where the
    images lie in ROOT/SPLIT and the masks in ROOT/SPLITannot (`train` and `trainannot`, `val` and `valannot`, ...).

    Args:
        root: The folder that holds the splits.
        split: `"train"`, `"val"` or `"test"`.
        allow_unpaired: See `FolderDataset`.

    Raises:
        InputError: As `FolderDataset`.
    """

    def __init__(self, root: str | Path, split: str, *, allow_unpaired: bool = False) -> None:
        super().__init__(
            root, split, classes=CLASSES, palette=PALETTE, ignore_index=VOID, allow_unpaired=allow_unpaired
        )

    @classmethod
    def splits(cls, root: Path) -> list[str]:
        annotated = [folder.name.removesuffix("annot") for folder in root.glob("*annot") if folder.is_dir()]
        return sorted({*super().splits(root), *(split for split in annotated if (root / split).is_dir())})

    @classmethod
    def folders(cls, root: Path, split: str) -> tuple[Path, Path]:
        if (root / f"{split}annot").is_dir():
            return root / split, root / f"{split}annot"
        return super().folders(root, split)


def recognise(root: Path) -> type[FolderDataset]:
    """The data set whose folder tree lies under `root`: CamVid for the SegNet tutorial's own, else a plain folder."""
    return CamVid if any((root / f"{split}annot").is_dir() for split in ("train", "val", "test")) else FolderDataset
