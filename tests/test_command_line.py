"""The command line as its users meet it: help at once and in plain words, wrong words answered with the nearest right
ones, and every way of writing a flag that was ever shown."""

import dataclasses
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segweave.cli import main
from segweave.cli.arguments import arguments_of
from segweave.cli.commands import COMMANDS
from segweave.cli.headings import HEADINGS
from segweave.data.check_results import DatasetCheck
from segweave.training.messages import print_chosen
from segweave.training.settings import RunSettings

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "timm", "lightning", "numpy", "matplotlib", "pydantic", "torchvision", "PIL")
INTERNAL = re.compile(r"Union\[|Optional|PathLike|RunSettings|RunConfiguration|\bNone\b|see `|segweave\.\w+\.\w+")


def shown(words: list[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    assert main(words) == status
    out, err = capsys.readouterr()
    return out if status == 0 else err


def test_help_imports_nothing_heavy() -> None:
    """One process for all, since an import that one help makes would be seen after it."""
    script = f"""
import contextlib, io, sys
from segweave.cli import main
from segweave.cli.commands import COMMANDS
of_commands = [[*command.split(), "--help"] for command in COMMANDS]
for words in (["--help"], [], ["data", "--help"], ["--version"], *of_commands):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(words) == 0, words
    assert shown.getvalue().strip(), words
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, (words, heavy)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_in_plain_words(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown([*command.split(), "--help"], capsys).split())
    assert not INTERNAL.search(text), INTERNAL.search(text)
    assert f"Usage: segweave {command}" in text
    examples = text.partition("Examples:")[2]
    assert f"segweave {command}" in examples
    flags = re.findall(r"--[\w.-]+", text.partition("Examples:")[0])
    assert not [flag for flag in flags if "_" in flag]


def test_every_setting_is_shown_once_under_a_heading_that_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(["train", "--help"], capsys)
    headings = [line.strip("╭─╮ ") for line in text.splitlines() if line.startswith("╭")]
    assert set(HEADINGS) >= set(headings)
    assert len(headings) >= 5
    assert all(heading[0].isupper() and heading.endswith(".") and " " in heading for heading in headings)
    flags = [re.match(r"│ (--[\w-]+)", line) for line in text.splitlines()]
    listed = [flag[1] for flag in flags if flag is not None]
    for field in dataclasses.fields(RunSettings):
        flag = f"--{field.name.replace('_', '-')}"
        assert listed.count(flag) == 1, flag
    assert "--options.NAME" in text


def test_defaults_are_as_a_user_would_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(["train", "--help"], capsys).replace("│", " ").split())
    for default in ("--seed N", "[default: 0.0001]", "[default: --check]", "[default: chosen from the data]"):
        assert default in text
    assert "(0" not in text


@pytest.mark.parametrize("command", [each for each in COMMANDS if each != "train"])
def test_only_train_says_that_defaults_are_chosen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "[default: chosen" not in " ".join(shown([*command.split(), "--help"], capsys).replace("│", " ").split())


def test_the_overview_is_shown_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown([], capsys)
    assert text == shown(["--help"], capsys)
    assert all(command.split()[0] in text for command in COMMANDS)
    assert "--install-completion" in text


NEAREST = {
    "trian": "unknown command 'trian': did you mean train?",
    "train --data shapes --out new --epoch 3": "unknown flag --epoch: did you mean --epochs?",
    "train --data shapes --out new --learnig-rate 3": "did you mean --learning-rate?",
    "train --data shapes --out new --lr 0.1": "unknown flag --lr: did you mean --learning-rate?",
    "train --data shapes --output new": "unknown flag --output: did you mean --out?",
    "train --data shapes --save-dir new": "unknown flag --save-dir: did you mean --out?",
    "train --data shapes -o new": "unknown flag -o: did you mean --out?",
    "train --data shapes": "--out is missing: expected --out DIR",
    "train --lr 0.1": "unknown flag --lr: did you mean --learning-rate?",
    "train --imgsz 3": "did you mean --crop-size HEIGHT WIDTH",
    "train --hepl": "unknown flag --hepl: did you mean --help?",
    "evaluate r1 --dataset shapes": "unknown flag --dataset: did you mean --data?",
    "predict --output new": "unknown flag --output: did you mean --out?",
    "train --data shapes --out new --batch 4": "unknown flag --batch: did you mean --batch-size?",
    "train --data shapes --out new --imgsz 64": "did you mean --crop-size HEIGHT WIDTH",
    "train --data shapes --out new --crop-size 240": "expected two whole numbers, such as --crop-size 240 240",
    "train --data shapes --out new --optimizer adam": "did you mean adamw?",
    "train --data shapes --out new --model ranett": "did you mean ranet?",
    "train --data shapes --out new --model pan --options.atention none": "did you mean attention?",
    "train --data shapes --out new --epochs 2.5": "--epochs 2.5: expected a whole number",
    "train --data shapes --out new --num-classes 5": "--num-classes: the number of classes comes from the data",
    "train --num-classes 5": "--num-classes: the number of classes comes from the data",
    "train --data shapes --out new --pretrained maybe": "--pretrained maybe: expected --pretrained or --no-pretrained",
    "train --data shapes --out new --pretrained=maybe": "--pretrained=maybe: expected --pretrained or --no-pretrained",
    "train --data shapes --out new --crop-size 96,128": "whole numbers: did you mean --crop-size 96 128?",
    "train --data shapes --out new --crop-size 9,x": "--crop-size 9,x: expected two whole numbers\n",
    "train --data shapes --out new --options.neck": "--options.neck: expected a value, as in --options.neck VALUE",
    "train --data shapes --out new --options 3": "--options 3: expected a name and a value",
    "train --data shapes --out new --options.neck a --options.neck=b": "--options.neck: given twice: expected it once",
    "evaluate": "RUN is missing",
    "evaluate run --data shapes --scale 1": "unknown flag --scale",
    "data chek X": "expected data check DIR",
    "profile fpn --num-clases 3": "did you mean --num-classes?",
    "models panx": "did you mean pan?",
}


@pytest.mark.parametrize("command", NEAREST)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = shown(shlex.split(command), capsys, status=2)
    assert line.count("\n") == 1
    assert line.startswith("segweave: ")
    assert NEAREST[command] in line
    assert not list(tmp_path.iterdir())


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the commands' functions are given; they do nothing."""
    given: list[dict[str, Any]] = []
    module = "segweave.commands"

    def record(**arguments: Any) -> list[Path]:
        given.append(arguments)
        return []

    def record_check(**arguments: Any) -> DatasetCheck:
        given.append(arguments)
        return DatasetCheck(Path(arguments["root"]), [], [], 0)

    for command in COMMANDS:
        arguments_of(command)  # is kept, so that it is read from the function itself
        name = command.split()[-1]
        monkeypatch.setattr(f"{module}.{name}.{name}", record_check if name == "check" else record)
    return given


SPELLINGS = [
    ("--options.head_channels 128", "options", {"head_channels": 128}),
    ("--options.neck fpt", "options", {"neck": "fpt"}),
    (
        "--options.keep_probability 0.5 --options.rendering false",
        "options",
        {"keep_probability": 0.5, "rendering": False},
    ),
    ("--options.global_pooling null", "options", {"global_pooling": None}),
    ("--options.anchor_sizes 8 16 32 64 128", "options", {"anchor_sizes": [8, 16, 32, 64, 128]}),
    ("--options.anchor_sizes [8,16,32]", "options", {"anchor_sizes": [8, 16, 32]}),
    ("--batch_size 4", "batch_size", 4),
    ("--batch-size=4", "batch_size", 4),
    ("--check false", "check", False),
    ("--no-check", "check", False),
    ("--pretrained", "pretrained", True),
    ("--pretrained true", "pretrained", True),
    ("--crop-size 96 128", "crop_size", (96, 128)),
    ("--crop-size [96,128]", "crop_size", (96, 128)),
    ("--crop-size [96, 128] --seed 3", "crop_size", (96, 128)),
    ("--crop-size=[96, 128]", "crop_size", (96, 128)),
    ("--milestones [0.5, 1 --seed 3", "milestones", (0.5, 1.0)),
    ("--milestones [0.5, 1]", "milestones", (0.5, 1.0)),
    ("--options.anchor_sizes [8, 16]", "options", {"anchor_sizes": [8, 16]}),
    ("--options.anchor_sizes [ 8, [16, 3] ] --seed 3", "options", {"anchor_sizes": [8, [16, 3]]}),
    ("--crop_size=[96,128]", "crop_size", (96, 128)),
    ("--crop-size null --seed 3", "crop_size", None),
    ("--crop-size=null", "crop_size", None),
    ("--short-edges 96 128 160", "short_edges", (96, 128, 160)),
    ("--short-edges=96 128", "short_edges", (96, 128)),
    ("--milestones 0.5", "milestones", (0.5,)),
    ("--learning-rate 1e-3", "learning_rate", 0.001),
]


@pytest.mark.parametrize(("words", "name", "value"), SPELLINGS, ids=[words for words, _, _ in SPELLINGS])
def test_every_spelling_is_understood(words: str, name: str, value: object, called: list[dict[str, Any]]) -> None:
    assert main(["train", "--data", "shapes", "--out", "new", *shlex.split(words)]) == 0
    (given,) = called
    found = given[name]
    if isinstance(found, dict):
        found = {key: list(each) if isinstance(each, tuple) else each for key, each in found.items()}
    assert found == value
    assert type(found) is type(value) or isinstance(found, tuple)
    assert given["data"] == "shapes"


def test_evaluation_s_spellings(called: list[dict[str, Any]]) -> None:
    assert main(shlex.split("evaluate RUN --data shapes --scales 0.5 0.75 1.0 --flip true --window 64 96")) == 0
    assert main(shlex.split("evaluate RUN --data shapes --no-flip")) == 0
    assert main(shlex.split("explain RUN a.png b.png --out new --at 10 20 --names attention gate_res4")) == 0
    first, second, third = called
    assert (list(first["scales"]), first["flip"], first["window"]) == ([0.5, 0.75, 1.0], True, (64, 96))
    assert second["flip"] is False
    assert (third["run"], list(third["images"]), third["at"]) == ("RUN", ["a.png", "b.png"], (10, 20))
    assert list(third["names"]) == ["attention", "gate_res4"]


BY_POSITION = [
    ("predict r1 --flip a b --out o", {"run": "r1", "images": ("a", "b"), "flip": True, "out": "o"}),
    ("predict r1 --no-flip a --out o b", {"run": "r1", "images": ("a", "b"), "flip": False, "out": "o"}),
    ("predict --out=o --window 64 96 r1 --flip true a", {"run": "r1", "images": ("a",), "window": (64, 96)}),
    ("predict --out o r1 --window [64,96] a -- -b", {"run": "r1", "images": ("a", "-b"), "window": (64, 96)}),
    ("predict r1 --out o --scales 0.5 1 --window null a b", {"images": ("a", "b"), "scales": (0.5, 1.0)}),
    ("explain r1 --out o a b", {"run": "r1", "images": ("a", "b"), "out": "o"}),
    ("profile fpn --batch 2 agln", {"models": ("fpn", "agln"), "batch": 2}),
    ("profile fpn --options.neck=fpt agln", {"models": ("fpn", "agln"), "options": {"neck": "fpt"}}),
    ("data check --contact-sheet sheet.png DIR", {"root": "DIR", "contact_sheet": "sheet.png"}),
]


@pytest.mark.parametrize(("words", "expected"), BY_POSITION, ids=[words for words, _ in BY_POSITION])
def test_words_by_position_may_follow_flags(
    words: str, expected: dict[str, object], called: list[dict[str, Any]]
) -> None:
    assert main(shlex.split(words)) == 0
    (given,) = called
    assert {name: given[name] for name in expected} == expected


def test_every_command_of_the_documents_is_understood(called: list[dict[str, Any]]) -> None:
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
    commands = {
        found.split("#")[0].strip()
        for text in texts
        for found in re.findall(r"(?:^|`)(segweave [a-z]+ [^`\n]*?)(?:`|$)", text.read_text(), re.MULTILINE)
        if not found.endswith("\\")
        if re.match(r"segweave (train|evaluate|predict|explain|profile|data check|demo)\b", found)
    }
    commands = {command for command in commands if not re.search(r"[|…]| \.\.\.|is |takes |^segweave \w+$", command)}
    assert len(commands) > 15
    for command in commands:
        words = ["1" if word in ("X", "Y") else word for word in shlex.split(command)[1:]]
        if "--config" in words or words[-1] == "--help":
            continue
        assert main(words) == 0, command
    assert len(called) > 15


@pytest.mark.parametrize(
    ("flags", "before", "written", "said"),
    [
        ("", False, False, "nothing was saved yet"),
        ("", False, True, "the run continues with --resume"),
        ("--overwrite", True, False, "nothing was saved yet"),  # what is there is another run's
        ("--overwrite", True, True, "the run continues with --resume"),
        ("--resume", True, False, "the run continues with --resume"),
    ],
)
def test_an_interrupted_run_says_what_is_left(
    flags: str,
    before: bool,
    written: bool,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    if before:
        last.touch()
        os.utime(last, (1e9, 1e9))

    def interrupted(**_: Any) -> None:
        if written:
            last.write_text("weights")
        raise KeyboardInterrupt

    arguments_of("train")  # is kept, so that it is read from the function itself
    monkeypatch.setattr("segweave.commands.train.train", interrupted)
    words = ["train", "--data", "shapes", "--out", str(tmp_path), *shlex.split(flags)]
    assert shown(words, capsys, status=130).strip() == f"segweave: interrupted; {said}"


@pytest.mark.parametrize("width", [30, 60, 80])
def test_what_was_chosen_is_not_cut_off_in_a_narrow_console(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), record=True)
    flag = "--options.detections_per_image"
    print_chosen(console, [("epochs", "3", "--epochs"), (flag[10:], "8 16 32 64 128 256 512 1024", flag)])
    printed = console.export_text()
    assert "…" not in printed
    assert "--epochs" in printed
    if width > 30:
        assert flag in printed


def test_completion_is_installed_where_the_shell_looks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", "--shell", "bash"]) == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("segweave" in path.read_text() for path in written)
