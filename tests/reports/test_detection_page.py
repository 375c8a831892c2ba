"""The HTML page of a detector: whole, self-contained, escaped, and right at the edges."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.detection.average_precision import RECALLS, APFigures, DetectionResult, evaluate_detections
from segweave.detection.page import DetectionExample, write_detection_report
from segweave.detection.pictures import Objects
from segweave.detection.shapes import ShapesDetectionDataset
from segweave.errors import InputError
from segweave.reports.run import report_detection_run
from tests.reports.test_page import ROWS, Page

CLASSES = ["cell", "café", "tree"]
PALETTE = [(250, 0, 0), (0, 200, 0), (0, 0, 255)]


def figures(ap=0.4, classes=CLASSES, **changes):
    values = {
        "ap": ap,
        "ap50": 0.6,
        "ap75": 0.35,
        "ap_small": 0.125,
        "ap_medium": 0.5,
        "ap_large": np.nan,
        "class_ap": {name: ap + 0.1 * k for k, name in enumerate(classes)},
        "precision50": np.linspace(1, 0, len(RECALLS)),
        "precision75": np.linspace(0.8, 0, len(RECALLS)),
    }
    return APFigures(**{**values, **changes})


def result(box=None, mask=None, classes=CLASSES):
    return DetectionResult(tuple(classes), box or figures(classes=classes), mask, {}, 150)


def example(name="street/0001.png", size=(60, 80), masks=True, labels=(1, 2), crowd=None, score=0.123):
    boxes = np.array([[5.0, 5.0, 25.0, 35.0], [30.0, 10.0, 70.0, 50.0]])[: len(labels)]
    drawn = np.ones((len(labels), *size), np.uint8) if masks else None
    scores = np.linspace(0.9, 0.2, len(labels))
    truth = Objects(boxes, np.array(labels), None, drawn, None if crowd is None else np.array(crowd))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return DetectionExample(name, score, image, Objects(boxes, np.array(labels), scores, drawn), truth)


def report(path, **changes):
    arguments = {
        "title": "mask_rcnn on cells",
        "facts": {"box AP": "40.0 %"},
        "metrics": ROWS,
        "classes": CLASSES,
        "palette": PALETTE,
        "counts": [5, 7, 0],
        "result": result(mask=figures(0.3)),
        "best": [example()],
        "worst": [example("street/0002.png")],
        "configuration": {"model": "mask_rcnn", "options": {"neck": "fpt"}},
        "versions": {"torch": "2.11"},
    }
    write_detection_report(path, **{**arguments, **changes})
    return path.read_text(encoding="utf-8")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


def test_needs_nothing_from_outside(path):
    html = report(path)
    page = Page(html)
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert page.references
    assert all(reference.startswith(("data:image/", "#")) for reference in page.references)
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    for reference in page.references:
        if reference.startswith("#"):
            assert f'id="{reference[1:]}"' in html


def test_shows_what_it_was_given(path):
    texts = Page(report(path)).texts
    for text in ("mask_rcnn on cells", "40.0 %", "sum", "options.neck", "fpt", "torch", "2.11", "street/0001.png"):
        assert text in texts, text
    assert "F1 12.3%" in texts
    assert any("at most 150 detections" in text for text in texts)
    assert texts.count("image") == texts.count("prediction") == texts.count("truth") == 2


def row(texts, name, length):
    start = texts.index(name, texts.index("Average precision", 1))
    return texts[start + 1 : start + 1 + length]


def test_figures_of_boxes_and_masks(path):
    texts = Page(report(path)).texts
    assert row(texts, "AP", 2) == ["40.0", "30.0"]
    assert row(texts, "AP50", 2) == ["60.0", "60.0"]
    assert row(texts, "AP small", 2) == ["12.5", "12.5"]
    assert row(texts, "AP large", 2) == ["-", "-"]
    classes = texts[texts.index("AP by class") :]
    start = classes.index("café")
    assert classes[start : start + 4] == ["café", "50.0", "40.0", "7"]
    assert classes[classes.index("tree") + 3] == "0"


def test_boxes_alone(path):
    texts = Page(report(path, result=result(), best=[example(masks=False)])).texts
    assert row(texts, "AP", 2) == ["40.0", "AP50"]
    assert not any("mask %" in text for text in texts)


def test_precision_by_recall_is_drawn_as_it_is(path):
    html = report(path, metrics=[])
    lines = re.findall(r'<polyline class="([^"]+)"[^>]* points="([^"]+)"', html)
    assert [kind for kind, _ in lines] == ["line"] * 4, "two kinds at two thresholds, none averaged"
    for _, points in lines:
        assert len(points.split()) == len(RECALLS)
    texts = Page(html).texts
    assert "Precision by recall at IoU 0.75" in texts
    assert texts.count("AP 60.0%") == texts.count("AP 35.0%") == 2


def test_a_single_class_has_neither_a_table_nor_a_legend(path):
    one = ["cell"]
    given = result(figures(classes=one), figures(0.3, one), one)
    shown = example(labels=(1, 1))
    html = report(path, classes=one, palette=PALETTE[:1], counts=[5], result=given, best=[shown], worst=[shown])
    texts = Page(html).texts
    assert "AP by class" not in texts
    assert "cell" not in texts
    assert 'class="legend"' not in html
    assert any("a colour of its own" in text for text in texts)


def test_the_legend_names_the_classes_and_groups_that_are_drawn(path):
    def legend(shown):
        html = report(path, best=[shown], worst=[])
        return re.findall(r"</i>([^<]+)</li>", html.partition('class="legend">')[2].partition("</ul>")[0])

    assert legend(example()) == ["cell", "café"]
    assert legend(example(labels=(3,), crowd=(1,))) == ["tree", "crowd"]
    unsure = example(labels=(1, 2))  # the second one's score is 0.2
    nothing = example(labels=())
    assert legend(DetectionExample("a", 0.0, unsure.image, unsure.prediction, nothing.truth)) == ["cell"]


@pytest.mark.parametrize(
    ("size", "shown"), [((60, 80), (400, 300)), ((300, 1300), (640, 148)), ((256, 256), (512, 512))]
)
def test_pictures_are_of_one_size_and_not_too_large(path, size, shown):
    html = report(path, best=[example(size=size)], worst=[])
    uris = re.findall(r'<img[^>]* src="data:image/(\w+);base64,([^"]+)"', html)
    assert [kind for kind, _ in uris] == ["jpeg"] * 3
    assert {Image.open(io.BytesIO(base64.b64decode(data))).size for _, data in uris} == {shown}


def test_every_string_is_escaped(path):
    bad = "<script>alert('1')</script>&\""
    classes = [bad, "b", "c"]
    html = report(
        path,
        title=bad,
        facts={bad: bad},
        classes=classes,
        result=result(classes=classes),
        best=[example(bad)],
        configuration={bad: bad},
        versions={bad: bad},
    )
    page = Page(html)
    assert "script" not in page.tags
    assert page.texts.count(bad) > 5


def test_undefined_figures_and_no_examples(path):
    undefined = figures(
        **dict.fromkeys(("ap", "ap50", "ap75", "ap_small", "ap_medium"), np.nan),
        class_ap=dict.fromkeys(CLASSES, np.nan),
        precision50=np.full(len(RECALLS), np.nan),
        precision75=np.full(len(RECALLS), np.nan),
    )
    html = report(path, result=result(undefined, undefined), best=[], worst=[], metrics=[], facts={}, counts=[0, 0, 0])
    page = Page(html)
    assert {"img", "svg"}.isdisjoint(page.tags)
    assert "nan" not in html.partition("</style>")[2].lower()
    assert row(page.texts, "AP", 2) == ["-", "-"]


@pytest.mark.parametrize("count", [2, 25, 80])
def test_any_number_of_classes(path, count):
    classes = [f"class {k}" for k in range(count)]
    given = result(figures(0.0, classes=classes, class_ap=dict.fromkeys(classes, 0.5)), None, classes)
    html = report(path, classes=classes, palette=[(k, 9, 9) for k in range(count)], counts=range(count), result=given)
    assert Page(html).texts.count(f"class {count - 1}") >= 1
    assert html.count("<table>") == 3 + (1 if count <= 24 else 2)


def test_what_does_not_fit_is_refused(path):
    with pytest.raises(InputError, match="3 classes, 3 colours, 2 counts and figures of 3 classes"):
        report(path, counts=[1, 2])
    with pytest.raises(InputError, match="expected the same classes everywhere"):
        report(path, classes=["cell", "café", "bush"])
    with pytest.raises(InputError, match="label 4: expected 1 to 3"):
        report(path, best=[example(labels=(4,))])
    assert not path.exists()


def test_the_report_of_a_run(tmp_path):
    """Two of three drawings are found whole, one not at all."""
    dataset = ShapesDetectionDataset("val", size=(48, 64), length=3)
    truth = dataset.ground_truth()
    predictions = [{**each, "score": 0.9} for each in truth["annotations"] if each["image_id"] != dataset.image_id(1)]
    names = {dataset.image_id(index): dataset.name(index) for index in range(3)}
    report_detection_run(
        tmp_path,
        torch.nn.Linear(1000, 1999),
        dataset,
        evaluate_detections(truth, predictions, names=names),
        predictions,
        {"model": "mask_rcnn", "data": "some/shapes", "backbone": "resnet18"},
        90.0,
        {"torch": "2.11"},
        [{"epoch": "7", "step": "20", "val/box_ap": "0.5"}],
    )
    html = (tmp_path / "report.html").read_text()
    texts = Page(html).texts
    for text in ("mask_rcnn on shapes", "mask AP50", "2.0 M", "1.5 min", "resnet18", "7", "box AP"):
        assert text in texts, text
    worst, best = html.partition('id="worst"')[2].split('id="best"')
    assert dataset.name(1) in worst
    assert "F1 0.0%" in worst
    assert "F1 100.0%" in best
    counted = texts[texts.index("AP by class") :]
    for number, name in enumerate(dataset.classes, start=1):
        count = sum(each["category_id"] == number for each in truth["annotations"])
        assert counted[counted.index(name) + 3] == str(count)
