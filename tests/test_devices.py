"""Where networks run: what is asked for if it is there, a GPU or the CPU otherwise; and in how many processes."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from segweave import create_model, evaluate, train
from segweave.devices import choose_device, require_processes
from segweave.errors import InputError
from segweave.networks.network import Labelling
from segweave.saving import save_model


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, False, "cuda"), (False, True, "cpu"), (False, False, "cpu")],
)
def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto") == expected
    assert choose_device(expected) == expected
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["cuda", "mps", "toaster", "CPU", ""])
def test_what_is_not_there_is_named_beside_what_is(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    pretend(monkeypatch, cuda=False, mps=False)
    with pytest.raises(InputError, match=f"device '{device}': expected auto or what this machine has: cpu$"):
        choose_device(device)


def test_processes_are_as_many_as_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    require_processes(1, "cpu")
    require_processes(2, "cpu")  # Lightning starts the second one
    with pytest.raises(InputError, match="devices 0: expected 1 or more"):
        require_processes(0, "cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    require_processes(2, "cpu")
    with pytest.raises(InputError, match="devices 1: started as 2 processes, expected --devices 2"):
        require_processes(1, "cpu")


@pytest.mark.parametrize(("device", "cuda"), [("cuda", True), ("auto", True), ("cpu", True), ("auto", False)])
def test_processes_are_no_more_than_the_machine_can_run(
    monkeypatch: pytest.MonkeyPatch, device: str, cuda: bool
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    pretend(monkeypatch, cuda=cuda, mps=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    most, counted = (4, "GPUs") if cuda and device != "cpu" else (8, "CPU cores")
    require_processes(most, device)
    with pytest.raises(InputError, match=f"^devices 1000: expected {most} or fewer, as this machine has {counted}"):
        require_processes(1000, device)


@pytest.mark.parametrize("cores", [1, None])
def test_two_processes_may_share_a_core(monkeypatch: pytest.MonkeyPatch, cores: int | None) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    require_processes(2, "cpu")
    with pytest.raises(InputError, match="devices 3: expected 2 or fewer"):
        require_processes(3, "cpu")


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(subprocess, "Popen", start)


@pytest.mark.usefixtures("nothing_starts")
def test_a_thousand_processes_train_nothing(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    many = {**settings, "batch_size": 1000, "devices": 1000}
    with pytest.raises(InputError, match=r"devices 1000: expected \d+ or fewer, as this machine has CPU cores"):
        train(folder, out=tmp_path / "run", **many)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_starts")
def test_a_thousand_processes_evaluate_nothing(tmp_path: Path, folder: Path) -> None:
    network = create_model("fcn", num_classes=3, backbone="test_resnet")
    network.labelling = Labelling(("red", "green", "blue"), ((200, 40, 40), (40, 200, 40), (40, 40, 200)))
    save_model(network, tmp_path / "model")
    with pytest.raises(InputError, match=r"devices 1000: expected \d+ or fewer, as this machine has CPU cores"):
        evaluate(tmp_path, data=folder, device="cpu", devices=1000)
