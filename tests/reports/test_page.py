"""What the page of any run has: whole, self-contained, escaped, and right at the edges."""

from pathlib import Path
from typing import Unpack

import pytest
from markupsafe import Markup
from PIL import Image

from segweave.errors import InputError
from segweave.reports.page import Example, Page, data_uri, write_page
from tests.reports.pages import BAD, FactChanges, ParsedPage, assert_whole, pictures_in, run_facts

SECTIONS = Markup('<section id="figures"><h2>All figures</h2></section>')


def example(name: str = "street/0001.png", score: str = "mIoU 12.3%", *, sharp: bool = False) -> Example:
    picture = Image.new("RGB", (60, 40), (250, 0, 0))
    return Example(
        name, score, {"image": data_uri(picture, "JPEG"), "truth": data_uri(picture, "PNG")}, (60, 40), sharp
    )


PAGE = Page(
    sections=SECTIONS,
    anchors={"figures": "Figures"},
    worst=[example("street/0002.png", "mIoU 3.2%")],
    best=[example()],
    legend=[("tree", (0, 200, 0))],
    marks=[("wrong", (200, 0, 0))],
    example_note="Scores are of a single image.",
)


def written(path: Path, page: Page = PAGE, **changes: Unpack[FactChanges]) -> str:
    write_page(path, run_facts(**changes), page)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def test_needs_nothing_from_outside(path: Path) -> None:
    html = written(path)
    assert_whole(html)
    assert {"#figures", "#worst", "#best"} <= set(ParsedPage(html).references)


def test_shows_what_it_was_given(path: Path) -> None:
    texts = ParsedPage(written(path)).texts
    for text in ("pan on streets", "40.0%", "sum", "segmentation", "boundary term", "mIoU", "learning rate"):
        assert text in texts, text
    for text in ("street/0001.png", "mIoU 12.3%", "options.stride", "16", "64, 64", "torch", "2.11"):
        assert text in texts, text
    for text in ("All figures", "Figures", "tree", "wrong", "Scores are of a single image."):
        assert any(text in shown for shown in texts), text


def test_charts_call_a_column_by_its_title_or_by_its_own_name(path: Path) -> None:
    texts = ParsedPage(written(path, names={"val/mean_iou": "mean IoU of [all]"})).texts
    assert "mean IoU of [all]" in texts
    assert "pixel accuracy" in texts, "which has no title"


def test_every_string_is_escaped(path: Path) -> None:
    bad = [example(BAD, BAD)]
    page = Page(SECTIONS, {"figures": BAD}, worst=bad, best=bad, legend=[(BAD, (1, 2, 3))], marks=[(BAD, (1, 2, 3))])
    html = written(
        path,
        page,
        title=BAD,
        facts={BAD: BAD},
        configuration={BAD: BAD},
        versions={BAD: BAD},
        metrics=[{"step": 1, f"train/{BAD}": 1.0, f"val/{BAD}": 0.5}],
        names={f"val/{BAD}": BAD},
    )
    parsed = ParsedPage(html)
    assert "script" not in parsed.tags
    assert parsed.texts.count(BAD) > 10


def test_the_worst_come_first_and_are_told_from_the_best(path: Path) -> None:
    html = written(path)
    worst, best = html.partition('id="worst"')[2].split('id="best"')
    assert "street/0002.png" in worst
    assert "street/0001.png" not in worst
    assert "mIoU 12.3%" in best
    assert [kind for kind, _ in pictures_in(html)] == ["jpeg", "png"] * 2


def test_small_pictures_are_enlarged_with_sharp_pixels(path: Path) -> None:
    assert 'class="sharp"' not in written(path, Page(best=[example()]))
    assert 'class="sharp"' in written(path, Page(best=[example(sharp=True)]))


@pytest.mark.parametrize("metrics", [[], [{}], [{"step": "", "train/loss": ""}], [{"seconds": 3.0}]])
def test_without_metrics(path: Path, metrics: list[dict[str, float | str]]) -> None:
    assert "No metrics were recorded." in ParsedPage(written(path, metrics=metrics)).texts


def test_a_cell_that_is_no_number_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match="'train/loss' is 'high', expected a number"):
        written(path, metrics=[{"step": 1, "train/loss": "high"}])
    assert not path.exists()


def test_without_examples_or_facts(path: Path) -> None:
    parsed = ParsedPage(written(path, Page(), facts={}, configuration={}, versions={}))
    assert "img" not in parsed.tags
    assert "Worst predictions" not in parsed.texts
    assert not any("nan" in text for text in parsed.texts)


def test_replaces_an_older_page_and_leaves_nothing_else(path: Path) -> None:
    path.write_text("old")
    assert "old" not in written(path, title="new")[:20]
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_older_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("old")

    def no_space(source: object, target: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", no_space)
    with pytest.raises(InputError, match="no space"):
        written(path)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
