"""A training run from its settings to its report: `train`, the function behind `segweave train`."""

import dataclasses
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from segweave.commands.check import require_valid
from segweave.detection.average_precision import DetectionResult
from segweave.detection.dataset import DetectionDataset
from segweave.detection.evaluation import EvaluatedDetections
from segweave.detection.training import Detection
from segweave.devices import choose_device, require_processes
from segweave.errors import InputError, TrainingError
from segweave.files import written_whole
from segweave.models import Network, create_model
from segweave.networks.network import Labelling
from segweave.saving import initialise_from, load, require_model
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.evaluation import SegmentationResult, create_trainer, is_first_process
from segweave.segmentation.training import Segmentation
from segweave.task import FinishedRun, Task
from segweave.tasks import is_coco, open_dataset
from segweave.training.callbacks import (
    BestModel,
    MetricsFile,
    MovingAverage,
    Patience,
    ProgressDisplay,
    SynchronisedBatchNorm,
    ValidationSchedule,
    WholeCheckpoints,
    read_metrics,
)
from segweave.training.configuration import RunConfiguration, configure, read_settings, resolve

RUN_FILES = ("config.yaml", "metrics.csv", "tensorboard", "checkpoints", "model", "report.html")
"""What a run folder holds; `overwrite` removes these and nothing else."""

NAMED_AT_MOST = 8
"""How many of the weights that `init_from` doesn't give are named."""

SplitOfTask = SegmentationDataset | DetectionDataset

FREE_ON_RESUME = ("device", "workers")
"""What may differ when a run is resumed: where it runs, not what it computes."""


def train(
    data: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> SegmentationResult | DetectionResult:
    """Trains a network, evaluates the best weights, and writes the run folder with its report.

    Args:
        data: A folder with SPLIT/images and either SPLIT/masks or SPLIT/instances.json, or the name of a data set.
        out: The run folder.
        config: A YAML file of settings (a recipe, or a run's config.yaml); `data` and `settings` go before it.
        resume: Whether to continue the run that is in `out`, with its own settings, from its last checkpoint.
        overwrite: Whether to replace a run that is in `out`.
        settings: Fields of `segweave.training.configuration.RunConfiguration`; what isn't given is chosen and printed.

    Returns:
        The best weights' result on the validation split.

    Raises:
        InputError: Something given can't be used; nothing has been written then.
        TrainingError: The loss is no longer finite.
    """
    console = Console(quiet=not is_first_process())
    run = Path(out)
    given = {**({"data": data} if data is not None else {}), **settings}
    for name in ("data", "init_from"):
        if given.get(name) is not None:
            given[name] = _absolute(given[name])
    if resume:
        if overwrite or config is not None:
            raise InputError("resume continues a run with its own settings: expected no overwrite and no config")
        configuration = _resumed_configuration(run, given)
    else:
        if is_first_process():
            _require_free(run, overwrite)
        configuration = configure(_with_model({**(read_settings(config) if config is not None else {}), **given}))
        if configuration.init_from is not None:
            _require_other_run(configuration.init_from, run)
    require_processes(configuration.devices)
    task: Task = Detection() if configuration.detects else Segmentation()
    train_split, val_split, checks = _open_splits(configuration, task, run if resume else None)
    chosen = configuration
    if not resume:
        chosen = resolve(configuration, images=len(train_split), **task.known_data(train_split))
    last = run / "checkpoints" / "last.ckpt"
    continued = resume and last.exists()
    network = _create_network(chosen, train_split, pretrained=chosen.pretrained and not continued)
    not_taken = None
    if chosen.init_from is not None and not continued:
        not_taken = initialise_from(network, chosen.init_from)
    if chosen.freeze_backbone:
        network.backbone.freeze()
    if chosen.freeze_batch_norm:
        network.backbone.freeze_batch_norm()
    module = task.training(network, chosen, train=train_split, val=val_split)
    trainer = _create_trainer(chosen, run, console, task.figures(chosen))

    if is_first_process():
        if not resume:
            _start_folder(run, chosen)
        _print_start(console, task, configuration, chosen, (train_split, val_split), checks, network)
        if not_taken is not None:
            _print_initialised(console, chosen, network, not_taken)
        if chosen.freeze_backbone:
            _print_frozen(console, chosen, network, not_taken)
    try:
        trainer.fit(module, ckpt_path=last if continued else None)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"out of memory on {chosen.device} with batch_size {chosen.batch_size} and images of "
            f"{_trained_size(chosen)}: expected smaller ones"
        ) from error
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error
    return _finish(run, task, chosen, val_split, console)


def _absolute(place: str | os.PathLike[str]) -> str:
    """A folder's full path, so that config.yaml means the same wherever it is read; a data set's name as it is."""
    return str(Path(place).resolve()) if Path(place).is_dir() else str(place)


def _with_model(settings: dict[str, Any]) -> dict[str, Any]:
    """Chooses a detector for data with objects, if the settings name no network: the default one labels pixels."""
    data = settings.get("data")
    if "model" in settings or not data or not is_coco(data, settings.get("root")):
        return settings
    return {**settings, "model": "mask_rcnn"}


def _trained_size(configuration: RunConfiguration) -> str:
    if configuration.detects:
        return f"short_edge {configuration.short_edge}, long_edge {configuration.long_edge}"
    return f"crop_size {configuration.crop_size}"


def _open_splits(
    configuration: RunConfiguration, task: Task, resumed: Path | None
) -> tuple[SplitOfTask, SplitOfTask, list[Any]]:
    """Opens and checks the splits to train and to validate on; those of a resumed run must have its classes."""
    data, root = configuration.data, configuration.root
    train_split = open_dataset(data, root, configuration.train_split, task=task.name)
    classes = list(train_split.classes)
    val_split = open_dataset(data, root, configuration.val_split, task=task.name, classes=classes)
    if classes != list(val_split.classes):
        raise InputError(
            f"{configuration.data}: expected the same classes in both splits, "
            f"got {classes} and {list(val_split.classes)}"
        )
    if resumed is not None and (resumed / "model").exists():
        labelling = load(resumed).labelling
        if labelling is not None and classes != list(labelling.classes):
            raise InputError(
                f"{configuration.data}: the data has the {len(classes)} classes {', '.join(classes)}; expected the "
                f"{len(labelling.classes)} of the run {resumed}: {', '.join(labelling.classes)}"
            )
    checks = require_valid(train_split, val_split) if configuration.check and is_first_process() else []
    return train_split, val_split, checks


def _finish(
    run: Path, task: Task, configuration: RunConfiguration, val_split: SplitOfTask, console: Console
) -> SegmentationResult | DetectionResult:
    """Evaluates the best weights and writes the report."""
    network = load(run)
    evaluated = task.evaluate(network, configuration, val_split)
    if is_first_process():
        finished = FinishedRun(run, configuration, read_metrics(run / "metrics.csv"), _versions())
        reached = task.report(finished, network, val_split, evaluated)
        console.print(
            f"best weights: {reached} on {configuration.val_split}\nreport: {run / 'report.html'}",
            soft_wrap=True,
            highlight=False,
        )
    return evaluated.result if isinstance(evaluated, EvaluatedDetections) else evaluated


def _resumed_configuration(run: Path, given: dict[str, Any]) -> RunConfiguration:
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run}: nothing to resume: expected the folder of a run (it has no config.yaml)")
    configuration = configure(read_settings(path))
    wanted = configure({"data": configuration.data, "model": configuration.model, **given})
    for name in given:
        before, now = getattr(configuration, name), getattr(wanted, name)
        if name == "options":  # to which the run has added what it chose
            now = {option: list(value) if isinstance(value, tuple) else value for option, value in now.items()}
            before = {option: before.get(option) for option in now}
        if before != now and name not in FREE_ON_RESUME:
            raise InputError(
                f"{path}: the run has {name} {before!r}, not {now!r}: expected the same to resume it, or another --out"
            )
    free: dict[str, Any] = {name: getattr(wanted, name) for name in FREE_ON_RESUME if name in given}
    device = choose_device(free.get("device", configuration.device))
    return dataclasses.replace(configuration, **{**free, "device": device})


def _require_other_run(init_from: str, run: Path) -> None:
    """Refuses to start from what isn't a trained network, or from the run that is to be replaced."""
    folder = require_model(init_from)
    if run.resolve() in (folder.resolve(), folder.resolve().parent):
        raise InputError(f"init_from {init_from}: is the run that would be replaced: expected another --out")


def _require_free(run: Path, overwrite: bool) -> None:
    """Refuses a folder that holds anything, unless it is a run and `overwrite` allows to replace it."""
    if run.exists() and not run.is_dir():
        raise InputError(f"{run}: expected a folder, or nothing, where the run is to be written")
    if not run.is_dir() or not any(run.iterdir()):
        return
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run}: holds files that are not a run's: expected an empty or new folder")
    if not overwrite:
        raise InputError(
            f"{run}: holds a run already: expected --resume to continue it, --overwrite to replace it, or another --out"
        )


def _start_folder(run: Path, configuration: RunConfiguration) -> None:
    """Writes config.yaml, and removes what is left of a run that is replaced."""
    with written_whole(run / "config.yaml") as unfinished:
        unfinished.write_text(configuration.to_yaml())
    for name in RUN_FILES:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        elif name != "config.yaml":
            path.unlink(missing_ok=True)


def _create_network(configuration: RunConfiguration, dataset: SplitOfTask, *, pretrained: bool) -> Network:
    torch.manual_seed(configuration.seed)
    assert configuration.backbone is not None
    network = create_model(
        configuration.model,
        num_classes=len(dataset.classes),
        backbone=configuration.backbone,
        pretrained=pretrained,
        **configuration.options,
    )
    network.labelling = Labelling(
        tuple(dataset.classes),
        tuple(dataset.palette),
        short_edge=configuration.short_edge or None,
        long_edge=configuration.long_edge or None,
        category_ids=tuple(dataset.category_ids) if isinstance(dataset, DetectionDataset) else None,
    )
    return network


def _create_trainer(
    configuration: RunConfiguration, run: Path, console: Console, figures: Mapping[str, str]
) -> lightning.Trainer:
    if configuration.sync_batch_norm and configuration.device != "cuda":
        raise InputError(
            f"sync_batch_norm: torch has it for GPUs only, expected device cuda, not {configuration.device}"
        )
    assert configuration.validate_every is not None
    deciding = next(iter(figures))
    callbacks: list[Callback] = [
        MetricsFile(run / "metrics.csv"),
        BestModel(run / "model", deciding),
        ProgressDisplay(console, figures),
        ValidationSchedule(configuration.validate_every),
        # Both after each validation, so that what is continued from and what metrics.csv tells are of the same step;
        # the last one last, since it also keeps what the others know.
        ModelCheckpoint(
            run / "checkpoints",
            filename="best",
            monitor=deciding,
            mode="max",
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        ),
        ModelCheckpoint(
            run / "checkpoints", filename="last", save_on_train_epoch_end=False, enable_version_counter=False
        ),
    ]
    if configuration.ema is not None:
        callbacks.append(MovingAverage(decay=configuration.ema))
    if configuration.early_stopping is not None:
        callbacks.append(Patience(configuration.early_stopping, deciding))
    return create_trainer(
        configuration.device,
        configuration.devices,
        precision="32-true" if configuration.precision == "32" else configuration.precision,
        max_epochs=configuration.epochs,
        accumulate_grad_batches=configuration.accumulate,
        gradient_clip_val=configuration.clip_gradient,
        callbacks=callbacks,
        plugins=[WholeCheckpoints(), *([SynchronisedBatchNorm()] if configuration.sync_batch_norm else [])],
        logger=TensorBoardLogger(str(run), name="", version="tensorboard"),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _print_start(
    console: Console,
    task: Task,
    configuration: RunConfiguration,
    chosen: RunConfiguration,
    splits: tuple[SplitOfTask, SplitOfTask],
    checks: list[Any],
    network: Network,
) -> None:
    """What is trained, on what, and which settings were chosen."""
    train_split, val_split = splits
    parameters = sum(parameter.numel() for parameter in network.parameters())
    console.print(
        f"{chosen.model} on {chosen.backbone}, {parameters / 1e6:.1f} M parameters; "
        f"{len(train_split)} images to train on, "
        f"{len(val_split)} to validate on, {len(train_split.classes)} classes",
        highlight=False,
    )
    for check in checks:
        if check is None:
            continue
        for line in task.describe(check):
            console.print(line, highlight=False)
    table = Table("chosen for you", "value", "change with", box=None, header_style="dim")
    for field in dataclasses.fields(chosen):
        before, after = getattr(configuration, field.name), getattr(chosen, field.name)
        if before != after:
            if field.name == "options":
                for option in (name for name in after if name not in before):
                    table.add_row(option, _shown(after[option]), f"--options.{option}")
            else:
                table.add_row(field.name, _shown(after), f"--{field.name.replace('_', '-')}")
    if table.rows:
        console.print(table)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _print_initialised(
    console: Console, configuration: RunConfiguration, network: Network, not_taken: list[str]
) -> None:
    """What was taken from another run, and what wasn't."""
    count = len(network.state_dict())
    console.print(f"{count - len(not_taken)} of {count} tensors start from {configuration.init_from}", highlight=False)
    if not_taken:
        rest = len(not_taken) - NAMED_AT_MOST
        more = f"; and {rest} more" if rest > 0 else ""
        console.print(f"not taken: {'; '.join(not_taken[:NAMED_AT_MOST])}{more}", highlight=False)


def _print_frozen(
    console: Console, configuration: RunConfiguration, network: Network, not_taken: list[str] | None
) -> None:
    """How much is trained, and a warning if what is frozen was never trained."""
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    console.print(f"the backbone is frozen: {trained / 1e6:.1f} M parameters are trained", highlight=False)
    if configuration.pretrained:
        return
    missing = sum(name.startswith("backbone.") for name in not_taken or ())
    if configuration.init_from is None:
        console.print(
            "[yellow]warning:[/] the frozen backbone has random weights: expected pretrained or init_from with "
            "freeze_backbone"
        )
    elif missing:
        console.print(
            f"[yellow]warning:[/] {missing} tensors of the frozen backbone keep their random weights: "
            "expected an init_from with the same backbone",
            highlight=False,
        )


def _versions() -> dict[str, str]:
    packages = ("segweave", "torch", "torchvision", "timm", "lightning")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "system": platform.platform(),
    }
