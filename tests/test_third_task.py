"""A third task, an image's mean colour, with its network, data set, result and page in this file.

The commands work on it, though no line of the package knows of it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import segweave
from segweave.commands.check import check
from segweave.data.check_results import CheckedSplit
from segweave.data.dataset import SplitDataset
from segweave.data.images import list_images, read_image
from segweave.data.loading import Share, chance_of
from segweave.models import NETWORKS
from segweave.networks.backbones import Backbone
from segweave.networks.network import Labelling, Network
from segweave.reports.explanation import Heading
from segweave.reports.page import Example, Page, data_uri
from segweave.results import Figure, Result, worst_and_best
from segweave.task import (
    EvaluationOptions,
    Evaluator,
    FinishedRun,
    Lessons,
    Prediction,
    PredictionOptions,
    Predictor,
    Task,
)
from segweave.tasks import TASKS
from segweave.training.configuration import Choices, RunConfiguration
from segweave.training.settings import RunSettings

# The network


class MeanColourNetwork(Network):
    """The mean of the last map, and a linear layer."""

    def __init__(self, *, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.head = nn.Linear(backbone.channels[-1], 3)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3), in [0, 1]."""
        return self.head(self.backbone(images)[-1].mean(dim=(2, 3))).sigmoid()

    def prepared(self, image: Tensor) -> Tensor:
        return image[None]


# The data set


class ColourSample(NamedTuple):
    image: Tensor
    colour: Tensor


class ColourDataset(SplitDataset[ColourSample]):
    classes = ("red", "green", "blue")
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        self.files = list_images(root / "colours" / split)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> ColourSample:
        image = torch.from_numpy(np.array(read_image(self.files[index]))).permute(2, 0, 1).float() / 255
        return ColourSample(image, image.mean(dim=(1, 2)))

    def name(self, index: int) -> str:
        return self.files[index].name


class Seen(Dataset[ColourSample]):
    def __init__(self, dataset: ColourDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> ColourSample:
        with chance_of(self.seed, *key):
            image, colour = self.dataset[key[1]]
            return ColourSample(image.flip(-1) if torch.rand(()) < 0.5 else image, colour)


class ColourLessons(Lessons[ColourSample]):
    def __init__(self, network: MeanColourNetwork, train: ColourDataset, seed: int) -> None:
        self.network, self.samples, self.length = network, Seen(train, seed), len(train)

    def losses(self, batch: ColourSample) -> dict[str, Tensor]:
        return {"distance": (self.network(batch.image) - batch.colour).square().mean()}

    def names(self, batch: ColourSample) -> list[str]:
        return ["an image"] * len(batch.image)


# The result


@dataclass(frozen=True)
class ColourResult(Result):
    image_scores: dict[str, float]

    @property
    def figures(self) -> list[Figure]:
        return [Figure("closeness", "closeness", float(np.mean(list(self.image_scores.values()))), logged=True)]


class ColourEvaluator(Evaluator[ColourSample, ColourResult]):
    def __init__(self, network: MeanColourNetwork, dataset: ColourDataset) -> None:
        self.network, self.dataset = network, dataset
        self.start()

    def loader(self, *, rank: int, processes: int, workers: int) -> DataLoader[ColourSample]:
        share = Share(len(self.dataset), rank=rank, processes=processes)
        return DataLoader([self.dataset[share[position][0]] for position in range(len(share))])

    def start(self) -> None:
        self.distances: list[float] = []

    def add(self, batch: ColourSample) -> None:
        self.distances.append(float((self.network(batch.image) - batch.colour).abs().mean()))

    def result(self, gather: Callable[[object], list[object]]) -> ColourResult:
        assert gather(1) == [1]
        return ColourResult({self.dataset.name(index): 1 - value for index, value in enumerate(self.distances)})


# Prediction and page


@dataclass(frozen=True)
class ColourPrediction(Prediction):
    image: NDArray[np.uint8]
    colour: tuple[int, int, int]

    def overlay(self) -> Image.Image:
        return Image.new("RGB", (self.image.shape[1], self.image.shape[0]), self.colour)

    def heading(self) -> Heading:
        return Heading(self.image, self.overlay(), "mean colour", [])


class ColourPredictor(Predictor):
    def __init__(self, task: "MeanColour", network: MeanColourNetwork) -> None:
        self.task, self.network = task, network

    def companions(self, picture: Path) -> list[Path]:
        return []

    def write(self, picture: Path, source: Path, image: NDArray[np.uint8]) -> None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        self.task.predict(self.network, image, PredictionOptions()).overlay().save(picture)

    def finish(self) -> None:
        pass


class MeanColour(Task[MeanColourNetwork, ColourDataset, ColourResult]):
    name = "mean colour"
    does = "names a colour"
    tree = "colours/SPLIT"
    network_class = MeanColourNetwork

    def __init__(self) -> None:
        self.datasets = {}
        self.drawn = {}

    def recognises(self, folder: Path) -> bool:
        return (folder / "colours").is_dir()

    def splits(self, folder: Path) -> list[str]:
        return sorted(each.name for each in (folder / "colours").iterdir())

    def open_folder(self, folder: Path, split: str, *, classes: Sequence[str] | None = None) -> ColourDataset:
        return ColourDataset(folder, split)

    def open_to_check(self, folder: Path, split: str) -> ColourDataset:
        return ColourDataset(folder, split)

    def check(self, split: ColourDataset, *, most_problems: int, progress: bool) -> CheckedSplit | None:
        return None

    def default_model(self, train: ColourDataset) -> str:
        return "mean_colour"

    def choose(self, settings: RunSettings, train: ColourDataset, kind: str) -> Choices:
        return Choices(
            batch_size=4,
            steps=20,
            short_edge=0,
            scale_range=(1.0, 1.0),
            optimizer="adamw",
            learning_rate=lambda optimizer, batch_size: 0.01,
        )

    def labelling(self, dataset: ColourDataset, configuration: RunConfiguration) -> Labelling:
        return Labelling(tuple(dataset.classes), tuple(dataset.palette))

    def lessons(
        self, network: MeanColourNetwork, configuration: RunConfiguration, train: ColourDataset
    ) -> ColourLessons:
        return ColourLessons(network, train, configuration.seed)

    def deciding(self, network: MeanColourNetwork) -> str:
        return "closeness"

    def evaluator(
        self, network: MeanColourNetwork, dataset: ColourDataset, options: EvaluationOptions
    ) -> ColourEvaluator:
        return ColourEvaluator(network, dataset)

    def predict(
        self, network: MeanColourNetwork, image: NDArray[np.uint8], options: PredictionOptions
    ) -> ColourPrediction:
        with torch.inference_mode():
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
            red, green, blue = (255 * network(pixels)[0]).round().int().tolist()
        return ColourPrediction(image, (red, green, blue))

    def predictor(self, network: MeanColourNetwork, out: Path, options: PredictionOptions) -> ColourPredictor:
        return ColourPredictor(self, network)

    def page(self, finished: FinishedRun[MeanColourNetwork, ColourDataset, ColourResult]) -> Page:
        _, best = worst_and_best(finished.result.image_scores, 2)
        picture = data_uri(Image.new("RGB", (4, 4)), "PNG")
        return Page(
            sections=Markup('<section id="colours"><h2>Colours</h2></section>'),
            anchors={"colours": "Colours"},
            best=[Example(name, "close", {"image": picture}, (4, 4)) for name in best],
        )


# What the commands make of it


@pytest.fixture
def mean_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task and its network, by one line each."""
    monkeypatch.setitem(TASKS, "mean colour", MeanColour())
    monkeypatch.setitem(NETWORKS, "mean_colour", MeanColourNetwork)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Eight images to train on and four to validate on, each of one colour."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        (tmp_path / "data" / "colours" / split).mkdir(parents=True)
        for index in range(count):
            colour = tuple(generator.integers(0, 256, 3).tolist())
            Image.new("RGB", (48, 40), colour).save(tmp_path / "data" / "colours" / split / f"{index}.png")
    return tmp_path / "data"


@pytest.mark.usefixtures("mean_colour")
def test_the_commands_work_on_a_third_task(colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    trained = segweave.train(colours, out=run, backbone="test_resnet", workers=0, device="cpu")
    assert isinstance(trained, ColourResult)
    assert set(trained.image_scores) == {"0.png", "1.png", "2.png", "3.png"}
    assert (run / "metrics.csv").read_text().splitlines()[0].endswith("val/closeness")
    assert "closeness" in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert "mean_colour on data" in page
    assert '<section id="colours">' in page
    assert "Best predictions" in page

    file = tmp_path / "figures.json"
    evaluated = segweave.evaluate(run, data=colours, out=file, workers=0, device="cpu")
    assert json.loads(file.read_text()) == {"closeness": pytest.approx(trained.figures[0].total)}
    assert evaluated.image_scores == pytest.approx(trained.image_scores)
    assert f"closeness {100 * trained.figures[0].total:.2f} %" in capsys.readouterr().out

    (written,) = segweave.predict(run, colours / "colours" / "val" / "0.png", out=tmp_path / "out", device="cpu")
    assert Image.open(written).size == (48, 40)
    with pytest.raises(segweave.InputError, match="a mean_colour names a colour: expected no flip"):
        segweave.evaluate(run, data=colours, flip=True, device="cpu")


@pytest.mark.usefixtures("mean_colour")
def test_a_third_task_without_a_contact_sheet_has_none(colours: Path, tmp_path: Path) -> None:
    assert check(colours).problem_count == 0
    with pytest.raises(segweave.InputError, match=r"sheet\.png: there is no contact sheet for mean colour"):
        check(colours, contact_sheet=tmp_path / "sheet.png")


@pytest.mark.usefixtures("mean_colour")
def test_a_third_task_changes_nothing_for_the_others(colours: Path, folder: Path) -> None:
    assert isinstance(segweave.open_dataset(colours), ColourDataset)
    assert segweave.open_dataset(folder, split="val").classes == ["red", "green", "blue"]
    with pytest.raises(segweave.InputError, match="holds data for mean colour, not for segmentation"):
        segweave.open_dataset(colours, task="segmentation")
