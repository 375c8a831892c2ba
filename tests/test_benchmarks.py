"""The scripts of `benchmarks`: that each can be started, what the ablations ask for, and what they do with runs that
are there already."""

import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from segweave.training.configuration import configure, read_settings

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def ablations(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import ablations

    def train(*command: Any, **options: Any) -> None:
        raise AssertionError("a run is trained")

    monkeypatch.setattr(subprocess, "run", train)
    return ablations


def a_run(folder: Path, **settings: Any) -> bytes:
    folder.mkdir(parents=True)
    config = {"model": "fpt", "epochs": 4, "validate_every": 4, "precision": "32", "seed": 0, "crop_size": [96, 120]}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "options": {"channels": 32}, **settings}))
    (folder / "report.html").write_text("done")
    return (folder / "config.yaml").read_bytes()


@pytest.mark.parametrize("settings", [{"epochs": 3}, {"options": {"channels": 64}}, {"crop_size": [96, 96]}], ids=str)
def test_a_run_of_other_settings_is_left(tmp_path: Path, ablations: ModuleType, settings: dict[str, Any]) -> None:
    arguments = Namespace(
        out=tmp_path, seeds=[0], epochs=4, precision="32", processes=1, threads=1, settings={"crop_size": (96, 120)}
    )
    rows = [ablations.Row("FPT", 80.0, "fpt", "fpt", {"channels": 32})]
    a_run(tmp_path / "fpt-0")
    assert ablations.train_rows(rows, arguments) == {("fpt", 0): tmp_path / "fpt-0"}
    rows[0] = ablations.Row("other", 80.0, "other", "fpt", {"channels": 32})
    before = a_run(tmp_path / "other-0", **settings)
    with pytest.raises(SystemExit, match="other-0: a run with other settings"):
        ablations.train_rows(rows, arguments)
    assert (tmp_path / "other-0" / "config.yaml").read_bytes() == before


def test_figures_that_the_paper_has_not(ablations: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ablations.Row("FPT", 80.0, "fpt", "fpt"), ablations.Row("ours", float("nan"), "ours", "fpt")]
    ablations.print_table("Table", rows, {("fpt", 0): 50.0, ("ours", 0): 60.0}, [0])
    printed = capsys.readouterr().out
    assert "| FPT | 80.00 | 50.0 | 50.0 | 0.0 |" in printed
    assert "| ours | - | 60.0 | 60.0 | 0.0 |" in printed
    assert printed.endswith("Other order than the paper's: none.\n")


@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_every_script_can_be_started(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if script == "pan_against_smp.py":
        pytest.importorskip("segmentation_models_pytorch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    if "__main__" not in (BENCHMARKS / script).read_text():  # what others import
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        return
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    assert done.value.code == 0
    assert script in capsys.readouterr().out


def test_a_row_is_trained_with_its_settings(
    tmp_path: Path, ablations: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def train(command: list[str], **options: Any) -> None:
        given = {flag: command[command.index(flag) + 1] for flag in ("--data", "--out", "--config")}
        asked.append({**read_settings(given["--config"]), "data": given["--data"], "out": given["--out"]})

    monkeypatch.setattr(subprocess, "run", train)
    row = ablations.Row("FPT", 80.0, "fpt", "fpt", {"channels": 32, "rates": (2, 5), "attention": None, "deep": True})
    settings = {**ablations.SETTINGS, "freeze_backbone": True}
    arguments = Namespace(
        out=tmp_path, seeds=[3], epochs=4, precision="bf16-mixed", processes=1, threads=1, settings=settings
    )
    ablations.train_rows([row], arguments)
    [settings_read] = asked
    assert settings_read.pop("out") == str(tmp_path / "fpt-3")
    configuration = configure(settings_read)
    assert (configuration.data, configuration.model, configuration.seed) == ("shapes", "fpt", 3)
    assert (configuration.crop_size, configuration.scale_range) == ((96, 120), (0.75, 1.5))
    assert (configuration.freeze_backbone, configuration.precision) == (True, "bf16-mixed")
    assert configuration.options == {"channels": 32, "rates": [2, 5], "attention": None, "deep": True}
