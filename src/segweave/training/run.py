"""A training run from its settings to its report: `train`, the function behind `segweave train`."""

import dataclasses
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from segweave.data import open_dataset
from segweave.data.checks import require_valid
from segweave.data.dataset import SegmentationDataset
from segweave.errors import InputError
from segweave.evaluation.evaluate import evaluate_network
from segweave.evaluation.evaluator import SegmentationResult, is_first_process, quieten_lightning
from segweave.evaluation.inference import Inference
from segweave.files import written_whole
from segweave.models import create_model
from segweave.networks.semantic import Labelling, SemanticNetwork
from segweave.reports.run import report_run
from segweave.saving import load
from segweave.training.callbacks import (
    BestModel,
    MetricsFile,
    MovingAverage,
    ProgressDisplay,
    ValidationSchedule,
    WholeCheckpoints,
    read_metrics,
)
from segweave.training.configuration import RunConfiguration, configure, read_settings, resolve
from segweave.training.segmentation import SegmentationTraining

RUN_FILES = ("config.yaml", "metrics.csv", "tensorboard", "checkpoints", "model", "report.html")
"""What a run folder holds; `overwrite` removes these and nothing else."""


def train(
    data: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> SegmentationResult:
    """Trains a network, evaluates the best weights, and writes the run folder with its report.

    Args:
        data: A folder with SPLIT/images and SPLIT/masks, or the name of a data set.
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
    quieten_lightning()
    console = Console(quiet=not is_first_process())
    run = Path(out)
    given = {**({"data": str(data)} if data is not None else {}), **settings}
    if resume:
        if overwrite or config is not None:
            raise InputError("resume continues a run with its own settings: expected no overwrite and no config")
        configuration = _resumed_configuration(run, given)
    else:
        if is_first_process():
            _require_free(run, overwrite)
        configuration = configure({**(read_settings(config) if config is not None else {}), **given})
    train_split, val_split = _open_splits(configuration, run if resume else None)
    chosen = configuration
    if not resume:
        chosen = resolve(configuration, images=len(train_split), image_size=_typical_size(train_split))
    network = _create_network(chosen, train_split)
    module = SegmentationTraining(network, chosen, train=train_split, val=val_split)
    trainer = _create_trainer(chosen, run, console)

    if is_first_process():
        if not resume:
            _start_folder(run, chosen)
        _print_start(console, configuration, chosen, train_split, val_split, network)
    last = run / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(module, ckpt_path=last if resume and last.exists() else None)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error
    return _finish(run, chosen, val_split, console)


def _open_splits(
    configuration: RunConfiguration, resumed: Path | None
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Opens and checks the splits to train and to validate on; those of a resumed run must have its classes."""
    train_split, val_split = (
        open_dataset(configuration.data, configuration.root, split)
        for split in (configuration.train_split, configuration.val_split)
    )
    classes = list(train_split.classes)
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
    if configuration.check and is_first_process():
        require_valid(train_split, val_split)
    return train_split, val_split


def _finish(
    run: Path, configuration: RunConfiguration, val_split: SegmentationDataset, console: Console
) -> SegmentationResult:
    """Evaluates the best weights and writes the report."""
    network = load(run)
    inference = Inference(short_edge=configuration.short_edge or None)
    result = evaluate_network(
        network,
        val_split,
        inference=inference,
        device=configuration.device,
        devices=configuration.devices,
        workers=configuration.workers or 0,
    )
    if is_first_process():
        rows = read_metrics(run / "metrics.csv")
        seconds = float(rows[-1]["seconds"]) if rows else 0.0
        report_run(
            run, network, val_split, result, inference, dataclasses.asdict(configuration), seconds, _versions(), rows
        )
        console.print(
            f"best weights: mIoU [bold]{100 * result.mean_iou:.2f} %[/bold], "
            f"pixel accuracy {100 * result.pixel_accuracy:.2f} %"
            f" on {configuration.val_split}\nreport: {run / 'report.html'}",
            soft_wrap=True,
            highlight=False,
        )
    return result


def _resumed_configuration(run: Path, given: dict[str, Any]) -> RunConfiguration:
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run}: nothing to resume: expected the folder of a run (it has no config.yaml)")
    configuration = configure(read_settings(path))
    for name, value in configure({"data": configuration.data, **given}).__dict__.items():
        if name in given and value != getattr(configuration, name):
            raise InputError(
                f"{path}: the run has {name} {getattr(configuration, name)!r}, not {value!r}: "
                "expected the same to resume it, or another --out"
            )
    return configuration


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
    for name in RUN_FILES:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with written_whole(run / "config.yaml") as unfinished:
        unfinished.write_text(configuration.to_yaml())


def _typical_size(dataset: SegmentationDataset) -> tuple[int, int]:
    """(height, width) in the middle of a few images of the split: the medians of both."""
    indices = np.linspace(0, len(dataset) - 1, num=min(len(dataset), 9)).astype(int)
    sizes = [dataset[int(index)].mask.shape for index in indices]
    height, width = (int(np.median(sides)) for sides in zip(*sizes, strict=True))
    return height, width


def _create_network(configuration: RunConfiguration, dataset: SegmentationDataset) -> SemanticNetwork:
    torch.manual_seed(configuration.seed)
    assert configuration.backbone is not None
    network = create_model(
        configuration.model,
        num_classes=len(dataset.classes),
        backbone=configuration.backbone,
        pretrained=configuration.pretrained,
        **configuration.options,
    )
    network.labelling = Labelling(tuple(dataset.classes), tuple(dataset.palette), configuration.short_edge or None)
    return network


def _create_trainer(configuration: RunConfiguration, run: Path, console: Console) -> lightning.Trainer:
    if configuration.sync_batch_norm and configuration.device != "cuda":
        raise InputError(
            f"sync_batch_norm: torch has it for GPUs only, expected device cuda, not {configuration.device}"
        )
    assert configuration.validate_every is not None
    callbacks: list[Callback] = [
        MetricsFile(run / "metrics.csv"),
        BestModel(run / "model"),
        ProgressDisplay(console),
        ValidationSchedule(configuration.validate_every),
        # after each validation, so that what is continued from and what metrics.csv tells are of the same step
        ModelCheckpoint(
            run / "checkpoints", filename="last", save_on_train_epoch_end=False, enable_version_counter=False
        ),
        ModelCheckpoint(
            run / "checkpoints", filename="best", monitor="val/mean_iou", mode="max", enable_version_counter=False
        ),
    ]
    if configuration.ema is not None:
        callbacks.append(MovingAverage(decay=configuration.ema))
    if configuration.early_stopping is not None:
        callbacks.append(EarlyStopping("val/mean_iou", mode="max", patience=configuration.early_stopping))
    return lightning.Trainer(
        accelerator="gpu" if configuration.device == "cuda" else configuration.device,
        devices=configuration.devices,
        strategy="ddp" if configuration.devices > 1 else "auto",
        precision="32-true" if configuration.precision == "32" else configuration.precision,
        max_epochs=configuration.epochs,
        accumulate_grad_batches=configuration.accumulate,
        gradient_clip_val=configuration.clip_gradient,
        sync_batchnorm=configuration.sync_batch_norm,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        logger=TensorBoardLogger(str(run), name="", version="tensorboard"),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _print_start(
    console: Console,
    configuration: RunConfiguration,
    chosen: RunConfiguration,
    train_split: SegmentationDataset,
    val_split: SegmentationDataset,
    network: SemanticNetwork,
) -> None:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    console.print(
        f"{chosen.model} on {chosen.backbone}, {parameters / 1e6:.1f} M parameters; "
        f"{len(train_split)} images to train on, "
        f"{len(val_split)} to validate on, {len(train_split.classes)} classes",
        highlight=False,
    )
    table = Table("chosen for you", "value", "change with", box=None, header_style="dim")
    for field in dataclasses.fields(chosen):
        before, after = getattr(configuration, field.name), getattr(chosen, field.name)
        if before != after:
            shown = " ".join(map(str, after)) if isinstance(after, tuple) else str(after)
            table.add_row(field.name, shown, f"--{field.name.replace('_', '-')}")
    if table.rows:
        console.print(table)


def _versions() -> dict[str, str]:
    packages = ("segweave", "torch", "torchvision", "timm", "lightning")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "system": platform.platform(),
    }
