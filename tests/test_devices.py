"""Where networks run: what is asked for if it is there, the fastest there is otherwise."""

import pytest
import torch

from segweave.devices import choose_device
from segweave.errors import InputError


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_fastest_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto") == expected
    assert choose_device(expected) == expected
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["cuda", "mps", "toaster", "CPU", ""])
def test_what_is_not_there_is_named_beside_what_is(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    pretend(monkeypatch, cuda=False, mps=False)
    with pytest.raises(InputError, match=f"device '{device}': expected auto or what this machine has: cpu$"):
        choose_device(device)
