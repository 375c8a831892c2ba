"""Pictures of detections: what is drawn where, in which colour, and what is left out."""

import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths

import segweave
from segweave.detection.pictures import MOST_LABELLED, TINT, Objects, detection_heading, draw_detections, objects_of
from segweave.errors import InputError
from segweave.networks.network import Labelling
from segweave.reports.pictures import IGNORE_COLOUR, LEGIBLE_WIDTH

CLASSES = ["cell", "café", "tree"]
PALETTE = [(250, 0, 0), (0, 200, 0), (0, 0, 255)]
GREY = np.full((300, 400, 3), 100, np.uint8)
BOXES = np.array([[50.0, 60.0, 150.0, 140.0], [200.0, 100.0, 340.0, 260.0]])
LABELS = np.array([1, 3])


def filled(boxes=BOXES, size=(300, 400)):
    """Masks that fill their boxes but for a margin of ten pixels."""
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top + 10 : bottom - 10, left + 10 : right - 10] = 1
    return masks


def drawn(boxes=BOXES, labels=LABELS, scores=None, masks=None, crowd=None, *, image=GREY, classes=CLASSES, **options):
    objects = Objects(boxes, labels, scores, masks, crowd)
    return np.asarray(draw_detections(image, objects, classes, PALETTE[: len(classes)], **options))


def coloured(picture, colour):
    """Where a picture has exactly this colour."""
    return (picture == np.array(colour)).all(axis=-1)


def test_boxes_are_drawn_in_their_classes_colours():
    picture = drawn()
    assert picture.shape == GREY.shape
    assert picture.dtype == np.uint8
    for (left, top, right, bottom), label in zip(BOXES.astype(int), LABELS, strict=True):
        colour = PALETTE[label - 1]
        assert coloured(picture[top, left:right], colour).all()
        assert coloured(picture[bottom - 1, left:right], colour).all()
        assert coloured(picture[top:bottom, left], colour).all()
        assert coloured(picture[top:bottom, right - 1], colour).all()
    assert (picture[80:120, 70:130] == 100).all(), "boxes are empty"
    assert not coloured(picture, PALETTE[1]).any()


def test_masks_are_tinted_inside_and_full_at_the_edge():
    picture = drawn(masks=filled())
    tint = np.rint(100 * (1 - TINT) + np.array(PALETTE[0]) * TINT)
    assert coloured(picture[75:125, 65:135], tint).all()
    assert coloured(picture[70:130, 60], PALETTE[0]).all()
    assert coloured(picture[129, 60:140], PALETTE[0]).all()
    assert (picture[63:69, 53:58] == 100).all(), "outside of the mask, inside the box"


def test_small_objects_lie_over_large_ones_whatever_their_order():
    boxes = np.array([[20.0, 20.0, 280.0, 280.0], [100.0, 100.0, 200.0, 200.0]])
    for order in ([0, 1], [1, 0]):
        picture = drawn(boxes[order], np.array([1, 2])[order], masks=filled(boxes)[order])
        assert picture[150, 150, 1] > picture[150, 150, 0]
        assert picture[50, 50, 0] > picture[50, 50, 1]


def test_low_scores_are_left_out():
    scores = np.array([0.4, 0.6])
    picture = drawn(scores=scores, masks=filled(), threshold=0.5)
    assert not coloured(picture, PALETTE[0]).any()
    assert coloured(picture, PALETTE[2]).any()
    for all_of_them in (drawn(scores=scores, threshold=0.3), drawn(scores=scores)):
        assert coloured(all_of_them, PALETTE[0]).any()
    assert (drawn(scores=scores, threshold=0.7) == 100).all()


def test_names_and_scores_stand_above_their_boxes():
    plain, scored = drawn(), drawn(scores=np.array([0.9, 0.8]))
    above = (slice(45, 59), slice(50, 150))
    assert (plain[above] != 100).any()
    name = coloured(plain[above], PALETTE[0]).any(axis=0).sum()
    assert coloured(scored[above], PALETTE[0]).any(axis=0).sum() > name + 15, "a score makes the name longer"


def test_names_stay_inside_the_picture_and_off_each_other():
    corner = np.array([[380.0, 0.0, 400.0, 20.0], [370.0, 0.0, 400.0, 20.0], [0.0, 285.0, 30.0, 300.0]])
    picture = drawn(corner, np.array([1, 2, 3]))
    for colour, count in zip(PALETTE, (300, 300, 300), strict=True):
        assert coloured(picture, colour).sum() > count


def test_a_single_class_has_a_colour_for_each_object_and_no_names():
    picture = drawn(labels=np.array([1, 1]), classes=["cell"])
    assert not coloured(picture, PALETTE[0]).any()
    first, second = picture[100, 50], picture[200, 200]
    assert first.tolist() != second.tolist()
    assert max(first) == max(second) == 255
    assert (picture[40:59, 50:150] == 100).all()


def many(count):
    places = np.array([(30.0 * (k % 12) + 5, 30.0 * (k // 12) + 20) for k in range(count)])
    return np.concatenate([places, places + 24], axis=1)


@pytest.mark.parametrize("count", [MOST_LABELLED, MOST_LABELLED + 1])
def test_many_objects_have_no_names_and_outlines_alone(count):
    boxes = many(count)
    labels = np.ones(count, np.int64)
    masks = np.zeros((count, 300, 400), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top + 8 : bottom - 8, left + 8 : right - 8] = 1
    few = count <= MOST_LABELLED
    without, with_masks = drawn(boxes, labels), drawn(boxes, labels, masks=masks)
    assert coloured(without[20, 5:29], PALETTE[0]).all(), "boxes are all there is to see"
    assert (without[0:19] != 100).any() == few
    assert coloured(with_masks[20, 5:29], PALETTE[0]).all() == few
    assert coloured(with_masks[28, 13:21], PALETTE[0]).all()


def test_groups_are_grey_and_lie_below():
    boxes = np.array([[100.0, 100.0, 200.0, 200.0], [20.0, 20.0, 380.0, 280.0]])
    picture = drawn(boxes[::-1], np.array([1, 2]), masks=filled(boxes[::-1]), crowd=np.array([1, 0]))
    assert coloured(picture[20, 20:380], IGNORE_COLOUR).all()
    assert coloured(picture[100, 100:200], PALETTE[1]).all()
    assert not coloured(picture, PALETTE[0]).any()
    small_group = drawn(boxes, np.array([1, 2]), masks=filled(boxes), crowd=np.array([1, 0]))
    assert small_group[150, 150, 1] > small_group[150, 150, 0], "a group doesn't cover an object"


def test_small_images_are_enlarged_and_sizes_can_be_asked_for():
    image = np.zeros((50, 64, 3), np.uint8)
    boxes = np.array([[10.0, 20.0, 20.0, 30.0]])
    picture = drawn(boxes, np.array([2]), masks=filled(boxes, (50, 64)), image=image)
    factor = -(-LEGIBLE_WIDTH // 64)
    assert picture.shape == (50 * factor, 64 * factor, 3)
    assert coloured(picture[20 * factor, 10 * factor : 20 * factor], PALETTE[1]).all()
    half = drawn(scale=0.5)
    assert half.shape == (150, 200, 3)
    assert coloured(half[30, 25:75], PALETTE[0]).all()


@pytest.mark.parametrize("masks", [None, np.zeros((0, 300, 400), np.uint8)])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:1]])
def test_without_objects_the_image_is_unchanged(masks, classes):
    picture = drawn(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), masks, classes=classes)
    assert (picture == 100).all()


def test_boxes_beyond_the_image_and_empty_masks_are_drawn():
    boxes = np.array([[-20.0, -20.0, 500.0, 400.0], [30.0, 30.0, 30.0, 30.0]])
    picture = drawn(boxes, LABELS, masks=np.zeros((2, 300, 400), np.uint8))
    assert coloured(picture[299], PALETTE[0]).sum() > 300
    assert coloured(picture[30, 30], PALETTE[2])


def test_names_wider_than_the_picture_are_shortened():
    picture = drawn(BOXES[:1], LABELS[:1], image=GREY, classes=["a name\nwith no end " * 20])
    assert (picture[40:59, 50:150] == 100).all(), "one class has no name"
    long = drawn(BOXES[:1], LABELS[:1], classes=["a name\nwith no end " * 20, "tree"])
    assert long.shape == GREY.shape
    assert coloured(long[40:59], PALETTE[0]).any()


def test_every_detection_that_was_kept_is_drawn(monkeypatch):
    network = segweave.create_model("faster_rcnn", num_classes=3, backbone="test_resnet", pretrained=False)
    network.labelling = Labelling(tuple(CLASSES), tuple(PALETTE))
    scores = torch.tensor([0.9, 0.3, 0.1])
    boxes = torch.tensor([[200.0, 100.0, 340.0, 260.0], [50.0, 60.0, 150.0, 140.0], [10.0, 200.0, 90.0, 280.0]])

    def find(images, *, score):
        kept = scores >= score
        return [{"boxes": boxes[kept], "labels": torch.tensor([3, 1, 2])[kept], "scores": scores[kept]}]

    monkeypatch.setattr(network, "find", find)
    found = segweave.detect(network, GREY, score=0.2)
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])
    picture = np.asarray(found.overlay())
    assert coloured(picture[60, 50:150], PALETTE[0]).all(), "the one of score 0.3"
    assert not coloured(picture, PALETTE[1]).any()
    surer = np.asarray(segweave.detect(network, GREY).overlay())
    assert not coloured(surer, PALETTE[0]).any()


def test_the_top_of_a_sheet_names_the_classes_that_were_found():
    heading = detection_heading(GREY, Objects(BOXES, LABELS), CLASSES, PALETTE)
    assert heading.legend == [("cell", PALETTE[0]), ("tree", PALETTE[2])]
    assert heading.caption == "objects"
    assert np.array_equal(np.asarray(heading.predicted), drawn())
    one = detection_heading(GREY, Objects(BOXES, np.array([1, 1])), CLASSES[:1], PALETTE[:1])
    assert one.legend == [], "each object has a colour of its own"
    none = detection_heading(GREY, Objects(np.zeros((0, 4)), np.zeros(0, np.int64)), CLASSES, PALETTE)
    assert (none.caption, none.legend) == ("no objects", [])


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="label 4: expected 1 to 3"):
        drawn(labels=np.array([1, 4]))
    with pytest.raises(InputError, match="label 0: expected 1 to 3"):
        drawn(labels=np.array([0, 1]))
    with pytest.raises(InputError, match=r"masks \(2, 30, 40\): expected \(2, 300, 400\)"):
        drawn(masks=np.zeros((2, 30, 40)))


def test_objects_are_read_from_results():
    masks = filled()
    predictions = [
        {
            "image_id": 4,
            "category_id": number,
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
            "segmentation": run_lengths.encode(np.asfortranarray(mask)),
        }
        for number, (left, top, right, bottom), score, mask in zip((9, 2), BOXES, (0.9, 0.3), masks, strict=True)
    ]
    objects = objects_of(predictions, [2, 5, 9])
    assert objects.boxes.tolist() == BOXES.tolist()
    assert objects.labels.tolist() == [3, 1]
    assert objects.scores is not None
    assert objects.scores.tolist() == [0.9, 0.3]
    assert objects.masks is not None
    assert np.array_equal(objects.masks, masks)
    for prediction in predictions:
        del prediction["segmentation"]
    assert objects_of(predictions, [2, 5, 9]).masks is None
    empty = objects_of([], [2])
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.shape == (0,)
