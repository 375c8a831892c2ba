"""Instances in COCO's format: a user's own, and MS-COCO.

ROOT/SPLIT/images/*                       any format of `segweave.data.images.IMAGE_SUFFIXES`, in subfolders if you like
ROOT/SPLIT/instances.json                 images, annotations, categories; file_name is relative to images/

or as MS-COCO comes (Lin et al.: "Microsoft COCO: common objects in context", 2014):

ROOT/annotations/instances_SPLIT.json
ROOT/SPLIT/*                              "train" and "val" also find train2017, val2017, train2014 and val2014
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from segweave.data.colours import default_palette
from segweave.data.images import IMAGE_SUFFIXES, read_image
from segweave.detection import coco_masks
from segweave.detection.coco_annotations import Annotations, CocoCategory, CocoImage, CocoObject, read_annotations
from segweave.detection.dataset import DetectionDataset, DetectionSample, DetectionTarget, detection_target
from segweave.errors import InputError

_FILE = "instances.json"
_YEARS = ("2017", "2014")


class CocoDataset(DetectionDataset):
    """A split of MS-COCO, or of a user's own images in its format, in a folder tree of those at the top of this file.

    Masks may be polygons or run lengths, ids of categories may have gaps, images may have no objects. Boxes are clipped
    to their image. A file in which no annotation at all has a mask is for detectors of boxes: see `has_masks`.

    In MS-COCO's own tree, objects without area or without a pixel are left out of the samples (its training split has
    some), though not of `ground_truth`; in a user's own they are mistakes.

    Args:
        root: The folder that holds the splits.
        split: The split's name, such as `"train"`.
        allow_problems: Leave out what can't be used, and list all that is wrong in `problems`, rather than raise.

    Attributes:
        annotation_file: Where the annotations are.
        image_folder: Where the images are.
        images: The images, in the file's order.
        problems: One line for each thing that is wrong (see `allow_problems`).
        warnings: One line for each thing that is allowed but probably not meant.

    Raises:
        InputError: A file is missing or something in the annotations is wrong; masks are looked into when they are
            read.
    """

    def __init__(self, root: str | Path, split: str, *, allow_problems: bool = False) -> None:
        self.root = Path(root)
        self.split = split
        self.annotation_file, self.image_folder = locate(self.root, split)
        if not self.image_folder.is_dir():
            raise InputError(f"{self.image_folder}: no such folder: expected the images of {self.annotation_file}")
        self._allow_lost = self.annotation_file.name != _FILE
        annotations = read_annotations(self.annotation_file, allow_lost=self._allow_lost)
        self.problems, self.warnings = list(annotations.problems), list(annotations.warnings)
        self._categories = annotations.categories
        self.classes = [category.name for category in annotations.categories]
        self.category_ids = [category.id for category in annotations.categories]
        self.palette = default_palette(len(self.classes))
        self._label_of = {category_id: k + 1 for k, category_id in enumerate(self.category_ids)}
        self.images = self._existing_images(annotations)
        self._objects: dict[int, list[CocoObject]] = {image.id: [] for image in self.images}
        self.has_masks = self._keep_objects(annotations)
        if self.problems and not allow_problems:
            raise InputError(self.problems[0])

    @classmethod
    def splits(cls, root: Path) -> list[str]:
        """The names of the splits that have annotations in a folder, whether their images are there or not.

        Raises:
            InputError: There is no such folder.
        """
        if not root.is_dir():
            raise InputError(f"{root}: no such folder")
        own = {file.parent.name for file in root.glob(f"*/{_FILE}")}
        return sorted(
            own | {file.stem.removeprefix("instances_") for file in root.glob("annotations/instances_*.json")}
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> DetectionSample:
        image = read_image(self.image_path(index))
        self.require_size(index, image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, H, W)
        return DetectionSample(tv_tensors.Image(pixels), self.target(index))

    def name(self, index: int) -> str:
        return self.image_path(index).relative_to(self.root).as_posix()

    def image_id(self, index: int) -> int:
        return self.images[index].id

    def image_path(self, index: int) -> Path:
        """The image's file."""
        return self.image_folder / self.images[index].file_name

    def objects(self, index: int) -> list[CocoObject]:
        """The annotations of an image."""
        return self._objects[self.images[index].id]

    def target(self, index: int) -> DetectionTarget:
        """The objects of an image, which itself isn't read.

        Raises:
            InputError: A mask is broken or has no pixel.
        """
        image = self.images[index]
        found = [(each, self.run_lengths(image, each)) for each in self.objects(index)]
        found = [(each, mask) for each, mask in found if self.why_left_out(image, each, mask) is None]
        return detection_target(
            boxes=[each.corners(image) for each, _ in found],
            labels=[self._label_of[each.category_id] for each, _ in found],
            masks=coco_masks.decode([mask for _, mask in found], image.height, image.width),
            crowd=[each.crowd for each, _ in found],
            areas=[_area(each, mask) for each, mask in found],
            image_id=image.id,
        )

    def ground_truth(self, *, masks: bool = True) -> dict[str, Any]:
        # pycocotools takes the id 0 for "no match"; the one annotation that may have it gets the next free one
        free = max((each.id for objects in self._objects.values() for each in objects), default=0) + 1
        annotations = [
            self._as_coco(image, each, each.id or max(free, 1), masks)
            for image in self.images
            for each in self._objects[image.id]
        ]
        return {
            "images": [image._asdict() for image in self.images],
            "annotations": annotations,
            "categories": [_category(each) for each in self._categories],
        }

    def run_lengths(self, image: CocoImage, found: CocoObject) -> coco_masks.IntArray:
        """An object's mask, or, where the data set has none, its box filled.

        Raises:
            InputError: The mask is broken; the message names the file and the annotation.
        """
        if found.segmentation is None:
            return _filled_box(image, found)
        try:
            return coco_masks.run_lengths(found.segmentation, image.height, image.width)
        except InputError as error:
            raise InputError(f"{self.annotation_file}: annotation {found.id}: {error}") from None

    def why_left_out(self, image: CocoImage, found: CocoObject, mask: coco_masks.IntArray) -> str | None:
        """Why an object can't be in its sample, in a line for warnings; None if it can.

        Raises:
            InputError: Its mask has no pixel in the image, and the folder tree isn't MS-COCO's own.
        """
        where = f"{self.annotation_file}: annotation {found.id}"
        if found.box_is_lost(image):
            return f"{where}: a box without area: the object is left out"
        if coco_masks.area(mask) > 0:
            return None
        if self._allow_lost:
            return f"{where}: a mask without a pixel: the object is left out"
        raise InputError(
            f"{where}: a mask without a pixel: expected one within {image.width}x{image.height}, as image {image.id}"
        )

    def require_size(self, index: int, image: Image.Image) -> None:
        """Raises InputError, which names both files and sizes, unless an image has the size of the annotations."""
        expected = self.images[index]
        if image.size == (expected.width, expected.height):
            return
        turned = "; the image's EXIF orientation counts" if image.size == (expected.height, expected.width) else ""
        raise InputError(
            f"{self.image_path(index)}: {image.width}x{image.height} pixels: expected {expected.width}x"
            f"{expected.height}, as {self.annotation_file} has it{turned}"
        )

    def _existing_images(self, annotations: Annotations) -> list[CocoImage]:
        """The images whose files are there; each of the others is a problem, and files that aren't listed a warning."""
        there = _files(self.image_folder)
        for image in annotations.images:
            if image.file_name not in there:
                path = self.image_folder / image.file_name
                self.problems.append(f"{path}: no such file: expected image {image.id} of {self.annotation_file}")
        unlisted = sorted(there - {image.file_name for image in annotations.images})
        if unlisted := [name for name in unlisted if Path(name).suffix.lower() in IMAGE_SUFFIXES]:
            names = ", ".join(unlisted[:5]) + (", ..." if len(unlisted) > 5 else "")
            what = f"{len(unlisted)} image{'s' if len(unlisted) > 1 else ''} not in {self.annotation_file}"
            self.warnings.append(f"{self.image_folder}: {what}: {names}")
        return [image for image in annotations.images if image.file_name in there]

    def _keep_objects(self, annotations: Annotations) -> bool:
        """Sorts the objects by image. Returns whether they have masks: all of them must, or none."""
        has_masks = any(each.segmentation is not None for each in annotations.objects) or not annotations.objects
        for each in annotations.objects:
            if has_masks and each.segmentation is None:
                where = f"{self.annotation_file}: annotation {each.id}"
                self.problems.append(f"{where}: no segmentation: expected polygons or run lengths, as others have")
            elif each.image_id in self._objects:
                self._objects[each.image_id].append(each)
        if not has_masks:
            self.warnings.append(
                f"{self.annotation_file}: no annotation has a segmentation: boxes alone can be learned"
            )
        return has_masks

    def _as_coco(self, image: CocoImage, found: CocoObject, number: int, masks: bool) -> dict[str, Any]:
        annotation: dict[str, Any] = {
            "id": number,
            "image_id": found.image_id,
            "category_id": found.category_id,
            "bbox": list(found.box),
            "iscrowd": int(found.crowd),
        }
        if found.area is not None and (not masks or found.segmentation is None):
            return {**annotation, "area": found.area}
        lengths = self.run_lengths(image, found)
        annotation["area"] = _area(found, lengths)
        if masks and found.segmentation is not None:
            annotation["segmentation"] = coco_masks.as_coco(lengths, image.height, image.width)
        return annotation


def _files(folder: Path) -> set[str]:
    """The files in a folder and in those within it, hidden ones aside."""
    return {
        Path(inner, file).relative_to(folder).as_posix()
        for inner, _, files in os.walk(folder, followlinks=True)
        for file in files
        if not file.startswith(".")
    }


def locate(root: Path, split: str) -> tuple[Path, Path]:
    """The annotation file of a split, which exists, and the folder of its images, which may not.

    Raises:
        InputError: There is no such folder or split.
    """
    splits = CocoDataset.splits(root)
    own = root / split / _FILE
    if own.is_file():
        return own, own.parent / "images"
    for name in (split, *(split + year for year in _YEARS if split in ("train", "val"))):
        if (file := root / "annotations" / f"instances_{name}.json").is_file():
            return file, root / name
    if splits:
        raise InputError(f"{root}: no split {split!r}: expected one of {', '.join(splits)}")
    raise InputError(f"{root}: no instances: expected SPLIT/{_FILE} or annotations/instances_SPLIT.json")


def _category(category: CocoCategory) -> dict[str, Any]:
    named = {"id": category.id, "name": category.name}
    return {**named, "supercategory": category.supercategory} if category.supercategory else named


def _area(found: CocoObject, mask: coco_masks.IntArray) -> float:
    return float(coco_masks.area(mask)) if found.area is None else found.area


def _filled_box(image: CocoImage, found: CocoObject) -> coco_masks.IntArray:
    """The run lengths of an object's box, rounded to whole pixels, one at least."""
    left, top, right, bottom = found.corners(image)
    first_row, first_column = min(round(top), image.height - 1), min(round(left), image.width - 1)
    rows = max(round(bottom) - first_row, 1)
    columns = max(round(right) - first_column, 1)
    before = first_column * image.height + first_row
    lengths = [before, rows, *[image.height - rows, rows] * (columns - 1)]
    return np.array([*lengths, image.height * image.width - sum(lengths)], np.int64)
