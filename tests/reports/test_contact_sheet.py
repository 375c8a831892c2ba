"""The contact sheet of any data set that gives labelled images."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segweave.data.colours import Colour
from segweave.data.labelled import NO_OBJECT, Labelled
from segweave.errors import InputError
from segweave.reports.contact_sheet import draw_contact_sheet


class Split:
    """White images of one size; those of the numbers in `broken` can't be read."""

    def __init__(self, *samples: Labelled, broken: tuple[int, ...] = ()) -> None:
        self.root = Path("some") / "folder"
        self.split = "val"
        self.classes = ["road", "tree", "sky"]
        self.palette: list[Colour] = [(250, 0, 0), (0, 200, 0), (0, 0, 250)]
        self.samples = samples
        self.broken = broken
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        return f"val/images/{index}.png"

    def labelled(self, index: int) -> Labelled:
        self.read.append(index)
        if index in self.broken:
            raise InputError(f"{index} is broken")
        return self.samples[index]


def sample(label: int, *boxes: tuple[int, list[float]]) -> Labelled:
    return Labelled(Image.new("RGB", (120, 80), "white"), np.full((80, 120), label), boxes)


def drawn(tmp_path: Path, split: Split, **options: int) -> NDArray[np.int64]:
    draw_contact_sheet([split], tmp_path / "sheet.png", **options)
    return np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)


def count(sheet: NDArray[np.int64], colour: Colour) -> int:
    return int((sheet == colour).all(axis=-1).sum())


def test_labels_are_laid_over_the_image_and_named(tmp_path: Path) -> None:
    sheet = drawn(tmp_path, Split(sample(0)))
    assert count(sheet, (252, 102, 102)) == 240 * 160, "three fifths of the class's colour over white"
    assert count(sheet, (250, 0, 0)) > 100, "the legend"
    assert count(sheet, (0, 200, 0)) == count(sheet, (60, 60, 60)) == 0, "only what occurs"


@pytest.mark.parametrize(("label", "named"), [(255, True), (NO_OBJECT, False), (7, False)])
def test_pixels_without_a_class_are_dark_and_ignored_ones_are_named(tmp_path: Path, label: int, named: bool) -> None:
    sheet = drawn(tmp_path, Split(sample(label)))
    assert count(sheet, (89, 89, 89)) >= 240 * 160
    assert (count(sheet, (60, 60, 60)) > 100) == named


def test_objects_have_boxes_in_their_classes_colours_which_the_legend_names_even_if_they_are_hidden(
    tmp_path: Path,
) -> None:
    sheet = drawn(tmp_path, Split(sample(NO_OBJECT, (1, [10.0, 10.0, 60.0, 40.0]), (2, [20.0, 20.0, 50.0, 30.0]))))
    for colour, perimeter in (((0, 200, 0), 2 * (100 + 60) - 4), ((0, 0, 250), 2 * (60 + 20) - 4)):
        assert count(sheet, colour) > perimeter + 100


def test_images_are_spread_over_the_split_and_broken_ones_replaced(tmp_path: Path) -> None:
    split = Split(*[sample(0)] * 20, broken=(0, 1, 10))
    sheet = drawn(tmp_path, split, most_images=4, columns=2)
    assert split.read == [0, 1, 2, 5, 10, 11, 15]
    assert count(sheet, (252, 102, 102)) == 4 * 240 * 160


def test_a_split_without_readable_images_gives_an_empty_sheet(tmp_path: Path) -> None:
    sheet = drawn(tmp_path, Split(sample(0), broken=(0,)))
    assert sheet.shape[0] < 80


def test_a_sheet_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"sheet\.png: cannot be written"):
        draw_contact_sheet([Split(sample(0))], tmp_path / "file" / "sheet.png")
