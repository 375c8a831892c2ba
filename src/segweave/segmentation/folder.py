"""A user's own images and masks in folders.

ROOT/SPLIT/images/NAME.jpg      any format of `segweave.data.images.IMAGE_SUFFIXES`
ROOT/SPLIT/masks/NAME.png       the class of each pixel, as a value or as a colour of the palette
ROOT/dataset.yaml               optional, each key too:
    classes: [road, tree]                       the names; class k has the value k
    palette: [[128, 64, 128], [0, 128, 0]]      the classes' colours, in masks stored in colour and in pictures
    ignore_index: 11                            value(s) that count nowhere; 255 never counts
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision import tv_tensors

from segweave.data.colours import Colour, default_palette
from segweave.data.images import list_images, read_image, read_mask
from segweave.data.labelled import Labelled
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX
from segweave.segmentation.dataset import Sample, SegmentationDataset
from segweave.segmentation.description import describe


class FolderDataset(SegmentationDataset):
    """A split of a user's own images with masks. The folder tree is at the top of this file.

    Without names for the classes there are as many as the palette has colours, or, without a palette either, as the
    masks of all splits have values (0 to the greatest one found); they are called "class 0", "class 1" and so on.

    A palette may go on beyond the classes, as long as these further values are in `ignore_index`: so masks stored in
    colour can have a colour for "void".

    Args:
        root: The folder that holds the splits and, if there is one, dataset.yaml.
        split: The split's name, such as `"train"`.
        classes: The classes' names; None: those of dataset.yaml.
        palette: The classes' colours; None: those of dataset.yaml, or else those of `default_palette`.
        ignore_index: The value or values of the masks that count nowhere, besides 255; None: those of dataset.yaml.
        allow_unpaired: Leave out images without a mask and masks without an image, and list them in `unpaired`,
            rather than raise.

    Attributes:
        image_paths: The images' files, sorted by name.
        mask_paths: The masks' files, in the same order.
        ignore_index: All values of the masks that count nowhere, 255 among them.
        unpaired: One line for each kind of file that was left out (see `allow_unpaired`).

    Raises:
        InputError: A folder or a pair is missing, there are no images, or dataset.yaml has a mistake.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        palette: Sequence[Colour] | None = None,
        ignore_index: int | Sequence[int] | None = None,
        allow_unpaired: bool = False,
    ) -> None:
        self.root = Path(root)
        self.split = split
        images_folder, masks_folder = self._existing_folders()
        self.image_paths, self.mask_paths, self.unpaired = _pair(images_folder, masks_folder)
        if self.unpaired and not allow_unpaired:
            raise InputError(self.unpaired[0])

        description = describe(self.root, classes, palette, ignore_index)
        self.ignore_index = description.ignore_index
        self._mask_palette = description.palette
        if description.classes is not None:
            self.classes: Sequence[str] = description.classes
        else:
            folders = [self.folders(self.root, name)[1] for name in self.splits(self.root)]
            masks = [mask for folder in folders if folder.is_dir() for mask in list_images(folder)]
            count = _infer_class_count(masks, self.ignore_index, skip_unreadable=allow_unpaired)
            self.classes = [f"class {index}" for index in range(count)]
        palette = description.palette or default_palette(len(self.classes))
        self.palette: Sequence[Colour] = palette[: len(self.classes)]

    @classmethod
    def splits(cls, root: Path) -> list[str]:
        """The names of the splits that lie in a folder."""
        return available_splits(root)

    @classmethod
    def folders(cls, root: Path, split: str) -> tuple[Path, Path]:
        """Where a split's images and masks are, whether they exist or not."""
        return root / split / "images", root / split / "masks"

    @property
    def expected_values(self) -> str:
        """Which values the masks may have, in words: for messages."""
        ignored = " or ".join(str(value) for value in self.ignore_index)
        return f"expected 0 to {len(self.classes) - 1} or ignore {ignored}"

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> Sample:
        image, labels, _ = self.labelled(index)
        if (invalid := self.invalid(labels)).any():
            value = labels[invalid][0]
            count = int((labels == value).sum())
            raise InputError(f"{self.mask_paths[index]}: value {value} ({count} pixels): {self.expected_values}")
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, H, W)
        return Sample(tv_tensors.Image(pixels), tv_tensors.Mask(torch.from_numpy(labels)))

    def name(self, index: int) -> str:
        return self.image_paths[index].relative_to(self.root).as_posix()

    def labelled(self, index: int) -> Labelled:
        """Reads an image and its labels, which may be outside the classes, see `invalid`.

        Raises:
            InputError: One of the two can't be read, or they differ in size.
        """
        image, labels = read_image(self.image_paths[index]), self.read_labels(index)
        self.require_same_size(index, image, labels)
        return Labelled(image, labels, [])

    def read_labels(self, index: int) -> npt.NDArray[np.int64]:
        """Reads a mask and sets all that is to be ignored to 255; values outside the classes stay, see `invalid`.

        Returns:
            (H, W).

        Raises:
            InputError: The mask cannot be read.
        """
        values = read_mask(self.mask_paths[index], self._mask_palette)
        values[np.isin(values, self.ignore_index)] = IGNORE_INDEX
        return values

    def invalid(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which labels are neither a class nor ignored, in the shape of `labels`."""
        invalid: npt.NDArray[np.bool_] = ((labels < 0) | (labels >= len(self.classes))) & (labels != IGNORE_INDEX)
        return invalid

    def require_same_size(self, index: int, image: Image.Image, labels: npt.NDArray[np.int64]) -> None:
        """Raises InputError, which names both files and sizes, unless an image and its mask are equally large."""
        height, width = labels.shape
        if image.size == (width, height):
            return
        turned = "; the image's EXIF orientation counts" if image.size == (height, width) else ""
        raise InputError(
            f"{self.mask_paths[index]}: {width}x{height} pixels: expected {image.width}x{image.height}, "
            f"as its image {self.image_paths[index]}{turned}"
        )

    def _existing_folders(self) -> tuple[Path, Path]:
        splits = self.splits(self.root)
        if self.split not in splits and not (self.root / self.split).is_dir():
            raise InputError(f"{self.root}: no split {self.split!r}: {_found(splits)}")
        folders = self.folders(self.root, self.split)
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder: expected images in {folders[0]} and masks in {folders[1]}")
        return folders


def available_splits(root: str | Path) -> list[str]:
    """The names of the splits in a folder: its subfolders that hold `images` or `masks`, sorted.

    Raises:
        InputError: There is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    return sorted(
        folder.name for folder in root.iterdir() if (folder / "images").is_dir() or (folder / "masks").is_dir()
    )


def _found(splits: Sequence[str]) -> str:
    if splits:
        return f"expected one of {', '.join(splits)}"
    return "expected subfolders SPLIT/images and SPLIT/masks, such as train/images and train/masks"


def _pair(images_folder: Path, masks_folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """The images, their masks in the same order, and one line for each kind of file that has no counterpart."""
    images, masks = list_images(images_folder), list_images(masks_folder)
    if not images:
        raise InputError(f"{images_folder}: no images: expected .jpg, .png or other image files")
    image_of = {path.stem: path for path in reversed(images)}
    mask_of = {path.stem: path for path in reversed(masks)}
    kinds = (
        (images_folder, "without a mask in", masks_folder, [path for path in images if path.stem not in mask_of]),
        (masks_folder, "without an image in", images_folder, [path for path in masks if path.stem not in image_of]),
        (images_folder, "whose stem another file has in", images_folder, _repeated(images)),
        (masks_folder, "whose stem another file has in", masks_folder, _repeated(masks)),
    )
    problems = [
        f"{folder}: {len(files)} {'file' if len(files) == 1 else 'files'} {what} {other}: {_first_names(files)}"
        for folder, what, other, files in kinds
        if files
    ]
    stems = [stem for stem in sorted(image_of) if stem in mask_of]
    return [image_of[stem] for stem in stems], [mask_of[stem] for stem in stems], problems


def _repeated(files: Sequence[Path]) -> list[Path]:
    counts = Counter(file.stem for file in files)
    return [file for file in files if counts[file.stem] > 1]


def _first_names(files: Sequence[Path], most: int = 5) -> str:
    return ", ".join(file.name for file in files[:most]) + (", ..." if len(files) > most else "")


def _infer_class_count(masks: Iterable[Path], ignore_index: Sequence[int], *, skip_unreadable: bool) -> int:
    """One more than the greatest value found in the masks, ignored ones aside."""

    def greatest_value(mask: Path) -> tuple[int, Path] | None:
        try:
            values = np.unique(read_mask(mask))
        except InputError:
            if skip_unreadable:
                return None
            raise
        values = values[~np.isin(values, ignore_index)]
        if len(values) and (values[0] < 0 or values[-1] >= IGNORE_INDEX):
            value = values[0] if values[0] < 0 else values[-1]
            raise InputError(f"{mask}: value {value}: expected classes from 0 to {IGNORE_INDEX - 1}")
        return (int(values[-1]), mask) if len(values) else None

    with ThreadPoolExecutor() as pool:
        found = [each for each in pool.map(greatest_value, masks) if each is not None]
    greatest, mask = max(found, default=(-1, None))
    if mask is None or greatest < 1:
        where, values = ("the masks", "") if mask is None else (str(mask), "0 and ")
        ignored = ", ".join(str(value) for value in ignore_index)
        raise InputError(
            f"{where}: no values but {values}those to ignore ({ignored}), as in all other masks: "
            "expected at least two classes, with values from 0 up"
        )
    return greatest + 1
