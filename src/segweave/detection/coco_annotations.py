"""Reading COCO's annotation files: every entry is looked at, and all that is wrong is named, with file and id."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from segweave.detection.coco_masks import RunLengths, Segmentation, parse_segmentation
from segweave.errors import InputError

Entry = TypeVar("Entry", "CocoCategory", "CocoImage", "CocoObject")

_SLACK = 0.5
"""How far, in pixels, a box may reach beyond its image unmentioned: tools round differently."""


class CocoCategory(NamedTuple):
    """A class."""

    id: int
    name: str
    supercategory: str | None


class CocoImage(NamedTuple):
    """An image."""

    id: int
    file_name: str
    width: int
    height: int


class CocoObject(NamedTuple):
    """An annotation: an object, or a group of them."""

    id: int
    image_id: int
    category_id: int
    box: tuple[float, float, float, float]
    """Left, top, width, height in pixels, as written: it may reach beyond the image."""
    area: float | None
    """In pixels, as written; None if it isn't."""
    crowd: bool
    segmentation: Segmentation | None

    def corners(self, image: CocoImage) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part of the box that lies in its image."""
        left, top, width, height = self.box
        right, bottom = min(left + width, image.width), min(top + height, image.height)
        return max(left, 0), max(top, 0), right, bottom

    def box_is_lost(self, image: CocoImage) -> bool:
        """Whether no part of the box that has an area lies in the image."""
        left, top, right, bottom = self.corners(image)
        return not (left < right and top < bottom)


class Annotations(NamedTuple):
    """What an annotation file says, as far as it makes sense."""

    file: Path
    categories: list[CocoCategory]
    """By increasing id."""
    images: list[CocoImage]
    objects: list[CocoObject]
    problems: list[str]
    """One line each for what was left out: the file, the entry, the value and what was expected."""
    warnings: list[str]
    """One line each for what is allowed but probably not meant."""


def read_annotations(file: Path, *, allow_lost: bool = False) -> Annotations:
    """Reads a file in COCO's format, but for what lies within masks: see `segweave.detection.coco_masks.run_lengths`.

    Args:
        file: The JSON file.
        allow_lost: Whether boxes without area stay among the objects, rather than be problems.

    Raises:
        InputError: The file can't be read, or isn't in this format at all.
    """
    content = _read_json(file)
    problems: list[str] = []
    warnings: list[str] = []

    def collect(key: str, noun: str, parse: Callable[[dict[str, Any], str], Entry]) -> list[Entry]:
        """The entries under a key that make sense, each id once."""
        found: dict[int, Entry] = {}
        for position, entry in enumerate(content[key]):
            try:
                where, number = _identify(entry, f"{file}: {key}[{position}]", f"{file}: {noun}")
                if number in found:
                    raise InputError(f"{where}: the id occurs more than once: expected each id once")
                found[number] = parse(entry, where)
            except InputError as error:
                problems.append(str(error))
        return list(found.values())

    categories = sorted(collect("categories", "category", _parse_category), key=lambda each: each.id)
    problems += _repeated(categories, lambda each: each.name, f"{file}: category", "name")
    images = collect("images", "image", _parse_image)
    problems += _repeated(images, lambda each: each.file_name, f"{file}: image", "file_name")
    image_of = {image.id: image for image in images}
    category_ids = {category.id for category in categories}

    def parse_object(entry: dict[str, Any], where: str) -> CocoObject:
        found = _parse_object(entry, where)
        if found.category_id not in category_ids:
            raise InputError(
                f"{where}: category_id {found.category_id}: expected {_one_of(category_ids, 'categories')}"
            )
        if found.image_id not in image_of:
            raise InputError(f"{where}: image_id {found.image_id}: expected {_one_of(set(image_of), 'images')}")
        _require_same_image(found, image_of[found.image_id], where)
        warnings.extend(_require_box(found, image_of[found.image_id], where, allow_lost))
        return found

    objects = collect("annotations", "annotation", parse_object)
    if any(each.id == 0 for each in objects):
        warnings.append(f"{file}: annotation 0: pycocotools takes id 0 for no match: expected ids from 1")
    return Annotations(file, categories, images, objects, problems, warnings)


def _read_json(file: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:  # broken JSON and UTF-8 are kinds of ValueError
        raise InputError(f"{file}: cannot be read as JSON: {' '.join(str(error).split())}") from None
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise InputError(f"{file}: expected COCO's lists {', '.join(keys)}, found {_summary(content)}")
    for key in ("images", "categories"):
        if not content[key]:
            raise InputError(f"{file}: no {key}: expected at least one")
    return content


def _summary(content: Any) -> str:
    if isinstance(content, dict):
        return ", ".join(f"{key} ({type(value).__name__})" for key, value in list(content.items())[:10]) or "nothing"
    return f"a {type(content).__name__}"


def _identify(entry: Any, place: str, noun: str) -> tuple[str, int]:
    """What messages call an entry, and its id."""
    if not isinstance(entry, dict):
        raise InputError(f"{place}: {_text(entry)}: expected an object with an id")
    number = _integer(entry, "id", place)
    return f"{noun} {number}", number


def _parse_category(entry: dict[str, Any], where: str) -> CocoCategory:
    name, above = entry.get("name"), entry.get("supercategory")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: name {_text(name)}: expected a name")
    return CocoCategory(int(entry["id"]), name, above if isinstance(above, str) else None)


def _parse_image(entry: dict[str, Any], where: str) -> CocoImage:
    file_name = entry.get("file_name")
    if not isinstance(file_name, str) or not file_name.strip():
        raise InputError(f"{where}: file_name {_text(file_name)}: expected a file's name")
    width, height = _integer(entry, "width", where), _integer(entry, "height", where)
    if width < 1 or height < 1:
        raise InputError(f"{where} ({file_name}): {width}x{height} pixels: expected a width and a height from 1")
    return CocoImage(int(entry["id"]), PurePosixPath(file_name).as_posix(), width, height)


def _parse_object(entry: dict[str, Any], where: str) -> CocoObject:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(each) for each in box):
        raise InputError(f"{where}: bbox {_text(box)}: expected [left, top, width, height]")
    area = entry.get("area")
    if area is not None and not (_is_number(area) and area >= 0):
        raise InputError(f"{where}: area {_text(area)}: expected a number of pixels")
    crowd = entry.get("iscrowd", 0)
    if not isinstance(crowd, int | float) or crowd not in (0, 1):
        raise InputError(f"{where}: iscrowd {_text(crowd)}: expected 0 or 1")
    try:
        segmentation = parse_segmentation(entry.get("segmentation"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    left, top, width, height = (float(each) for each in box)
    return CocoObject(
        int(entry["id"]),
        _integer(entry, "image_id", where),
        _integer(entry, "category_id", where),
        (left, top, width, height),
        None if area is None else float(area),
        bool(crowd),
        segmentation,
    )


def _require_same_image(found: CocoObject, image: CocoImage, where: str) -> None:
    mask = found.segmentation
    if isinstance(mask, RunLengths) and (mask.width, mask.height) != (image.width, image.height):
        raise InputError(
            f"{where}: segmentation of {mask.width}x{mask.height} pixels: expected {image.width}x{image.height}, "
            f"as image {image.id} ({image.file_name})"
        )


def _require_box(found: CocoObject, image: CocoImage, where: str, allow_lost: bool) -> list[str]:
    """Warnings about a box; raises InputError for one that can't be used."""
    left, top, width, height = found.box
    beyond = max(-left, -top, left + width - image.width, top + height - image.height)
    has_area = width > 0 and height > 0
    if has_area and beyond <= _SLACK and not found.box_is_lost(image):
        return []
    text = f"{where}: bbox {_text([left, top, width, height])}"
    size = f"{image.width}x{image.height}"
    if not has_area:
        if allow_lost and min(width, height) == 0:
            return []
        raise InputError(f"{text}: expected a width and a height above 0")
    if found.box_is_lost(image):
        raise InputError(f"{text}: outside the image: expected a box within {size}, as image {image.id}")
    return [f"{text}: {beyond:g} pixels beyond the image, which is {size}: the box is clipped"]


def _repeated(entries: Iterable[Entry], text_of: Callable[[Entry], str], where: str, key: str) -> list[str]:
    """One line for each text that several entries share."""
    shared: dict[str, list[Entry]] = {}
    for entry in entries:
        shared.setdefault(text_of(entry), []).append(entry)
    return [
        f"{where} {holders[1].id}: {key} {text!r}, as {holders[0].id} has: expected each {key} once"
        for text, holders in shared.items()
        if len(holders) > 1
    ]


def _one_of(numbers: set[int], key: str) -> str:
    if len(numbers) > 10:
        return f"the id of one of the {len(numbers)} {key}"
    return f"the id of one of the {key}, {', '.join(str(number) for number in sorted(numbers))}"


def _integer(entry: dict[str, Any], key: str, where: str) -> int:
    value: Any = entry.get(key)
    if not _is_number(value) or value != int(value):
        raise InputError(f"{where}: {key} {_text(value)}: expected an integer")
    return int(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _text(value: Any, most: int = 60) -> str:
    text = "is missing" if value is None else json.dumps(value)
    return text if len(text) <= most else text[: most - 3] + "..."
