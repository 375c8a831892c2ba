"""What a task must bring: from its data sets to the page of its report.

A task is what is predicted: classes of pixels (`segweave.segmentation`), objects (`segweave.detection`). The commands
know tasks by this interface alone; `segweave.tasks` has the list of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Never, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from segweave.data.check_results import CheckedSplit
from segweave.data.dataset import SplitDataset
from segweave.data.labelled import LabelledSplit
from segweave.errors import InputError
from segweave.models import Network
from segweave.networks.network import Labelling
from segweave.reports.explanation import Heading
from segweave.reports.page import Page
from segweave.results import Result
from segweave.training.configuration import Choices, RunConfiguration
from segweave.training.settings import RunSettings

NetworkT = TypeVar("NetworkT", bound=Network)
DatasetT = TypeVar("DatasetT", bound=SplitDataset[object])
ResultT = TypeVar("ResultT", bound=Result)
Batch = TypeVar("Batch", contravariant=True)

NAMED_AT_MOST = 5
"""How many classes a prediction names where it shows itself in a line."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What `segweave evaluate` can be told; None is what wasn't. Each task says which of these are for it.

    Attributes:
        scales: Factors by which the images are also seen larger and smaller.
        flip: Whether each scale is also seen mirrored.
        window: Height and width in pixels of a sliding window.
        random_views: How many times each image is seen at a random scale, mirrored or not by chance.
        scale_range: The random scales are drawn evenly from between these two.
        seed: Of the random views.
        coarse: Whether the network's coarse logits are taken, those that its context is made from.
        predictions: Where what was predicted is to be written.
    """

    scales: Sequence[float] | None = None
    flip: bool | None = None
    window: tuple[int, int] | None = None
    random_views: int | None = None
    scale_range: tuple[float, float] | None = None
    seed: int | None = None
    coarse: bool | None = None
    predictions: Path | None = None


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What `segweave predict` can be told; None is what wasn't. Each task says which of these are for it.

    Attributes:
        scales: Factors by which the images are also seen larger and smaller.
        flip: Whether each scale is also seen mirrored.
        window: Height and width in pixels of a sliding window.
        coarse: Whether the network's coarse logits are taken, those that its context is made from.
        probabilities: Whether the probabilities of the classes are kept.
        overlays: Whether pictures are made beside the files that programs read.
        score: The least score of an object that is told.
    """

    scales: Sequence[float] | None = None
    flip: bool | None = None
    window: tuple[int, int] | None = None
    coarse: bool | None = None
    probabilities: bool | None = None
    overlays: bool | None = None
    score: float | None = None


class Prediction(ABC):
    """What a network sees in an image.

    Attributes:
        image: (H, W, 3), uint8: the image as the network was given it, upright and in RGB.
    """

    image: NDArray[np.uint8]

    @abstractmethod
    def overlay(self) -> Image.Image:
        """The image with what was predicted drawn on it."""

    @abstractmethod
    def heading(self) -> Heading:
        """What stands at the head of a sheet that explains the prediction."""


def in_a_line(parts: Sequence[str]) -> str:
    """The first parts of a list, and how many more there are."""
    rest = len(parts) - NAMED_AT_MOST
    return ", ".join(parts[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


class Predictor(ABC):
    """Predicts images one after the other and writes what it sees in them.

    An image's files are named after its picture, OUT/NAME.png.
    """

    @abstractmethod
    def companions(self, picture: Path) -> list[Path]:
        """The files that are written for an image beside its picture."""

    @abstractmethod
    def write(self, picture: Path, source: Path, image: NDArray[np.uint8]) -> None:
        """Predicts an image and writes its files.

        Args:
            picture: Where the picture goes.
            source: Where the image came from.
            image: (H, W, 3), RGB.
        """

    @abstractmethod
    def finish(self) -> None:
        """Writes what is told of all images together."""


class Lessons(ABC, Generic[Batch]):
    """What a network is trained on: samples, and the losses of a batch of them.

    Attributes:
        samples: Asked for (epoch, index), since both decide what is drawn.
        length: How many there are in an epoch.
        collate: From samples to a batch; None for torch's own way.
    """

    samples: Dataset[object]
    length: int
    collate: Callable[[list[Any]], object] | None = None

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss by name, already weighted."""

    @abstractmethod
    def names(self, batch: Batch) -> list[str]:
        """What the data set calls the images of a batch."""


class Evaluator(ABC, Generic[Batch, ResultT]):
    """Adds up what a network makes of a split, batch by batch, in one process or several.

    Attributes:
        network: Its predictions are evaluated.
    """

    network: Network

    @abstractmethod
    def loader(self, *, rank: int, processes: int, workers: int) -> Iterable[object]:
        """The batches of one process's share of the split."""

    @abstractmethod
    def start(self) -> None:
        """Forgets what was added up."""

    @abstractmethod
    def add(self, batch: Batch) -> None:
        """Predicts a batch, with the network in evaluation mode, and counts."""

    @abstractmethod
    def result(self, gather: Callable[[object], list[object]]) -> ResultT:
        """The result of what all processes have counted, the same in each.

        Args:
            gather: Gives what every process passes to it, in the order of the processes.
        """


@dataclass(frozen=True)
class FinishedRun(Generic[NetworkT, DatasetT, ResultT]):
    """A run with all that its report tells.

    Attributes:
        folder: The run folder.
        configuration: The run's settings.
        metrics: The rows of metrics.csv.
        versions: Of what the run was made with.
        network: With its best weights.
        dataset: The validation split.
        result: Of the network on the split.
    """

    folder: Path
    configuration: RunConfiguration
    metrics: Sequence[Mapping[str, str]]
    versions: Mapping[str, str]
    network: NetworkT
    dataset: DatasetT
    result: ResultT

    @property
    def seconds(self) -> float:
        """How long the run has trained."""
        return float(self.metrics[-1]["seconds"]) if self.metrics else 0.0


class Task(ABC, Generic[NetworkT, DatasetT, ResultT]):
    """What is predicted, from opening its data to the page of its report.

    Attributes:
        name: Of the wing: "segmentation", "detection".
        does: What its networks do, in messages: "labels pixels", "finds objects".
        tree: How its data lies in a folder, in messages.
        network_class: What its networks are, and no others.
        datasets: Its data sets that have a name and lie in a folder, each made from (root, split).
        drawn: Those that are drawn by code, each made from the split.
        evaluation_options: Which of `EvaluationOptions` are for it.
        prediction_options: Which of `PredictionOptions` are for it.
    """

    name: ClassVar[str]
    does: ClassVar[str]
    tree: ClassVar[str] = "its data"
    network_class: type[NetworkT]
    datasets: Mapping[str, Callable[[Path, str], DatasetT]]
    drawn: Mapping[str, Callable[[str], DatasetT]]
    evaluation_options: ClassVar[frozenset[str]] = frozenset()
    prediction_options: ClassVar[frozenset[str]] = frozenset()

    # Data

    def open(
        self, name: str, root: str | None = None, split: str = "train", *, classes: Sequence[str] | None = None
    ) -> DatasetT:
        """Opens a split of a data set for this task; see `segweave.open_dataset`.

        Raises:
            InputError: The name is unknown, a folder is missing, or the split can't be opened.
        """
        if name in self.drawn:
            if root is not None:
                raise InputError(f"data set {name!r} is drawn by code: expected no root, got {root}")
            return self.drawn[name](split)
        if name in self.datasets:
            if root is None:
                raise InputError(f"data set {name!r} needs a root: the folder in which it lies")
            return self.datasets[name](Path(root), split)
        if root is not None:
            raise InputError(f"data {name!r} is a folder itself: expected no root, got {root}")
        return self.open_folder(Path(name), split, classes=classes)

    @abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether a folder holds data for this task."""

    @abstractmethod
    def splits(self, folder: Path) -> list[str]:
        """The names of the splits that a folder holds for this task.

        Raises:
            InputError: There is no such folder.
        """

    @abstractmethod
    def open_folder(self, folder: Path, split: str, *, classes: Sequence[str] | None = None) -> DatasetT:
        """Opens a split of a user's own folder.

        Args:
            folder: That holds the splits.
            split: The split's name.
            classes: What the classes are called where the folder doesn't say so.

        Raises:
            InputError: The folder holds no such split, or nothing for this task.
        """

    @abstractmethod
    def open_to_check(self, folder: Path, split: str) -> DatasetT:
        """Opens a split so that all that is wrong in it is found by `check`, rather than refused at once.

        Raises:
            InputError: It can't be opened even so.
        """

    @abstractmethod
    def check(self, split: DatasetT, *, most_problems: int, progress: bool) -> CheckedSplit | None:
        """Reads every image and annotation of a split; None for one that isn't read from files.

        Args:
            split: To be checked.
            most_problems: How many lines to give; a last one counts the rest.
            progress: Whether a progress bar is shown.
        """

    def labelled(self, split: DatasetT) -> LabelledSplit | None:
        """The split as a contact sheet draws it; None if there is no such picture of it."""
        return None

    def differences(self, splits: Sequence[DatasetT]) -> list[str]:
        """What doesn't fit between splits that are each right by themselves, a line each."""
        return []

    # Training

    @abstractmethod
    def default_model(self, train: DatasetT) -> str:
        """The network that is trained on such data if none is asked for."""

    @abstractmethod
    def choose(self, settings: RunSettings, train: DatasetT, kind: str) -> Choices:
        """Chooses what the settings leave open.

        Args:
            settings: Of the run.
            train: The split to train on.
            kind: Of the device, "cpu" or "cuda".

        Raises:
            InputError: A setting is not for this task.
        """

    @abstractmethod
    def labelling(self, dataset: DatasetT, configuration: RunConfiguration) -> Labelling:
        """What a network is told that it is trained to tell apart."""

    @abstractmethod
    def lessons(self, network: NetworkT, configuration: RunConfiguration, train: DatasetT) -> Lessons[Never]:
        """What the network is trained on.

        Raises:
            InputError: The data isn't enough for this network.
        """

    @abstractmethod
    def deciding(self, network: NetworkT) -> str:
        """The name of the figure by which the best weights are chosen, the greater the better."""

    # Evaluation and prediction

    @abstractmethod
    def evaluator(self, network: NetworkT, dataset: DatasetT, options: EvaluationOptions) -> Evaluator[Never, ResultT]:
        """What evaluates the network on a split."""

    @abstractmethod
    def predict(self, network: NetworkT, image: NDArray[np.uint8], options: PredictionOptions) -> Prediction:
        """What the network sees in an image, (H, W, 3), RGB."""

    @abstractmethod
    def predictor(self, network: NetworkT, out: Path, options: PredictionOptions) -> Predictor:
        """What predicts image files and writes to a folder."""

    @abstractmethod
    def page(self, finished: FinishedRun[NetworkT, DatasetT, ResultT]) -> Page:
        """The part of a run's report that is the task's own."""

    def require_options(self, options: EvaluationOptions | PredictionOptions, network: Network, where: str) -> None:
        """Refuses options that are not for this task.

        Args:
            options: As given.
            network: For which they are.
            where: Its run, for the message.

        Raises:
            InputError: Names those that aren't.
        """
        known = self.evaluation_options if isinstance(options, EvaluationOptions) else self.prediction_options
        given = [field.name for field in fields(options) if getattr(options, field.name) is not None]
        if unknown := [name for name in given if name not in known]:
            raise InputError(
                f"{where}: a {network.recipe['model']} {self.does}: expected no {' and no '.join(unknown)}"
            )
