"""Where networks run: what is asked for if it is there, a GPU or the CPU otherwise; and in how many processes."""

import pytest
import torch

from segweave.devices import choose_device, require_processes
from segweave.errors import InputError


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
    require_processes(1)
    require_processes(2)  # Lightning starts the second one
    with pytest.raises(InputError, match="devices 0: expected 1 or more"):
        require_processes(0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    require_processes(2)
    with pytest.raises(InputError, match="devices 1: started as 2 processes, expected --devices 2"):
        require_processes(1)
