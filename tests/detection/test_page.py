"""The page of a run for detection: AP, its curves, and examples drawn from what was found."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

import segweave
from segweave.detection import coco_masks
from segweave.detection.average_precision import MEASURES, RECALLS, APFigures, DetectionResult, evaluate_detections
from segweave.detection.dataset import DetectionDataset, DetectionSample, detection_target
from segweave.detection.page import FinishedDetection, detection_page
from segweave.detection.shapes import ShapesDetectionDataset
from segweave.errors import InputError
from segweave.networks.network import DetectionNetwork
from segweave.reports.page import write_page
from segweave.task import FinishedRun
from segweave.training.run import report_facts
from tests.reports.pages import BAD, FactChanges, ParsedPage, assert_whole, configuration, pictures_in, run_facts

CLASSES = ("cell", "café", "tree")
PALETTE = ((250, 0, 0), (0, 200, 0), (0, 0, 255))
BOXES = np.array([[5.0, 5.0, 25.0, 35.0], [30.0, 10.0, 70.0, 50.0]])
"""Of the first and the second object of each image: left, top, right, bottom."""


def figures(ap: float = 0.4, classes: Sequence[str] = CLASSES) -> APFigures:
    return APFigures(
        numbers={"ap": ap, "ap50": 0.6, "ap75": 0.35, "ap_small": 0.125, "ap_medium": 0.5, "ap_large": np.nan},
        class_ap={name: ap + 0.1 * k for k, name in enumerate(classes)},
        precision50=np.linspace(1, 0, len(RECALLS)),
        precision75=np.linspace(0.8, 0, len(RECALLS)),
    )


class Shown(NamedTuple):
    """An image of a validation split: its objects, and what was found in it."""

    name: str = "street/0001.png"
    score: float = 0.123
    size: tuple[int, int] = (60, 80)
    labels: tuple[int, ...] = (1, 2)
    """Of what was found, with the scores 0.9, or 0.9 and 0.2."""
    true_labels: tuple[int, ...] | None = None
    """Of the objects; the same if None."""
    crowd: bool = False
    """Whether each object is a group."""

    @property
    def objects(self) -> tuple[int, ...]:
        return self.labels if self.true_labels is None else self.true_labels


class Cells(DetectionDataset):
    """What is shown, as a split; beside that, five cells and seven of the second class that no example shows."""

    split = "val"

    def __init__(self, shown: Sequence[Shown], classes: Sequence[str]) -> None:
        self.shown = shown
        self.classes = classes
        self.palette = [*PALETTE, *((k % 256, 9, 9) for k in range(len(classes)))][: len(classes)]
        self.category_ids = [10 * k + 3 for k in range(len(classes))]

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, index: int) -> DetectionSample:
        labels, size = self.shown[index].objects, self.shown[index].size
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        target = detection_target(
            boxes=BOXES[: len(labels)],
            labels=labels,
            masks=np.ones((len(labels), *size), np.uint8),
            crowd=[self.shown[index].crowd] * len(labels),
            areas=[1.0] * len(labels),
            image_id=self.image_id(index),
        )
        return DetectionSample(tv_tensors.Image(image), target)

    def name(self, index: int) -> str:
        return self.shown[index].name

    def image_id(self, index: int) -> int:
        return 100 - index

    def ground_truth(self, *, masks: bool = True) -> dict[str, Any]:
        counts = (5, 7) if len(self.classes) > 1 else (5,)
        annotations = [
            {"category_id": number, "iscrowd": 0}
            for number, count in zip(self.category_ids, counts, strict=False)
            for _ in range(count)
        ]
        annotations += [{"category_id": self.category_ids[0], "iscrowd": 1}] * 3  # are not counted
        return {"images": [], "categories": [], "annotations": annotations}

    def found(self) -> list[dict[str, Any]]:
        """What was found, in COCO's format for results."""
        return [
            {
                "image_id": self.image_id(index),
                "category_id": self.category_ids[label - 1],
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
                "segmentation": coco_masks.encode(np.ones(each.size, np.uint8)),
            }
            for index, each in enumerate(self.shown)
            for label, (left, top, right, bottom), score in zip(each.labels, BOXES, (0.9, 0.2), strict=False)
        ]


TWO = (Shown(), Shown("street/0002.png", 0.1))


@pytest.fixture(scope="module")
def network() -> DetectionNetwork:
    """Isn't run, only counted."""
    network = segweave.create_model("mask_rcnn", num_classes=8, backbone="test_resnet", pretrained=False)
    assert isinstance(network, DetectionNetwork)
    return network


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def finished(
    network: DetectionNetwork,
    examples: Sequence[Shown] = TWO,
    classes: Sequence[str] = CLASSES,
    box: APFigures | None = None,
    mask: APFigures | None = None,
) -> FinishedDetection:
    dataset = Cells(examples, classes)
    result = DetectionResult(
        classes=tuple(classes),
        box=box or figures(classes=classes),
        mask=mask,
        image_scores={each.name: each.score for each in examples},
        detections_per_image=150,
        predictions=dataset.found(),
    )
    return FinishedRun(Path("run"), configuration("mask_rcnn"), [], {}, network, dataset, result)


def report(path: Path, run: FinishedDetection, **changes: Unpack[FactChanges]) -> str:
    write_page(path, run_facts(**changes), detection_page(run))
    return path.read_text(encoding="utf-8")


def test_is_whole(path: Path, network: DetectionNetwork) -> None:
    html = report(path, finished(network, mask=figures(0.3)))
    assert_whole(html)
    assert {"#precision", "#classes", "#worst", "#best"} <= set(ParsedPage(html).references)


def test_shows_what_it_was_given(path: Path, network: DetectionNetwork) -> None:
    html = report(path, finished(network, mask=figures(0.3)), title="mask_rcnn on cells", facts={"box AP": "40.0 %"})
    texts = ParsedPage(html).texts
    for text in ("mask_rcnn on cells", "40.0 %", "sum", "options.stride", "torch", "2.11", "street/0001.png"):
        assert text in texts, text
    assert "F1 12.3%" in texts
    assert any("at most 150 detections" in text for text in texts)
    assert any("Detections with a score from 0.5 up are drawn" in text for text in texts)
    assert texts.count("image") == texts.count("prediction") == texts.count("truth") == 2


def row(texts: list[str], name: str, length: int) -> list[str]:
    start = texts.index(name, texts.index("Average precision", 1))
    return texts[start + 1 : start + 1 + length]


def test_figures_of_boxes_and_masks(path: Path, network: DetectionNetwork) -> None:
    texts = ParsedPage(report(path, finished(network, mask=figures(0.3)))).texts
    assert row(texts, "AP", 2) == ["40.0", "30.0"]
    assert row(texts, "AP50", 2) == ["60.0", "60.0"]
    assert row(texts, "AP small", 2) == ["12.5", "12.5"]
    assert row(texts, "AP large", 2) == ["-", "-"]
    classes = texts[texts.index("AP by class") :]
    start = classes.index("café")
    assert classes[start : start + 4] == ["café", "50.0", "40.0", "7"]
    assert classes[classes.index("cell") + 3] == "5", "groups are not counted"
    assert classes[classes.index("tree") + 3] == "0"


def test_boxes_alone(path: Path, network: DetectionNetwork) -> None:
    texts = ParsedPage(report(path, finished(network))).texts
    assert row(texts, "AP", 2) == ["40.0", "AP50"]
    assert not any("mask %" in text for text in texts)


def test_masks_are_drawn_only_where_they_are_evaluated(path: Path, network: DetectionNetwork) -> None:
    shown = [Shown(labels=(1,))]  # its mask is the whole image
    pictures = [dict_of(report(path, finished(network, shown, mask=mask))) for mask in (None, figures(0.3))]
    for caption, tinted in (("image", False), ("prediction", True), ("truth", True)):
        corners = [np.asarray(each[caption].convert("RGB"))[-40:, :40].astype(int) for each in pictures]
        assert (np.abs(corners[0] - corners[1]).mean() > 20) == tinted, caption


def dict_of(html: str) -> dict[str, Any]:
    return dict(zip(("image", "prediction", "truth"), (picture for _, picture in pictures_in(html)), strict=True))


def test_precision_by_recall_is_drawn_as_it_is(path: Path, network: DetectionNetwork) -> None:
    html = report(path, finished(network, mask=figures(0.3)), metrics=[])
    lines = re.findall(r'<polyline class="([^"]+)"[^>]* points="([^"]+)"', html)
    assert [kind for kind, _ in lines] == ["line"] * 4, "two kinds at two thresholds, none averaged"
    for _, points in lines:
        assert len(points.split()) == len(RECALLS)
    texts = ParsedPage(html).texts
    assert "Precision by recall at IoU 0.75" in texts
    assert texts.count("AP 60.0%") == texts.count("AP 35.0%") == 2


def test_a_single_class_has_neither_a_table_nor_a_legend(path: Path, network: DetectionNetwork) -> None:
    one = ["cell"]
    shown = [Shown(labels=(1, 1)), Shown("street/0002.png", 0.1, labels=(1, 1))]
    html = report(path, finished(network, shown, one, figures(classes=one), figures(0.3, one)))
    page = ParsedPage(html)
    assert "AP by class" not in page.texts
    assert "#classes" not in page.references
    assert "cell" not in page.texts
    assert 'class="legend"' not in html
    assert any("a colour of its own" in text for text in page.texts)


def test_the_legend_names_the_classes_and_groups_that_are_drawn(path: Path, network: DetectionNetwork) -> None:
    def legend(shown: Shown) -> list[str]:
        html = report(path, finished(network, [shown]))
        return re.findall(r"</i>([^<]+)</li>", html.partition('class="legend">')[2].partition("</ul>")[0])

    assert legend(Shown()) == ["cell", "café"]
    assert legend(Shown(labels=(3,), crowd=True)) == ["tree", "crowd"]
    assert legend(Shown(labels=(1, 2), true_labels=())) == ["cell"], "the second one's score is 0.2"


@pytest.mark.parametrize(
    ("size", "shown"), [((60, 80), (400, 300)), ((300, 1300), (640, 148)), ((256, 256), (512, 512))]
)
def test_pictures_are_of_one_size_and_not_too_large(
    path: Path, network: DetectionNetwork, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    pictures = pictures_in(report(path, finished(network, [Shown(size=size)])))
    assert [kind for kind, _ in pictures] == ["jpeg"] * 3
    assert {picture.size for _, picture in pictures} == {shown}


def test_every_string_is_escaped(path: Path, network: DetectionNetwork) -> None:
    html = report(path, finished(network, [Shown(BAD), Shown(f"{BAD} too", 0.1)], [BAD, "b", "c"]), title=BAD)
    page = ParsedPage(html)
    assert "script" not in page.tags
    assert page.texts.count(BAD) > 3


def test_undefined_figures_and_no_examples(path: Path, network: DetectionNetwork) -> None:
    nothing = np.full(len(RECALLS), np.nan)
    numbers = dict.fromkeys(MEASURES, np.nan)
    undefined = replace(figures(np.nan), numbers=numbers, precision50=nothing, precision75=nothing)
    unscored = [Shown(score=float("nan"))]
    html = report(path, finished(network, unscored, CLASSES, undefined, undefined), metrics=[], facts={})
    page = ParsedPage(html)
    assert {"img", "svg"}.isdisjoint(page.tags)
    assert "nan" not in html.partition("</style>")[2].lower()
    assert row(page.texts, "AP", 2) == ["-", "-"]


@pytest.mark.parametrize("count", [2, 25, 80])
def test_any_number_of_classes(path: Path, network: DetectionNetwork, count: int) -> None:
    classes = [f"class {k}" for k in range(count)]
    box = replace(figures(0.0, classes), class_ap=dict.fromkeys(classes, 0.5))
    html = report(path, finished(network, TWO, classes, box))
    assert ParsedPage(html).texts.count(f"class {count - 1}") >= 1
    assert html.count("<table>") == 3 + (1 if count <= 24 else 2)


def test_what_does_not_fit_is_refused(path: Path, network: DetectionNetwork) -> None:
    with pytest.raises(KeyError, match="tree"):
        report(path, finished(network, box=figures(classes=["cell", "café", "bush"])))
    with pytest.raises(InputError, match="label 4: expected 1 to 3"):
        report(path, finished(network, [Shown(labels=(1,), true_labels=(4,))]))
    assert not path.exists()


def test_the_report_of_a_run(path: Path, network: DetectionNetwork) -> None:
    """Two of three drawings are found whole, one not at all."""
    dataset = ShapesDetectionDataset("val", size=(48, 64), length=3)
    truth = dataset.ground_truth()
    predictions = [{**each, "score": 0.9} for each in truth["annotations"] if each["image_id"] != dataset.image_id(1)]
    names = {dataset.image_id(index): dataset.name(index) for index in range(3)}
    finished_run: FinishedDetection = FinishedRun(
        folder=path.parent,
        configuration=replace(configuration("mask_rcnn"), data="some/shapes"),
        metrics=[{"epoch": "7", "step": "20", "val/box_ap": "0.5", "seconds": "90.0"}],
        versions={"torch": "2.11"},
        network=network,
        dataset=dataset,
        result=evaluate_detections(truth, predictions, names=names),
    )
    write_page(path, report_facts(finished_run), detection_page(finished_run))
    html = path.read_text()
    texts = ParsedPage(html).texts
    parameters = sum(parameter.numel() for parameter in network.parameters())
    for text in ("mask_rcnn on shapes", "mask AP50", "1.5 min", "resnet18", "7", "box AP", "torch", "2.11"):
        assert text in texts, text
    assert f"{parameters / 1e6:.1f} M" in texts
    worst, best = html.partition('id="worst"')[2].split('id="best"')
    assert dataset.name(1) in worst
    assert "F1 0.0%" in worst
    assert "F1 100.0%" in best
    counted = texts[texts.index("AP by class") :]
    for number, name in enumerate(dataset.classes, start=1):
        count = sum(each["category_id"] == number for each in truth["annotations"])
        assert counted[counted.index(name) + 3] == str(count)
