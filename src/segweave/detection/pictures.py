"""Pictures of detections: masks tinted, with outlines and boxes, and what each object was taken for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as run_lengths

from segweave.data.colours import Colour, default_palette
from segweave.errors import InputError
from segweave.reports.explanation import Heading
from segweave.reports.lettering import shortened, text_font
from segweave.reports.pictures import IGNORE_COLOUR, LEGIBLE_WIDTH, Picture, blend

TINT = 0.45
"""How much of its colour a mask has; the image shows through."""
MOST_LABELLED = 20
"""More objects are drawn with thin lines, without names, and with outlines or boxes, not both: they stay to be seen."""
SMALLEST_TEXT, LARGEST_TEXT = 11, 26

Place = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the picture."""


class Objects(NamedTuple):
    """N objects of an image: what was found, or the truth."""

    boxes: NDArray[np.floating]
    """(N, 4), left, top, right and bottom in pixels."""
    labels: NDArray[np.integer]
    """(N,), from 1 to K."""
    scores: NDArray[np.floating] | None = None
    """(N,), in [0, 1]; None for the truth."""
    masks: NDArray[np.integer] | NDArray[np.bool_] | None = None
    """(N, H, W), not 0 on the object; None for boxes alone."""
    crowd: NDArray[np.integer] | None = None
    """(N,), not 0 for a group of objects that COCO's figures leave out; None if there is no such group."""


def objects_of(predictions: Sequence[Mapping[str, Any]], category_ids: Sequence[int]) -> Objects:
    """Reads what was found in one image from COCO's format for results.

    Args:
        predictions: As `segweave.detection.average_precision.coco_predictions` gives them; none at all is no object.
        category_ids: The number of each of the K classes in the annotations.
    """
    label_of = {number: label for label, number in enumerate(category_ids, start=1)}
    boxes = np.array([prediction["bbox"] for prediction in predictions], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([label_of[prediction["category_id"]] for prediction in predictions], np.int64)
    scores = np.array([prediction["score"] for prediction in predictions], np.float64)
    masks = None
    if predictions and all("segmentation" in prediction for prediction in predictions):
        masks = np.stack([run_lengths.decode(prediction["segmentation"]) for prediction in predictions])
    return Objects(boxes, labels, scores, masks)


def draw_detections(
    image: Picture,
    objects: Objects,
    classes: Sequence[str],
    palette: Sequence[Colour],
    threshold: float = 0.0,
    scale: float | None = None,
) -> Image.Image:
    """Draws objects over an image: masks tinted and outlined, boxes, names and scores.

    Objects of several classes have their classes' colours; where there is one class alone, each object has a colour of
    its own and no name. More than twenty objects have no names either, and no boxes if they have masks.

    Args:
        image: (H, W, 3).
        objects: The N objects. Groups of objects (`crowd`) are grey and have no names.
        classes: The names of the K classes.
        palette: Their colours.
        threshold: Objects with lower scores are left out.
        scale: How many times as large as the image the picture is; by default once, or as often as a small image needs
            to be `LEGIBLE_WIDTH` wide.

    Raises:
        InputError: A label is of no class, or the masks are not of the image's size.
    """
    _check(image, objects, len(classes))
    labels, scores, masks = np.asarray(objects.labels, np.int64), objects.scores, objects.masks
    boxes = objects.boxes.astype(np.float64).reshape(-1, 4)
    groups = np.zeros(len(labels), bool) if objects.crowd is None else objects.crowd != 0
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.lexsort((-areas, ~groups))  # groups lie below objects, and large objects below small ones
    if scores is not None:
        kept = kept[scores[kept] >= threshold]
    scale = scale or max(1.0, float(math.ceil(LEGIBLE_WIDTH / image.shape[1])))
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    line = _line_width(areas[kept] * scale**2, size)
    table = _own_colours(len(kept)) if len(classes) == 1 else np.array(palette, np.uint8)[labels[kept] - 1]
    table[groups[kept]] = IGNORE_COLOUR
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    if masks is not None:
        picture = _tinted(picture, [masks[index] for index in kept], table, line)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    places = [_placed(box, image, size) for box in boxes[kept]]
    colours = [(int(red), int(green), int(blue)) for red, green, blue in table]
    if masks is None or len(kept) <= MOST_LABELLED:
        for place, colour in zip(places, colours, strict=True):
            draw.rectangle(place, outline=colour, width=line)
    if len(classes) > 1 and len(kept) <= MOST_LABELLED:
        names = [classes[labels[index] - 1] + ("" if scores is None else f" {scores[index]:.2f}") for index in kept]
        named = zip(places, names, colours, groups[kept], strict=True)
        _draw_names(draw, [(place, name, colour) for place, name, colour, group in named if not group], size)
    return canvas


def detection_heading(image: Picture, objects: Objects, classes: Sequence[str], palette: Sequence[Colour]) -> Heading:
    """The top of a sheet of explanations: the image with the objects, and the classes that they are of.

    Args:
        image: (H, W, 3).
        objects: What was found in it.
        classes: The names of the K classes.
        palette: Their colours.
    """
    present = np.unique(objects.labels).tolist() if len(classes) > 1 else []  # one class has no colour of its own
    return Heading(
        image=image,
        predicted=draw_detections(image, objects, classes, palette),
        caption="objects" if len(objects.labels) else "no objects",
        legend=[(classes[label - 1], palette[label - 1]) for label in present],
    )


def _check(image: Picture, objects: Objects, num_classes: int) -> None:
    labels, masks = objects.labels, objects.masks
    unknown = labels[(labels < 1) | (labels > num_classes)]
    if len(unknown):
        raise InputError(f"label {unknown[0]}: expected 1 to {num_classes}")
    if masks is not None and masks.shape != (len(labels), *image.shape[:2]):
        raise InputError(f"masks {masks.shape}: expected {(len(labels), *image.shape[:2])}, as labels and image")


def _line_width(areas: NDArray[np.float64], size: tuple[int, int]) -> int:
    """In pixels: the thicker the larger the picture and the objects are; the areas are those in the picture."""
    if not 0 < len(areas) <= MOST_LABELLED:
        return 1
    return max(round(min(min(size) / 240, float(np.sqrt(np.median(areas))) / 25)), 1)


def _own_colours(count: int) -> NDArray[np.uint8]:
    """(count, 3): strong and bright, so that they stand out from dark images and from pale ones."""
    colours = np.array(default_palette(count), np.float64).reshape(-1, 3)
    strong: NDArray[np.uint8] = np.rint(255 * colours / colours.max(axis=1, keepdims=True)).astype(np.uint8)
    return strong


def _tinted(picture: Picture, masks: Sequence[NDArray[Any]], colours: NDArray[np.uint8], line: int) -> Picture:
    """Lays each mask's colour over the picture, pale inside and full along its edge; later masks lie over earlier."""
    height, width = picture.shape[:2]
    owners = np.full((height, width), -1, np.int32)
    for number, mask in enumerate(masks):
        whole = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
        # enlarged smoothly, then cut at a half: outlines have no stairs
        owners[np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR)) >= 128] = number
    edges = np.zeros((height, width), bool)
    for step in range(1, line + 1):
        across, down = owners[:, step:] != owners[:, :-step], owners[step:] != owners[:-step]
        edges[:, step:] |= across
        edges[:, :-step] |= across
        edges[step:] |= down
        edges[:-step] |= down
    weights = np.where(owners < 0, 0.0, np.where(edges, 1.0, TINT))
    return blend(picture, np.vstack([colours, [[0, 0, 0]]])[owners], weights[..., None])


def _placed(box: NDArray[np.float64], image: Picture, size: tuple[int, int]) -> Place:
    """A box of the image in whole pixels of the picture: the first and the last column and row that its line is on."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.rint(box * np.tile((size[0] / width, size[1] / height), 2)).astype(int)
    left, top = min(max(left, 0), size[0] - 1), min(max(top, 0), size[1] - 1)
    return left, top, max(min(right, size[0]) - 1, left), max(min(bottom, size[1]) - 1, top)


def _draw_names(draw: ImageDraw.ImageDraw, named: Sequence[tuple[Place, str, Colour]], size: tuple[int, int]) -> None:
    """Sets names at boxes, each on a chip of its colour, where it covers no other name if there is such a place."""
    font = text_font(min(max(min(size) // 34, SMALLEST_TEXT), LARGEST_TEXT))
    chip_height = sum(font.getmetrics()) + 1
    taken: list[Place] = []
    for (left, top, _, bottom), name, colour in named:
        name = shortened(name, font, size[0] - 6)
        chip_width = math.ceil(font.getlength(name)) + 6
        x = max(min(left, size[0] - chip_width), 0)
        places = [
            (x, y, x + chip_width, y + chip_height)
            for y in (top - chip_height, bottom + 1, top, bottom + 1 - chip_height)
            if 0 <= y <= size[1] - chip_height
        ] or [(x, 0, x + chip_width, chip_height)]
        free = [place for place in places if not any(_overlap(place, other) for other in taken)]
        place = (free or places)[0]
        taken.append(place)
        draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        ink = (0, 0, 0) if light else (255, 255, 255)
        draw.text((place[0] + 3, (place[1] + place[3]) / 2), name, fill=ink, font=font, anchor="lm")


def _overlap(first: Place, second: Place) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
