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
from torch.utils._pytree import tree_flatten

from segweave import InputError, train
from segweave.training.callbacks import read_metrics
from tests.small_runs import flags


def stop_after_rows(run: Path, arguments: list[str], rows: int, how: signal.Signals) -> tuple[int, str]:
    """Starts a run as a process of its own and stops it once metrics.csv has so many rows.

    Returns:
        Its exit status and what it printed on standard error.
    """
    command = [sys.executable, "-m", "segweave", "train", *arguments]
    # as many threads as here: sums in another order differ in their last bit
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
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
    ],
    ids=["pan-ema", "fcn-dropout-workers"],
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
    assert (unbroken / "model" / "model.safetensors").read_bytes() == (
        broken / "model" / "model.safetensors"
    ).read_bytes()
    figures = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(run / "metrics.csv")]
        for run in (unbroken, broken)
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_interrupted(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    run = tmp_path / "run"
    words = ["--data", str(folder), "--out", str(run), *flags({**settings, "epochs": 50})]
    status, printed = stop_after_rows(run, words, 1, signal.SIGINT)
    assert status == 130
    assert printed.strip().splitlines()[-1] == "segweave: interrupted; a training run continues with --resume"
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
