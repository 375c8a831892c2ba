"""A run that was killed and resumed ends as a run that was never stopped, to the bit."""

import os
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
from torch.utils._pytree import tree_flatten

import segweave.training.run as run_module
from segweave import InputError, train
from segweave.training.steps import TrainingSteps
from segweave.training.callbacks import read_metrics
from tests.small_runs import flags


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "variation",
    [
        {"ema": 0.9, "epochs": 6},
        {
            "model": "fcn",
            "options": {},
            "workers": 2,
            "epochs": 6,
            "accumulate": 2,
            "clip_gradient": 1.0,
            "optimizer": "adamw",
        },
        {"freeze_backbone": True, "short_edges": (40, 56), "ema": 0.9, "epochs": 6},
    ],
    ids=["pan-ema", "fcn-dropout-workers", "frozen-short-edges"],
)
def test_killed_and_resumed(tmp_path: Path, folder: Path, settings: dict[str, Any], variation: dict[str, Any]) -> None:
    chosen = {**settings, **variation}
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(folder, out=unbroken, **chosen)
    stop_after_rows(broken, ["--data", str(folder), "--out", str(broken), *flags(chosen)], 2, signal.SIGKILL)
    assert len(read_metrics(broken / "metrics.csv")) < chosen["epochs"]

    train(folder, out=broken, resume=True)

    expected, resumed = checkpoint(unbroken), checkpoint(broken)
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        if part in expected:
            assert_same(resumed[part], expected[part])
    best = [torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] for run in (unbroken, broken)]
    assert best[0] == best[1]
    assert (unbroken / "model" / "model.safetensors").read_bytes() == (
        broken / "model" / "model.safetensors"
    ).read_bytes()
    figures = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(run / "metrics.csv")]
        for run in (unbroken, broken)
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_a_detector_killed_and_resumed(tmp_path: Path, coco_folder: Path, detection_settings: dict[str, Any]) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(coco_folder, out=unbroken, **detection_settings)
    words = ["--data", str(coco_folder), "--out", str(broken), *flags(detection_settings)]
    stop_after_rows(broken, words, 2, signal.SIGKILL)
    assert len(read_metrics(broken / "metrics.csv")) < detection_settings["epochs"]

    train(coco_folder, out=broken, resume=True, **detection_settings)  # the words that began it

    expected, resumed = checkpoint(unbroken), checkpoint(broken)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_same(resumed[part], expected[part])
    assert (unbroken / "model" / "model.safetensors").read_bytes() == (
        broken / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_interrupted(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    run = tmp_path / "run"
    words = ["--data", str(folder), "--out", str(run), *flags({**settings, "epochs": 50})]
    status, printed = stop_after_rows(run, words, 1, signal.SIGINT)
    assert status == 130
    assert printed.strip().splitlines()[-1] == "segweave: interrupted; the run continues with --resume"
    assert "Traceback" not in printed


def test_killed_before_its_first_checkpoint_starts_over(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    chosen = {**settings, "epochs": 1}
    train(folder, out=other, **chosen)
    run.mkdir()
    (run / "config.yaml").write_bytes((other / "config.yaml").read_bytes())

    train(folder, out=run, resume=True)

    assert (run / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()


def test_resume_refuses_another_model_or_nothing(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        train(folder, out=tmp_path / "none", resume=True)
    run = tmp_path / "run"
    train(folder, out=run, **{**settings, "epochs": 1})
    with pytest.raises(InputError, match="the run has model 'pan', not 'fcn'"):
        train(folder, out=run, resume=True, model="fcn")
    (run / "checkpoints" / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"last\.ckpt: expected a checkpoint"):
        train(folder, out=run, resume=True)


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
        create = run_module.create_trainer

        def create_and_stop(*positional: Any, callbacks: list[Callback], **options: Any) -> Trainer:
            return create(*positional, callbacks=[*callbacks, StopAfter(validations)], **options)

        patch.setattr(run_module, "create_trainer", create_and_stop)
        with pytest.raises(RuntimeError, match="stopped"):
            train(**arguments)


def score_by_epoch(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations score what a list says, by their epoch."""
    epoch = 0
    start = TrainingSteps.on_validation_epoch_start

    def remember(self: TrainingSteps) -> None:
        nonlocal epoch
        epoch = self.current_epoch
        start(self)

    monkeypatch.setattr(TrainingSteps, "on_validation_epoch_start", remember)
    monkeypatch.setattr("segweave.segmentation.evaluation.mean_iou", lambda confusion: scores[epoch])


def test_best_checkpoint_and_patience_survive_a_resume(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    score_by_epoch([0.2, 0.5, 0.3, 0.4, 0.45, 0.9], monkeypatch)
    monkeypatch.setattr("segweave.training.run.finish", lambda *arguments: None)
    chosen = {**settings, "epochs": 6, "early_stopping": 3}
    train_until(3, monkeypatch, data=folder, out=run, **chosen)
    train_until(None, monkeypatch, data=folder, out=run, resume=True)

    # the second is the best, and the three after it are no better
    assert [int(row["epoch"]) for row in read_metrics(run / "metrics.csv")] == [1, 2, 3, 4, 5]
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 1
    train_until(None, monkeypatch, data=folder, out=run, resume=True)  # has stopped, and stays so
    assert len(read_metrics(run / "metrics.csv")) == 5


def test_early_stopping_with_epochs_between_validations(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    score_by_epoch([0.0, 0.5, 0.0, 0.4, 0.0, 0.3, 0.0, 0.9], monkeypatch)
    monkeypatch.setattr("segweave.training.run.finish", lambda *arguments: None)
    train(folder, out=run, **{**settings, "epochs": 8, "validate_every": 2, "early_stopping": 2})
    assert [int(row["epoch"]) for row in read_metrics(run / "metrics.csv")] == [2, 4, 6]


def test_workers_may_differ_on_resume(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    run = tmp_path / "run"
    train(folder, out=run, **{**settings, "epochs": 1})
    train(folder, out=run, resume=True, workers=1, device="cpu")
    with pytest.raises(InputError, match="the run has seed 0, not 3"):
        train(folder, out=run, resume=True, seed=3)
