"""What the tests of pages share: what any run's page tells, and a page read back."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import TypedDict, Unpack

from PIL import Image

from segweave.reports.page import RunFacts
from segweave.training.configuration import RunConfiguration

VOID = {"meta", "img", "br", "link", "input"}
ROWS: list[Mapping[str, float | str]] = [
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
BAD = "<script>alert('1')</script>&\""
"""A name that would be markup if it weren't escaped."""


class FactChanges(TypedDict, total=False):
    """The fields of `RunFacts`."""

    title: str
    facts: Mapping[str, str]
    metrics: Sequence[Mapping[str, float | str]]
    names: Mapping[str, str]
    configuration: Mapping[str, object]
    versions: Mapping[str, str]


def run_facts(**changes: Unpack[FactChanges]) -> RunFacts:
    """Those of a run on streets, with changes."""
    facts = RunFacts(
        title="pan on streets",
        facts={"mean IoU": "40.0%"},
        metrics=ROWS,
        names={"val/mean_iou": "mIoU"},
        configuration={"model": "pan", "crop": [64, 64], "options": {"stride": 16}, "seed": None},
        versions={"torch": "2.11"},
    )
    return replace(facts, **changes)


def configuration(model: str) -> RunConfiguration:
    """A run's, of no moment to its page but for the names in it."""
    return RunConfiguration(
        data="some/streets",
        model=model,
        backbone="resnet18",
        epochs=1,
        batch_size=1,
        short_edge=0,
        scale_range=(1.0, 1.0),
        optimizer="sgd",
        learning_rate=0.1,
        validate_every=1,
        precision="32",
        workers=0,
    )


class ParsedPage(HTMLParser):
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

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def assert_whole(html: str) -> None:
    """Fails if a page needs anything from outside, or a link within it has no target."""
    page = ParsedPage(html)
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


def pictures_in(html: str) -> list[tuple[str, Image.Image]]:
    """The format and the content of each picture, in the page's order."""
    found = re.findall(r'<img[^>]* src="data:image/(\w+);base64,([^"]+)"', html)
    return [(kind, Image.open(io.BytesIO(base64.b64decode(data)))) for kind, data in found]
