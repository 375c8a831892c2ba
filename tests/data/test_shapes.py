import hashlib
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from segweave.data.shapes_drawings import Drawing, ShapesDrawings
from segweave.data.shapes_scene import CLASSES, COATS, LOOK_ALIKES, PALETTE, Hero, draw_scene
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX
from segweave.segmentation.shapes import ShapesSegmentationDataset

DRAWINGS = 200
PAIRS = [("ball", "buoy"), ("house", "car"), ("cone", "sail")]
GROUND_OF = {CLASSES.index(name): CLASSES.index(ground) for (_, ground), name in LOOK_ALIKES.items()}
GROUNDS = tuple(CLASSES.index(name) for name in ("water", "grass", "road"))


@cache
def drawings() -> list[Drawing]:
    dataset = ShapesDrawings()
    return [dataset[index] for index in range(DRAWINGS)]


def eroded(mask: torch.Tensor, by: int) -> np.ndarray:
    """The pixels whose square neighbourhood, `by` pixels to each side, lies in the mask."""
    inside = np.pad(mask.numpy().astype(bool), by)
    for axis in (0, 1):
        inside = np.lib.stride_tricks.sliding_window_view(inside, 2 * by + 1, axis).all(-1)
    return inside


@cache
def interiors(name: str) -> list[np.ndarray]:
    """The colours, (3, pixels), inside each thing of a class, away from its edge."""
    found = []
    for drawing in drawings():
        for label, mask in zip(drawing.things.labels, drawing.things.masks, strict=True):
            if label != CLASSES.index(name):
                continue
            inside = eroded(mask, 2)
            if inside.sum() >= 12:
                found.append(drawing.image[:, inside].numpy().astype(np.float64))
    return found


def histograms(things: list[np.ndarray]) -> np.ndarray:
    """One row a thing: its colours counted in 6 bins a channel, divided by the root of its size."""
    rows = np.zeros((len(things), 6**3))
    for row, colours in zip(rows, things, strict=True):
        red, green, blue = (colours // 43).astype(int)
        row += np.bincount(red * 36 + green * 6 + blue, minlength=6**3) / np.sqrt(colours.shape[1])
    return rows


def histogram_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Total variation, 0 to 1, between two groups of rows of `histograms`."""
    return 0.5 * float(np.abs(first.sum(0) / first.sum() - second.sum(0) / second.sum()).sum())


def looks_differ(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    """Whether colours tell the classes apart: in means or deviations by 4 standard errors, or in their histograms."""
    for statistic in (np.mean, np.std):
        one, two = (np.array([statistic(colours, axis=1) for colours in things]) for things in (first, second))
        error = np.sqrt(one.var(0) / len(one) + two.var(0) / len(two))
        if (np.abs(one.mean(0) - two.mean(0)) > 4 * error).any():
            return True
    random, rows, count = np.random.default_rng(0), histograms([*first, *second]), len(first)
    observed, by_chance = histogram_distance(rows[:count], rows[count:]), []
    for _ in range(100):
        random.shuffle(rows)
        by_chance.append(histogram_distance(rows[:count], rows[count:]))
    return observed > max(by_chance)


@pytest.mark.parametrize("pair", PAIRS)
def test_look_alikes_look_alike(pair):
    assert all(len(interiors(name)) > 50 for name in pair)
    assert not looks_differ(interiors(pair[0]), interiors(pair[1]))


@pytest.mark.parametrize("shape", ["disc", "box", "triangle"])
def test_another_ground_changes_the_class_and_no_colour_inside(shape):
    grounds = [ground for kind, ground in LOOK_ALIKES if kind == shape]
    same = total = 0
    for seed in range(12):
        heroes = [Hero(shape, ground, 40.0, seed % len(COATS)) for ground in grounds]
        one, two = (draw_scene(np.random.default_rng(seed), (96, 96), hero) for hero in heroes)
        inside = np.ones((96, 96), bool)
        for canvas, ground in zip((one, two), grounds, strict=True):
            inside &= np.array(canvas.labels)[canvas.owners] == CLASSES.index(LOOK_ALIKES[shape, ground])
        inside = eroded(torch.from_numpy(inside), 1)
        same += (one.picture == two.picture).all(0)[inside].sum()
        total += inside.sum()
    assert total > 12 * 200
    assert same > 0.98 * total  # all but the shadows that smaller things cast on them


def test_the_comparison_of_looks_can_tell_other_classes_apart():
    assert looks_differ(interiors("ball"), interiors("tree"))
    tinted = [colours * 1.12 for colours in interiors("buoy")]
    assert looks_differ(interiors("ball"), tinted)


@pytest.mark.parametrize("pair", PAIRS)
def test_look_alikes_are_equally_large_and_stand_alike(pair):
    places = []
    for name in pair:
        boxes = [
            box.numpy()
            for drawing in drawings()
            for box in drawing.things.boxes[drawing.things.labels == CLASSES.index(name)]
        ]
        places.append(np.array([((x1 + x2) / 2, y2, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]))
    error = np.sqrt(sum(place.var(0) / len(place) for place in places))
    assert (np.abs(places[0].mean(0) - places[1].mean(0)) < 4 * error).all()


@pytest.mark.parametrize("size", [(128, 160), (97, 65)])
def test_the_ground_at_its_foot_decides_a_things_class(size):
    dataset = ShapesDrawings("val", size=size)
    seen = 0
    for index in range(60):
        _, mask, things = dataset[index]
        for label, box in zip(things.labels.tolist(), things.boxes, strict=True):
            if label not in GROUND_OF:
                continue
            x1, _, x2, y2 = (int(edge) for edge in box)
            middle, half = (x1 + x2) // 2, max(1, (x2 - x1) // 5)
            foot = mask[y2 : y2 + 2, middle - half : middle + half]
            grounds = foot[torch.isin(foot, torch.tensor(GROUNDS))]
            assert len(grounds) > 0
            assert (grounds == GROUND_OF[label]).all()
            seen += 1
    assert seen > 150


def test_the_inside_of_large_things_is_far_from_their_surroundings():
    large = [mask for drawing in drawings() for mask in drawing.things.masks if mask.sum() >= 25**2]
    assert sum(eroded(mask, 12).any() for mask in large) > 0.5 * DRAWINGS


def test_colours_of_single_pixels_leave_the_ground_open():
    pixels = {ground: [] for ground in GROUNDS}
    for drawing in drawings()[:60]:
        for ground in GROUNDS:
            pixels[ground].append(drawing.image[:, drawing.mask == ground][:, ::17])
    colours = {ground: torch.cat(parts, 1).double() for ground, parts in pixels.items()}
    means = torch.stack([colours[ground].mean(1) for ground in GROUNDS])
    for position, ground in enumerate(GROUNDS):
        nearest = torch.cdist(colours[ground].T, means).argmin(1)
        assert 0.05 < (nearest != position).double().mean() < 0.5


def test_every_class_is_frequent_and_look_alikes_are_balanced():
    counts = np.array([np.bincount(drawing.mask.numpy().ravel(), minlength=256) for drawing in drawings()])
    frequency = (counts > 0).mean(0)[: len(CLASSES)]
    assert (frequency >= 0.1).all(), dict(zip(CLASSES, frequency, strict=True))
    total = counts.sum(0)
    for first, second in PAIRS:
        ratio = total[CLASSES.index(first)] / total[CLASSES.index(second)]
        assert 1 / 1.3 < ratio < 1.3, (first, second, ratio)
    assert 0 < total[IGNORE_INDEX] / total.sum() < 0.01


def test_things_range_from_a_few_pixels_to_half_the_image_and_poles_are_thin():
    poles, areas = [], []
    for drawing in drawings():
        for box, label, mask in zip(*drawing.things, strict=True):
            areas.append(int(mask.sum()))
            if label == CLASSES.index("pole"):
                poles.append((box[2:] - box[:2]).tolist())
    assert min(areas) < 20
    assert max(areas) > 2500
    assert {width for width, _ in poles} == {1, 2, 3}
    assert np.median([height for _, height in poles]) > 30


def test_things_agree_with_the_mask():
    for drawing in drawings()[:40]:
        seen = torch.zeros_like(drawing.mask)
        for box, label, mask in zip(*drawing.things, strict=True):
            assert (drawing.mask[mask.bool()] == label).all()
            rows, columns = torch.where(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            seen += mask
        assert seen.max() == 1
        expected = (drawing.mask >= CLASSES.index("tree")) & (drawing.mask != IGNORE_INDEX)
        assert torch.equal(seen.bool(), expected.as_subclass(torch.Tensor))


@pytest.mark.parametrize("size", [(32, 32), (128, 160), (33, 511), (511, 33), (512, 512)])
def test_drawings_keep_the_contract(size):
    dataset = ShapesDrawings(size=size, length=8)
    for index in range(8):
        image, mask, (boxes, labels, masks) = dataset[index]
        assert isinstance(image, tv_tensors.Image)
        assert isinstance(mask, tv_tensors.Mask)
        assert (image.dtype, image.shape) == (torch.uint8, (3, *size))
        assert (mask.dtype, mask.shape) == (torch.int64, size)
        assert set(mask.unique().tolist()) <= {*range(len(CLASSES)), IGNORE_INDEX}
        assert image.float().std() > 5
        count = len(labels)
        assert count > 0
        assert (boxes.dtype, boxes.shape) == (torch.float32, (count, 4))
        assert (labels.dtype, labels.shape) == (torch.int64, (count,))
        assert (masks.dtype, masks.shape) == (torch.uint8, (count, *size))


def test_a_drawing_depends_on_its_seed_split_and_index_alone():
    dataset, again = ShapesDrawings(), pickle.loads(pickle.dumps(ShapesDrawings(length=10)))
    for index in (7, 0, 9, 7):
        assert torch.equal(dataset[index].image, again[index].image)
        assert torch.equal(dataset[index].mask, again[index].mask)
        assert torch.equal(dataset[index].things.masks, again.things(index).masks)
    assert torch.equal(dataset[-1].image, dataset[len(dataset) - 1].image)


def test_samples_are_the_drawings() -> None:
    samples, dataset = ShapesSegmentationDataset("val", length=3), ShapesDrawings("val", length=3)
    for index in (2, 0, -1):
        image, mask = samples[index]
        assert torch.equal(image, dataset[index].image)
        assert torch.equal(mask, dataset[index].mask)
        assert samples.name(index) == dataset.name(index)


def test_no_two_drawings_are_the_same():
    def digests(dataset, count):
        return {hashlib.sha256(dataset[index].mask.numpy().tobytes()).digest() for index in range(count)}

    train, val, other = (
        digests(ShapesDrawings(split, size=(48, 48), seed=seed), 40)
        for split, seed in [("train", 0), ("val", 0), ("train", 1)]
    )
    assert len(train | val | other) == 120


def test_drawings_do_not_change_from_release_to_release():
    image, mask, _ = ShapesDrawings()[12]
    digest = hashlib.sha256(mask.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "c029e37555b2ade0"
    assert image.double().mean().item() == pytest.approx(145.753, abs=0.01)


def test_length_names_and_constants():
    assert (
        len(ShapesSegmentationDataset()),
        len(ShapesSegmentationDataset("val")),
        len(ShapesSegmentationDataset(length=3)),
    ) == (600, 100, 3)
    assert ShapesSegmentationDataset().name(12) == "shapes/train/000012"
    assert ShapesSegmentationDataset("val").name(-1) == "shapes/val/000099"
    assert len(set(PALETTE)) == len(set(CLASSES)) == len(CLASSES)
    assert tuple(ShapesSegmentationDataset().classes) == CLASSES


@pytest.mark.parametrize("index", [3, 100, -4])
def test_an_index_beyond_the_end_is_an_index_error(index):
    dataset, samples = ShapesDrawings(length=3), ShapesSegmentationDataset(length=3)
    for call in (dataset.__getitem__, dataset.things, dataset.name, samples.__getitem__, samples.name):
        with pytest.raises(IndexError, match="3 drawings"):
            call(index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "unknown split 'test', expected one of train, val"),
        ({"size": (31, 64)}, "31"),
        ({"size": (64,)}, "height and a width"),
        ({"length": 0}, "length 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_unusable_options_are_input_errors(options, message):
    with pytest.raises(InputError, match=message):
        ShapesSegmentationDataset(**options)
