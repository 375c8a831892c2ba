"""What docs/extending.md shows works: a network, a data set and a figure, each a file and a line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segweave
from segweave import models
from segweave.segmentation import evaluation, task

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SMALL: dict[str, Any] = {"backbone": "test_resnet", "epochs": 1, "batch_size": 4, "crop_size": (32, 32), "workers": 0}


def shown(title: str) -> tuple[dict[str, Any], str]:
    """What the file of a section defines, and its line."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert section is not None
    file, line = re.findall(r"```(?:python)?\n(.*?)```", section[1], re.DOTALL)
    defined: dict[str, Any] = {"__name__": "extension"}
    exec(compile(file, f"{PAGE.name}: {title}", "exec"), defined)
    return defined, line.strip()


@pytest.fixture
def chessboards(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("val", 3)):
        (tmp_path / "boards" / split).mkdir(parents=True)
        for index in range(count):
            fields = np.kron(np.indices((4, 4)).sum(axis=0) % 2, np.ones((12, 12))) * 200 + 10 + index
            Image.fromarray(fields.astype(np.uint8)).save(tmp_path / "boards" / split / f"{index}.png")
    return tmp_path / "boards"


def test_a_network_is_a_file_and_a_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defined, line = shown("A network")
    for name, network in eval(f"{{{line}}}", defined).items():
        monkeypatch.setitem(models.NETWORKS, name, network)
    assert "mean_context" in segweave.list_models("semantic")
    run = tmp_path / "run"
    segweave.train(folder, out=run, model="mean_context", options={"channels": 8}, **SMALL)
    assert segweave.load(run).recipe["options"]["channels"] == 8
    assert segweave.segment(run, next((folder / "val" / "images").iterdir())).mask.shape == (48, 64)
    with pytest.raises(segweave.InputError, match="did you mean channels"):
        segweave.create_model("mean_context", num_classes=2, backbone="test_resnet", chanels=8)


def test_a_data_set_is_a_file_and_a_line(chessboards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defined, line = shown("A data set")
    for name, dataset in eval(f"{{{line}}}", defined).items():
        monkeypatch.setitem(task.DATASETS, name, dataset)
    segweave.train("chessboards", root=str(chessboards), out=tmp_path / "run", model="fcn", **SMALL)
    evaluated = segweave.evaluate(tmp_path / "run", data="chessboards", root=chessboards, workers=0)
    assert set(evaluated.image_scores) == {"0.png", "1.png", "2.png"}


def test_a_figure_is_a_function_and_a_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defined, line = shown("A figure")
    added = eval(f"[{line}]", defined)
    monkeypatch.setattr(evaluation, "MEASURES", [*evaluation.MEASURES, *added])
    run, file = tmp_path / "run", tmp_path / "figures.json"
    result = segweave.train(folder, out=run, model="fcn", **SMALL)
    assert "val/frequency_weighted_iou" in (run / "metrics.csv").read_text().splitlines()[0]
    assert "fwIoU" in (run / "report.html").read_text()
    segweave.evaluate(run, data=folder, out=file, workers=0)
    confusion = np.array(json.loads(file.read_text())["confusion"], float)
    shares, hits = confusion.sum(axis=1) / confusion.sum(), np.diag(confusion)
    iou = hits / (confusion.sum(axis=0) + confusion.sum(axis=1) - hits)
    assert json.loads(file.read_text())["frequency_weighted_iou"] == pytest.approx(float(np.nansum(shares * iou)))
    assert [figure.title for figure in result.figures][-1] == "fwIoU"
