"""A whole run: what it writes, that it can be repeated, and what stops it."""

import errno
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segweave
from segweave import InputError, TrainingError, train
from segweave.data.transforms import RandomScale
from segweave.networks.pan import PAN
from segweave.training.callbacks import WholeCheckpoints, read_metrics
from segweave.training.configuration import read_settings
from segweave.training.folder import RUN_FILES
from tests.small_runs import flags, weights


def test_a_run_folder_holds_what_is_promised(segmentation_run: Path) -> None:
    run = segmentation_run
    assert sorted(path.name for path in run.iterdir()) == sorted(RUN_FILES)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert any((run / "tensorboard").glob("events.*"))
    rows = read_metrics(run / "metrics.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]  # nine images in batches of four
    assert all(0 <= float(row["val/mean_iou"]) <= 1 for row in rows)
    network = segweave.load(run)
    assert network.labelling is not None
    assert network.labelling.classes == ("red", "green", "blue")
    report = (run / "report.html").read_text()
    assert "green" in report
    assert "http" not in report.split("<body")[1].replace("http://www.w3.org", "")


def test_a_file_is_there_when_a_run_names_it(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    named: list[str] = []

    class Reader(io.StringIO):
        def write(self, text: str) -> int:
            for name in re.findall(rf"{re.escape(str(run))}/([\w./]+)|(\w+\.html)", text):
                path = "".join(name)
                assert (run / path).exists(), text
                named.append(path)
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Reader())
    monkeypatch.setattr(sys, "stderr", Reader())
    train(folder, out=run, **{**settings, "epochs": 1})
    assert named == ["report.html"]


@pytest.mark.usefixtures("no_report")
def test_config_yaml_repeats_the_run_whatever_the_workers(tmp_path: Path, segmentation_run: Path) -> None:
    train(out=tmp_path / "again", config=segmentation_run / "config.yaml", workers=2)
    assert weights(tmp_path / "again") == weights(segmentation_run)


@pytest.mark.usefixtures("no_report")
def test_the_seed_changes_the_run(tmp_path: Path, segmentation_run: Path) -> None:
    train(out=tmp_path / "other", config=segmentation_run / "config.yaml", seed=1)
    assert weights(tmp_path / "other") != weights(segmentation_run)


def test_several_short_edges_are_trained_on_and_one_is_evaluated(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    evaluated: list[int] = []
    choose = RandomScale.make_params
    run_over = PAN.forward

    def record_scale(self: RandomScale, flat_inputs: list[Any]) -> dict[str, Any]:
        chosen = choose(self, flat_inputs)
        trained.append(min(chosen["size"]))
        return chosen

    def record_images(self: PAN, images: Tensor) -> Tensor:
        if not self.training:
            evaluated.append(min(images.shape[-2:]))
        return run_over(self, images)

    monkeypatch.setattr(RandomScale, "make_params", record_scale)
    monkeypatch.setattr(PAN, "forward", record_images)
    still = {"epochs": 2, "scale_range": (1.0, 1.0), "short_edges": (36, 64, 40)}
    train(folder, out=tmp_path / "run", **settings | still)
    assert set(trained) == {36, 40, 64}
    assert set(evaluated) == {40}
    network = segweave.load(tmp_path / "run")
    assert network.labelling is not None
    assert network.labelling.short_edge == 40  # what predictions resize to
    written = read_settings(tmp_path / "run" / "config.yaml")
    assert (written["short_edge"], written["short_edges"]) == (40, [36, 64, 40])


@pytest.mark.usefixtures("no_report")
def test_the_last_epoch_is_validated(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    train(folder, out=tmp_path / "run", **{**settings, "epochs": 5, "validate_every": 2})
    assert [int(row["epoch"]) for row in read_metrics(tmp_path / "run" / "metrics.csv")] == [2, 4, 5]


@pytest.mark.usefixtures("no_report")
def test_early_stopping(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segweave.segmentation.evaluation.mean_iou", lambda confusion: 0.5)
    train(folder, out=tmp_path / "run", **{**settings, "epochs": 9, "early_stopping": 2})
    assert len(read_metrics(tmp_path / "run" / "metrics.csv")) == 3  # the first, and two that are no better


@pytest.mark.usefixtures("no_report")
def test_the_moving_average_is_what_is_saved(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    train(folder, out=tmp_path / "run", **{**settings, "epochs": 1, "ema": 0.9})
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    saved = segweave.load(tmp_path / "run").state_dict()
    name = "head.weight"
    assert torch.equal(saved[name], checkpoint["state_dict"][f"network.{name}"])
    assert not torch.equal(saved[name], checkpoint["current_model_state"][f"network.{name}"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "frozen"),
    [(["-m"], False), (["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"], True)],
    ids=["own", "torchrun-frozen"],
)
def test_two_processes(
    tmp_path: Path, folder: Path, settings: dict[str, Any], launcher: list[str], frozen: bool
) -> None:
    out = tmp_path / "run"
    chosen = {**settings, "epochs": 2, "freeze_backbone": frozen}
    words = ["--data", str(folder), "--out", str(out), "--devices", "2", *flags(chosen)]
    subprocess.run(
        [sys.executable, *launcher, "segweave", "train", *words], check=True, capture_output=True, timeout=300
    )
    assert [int(row["step"]) for row in read_metrics(out / "metrics.csv")] == [2, 4]
    assert (out / "report.html").exists()
    again = segweave.evaluate(out, data=folder, workers=0)
    assert again.mean_iou == pytest.approx(
        max(float(row["val/mean_iou"]) for row in read_metrics(out / "metrics.csv")), abs=1e-6
    )
    counts = [m.num_batches_tracked for m in segweave.load(out).backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert counts
    assert all((count == 0) == frozen for count in counts)


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def losses(self: PAN, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        nonlocal steps
        steps += 1
        return {"segmentation": self(images).mean() / (0 if steps == 6 else 1)}

    monkeypatch.setattr(PAN, "losses", losses)
    with pytest.raises(TrainingError) as caught:
        train(folder, out=tmp_path / "run", **settings)
    message = str(caught.value)
    assert "not finite at step 5" in message
    assert "train/images/" in message
    assert "checkpoints/last.ckpt" in message
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"step": 1}, target)

    def fill(checkpoint: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(InputError, match=r"last\.ckpt: can't be written: No space left on device"):
        WholeCheckpoints().save_checkpoint({"step": 2}, target)
    assert WholeCheckpoints().load_checkpoint(target) == {"step": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_checkpoint_with_foreign_objects_is_refused(tmp_path: Path) -> None:
    torch.save({"state": Path("x")}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"last\.ckpt: expected a checkpoint"):
        WholeCheckpoints().load_checkpoint(tmp_path / "last.ckpt")


def test_sync_batch_norm_needs_a_gpu(tmp_path: Path, folder: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="sync_batch_norm"):
        train(folder, out=tmp_path / "run", **{**settings, "sync_batch_norm": True})
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_report")
def test_a_run_starts_from_another(
    tmp_path: Path, segmentation_run: Path, folder: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    still = settings | {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-12, "weight_decay": 0.0}
    train(folder, out=tmp_path / "tuned", init_from=str(segmentation_run), **still)
    assert f"start from {segmentation_run}" in capsys.readouterr().out.replace("\n", "")
    before, after = segweave.load(segmentation_run), segweave.load(tmp_path / "tuned")
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(new, old, msg=name)
    assert Path(str(read_settings(tmp_path / "tuned" / "config.yaml")["init_from"])).is_absolute()


def test_a_resumed_run_does_not_start_from_another_again(
    tmp_path: Path, segmentation_run: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(segmentation_run, "first")
    short = {**settings, "epochs": 2}
    train(folder, out="tuned", init_from=Path("first"), **short)
    expected = weights(tmp_path / "tuned")
    (tmp_path / "tuned" / "report.html").unlink()
    train(folder, out="tuned", init_from="first", resume=True, **short)  # the words that began it
    assert weights(tmp_path / "tuned") == expected
    assert (tmp_path / "tuned" / "report.html").exists()
    shutil.rmtree("first")
    train(out="tuned", resume=True)
    assert weights(tmp_path / "tuned") == expected


@pytest.mark.parametrize("part", ["", "model"])
def test_a_run_does_not_start_from_the_one_it_replaces(
    tmp_path: Path, segmentation_run: Path, folder: Path, settings: dict[str, Any], part: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(segmentation_run, copy)
    with pytest.raises(InputError, match=r"init_from .*copy.*: is the run that would be replaced"):
        train(folder, out=copy, init_from=str(copy / part), overwrite=True, **settings)
    assert weights(copy) == weights(segmentation_run)
    assert (copy / "report.html").exists()


@pytest.mark.usefixtures("no_report")
def test_the_folders_of_a_run_are_found_from_anywhere(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    train("folder", out=tmp_path / "run", root=Path(folder.name), **{**settings, "epochs": 1})
    written = read_settings(tmp_path / "run" / "config.yaml")
    assert (written["data"], written["root"]) == ("folder", str(folder))
