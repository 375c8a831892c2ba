"""A run that was killed and resumed ends as a run that was never stopped, to the bit."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import Progress
from torch.utils._pytree import tree_flatten

import segweave.training.trainer as trainer_module
from segweave import InputError, train
from segweave.progress import progress_bar
from segweave.training.callbacks import read_metrics
from segweave.training.configuration import configuration_of, read_settings
from segweave.training.steps import TrainingSteps
from tests.small_runs import flags, weights


def listen() -> None:
    """Ctrl-C reaches the process, even where the tests themselves run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_after_rows(run: Path, arguments: list[str], rows: int, how: signal.Signals) -> tuple[int, str]:
    """Starts a run as a process of its own and stops it once metrics.csv has so many rows.

    Returns:
        Its exit status and what it printed on standard error.
    """
    command = [sys.executable, "-m", "segweave", "train", *arguments]
    # as many threads as here: sums in another order differ in their last bit
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=listen
    )
    try:
        deadline = time.monotonic() + 300
        while len(read_metrics(run / "metrics.csv")) < rows:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(how)
        _, printed = process.communicate(timeout=60)
    return process.returncode, printed


def checkpoint(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def assert_same(first: Any, second: Any) -> None:
    leaves, structure = tree_flatten(first)
    other_leaves, other_structure = tree_flatten(second)
    assert structure == other_structure
    for leaf, other in zip(leaves, other_leaves, strict=True):
        assert torch.equal(leaf, other) if isinstance(leaf, torch.Tensor) else leaf == other


def assert_the_same_run(unbroken: Path, resumed: Path) -> None:
    expected, found = checkpoint(unbroken), checkpoint(resumed)
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        if part in expected:
            assert_same(found[part], expected[part])
    best = [torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] for run in (unbroken, resumed)]
    assert best[0] == best[1]
    assert weights(unbroken) == weights(resumed)
    figures = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(run / "metrics.csv")]
        for run in (unbroken, resumed)
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path, folder: Path, settings: dict[str, Any], segmentation_run: Path) -> None:
    broken = tmp_path / "broken"
    stop_after_rows(broken, ["--data", str(folder), "--out", str(broken), *flags(settings)], 2, signal.SIGKILL)
    assert len(read_metrics(broken / "metrics.csv")) < settings["epochs"]
    train(folder, out=broken, resume=True)
    assert_the_same_run(segmentation_run, broken)


@pytest.mark.slow
def test_a_detector_killed_and_resumed(
    tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any], detection_run: Path
) -> None:
    broken = tmp_path / "broken"
    words = ["--data", str(coco_folder), "--out", str(broken), *flags(detection_settings)]
    stop_after_rows(broken, words, 2, signal.SIGKILL)
    assert len(read_metrics(broken / "metrics.csv")) < detection_settings["epochs"]
    train(coco_folder, out=broken, resume=True, **detection_settings)  # the words that began it
    assert_the_same_run(detection_run, broken)


class StopAfter(Callback):
    """Ends a run with an error after so many validations, once its checkpoint is written."""

    def __init__(self, validations: int) -> None:
        self.validations = validations

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == self.validations:
            raise RuntimeError("stopped")


def train_until(validations: int | None, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> None:
    """A run that ends with an error after so many validations, or is left to end by itself."""
    with monkeypatch.context() as patch:
        if validations is None:
            train(**arguments)
            return
        create = trainer_module.create_trainer

        def create_and_stop(*positional: Any, callbacks: list[Callback], **options: Any) -> Trainer:
            return create(*positional, callbacks=[*callbacks, StopAfter(validations)], **options)

        patch.setattr("segweave.training.run.create_trainer", create_and_stop)
        with pytest.raises(RuntimeError, match="stopped"):
            train(**arguments)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "variation",
    [
        {"ema": 0.9},
        {
            "model": "fcn",
            "options": {},
            "workers": 2,
            "accumulate": 2,
            "clip_gradient": 1.0,
            "optimizer": "adamw",
        },
        {"freeze_backbone": True, "short_edges": (40, 56), "ema": 0.9},
    ],
    ids=["pan-ema", "fcn-dropout-workers", "frozen-short-edges"],
)
def test_stopped_and_resumed(
    tmp_path: Path, folder: Path, settings: dict[str, Any], variation: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {**settings, **variation}
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(folder, out=unbroken, **chosen)
    train_until(2, monkeypatch, data=folder, out=broken, **chosen)
    assert len(read_metrics(broken / "metrics.csv")) == 2
    train(folder, out=broken, resume=True)
    assert_the_same_run(unbroken, broken)


@pytest.mark.slow
def test_interrupted(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    run = tmp_path / "run"
    words = ["--data", str(folder), "--out", str(run), *flags({**settings, "epochs": 50})]
    status, printed = stop_after_rows(run, words, 2, signal.SIGINT)  # after the first checkpoint
    assert status == 130
    assert printed.strip().splitlines()[-1] == "segweave: interrupted; the run continues with --resume"
    assert "Traceback" not in printed


@pytest.mark.usefixtures("no_report")
def test_killed_before_its_first_checkpoint_starts_over(tmp_path: Path, segmentation_run: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(segmentation_run / "config.yaml", run)
    train(out=run, resume=True)
    assert weights(run) == weights(segmentation_run)


def test_resume_refuses_another_model_or_nothing(tmp_path: Path, folder: Path, segmentation_run: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        train(folder, out=tmp_path / "none", resume=True)
    run = tmp_path / "run"
    shutil.copytree(segmentation_run, run)
    with pytest.raises(InputError, match="the run has model 'pan', not 'fcn'"):
        train(folder, out=run, resume=True, model="fcn")
    (run / "checkpoints" / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"last\.ckpt: expected a checkpoint"):
        train(folder, out=run, resume=True)
    (run / "config.yaml").write_text(f"data: {folder}\nmodel: pan\n")
    with pytest.raises(InputError, match=r"config\.yaml: backbone is missing"):
        train(out=run, resume=True)


def score_by_epoch(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations score what a list says, by their epoch."""
    epoch = 0
    start = TrainingSteps.on_validation_epoch_start

    def remember(self: TrainingSteps[Any]) -> None:
        nonlocal epoch
        epoch = self.current_epoch
        start(self)

    monkeypatch.setattr(TrainingSteps, "on_validation_epoch_start", remember)
    monkeypatch.setattr("segweave.segmentation.evaluation.mean_iou", lambda confusion: scores[epoch])


@pytest.mark.usefixtures("no_report")
def test_best_checkpoint_and_patience_survive_a_resume(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    score_by_epoch([0.2, 0.5, 0.3, 0.4, 0.45, 0.9], monkeypatch)
    chosen = {**settings, "epochs": 6, "early_stopping": 3}
    train_until(3, monkeypatch, data=folder, out=run, **chosen)
    train_until(None, monkeypatch, data=folder, out=run, resume=True)

    # the second is the best, and the three after it are no better
    assert [int(row["epoch"]) for row in read_metrics(run / "metrics.csv")] == [1, 2, 3, 4, 5]
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 1
    train_until(None, monkeypatch, data=folder, out=run, resume=True)  # has stopped, and stays so
    assert len(read_metrics(run / "metrics.csv")) == 5


@pytest.mark.usefixtures("no_report")
def test_early_stopping_with_epochs_between_validations(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    score_by_epoch([0.0, 0.5, 0.0, 0.4, 0.0, 0.3, 0.0, 0.9], monkeypatch)
    train(folder, out=run, **{**settings, "epochs": 8, "validate_every": 2, "early_stopping": 2})
    assert [int(row["epoch"]) for row in read_metrics(run / "metrics.csv")] == [2, 4, 6]


def test_workers_may_differ_on_resume(tmp_path: Path, folder: Path, segmentation_run: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(segmentation_run, run)
    (run / "report.html").unlink()
    train(folder, out=run, resume=True, workers=1, device="cpu")
    assert (run / "report.html").exists()
    with pytest.raises(InputError, match="the run has seed 0, not 3"):
        train(folder, out=run, resume=True, seed=3)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_bar_of_a_resumed_run_reaches_its_end(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    bars: list[Progress] = []
    started: list[float] = []

    def terminal(**options: Any) -> Console:
        return Console(file=io.StringIO(), force_terminal=True)

    def record(*arguments: Any, **options: Any) -> Progress:
        bar = progress_bar(*arguments, **options)
        start = bar.start

        def note_and_start() -> None:
            started.append(bar.tasks[0].completed)
            start()

        monkeypatch.setattr(bar, "start", note_and_start)
        bars.append(bar)
        return bar

    monkeypatch.setattr("segweave.training.run.Console", terminal)
    monkeypatch.setattr("segweave.training.progress.progress_bar", record)
    chosen = {**settings, "epochs": 3, "accumulate": accumulate}
    train_until(1, monkeypatch, data=folder, out=tmp_path / "run", **chosen)
    train(out=tmp_path / "run", resume=True)
    assert started == [0, 2]  # two batches an epoch
    stopped, resumed = (bar.tasks[0] for bar in bars)
    assert (stopped.completed, stopped.total) == (2, 6)
    assert (resumed.completed, resumed.total) == (6, 6)


OLD_CONFIGURATION = """\
data: DATA
root: null
train_split: train
val_split: val
check: true
model: pan
backbone: test_resnet
pretrained: false
freeze_backbone: false
freeze_batch_norm: false
init_from: null
options:
  decoder_channels: 16
epochs: 4
batch_size: 4
crop_size:
- 32
- 48
short_edge: 0
short_edges: null
long_edge: null
scale_range:
- 0.5
- 2.0
flip_probability: 0.5
brightness: 0.2
optimizer: sgd
learning_rate: 0.02
momentum: 0.9
weight_decay: 0.0001
power: 0.9
milestones: null
warmup_steps: 0
accumulate: 1
clip_gradient: null
ema: null
early_stopping: null
validate_every: 1
precision: '32'
device: cpu
devices: 1
sync_batch_norm: false
workers: 0
compile: false
seed: 0
"""
"""As config.yaml was written when the settings given and those resolved were one class."""


@pytest.mark.usefixtures("no_report")
def test_a_run_with_an_old_config_yaml_is_resumed(tmp_path: Path, folder: Path, segmentation_run: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(OLD_CONFIGURATION.replace("DATA", str(folder)))
    old = configuration_of(read_settings(run / "config.yaml"))
    assert old == configuration_of(read_settings(segmentation_run / "config.yaml"))
    train(out=run, resume=True)
    assert weights(run) == weights(segmentation_run)
