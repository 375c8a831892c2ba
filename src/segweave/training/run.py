"""The stations of a training run, from its data to its report, the same whatever is predicted."""

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.text import Text

from segweave.data.check_results import CheckedSplit
from segweave.data.dataset import SplitDataset
from segweave.devices import choose_device
from segweave.errors import InputError, TrainingError
from segweave.models import Network, create_model
from segweave.reports.page import RunFacts, write_page
from segweave.results import Result, per_cent
from segweave.saving import load
from segweave.task import EvaluationOptions, FinishedRun, Task
from segweave.training.callbacks import (
    BestModel,
    MetricsFile,
    MovingAverage,
    Patience,
    SynchronisedBatchNorm,
    ValidationSchedule,
    WholeCheckpoints,
    read_metrics,
)
from segweave.training.configuration import RunConfiguration
from segweave.training.progress import TrainingProgress
from segweave.training.settings import RunSettings
from segweave.training.steps import TrainingSteps
from segweave.training.trainer import create_trainer, is_first_process, run_evaluator

NetworkT = TypeVar("NetworkT", bound=Network)
DatasetT = TypeVar("DatasetT", bound=SplitDataset[object])
ResultT = TypeVar("ResultT", bound=Result)
SplitT = TypeVar("SplitT", covariant=True)


@dataclasses.dataclass(frozen=True)
class Splits(Generic[SplitT]):
    """The splits of a run.

    Attributes:
        train: To train on.
        val: To validate on.
    """

    train: SplitT
    val: SplitT


def open_splits(
    task: Task[NetworkT, DatasetT, ResultT], settings: RunSettings, resumed: Path | None
) -> Splits[DatasetT]:
    """Opens the splits of a run; they must have the same classes, and those of a resumed run its own.

    Args:
        task: What the run is for.
        settings: Of the run.
        resumed: The folder of the run that is resumed; None for a new one.

    Raises:
        InputError: A split can't be opened, or has other classes.
    """
    data, root = settings.data, settings.root
    train = task.open(data, root, settings.train_split)
    classes = list(train.classes)
    val = task.open(data, root, settings.val_split, classes=classes)
    if classes != list(val.classes):
        raise InputError(f"{data}: expected the same classes in both splits, got {classes} and {list(val.classes)}")
    if resumed is not None and (resumed / "model").exists():
        labelling = load(resumed).labelling
        if labelling is not None:
            labelling.require_classes(classes, data, f"the run {resumed}")
    return Splits(train, val)


def checked(task: Task[NetworkT, DatasetT, ResultT], splits: Splits[DatasetT]) -> list[CheckedSplit]:
    """Checks what is about to be trained on; what isn't read from files has nothing to check.

    Raises:
        InputError: There are problems; the message gives the first one.
    """
    both = [splits.train, splits.val]
    checks = [found for split in both if (found := task.check(split, most_problems=20, progress=True)) is not None]
    problems = [*task.differences(both), *(problem for each in checks for problem in each.problems)]
    if problems:
        rest = len(task.differences(both)) + sum(each.problem_count for each in checks) - 1
        raise InputError(problems[0] + (f" (and {rest} more: segweave data check tells them all)" if rest else ""))
    return checks


def create_network(
    task: Task[NetworkT, DatasetT, ResultT], configuration: RunConfiguration, train: DatasetT, *, continued: bool
) -> NetworkT:
    """Makes the network of a run, told what it is trained to tell apart.

    Args:
        task: What the run is for.
        configuration: Of the run.
        train: The split to train on.
        continued: Whether its weights will be a checkpoint's, whatever it starts from.
    """
    torch.manual_seed(configuration.seed)
    network = create_model(
        configuration.model,
        num_classes=len(train.classes),
        backbone=configuration.backbone,
        pretrained=configuration.pretrained and not continued,
        **configuration.options,
    )
    network.labelling = task.labelling(train, configuration)
    assert isinstance(network, task.network_class)
    return network


def freeze(network: Network, configuration: RunConfiguration) -> None:
    """Freezes what the configuration asks for."""
    if configuration.freeze_backbone:
        network.backbone.freeze()
    if configuration.freeze_batch_norm:
        network.backbone.freeze_batch_norm()


class PreparedRun:
    """A run that is ready for its first step.

    Args:
        steps: What is done in a step.
        configuration: Of the run.
        callbacks: What is done around the steps.
        folder: The run folder.
    """

    def __init__(
        self, steps: lightning.LightningModule, configuration: RunConfiguration, callbacks: list[Callback], folder: Path
    ) -> None:
        self.steps = steps
        self.configuration = configuration
        self.trainer = create_trainer(
            configuration.device,
            configuration.devices,
            precision="32-true" if configuration.precision == "32" else configuration.precision,
            max_epochs=configuration.epochs,
            accumulate_grad_batches=configuration.accumulate,
            gradient_clip_val=configuration.clip_gradient,
            callbacks=callbacks,
            plugins=[WholeCheckpoints(), *([SynchronisedBatchNorm()] if configuration.sync_batch_norm else [])],
            logger=TensorBoardLogger(str(folder), name="", version="tensorboard"),
            log_every_n_steps=10,
            num_sanity_val_steps=0,
        )

    def fit(self, checkpoint: Path | None) -> None:
        """Trains to the end.

        Args:
            checkpoint: To continue from; None to begin.

        Raises:
            TrainingError: The loss is no longer finite, or memory is short.
            KeyboardInterrupt: The user stopped it.
        """
        settings = self.configuration
        try:
            self.trainer.fit(self.steps, ckpt_path=checkpoint)
        except torch.OutOfMemoryError as error:
            size = f"crop_size {settings.crop_size}"
            if settings.crop_size is None:
                size = f"short_edge {settings.short_edge}, long_edge {settings.long_edge}"
            raise TrainingError(
                f"out of memory on {settings.device} with batch_size {settings.batch_size} and images of {size}: "
                "expected smaller ones"
            ) from error
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error


def prepare(
    task: Task[NetworkT, DatasetT, ResultT],
    network: NetworkT,
    configuration: RunConfiguration,
    splits: Splits[DatasetT],
    folder: Path,
) -> PreparedRun:
    """Puts a run together; nothing is written yet.

    Raises:
        InputError: The data isn't enough for the network, or the machine for the run.
    """
    if configuration.sync_batch_norm and configuration.device != "cuda":
        raise InputError(
            f"sync_batch_norm: torch has it for GPUs only, expected device cuda, not {configuration.device}"
        )
    deciding = task.deciding(network)
    monitored = f"val/{deciding}"
    checkpoints = folder / "checkpoints"
    callbacks: list[Callback] = [
        MetricsFile(folder / "metrics.csv"),
        BestModel(network, folder / "model", monitored),
        TrainingProgress(Console(quiet=not is_first_process()), deciding),
        ValidationSchedule(configuration.validate_every),
        # Both after each validation, so that what is continued from and what metrics.csv tells are of the same step;
        # the last one last, since it also keeps what the others know.
        ModelCheckpoint(
            checkpoints,
            filename="best",
            monitor=monitored,
            mode="max",
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        ),
        ModelCheckpoint(checkpoints, filename="last", save_on_train_epoch_end=False, enable_version_counter=False),
    ]
    if configuration.ema is not None:
        callbacks.append(MovingAverage(decay=configuration.ema))
    if configuration.early_stopping is not None:
        callbacks.append(Patience(configuration.early_stopping, monitored))
    lessons = task.lessons(network, configuration, splits.train)
    evaluator = task.evaluator(network, splits.val, EvaluationOptions())
    return PreparedRun(TrainingSteps(lessons, evaluator, configuration), configuration, callbacks, folder)


def finish(
    task: Task[NetworkT, DatasetT, ResultT], configuration: RunConfiguration, val: DatasetT, folder: Path
) -> ResultT:
    """Evaluates the best weights of a run and writes its report.

    Args:
        task: What the run is for.
        configuration: Of the run.
        val: The validation split.
        folder: The run folder.
    """
    network = load(folder)
    assert isinstance(network, task.network_class)
    result = run_evaluator(
        task.evaluator(network, val, EvaluationOptions()),
        device=configuration.device,
        devices=configuration.devices,
        workers=configuration.workers,
    )
    if is_first_process():
        network.to(choose_device(configuration.device))
        metrics = read_metrics(folder / "metrics.csv")
        finished = FinishedRun(folder, configuration, metrics, _versions(), network, val, result)
        write_page(folder / "report.html", report_facts(finished), task.page(finished))
        console, reached = Console(), Text("best weights: ")
        for number, figure in enumerate(result.logged()):
            reached.append(f"{', ' if number else ''}{figure.label} ")
            reached.append(per_cent(figure.total), style="bold" if figure.name == task.deciding(network) else "")
        console.print(reached.append(f" on {configuration.val_split}"), soft_wrap=True)
        console.print(Text(f"report: {folder / 'report.html'}"), soft_wrap=True)
    return result


def report_facts(finished: FinishedRun[NetworkT, DatasetT, ResultT]) -> RunFacts:
    """What the page of a run tells, whatever is predicted: its figures, settings and curves."""
    configuration, figures = finished.configuration, finished.result.logged()
    parameters = sum(parameter.numel() for parameter in finished.network.parameters())
    return RunFacts(
        title=f"{configuration.model} on {Path(configuration.data).name}",
        facts={
            **{figure.label: per_cent(figure.total, 1) for figure in figures},
            "backbone": configuration.backbone,
            "parameters": f"{parameters / 1e6:.1f} M",
            "epochs": finished.metrics[-1]["epoch"] if finished.metrics else "0",
            "training time": f"{finished.seconds / 60:.1f} min",
        },
        metrics=finished.metrics,
        names={f"val/{figure.name}": figure.label for figure in figures},
        configuration=dataclasses.asdict(configuration),
        versions=finished.versions,
    )


def _versions() -> dict[str, str]:
    packages = ("segweave", "torch", "torchvision", "timm", "lightning")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "system": platform.platform(),
    }
