"""Each command that works through images or networks shows how far it is on a terminal."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console
from rich.text import Text

import segweave
from segweave import progress
from segweave.commands.check import check
from segweave.training import trainer


class Place(NamedTuple):
    """What the commands are called with."""

    run: Path
    data: Path
    photos: Path
    out: Path


CALLS: dict[str, tuple[Callable[[Place], object], str, str]] = {
    "evaluate": (lambda place: segweave.evaluate(place.run, data=place.data, device="cpu"), "evaluating", "image"),
    "predict": (
        lambda place: segweave.predict(place.run, place.photos, out=place.out, device="cpu"),
        "predicting",
        "image",
    ),
    "explain": (
        lambda place: segweave.explain(place.run, place.photos, out=place.out, device="cpu"),
        "explaining",
        "image",
    ),
    "check": (lambda place: check(place.data), "checking val", "image"),
    "profile": (
        lambda place: segweave.profile(["fcn", "pspnet"], backbone="test_resnet", size=(32, 32), rounds=1),
        "profiling",
        "network",
    ),
}


@pytest.mark.parametrize("command", CALLS)
def test_each_shows_count_rate_and_time_left(
    command: str, run: Path, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO()

    def terminal(*, stderr: bool) -> Console:
        assert stderr, "what a command answers is not mixed with its bar"
        return Console(file=output, force_terminal=True, width=120)

    monkeypatch.setattr(progress, "Console", terminal)
    monkeypatch.setattr(trainer, "Console", terminal)
    call, title, unit = CALLS[command]
    call(Place(run, small_folder, photos, tmp_path / "out"))
    lines = Text.from_ansi(output.getvalue().replace("\r", "\n")).plain.splitlines()
    bar = " ".join([line for line in lines if line.strip()][-1].split())
    rate = rf"([\d.]+ {unit}s/s|[\d.]+ s/{unit})"
    assert re.fullmatch(rf"{title} \S+ 2/2 {rate} 0:\d\d:\d\d left 0:00:00", bar), bar
