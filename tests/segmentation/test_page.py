"""The page of a run for segmentation: IoU by class, confusions, and examples whose masks are exact."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from segweave.errors import InputError
from segweave.networks.backbones import Backbone
from segweave.networks.network import SegmentationNetwork
from segweave.reports.page import write_page
from segweave.segmentation.dataset import Sample, SegmentationDataset
from segweave.segmentation.evaluation import SegmentationResult
from segweave.segmentation.inference import Inference
from segweave.segmentation.page import draw_example, segmentation_page
from segweave.task import FinishedRun
from tests.reports.pages import BAD, FactChanges, ParsedPage, assert_whole, configuration, pictures_in, run_facts


class Shown(NamedTuple):
    """An image of a validation split, its truth, and what is predicted in it."""

    name: str
    score: float
    image: NDArray[np.uint8]
    truth: NDArray[np.int64]

    @property
    def prediction(self) -> NDArray[np.int64]:
        """What `RedTells` predicts."""
        return (self.image[..., 0] % 3).astype(np.int64)


class RedTells(SegmentationNetwork):
    """Predicts the class that the amount of red is, modulo three."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        mean, std = self.backbone.mean[0], self.backbone.std[0]
        red = ((images[:, 0] * std + mean) * 255).round().long()
        return torch.nn.functional.one_hot(red % 3, self.num_classes).permute(0, 3, 1, 2).float()


class Streets(SegmentationDataset):
    """What is shown, as a split."""

    split = "val"

    def __init__(self, shown: Sequence[Shown], classes: Sequence[str]) -> None:
        self.shown = shown
        self.classes = classes
        self.palette = [(k, 2 * k % 256, 90) for k in range(len(classes))]

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, index: int) -> Sample:
        image = torch.from_numpy(self.shown[index].image).permute(2, 0, 1)
        return Sample(tv_tensors.Image(image), tv_tensors.Mask(torch.from_numpy(self.shown[index].truth)))

    def name(self, index: int) -> str:
        return self.shown[index].name


def shown(name: str = "street/0001.png", size: tuple[int, int] = (40, 60), score: float = 0.123) -> Shown:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, size)
    truth[:2] = 255
    return Shown(name, score, rng.integers(0, 256, (*size, 3), dtype=np.uint8), truth)


TWO = (shown(), shown("street/0002.png", score=0.1))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("test_resnet")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def finished(
    backbone: Backbone, classes: Sequence[str], examples: Sequence[Shown] = TWO, confusion: object = None
) -> FinishedRun[SegmentationNetwork, SegmentationDataset, SegmentationResult]:
    count = len(classes)
    counts = np.eye(count, dtype=np.int64) * 9 + 1 if confusion is None else np.asarray(confusion, np.int64)
    return FinishedRun(
        folder=Path("run"),
        configuration=configuration("pan"),
        metrics=[],
        versions={},
        network=RedTells(backbone=backbone, num_classes=max(count, 3)),
        dataset=Streets(examples, classes),
        result=SegmentationResult(
            tuple(classes), torch.from_numpy(counts), {each.name: each.score for each in examples}
        ),
    )


NAMES = ("class 0", "class 1", "class 2")


def report(
    path: Path,
    backbone: Backbone,
    classes: Sequence[str] = NAMES,
    examples: Sequence[Shown] = TWO,
    confusion: object = None,
    **changes: Unpack[FactChanges],
) -> str:
    run = finished(backbone, classes, examples, confusion)
    write_page(path, run_facts(**changes), segmentation_page(run, Inference()))
    return path.read_text(encoding="utf-8")


def test_is_whole(path: Path, backbone: Backbone) -> None:
    html = report(path, backbone)
    assert_whole(html)
    assert {"#classes", "#confusion", "#worst", "#best"} <= set(ParsedPage(html).references)


def test_shows_what_it_was_given(path: Path, backbone: Backbone) -> None:
    html = report(path, backbone)
    worst, best = html.partition('id="worst"')[2].split('id="best"')
    assert "street/0002.png" in worst
    assert "street/0001.png" not in worst
    assert "mIoU 10.0%" in worst
    assert "street/0001.png" in best
    assert "mIoU 12.3%" in best
    texts = ParsedPage(html).texts
    for text in ("pan on streets", *NAMES, "right", "wrong", "ignored"):
        assert text in texts, text
    assert texts.count("image") == texts.count("prediction") == texts.count("truth") == texts.count("difference") == 2


def test_every_string_is_escaped(path: Path, backbone: Backbone) -> None:
    html = report(path, backbone, [BAD, "b", "c"], [shown(BAD), shown(f"{BAD} too", score=0.1)], title=BAD)
    page = ParsedPage(html)
    assert "script" not in page.tags
    assert page.texts.count(BAD) > 5


def test_iou_and_share_by_class(path: Path, backbone: Backbone) -> None:
    texts = ParsedPage(report(path, backbone, confusion=[[6, 2, 0], [0, 2, 0], [0, 0, 0]])).texts
    start = texts.index("Share %") + 1
    assert texts[start : start + 9] == [
        *("class 0", "75.0", "80.0"),
        *("class 1", "50.0", "20.0"),
        *("class 2", "–", "0.0"),  # noqa: RUF001
    ]
    assert any("mean, 62.5%" in text for text in texts), "the class that never occurs is left out of the mean"


def test_lists_the_most_frequent_confusions(path: Path, backbone: Backbone) -> None:
    texts = ParsedPage(report(path, backbone, confusion=[[6, 2, 0], [6, 10, 4], [0, 0, 1]])).texts
    start = texts.index("of errors, %") + 1
    assert texts[start : start + 5] == ["class 1", "→", "class 0", "30.0", "50.0"]


def test_pictures_are_small_and_masks_exact(path: Path, backbone: Backbone) -> None:
    pictures = pictures_in(report(path, backbone, examples=[shown(size=(100, 1300))]))
    assert [kind for kind, _ in pictures] == ["jpeg", "png", "png", "png"]
    assert {picture.size for _, picture in pictures} == {(640, 49)}

    only = shown()
    html = report(path, backbone, examples=[only])
    assert 'class="sharp"' in html
    _, (_, prediction), (_, truth), _ = pictures_in(html)
    assert np.asarray(prediction).tolist() == only.prediction.tolist()
    assert np.asarray(truth).tolist() == only.truth.tolist()


def test_the_legend_names_what_the_examples_show(path: Path, backbone: Backbone) -> None:
    def legend(examples: Sequence[Shown]) -> str:
        html = report(path, backbone, ["road", "tree", "car", "boat"], examples)
        return html.partition('class="legend">')[2].partition("</ul>")[0]

    assert all(name in legend(TWO) for name in ("road", "tree", "car"))
    assert "boat" not in legend(TWO)
    image = np.full((40, 60, 3), 4, np.uint8)  # predicted as tree
    assert "tree" in legend([Shown("a", 0.5, image, np.full((40, 60), 3))])
    assert "boat" in legend([Shown("a", 0.5, image, np.full((40, 60), 3))])
    assert "road" not in legend([Shown("a", 0.5, image, np.full((40, 60), 3))])


def test_the_network_sees_examples_as_in_evaluation_and_keeps_its_mode(path: Path, backbone: Backbone) -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(RedTells):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape))
            return super().forward(images)

    network: SegmentationNetwork = Watched(backbone=backbone, num_classes=3).train()
    segmentation_page(replace(finished(backbone, NAMES), network=network), Inference(short_edge=80, flip=True))
    assert seen == [(1, 3, 80, 120)] * 4
    assert network.training


@pytest.mark.parametrize("num_classes", [1, 2, 25, 41, 150])
def test_any_number_of_classes(path: Path, backbone: Backbone, num_classes: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"class {k}" for k in range(num_classes)]
    image = (3 * rng.integers(0, 80, (40, 60, 3)) + rng.integers(0, min(num_classes, 3), (40, 60, 3))).astype(np.uint8)
    truth = rng.integers(0, num_classes, (40, 60))
    html = report(path, backbone, names, [Shown(name, 0.5, image, truth) for name in ("a", "b")])
    assert ParsedPage(html).texts.count(f"class {num_classes - 1}") >= 1
    assert len(html) < 2_000_000


def test_without_examples_or_labelled_pixels(path: Path, backbone: Backbone) -> None:
    unscored = [each._replace(score=float("nan")) for each in TWO]
    for examples in ([], unscored):
        page = ParsedPage(report(path, backbone, examples=examples, facts={}, confusion=np.zeros((3, 3))))
        assert "img" not in page.tags
        assert "Worst predictions" not in page.texts
        assert not any("nan" in text for text in page.texts)


def test_what_does_not_fit_is_refused(path: Path, backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        report(path, backbone, confusion=np.eye(2))
    only = shown()
    with pytest.raises(InputError, match="mask holds the value 3, expected 0 to 2 or 255"):
        report(path, backbone, examples=[only._replace(truth=np.full_like(only.truth, 3))])
    assert not path.exists()


def test_an_example_is_drawn_without_a_network() -> None:
    only = shown(score=0.5)
    drawn = draw_example(
        only.name, only.score, only.image, only.prediction, only.truth, palette=[(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    )
    assert (drawn.name, drawn.score, drawn.size, drawn.sharp) == ("street/0001.png", "mIoU 50.0%", (60, 40), True)
    assert list(drawn.pictures) == ["image", "prediction", "truth", "difference"]
