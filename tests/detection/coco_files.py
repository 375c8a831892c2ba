"""A small data set in COCO's format, with everything that the format allows, for the tests of who reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_api

HEIGHT, WIDTH = 30, 40


def disc(x: float, y: float, radius: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width), uint8: 1 on the pixels whose centres are in a disc."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).astype(np.uint8)


def compressed(mask: np.ndarray) -> dict[str, Any]:
    packed = coco_api.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": packed["counts"].decode()}


def plain(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths counted one by one."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def box_of(mask: np.ndarray) -> list[int]:
    """Left, top, width, height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(v) for v in (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])]


def annotation(number: int, image_id: int, category_id: int, mask: np.ndarray, **changes: Any) -> dict[str, Any]:
    made = {
        "id": number, "image_id": image_id, "category_id": category_id, "bbox": box_of(mask), "area": int(mask.sum()),
        "iscrowd": 0, "segmentation": compressed(mask),
    }  # fmt: skip
    return {**made, **changes}


def content() -> dict[str, Any]:
    """Three images, one of them without objects, with polygons, run lengths of both kinds, a group, and gaps in ids."""
    square = np.zeros((HEIGHT, WIDTH), np.uint8)
    square[4:14, 3:18] = 1
    polygons = [[3, 4, 3, 14, 10, 14, 10, 4], [10, 4, 10, 14, 18.0, 14, 18, 4]]
    return {
        "info": {"description": "what nobody reads"},
        "images": [
            {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 3, "file_name": "more/b.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 12, "file_name": "empty.png", "width": 20, "height": 10},
        ],
        "categories": [
            {"id": 90, "name": "leaf"},
            {"id": 2, "name": "cell", "supercategory": "life"},
            {"id": 5, "name": "rare"},
        ],
        "annotations": [
            annotation(11, 7, 2, square, segmentation=polygons),
            annotation(40, 7, 90, disc(30, 20, 6)),
            annotation(41, 3, 2, disc(8, 9, 5), segmentation=plain(disc(8, 9, 5))),
            annotation(5, 3, 90, disc(20, 15, 14), segmentation=plain(disc(20, 15, 14)), iscrowd=1),
        ],
    }  # fmt: skip


def write(root: Path, split: str = "train", change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
    """Writes a split of ROOT/SPLIT/images and instances.json.

    Args:
        root: Is made if need be.
        split: Its name.
        change: What to change in `content` before.

    Returns:
        `root`.
    """
    made = content()
    if change is not None:
        change(made)
    write_images(root / split / "images")
    (root / split / "instances.json").write_text(json.dumps(made))
    return root


def write_images(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name, height, width in (("a.png", HEIGHT, WIDTH), ("more/b.jpg", HEIGHT, WIDTH), ("empty.png", 10, 20)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
