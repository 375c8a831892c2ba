"""The command line: every kind of bad input is one line, exit status 2, and nothing changed on disk."""

import functools
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segweave
from segweave import create_model, train
from segweave.cli import main
from segweave.networks.network import Labelling
from segweave.saving import save_model
from tests.small_runs import flags

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def place(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with good data in `data` and several kinds of bad data and bad runs beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "data")
    camvid_classes = ", ".join(f"c{k}" for k in range(11))
    for kind in ("value", "truncated", "size", "empty", "unpaired", "void"):
        shutil.copytree(folder, tmp_path / kind)
    (tmp_path / "value" / "dataset.yaml").write_text(f"classes: [{camvid_classes}]\n")
    mask = np.zeros((48, 64), np.uint8)
    mask[5, 7] = 204
    Image.fromarray(mask).save(tmp_path / "value" / "train" / "masks" / "3.png")
    picture = tmp_path / "truncated" / "val" / "images" / "2.png"
    Image.open(picture).save(picture.with_suffix(".jpg"), quality=95)
    whole = picture.with_suffix(".jpg").read_bytes()
    picture.with_suffix(".jpg").write_bytes(whole[: len(whole) * 3 // 4])
    picture.unlink()
    Image.fromarray(mask[:40]).save(tmp_path / "size" / "train" / "masks" / "1.png")
    for file in (tmp_path / "empty" / "val").rglob("*.png"):
        file.unlink()
    (tmp_path / "unpaired" / "train" / "masks" / "0.png").unlink()

    network = create_model("pan", num_classes=2, backbone="test_resnet", decoder_channels=16)
    network.labelling = Labelling(("cat", "dog"), ((255, 0, 0), (0, 255, 0)))
    save_model(network, tmp_path / "two" / "model")
    shutil.copytree(tmp_path / "two", tmp_path / "mixed")
    network = create_model("pan", num_classes=3, backbone="test_resnet", decoder_channels=16)
    network.labelling = Labelling(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    save_model(network, tmp_path / "three" / "model")
    network = create_model("fcn", num_classes=2, backbone="test_resnet")
    network.labelling = Labelling(("cat", "dog"), ((255, 0, 0), (0, 255, 0)))
    save_model(network, tmp_path / "fcn" / "model")
    network = create_model("ranet", num_classes=2, backbone="test_resnet", channels=16)
    network.labelling = Labelling(("cat", "dog"), ((255, 0, 0), (0, 255, 0)))
    save_model(network, tmp_path / "regional" / "model")
    for file in (tmp_path / "void" / "val" / "masks").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(file)
    config = tmp_path / "mixed" / "model" / "config.json"
    config.write_text(config.read_text().replace('"pan"', '"fcn"').replace('"decoder_channels": 16', ""))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("data: data\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    return tmp_path


BAD = {
    "wrong path": ("train --data nowhere --out new", "'nowhere'.*expected an existing folder"),
    "wrong path to evaluate": ("evaluate two --data nowhere", "'nowhere'.*expected an existing folder"),
    "wrong path to predict": ("predict two nowhere.jpg --out new", r"nowhere\.jpg: no such file"),
    "wrong path to check": ("data check nowhere", "nowhere: no such folder"),
    "empty split": ("train --data empty --out new", "empty/val/images"),
    "mask value": ("train --data value --out new", r"3\.png.*204.*0 to 10"),
    "truncated image": ("train --data truncated --out new", r"2\.jpg.*truncated"),
    "mask of another size": ("train --data size --out new", r"1\.png.*64x40.*64x48"),
    "image without mask": ("train --data unpaired --out new", "without a mask"),
    "unknown split": ("evaluate two --data data --split test", "test.*train, val"),
    "unknown model": ("train --data data --out new --model unet", "'unet'.*did you mean ranet"),
    "unknown option": ("train --data data --out new --options.width 3", "'width' of model 'pan': expected one of"),
    "unknown flag": ("train --data data --out new --width 3", "--width"),
    "unknown command": ("fly", "'fly': expected one of demo"),
    "unknown backbone": ("train --data data --out new --backbone resnet19", "'resnet19' is not a model"),
    "another class count": ("evaluate two --data data", "3 classes red, green, blue; expected the 2"),
    "another model": ("evaluate mixed --data data", r"model\.safetensors: expected the weights of a fcn"),
    "no run": ("evaluate mine --data data", "mine: expected the folder of a run"),
    "a run is there already": ("train --data data --out run", "run: holds a run already: expected --resume"),
    "something else is there": ("train --data data --out mine --overwrite", "mine: holds files that are not a run's"),
    "nothing to resume": ("train --data data --out new --resume", "new: nothing to resume"),
    "zero epochs": ("train --data data --out new --epochs 0", "epochs 0: expected 1 or more"),
    "wrong type": ("train --data data --out new --epochs few", "epochs few: expected a whole number"),
    "no data": ("train --out new", "data is missing"),
    "no out": ("train --data data", "out"),
    "no scale": ("evaluate two --data data --scales 0", r"scales \[0.0\]: expected"),
    "no such device": (
        "predict two data/val/images --out new --device tpu",
        "--device tpu: expected one of auto, cpu,",
    ),
    "truncated image, read by workers": ("evaluate three --data truncated --workers 2", r"2\.jpg.*truncated"),
    "nothing labelled": ("train --data void --out new", "void/val: no labelled pixel"),
    "wrong kind of option": ("train --data data --out new --options.global_context banana", "global_context banana"),
    "no process": ("evaluate two --data data --devices 0", "devices 0: expected 1 or more"),
    "an enormous seed": ("train --data data --out new --seed 99999999999999999999", "seed 9+: expected"),
    "data of nothing": ("data", "expected data check DIR"),
    "nothing to start from": ("train --data data --out new --init-from mine", "mine: expected the folder of a run"),
    "scales beside random views": ("evaluate two --data data --random-views 2 --flip", "random_views: expected no"),
    "nothing to profile": ("profile", "expected the names of one or more models"),
    "an unknown model to profile": ("profile unet", "'unet': expected one of fcn"),
    "a small image to profile": ("profile fcn --size 16 64", r"size \[16, 64\]: expected"),
    "a pixel of a network that looks at none": (
        "explain fcn data/val/images/0.png --at 3 4 --out new",
        "fcn: fcn explains nothing: expected one that does",
    ),
    "a pixel outside an image": (
        "explain regional data/val/images/0.png --at 64 4 --out new",
        r"0\.png: at x=64, y=4: expected x from 0 to 63 and y from 0 to 47, a pixel of this image of 64x48",
    ),
    "half a pixel": ("explain regional data/val/images/0.png --at 3 --out new", "--at 3: expected two whole numbers"),
    "an existing sheet": ("data check data --contact-sheet mine/thesis.txt", r"thesis\.txt: exists"),
}


def contents(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, message = BAD[case]
    before = contents(place)
    extra = ["--workers", "0"] if command.startswith(("train", "evaluate")) and "--workers" not in command else []
    status = main([*shlex.split(command), *extra])
    complaint = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert len(complaint) == 1, complaint
    assert re.search(message, complaint[0]), complaint[0]
    assert contents(place) == before
    assert not (place / "new").exists()


def test_data_check_finds_what_is_wrong(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "value"]) == 2
    assert "204" in capsys.readouterr().out
    assert main(["data", "check", "data", "--contact-sheet", "sheet.png"]) == 0
    assert Image.open("sheet.png").size[0] > 100


def test_resume_refuses_data_with_other_classes(
    place: Path,
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    train("data", out="trained", **{**settings, "epochs": 1})
    (place / "data" / "dataset.yaml").write_text("classes: [red, green, blue, white]\n")
    capsys.readouterr()
    assert main(["train", "--data", "data", "--out", "trained", "--resume"]) == 2
    assert re.search("4 classes .* expected the 3", capsys.readouterr().err)


def test_overwrite_replaces_the_run_alone(place: Path, settings: dict[str, Any]) -> None:
    (place / "run" / "notes.txt").write_text("keep me")
    words = ["train", "--data", "data", "--out", "run", "--overwrite", *flags({**settings, "epochs": 1})]
    assert main(words) == 0
    assert (place / "run" / "notes.txt").read_text() == "keep me"
    assert (place / "run" / "report.html").exists()


def test_train_needs_data_and_out_only(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segweave.segmentation.choices.OPTIMISER_STEPS", {"cpu": 1, "cuda": 1})
    assert main(["train", "--data", "data", "--out", "new"]) == 0
    printed = capsys.readouterr().out
    assert "chosen for you" in printed
    for setting in ("backbone", "epochs", "batch_size", "crop_size", "learning_rate"):
        assert setting in printed


def test_readme_commands_are_understood(
    place: Path, settings: dict[str, Any], coco_folder: Path, detection_settings: dict[str, Any]
) -> None:
    """Every segweave command in the README runs, on small data."""
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE))
    commands = [line.split("#")[0] for line in blocks.splitlines() if line.startswith("segweave ")]
    assert {command.split()[1] for command in commands} == {
        "data",
        "train",
        "evaluate",
        "predict",
        "explain",
        "profile",
    }
    (place / "photos").mkdir()
    shutil.copy(place / "data" / "val" / "images" / "0.png", place / "photos" / "0.png")
    shutil.copy(place / "data" / "val" / "images" / "0.png", place / "photo.jpg")
    for command in commands:
        words = shlex.split(command.replace("COCO", str(coco_folder)).replace("DIR", "data"))[1:]
        if words[0] == "train":
            words += flags({**(detection_settings if "DETECTOR" in words else settings), "epochs": 1})
        if words[0] == "profile":
            words = [
                *words[: words.index("--size")],
                "--backbone",
                "test_resnet",
                "--size",
                "64",
                "64",
                "--rounds",
                "1",
            ]
        assert main(words) == 0, command


def test_readme_s_python_runs(
    tmp_path: Path, folder: Path, detection_run: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is written, on small data and a small backbone; every name that it uses is one that it made."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "DIR")
    shutil.copytree(detection_run, "DETECTOR")
    Image.open("DIR/val/images/0.png").save("photo.jpg")
    [block] = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    small = re.sub(r'backbone="\w+"', 'backbone="test_resnet"', block)
    small = small.replace("321, 481", "32, 48").replace("epochs=50", "epochs=1").replace("(480, 480)", "(64, 64)")
    monkeypatch.setattr(segweave, "train", functools.partial(train, crop_size=settings["crop_size"], workers=0))
    names: dict[str, Any] = {}
    exec(small, names)
    assert Path("overlay.png").is_file()
    assert names["logits"].shape == (2, 21, 32, 48)
    assert len(names["detections"].boxes) == len(names["detections"].masks)


def test_a_pixel_to_explain_is_two_numbers(place: Path) -> None:
    words = ["explain", "regional", "data/val/images/0.png", "data/val/images/1.png", "--at", "5", "40", "--maps"]
    assert main([*words, "--out", "new"]) == 0
    assert {path.name for path in (place / "new").iterdir()} == {"0.png", "0.npz", "1.png", "1.npz"}
    assert "region_attention_at" in np.load("new/1.npz")


def test_models_and_datasets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("fcn", "pspnet", "deeplabv3", "ocnet", "pan"))
    assert len(printed.splitlines()) <= 24
    assert max(map(len, printed.splitlines())) <= 80
    assert main(["models", "pan"]) == 0
    assert "kernel_sizes" in capsys.readouterr().out
    assert main(["datasets"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("shapes", "camvid", "DIR"))


def test_kernel_sizes_from_the_command_line(place: Path, settings: dict[str, Any]) -> None:
    words = ["train", "--data", "data", "--out", "new", *flags({**settings, "epochs": 1})]
    assert main([*words, "--options.kernel_sizes", "3", "3", "3"]) == 0
    assert "kernel_sizes" in (place / "new" / "config.yaml").read_text()


def test_the_segnet_tree_is_checked_as_what_it_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        shutil.move(f"data/{split}/masks", f"segnet/{split}annot")
        shutil.move(f"data/{split}/images", f"segnet/{split}")
    assert main(["data", "check", "segnet"]) == 0
    assert "bicyclist" in capsys.readouterr().out


def test_evaluation_takes_the_run_s_classes_where_the_data_names_none(place: Path) -> None:
    (place / "data" / "dataset.yaml").unlink()
    for mask in (place / "data" / "val" / "masks").iterdir():  # without the last class
        Image.fromarray(np.array(Image.open(mask)).clip(0, 1)).save(mask)
    shutil.rmtree(place / "data" / "train")
    assert main(["evaluate", "three", "--data", "data", "--workers", "0"]) == 0
