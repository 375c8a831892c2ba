"""The HTML page: whole, self-contained, escaped, and right at the edges."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from segweave.errors import InputError
from segweave.reports.page import ExamplePicture, write_report

VOID = {"meta", "img", "br", "link", "input"}
ROWS = [
    {
        "epoch": "0",
        "step": "10",
        "learning_rate": "0.01",
        "train/loss": "1.4",
        "train/segmentation": "1.0",
        "val/x": "",
    },
    {"epoch": 0, "step": 20, "learning_rate": 0.005, "train/loss": 1.2, "train/boundary_term": 0.2},
    {"epoch": 0, "step": 20, "val/mean_iou": 0.4, "val/pixel_accuracy": 0.8},
]


class Page(HTMLParser):
    """Collects what a test asks about, and fails on tags that don't nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def example(name="street/0001.png", size=(40, 60), num_classes=3, score=0.123):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, num_classes, size)
    truth[:2] = 255
    prediction = rng.integers(0, num_classes, size)
    return ExamplePicture(name, score, rng.integers(0, 256, (*size, 3), dtype=np.uint8), prediction, truth)


def report(path, num_classes=3, **changes):
    arguments = {
        "title": "pan on streets",
        "facts": {"mean IoU": "40.0%"},
        "metrics": ROWS,
        "classes": [f"class {k}" for k in range(num_classes)],
        "palette": [(k, 2 * k % 256, 90) for k in range(num_classes)],
        "confusion": np.eye(num_classes, dtype=np.int64) * 9 + 1,
        "best": [example(num_classes=num_classes)],
        "worst": [example("street/0002.png", num_classes=num_classes)],
        "configuration": {"model": "pan", "crop": [64, 64], "options": {"stride": 16}, "seed": None},
        "versions": {"torch": "2.11"},
    }
    write_report(path, **{**arguments, **changes})
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


def test_links_within_the_page_have_their_targets(path):
    html = report(path)
    for reference in Page(html).references:
        if reference.startswith("#"):
            assert f'id="{reference[1:]}"' in html


def test_shows_what_it_was_given(path):
    texts = Page(report(path)).texts
    for text in ("pan on streets", "40.0%", "sum", "segmentation", "boundary term", "mIoU", "learning rate"):
        assert text in texts, text
    for text in ("street/0001.png", "mIoU 12.3%", "options.stride", "16", "64, 64", "torch", "2.11"):
        assert text in texts, text


def test_every_string_is_escaped(path):
    bad = "<script>alert('1')</script>&\""
    html = report(
        path,
        title=bad,
        facts={bad: bad},
        classes=[bad, "b", "c"],
        best=[example(bad)],
        configuration={bad: bad},
        versions={bad: bad},
        metrics=[{"step": 1, f"train/{bad}": 1.0}],
    )
    page = Page(html)
    assert "script" not in page.tags
    assert bad in page.texts


def test_iou_and_share_by_class(path):
    confusion = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])
    texts = Page(report(path, confusion=confusion)).texts
    start = texts.index("Share %") + 1
    assert texts[start : start + 9] == [
        *("class 0", "75.0", "80.0"),
        *("class 1", "50.0", "20.0"),
        *("class 2", "–", "0.0"),  # noqa: RUF001
    ]
    assert any("mean, 62.5%" in text for text in texts), "the class that never occurs is left out of the mean"


def test_lists_the_most_frequent_confusions(path):
    confusion = np.array([[6, 2, 0], [6, 10, 4], [0, 0, 1]])
    texts = Page(report(path, confusion=confusion)).texts
    start = texts.index("of errors, %") + 1
    assert texts[start : start + 5] == ["class 1", "→", "class 0", "30.0", "50.0"]


def test_pictures_are_small_and_masks_exact(path):
    shown = example(size=(100, 1300))
    html = report(path, best=[shown], worst=[])
    uris = re.findall(r'<img[^>]* src="data:image/(\w+);base64,([^"]+)"', html)
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for _, data in uris]
    assert [kind for kind, _ in uris] == ["jpeg", "png", "png", "png"]
    assert {picture.size for picture in pictures} == {(640, 49)}

    html = report(path, best=[], worst=[shown := example()])
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(data[0])))).tolist() == shown.prediction.tolist()
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1])))).tolist() == shown.truth.tolist()


@pytest.mark.parametrize("num_classes", [1, 2, 25, 41, 150])
def test_any_number_of_classes(path, num_classes):
    html = report(path, num_classes)
    assert Page(html).texts.count(f"class {num_classes - 1}") >= 1
    assert len(html) < 2_000_000


@pytest.mark.parametrize("metrics", [[], [{}], [{"step": "", "train/loss": ""}], [{"seconds": 3.0}]])
def test_without_metrics(path, metrics):
    assert "No metrics were recorded." in Page(report(path, metrics=metrics)).texts


def test_without_examples_facts_or_labelled_pixels(path):
    page = Page(
        report(path, best=[], worst=[], facts={}, configuration={}, versions={}, confusion=np.zeros((3, 3), np.int64))
    )
    assert "img" not in page.tags
    assert "Worst predictions" not in page.texts
    assert not any("nan" in text for text in page.texts)


def test_sizes_that_do_not_fit_are_refused(path):
    with pytest.raises(InputError, match=r"3 classes, 3 colours and a confusion matrix of \(2, 2\)"):
        report(path, confusion=np.eye(2, dtype=np.int64))
    assert not path.exists()


def test_replaces_an_older_page_and_leaves_nothing_else(path):
    path.write_text("old")
    assert "old" not in report(path, title="new")[:20]
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_older_page(path, monkeypatch):
    path.write_text("old")

    def no_space(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", no_space)
    with pytest.raises(InputError, match="no space"):
        report(path)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
