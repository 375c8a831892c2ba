"""Progress on a terminal: count, rate and time left; nothing where there is no terminal."""

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Task, TaskID
from rich.text import Text

import segweave
from segweave import progress
from segweave.progress import RateColumn, followed, progress_bar
from segweave.training import run, trainer


def terminal() -> tuple[Console, io.StringIO]:
    """A console that takes itself for a terminal, and what is drawn on it."""
    output = io.StringIO()
    return Console(file=output, force_terminal=True, width=120), output


def last_line(output: io.StringIO) -> str:
    """What is left to be seen of a bar that was drawn over and over."""
    shown = Text.from_ansi(output.getvalue().replace("\r", "\n")).plain
    return next(line for line in reversed(shown.splitlines()) if line.strip())


def slowly(count: int) -> Iterator[int]:
    for item in range(count):
        time.sleep(0.02)
        yield item


def test_nothing_is_printed_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(followed(slowly(3), 3, "predicting")) == [0, 1, 2]
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_count_rate_and_times_are_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console, output = terminal()
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    assert list(followed(slowly(5), 5, "checking [train]")) == [0, 1, 2, 3, 4]
    line = last_line(output)
    assert line.startswith("checking [train] "), "what is done is text, not markup"
    assert "5/5" in line
    rate = re.search(r"(\d+\.\d) images/s", line)
    assert rate is not None
    assert 0 < float(rate[1]) <= 50
    assert re.search(r"\d:\d\d:\d\d left 0:00:00", line)


def test_nothing_is_printed_on_a_terminal_if_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    console, output = terminal()
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    assert list(followed("ab", 2, "checking", shown=False)) == ["a", "b"]
    assert output.getvalue() == ""


def test_it_goes_to_standard_error(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    list(followed("ab", 2, "predicting"))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "predicting" in printed.err


def test_items_are_passed_on_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    console, _ = terminal()
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    for shown in (False, True):
        items = iter(range(9))
        passed = followed(items, 9, "predicting", shown=shown)
        assert (next(passed), next(passed)) == (0, 1)
        assert next(items) == 2


def test_an_error_ends_the_bar_and_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    console, output = terminal()
    monkeypatch.setattr(progress, "Console", lambda stderr: console)

    def broken() -> Iterator[int]:
        yield 1
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        list(followed(broken(), 3, "predicting"))
    assert output.getvalue().endswith("\x1b[?25h"), "the cursor is seen again"


def test_a_bar_shows_the_time_that_is_left() -> None:
    console, output = terminal()
    with progress_bar(console, "step", before="epoch {task.fields[epoch]}", after="loss {task.fields[loss]}") as bar:
        task = bar.add_task("", total=400, epoch="1/[2]", loss="0.5")
        for _ in range(4):
            time.sleep(0.05)
            bar.update(task, advance=1)
        bar.refresh()
    line = last_line(output)
    assert line.startswith("epoch 1/[2] ")
    assert "4/400 loss 0.5" in line
    found = re.search(r" (\d+\.\d) steps/s .* left 0:(\d\d):(\d\d)", line)
    assert found is not None
    rate, left = float(found[1]), 60 * int(found[2]) + int(found[3])
    assert 0 < rate <= 20
    assert left == pytest.approx(396 / rate, rel=0.1, abs=1)


@pytest.mark.parametrize(
    ("speed", "expected"),
    [(None, ""), (12.34, "12.3 images/s"), (1.0, "1.0 images/s"), (0.25, "4.0 s/image"), (0.0, "")],
)
def test_slow_work_is_told_in_seconds_for_one(speed: float | None, expected: str) -> None:
    task = Task(TaskID(0), "", 10, 1, _get_time=time.monotonic, finished_speed=speed)
    assert RateColumn("image").render(task).plain == expected


@pytest.mark.slow
def test_training_and_evaluation_show_theirs_on_a_terminal(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    training, shown_in_training = terminal()
    evaluating, shown_in_evaluation = terminal()
    monkeypatch.setattr(run, "Console", lambda quiet=False: training)
    monkeypatch.setattr(trainer, "Console", lambda stderr: evaluating)
    result = segweave.train(folder, out=tmp_path / "run", **{**settings, "epochs": 3})
    lines = Text.from_ansi(shown_in_training.getvalue().replace("\r", "\n")).plain.splitlines()
    bars = [" ".join(line.split()) for line in lines if line.startswith("epoch ")]
    assert bars[0].startswith("epoch ")
    assert re.search(r"^epoch 3/3 \S+ 6/6 loss \d\.\d{3} mIoU \d+\.\d % [\d.]+ \S+ 0:\d\d:\d\d left 0:00:00$", bars[-1])
    assert not any("step 6" in line for line in lines), "no line for each validation beside the bar"

    line = " ".join(last_line(shown_in_evaluation).split())
    assert re.search(r"^evaluating \S+ 5/5 [\d.]+ (images/s|s/image) 0:\d\d:\d\d left 0:00:00$", line)
    assert len(result.image_scores) == 5


@pytest.mark.slow
def test_training_prints_a_line_for_each_validation_where_there_is_no_terminal(
    tmp_path: Path, folder: Path, settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    segweave.train(folder, out=tmp_path / "run", **{**settings, "epochs": 2})
    printed = capfd.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        expected = rf"epoch {number}/2  step {2 * number}  loss \d\.\d{{3}}  mIoU \S+ %  pixel accuracy \S+ %"
        assert re.fullmatch(expected, line), line
    assert "evaluating" not in printed.err
