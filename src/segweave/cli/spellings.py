"""Spellings of arguments: those that cyclopts doesn't read and we always have, and what other programs call them."""

import re
from collections.abc import Mapping, Sequence

from segweave.cli.arguments import Argument
from segweave.errors import InputError

PEERS: Mapping[str, str] = {
    "annotations": "--data",
    "arch": "--model",
    "architecture": "--model",
    "at-pixel": "--at",
    "aux-params": "--options.NAME",
    "batch": "--batch-size",
    "batch-size": "--batch",
    "bs": "--batch-size",
    "checkpoint": "--init-from",
    "ckpt": "--init-from",
    "classes": "--num-classes",
    "conf": "--score",
    "crop": "--crop-size",
    "cfg": "--config",
    "data-dir": "--data",
    "data-root": "--data",
    "dataset": "--data",
    "dir": "--out",
    "encoder": "--backbone",
    "encoder-name": "--backbone",
    "encoder-weights": "--pretrained",
    "exist-ok": "--overwrite",
    "force": "--overwrite",
    "fliplr": "--flip-probability",
    "fp16": "--precision 16-mixed",
    "amp": "--precision bf16-mixed",
    "freeze": "--freeze-backbone",
    "gpus": "--devices",
    "gpu": "--device",
    "grad-clip": "--clip-gradient",
    "gradient-clip-val": "--clip-gradient",
    "image-size": "--crop-size HEIGHT WIDTH, or --short-edge LENGTH",
    "img-size": "--crop-size HEIGHT WIDTH, or --short-edge LENGTH",
    "imgsz": "--crop-size HEIGHT WIDTH, or --short-edge LENGTH",
    "input-size": "--crop-size HEIGHT WIDTH, or --short-edge LENGTH",
    "iters": "--epochs",
    "j": "--workers",
    "lr": "--learning-rate",
    "lr0": "--learning-rate",
    "max-epochs": "--epochs",
    "max-iters": "--epochs",
    "max-steps": "--epochs",
    "ms": "--scales",
    "multi-scale": "--scales",
    "name": "--out",
    "network": "--model",
    "num-epochs": "--epochs",
    "num-gpus": "--devices",
    "num-workers": "--workers",
    "o": "--out",
    "opt": "--optimizer",
    "output": "--out",
    "output-dir": "--out",
    "patience": "--early-stopping",
    "project": "--out",
    "save-dir": "--out",
    "save-path": "--out",
    "solver": "--optimizer",
    "source": "IMAGES",
    "sync-bn": "--sync-batch-norm",
    "test-split": "--split",
    "threshold": "--score",
    "train": "--train-split",
    "tta": "--flip",
    "val": "--val-split",
    "wd": "--weight-decay",
    "weights": "--init-from",
    "work-dir": "--out",
    "workdir": "--out",
}
"""What other programs call a thing (without dashes in front), and what it is called here. It is offered where the
command has it."""

PEER_COMMANDS: Mapping[str, str] = {
    "benchmark": "profile",
    "check": "data check",
    "detect": "predict",
    "eval": "evaluate",
    "fit": "train",
    "flops": "profile",
    "infer": "predict",
    "inference": "predict",
    "list": "models",
    "segment": "predict",
    "test": "evaluate",
    "val": "evaluate",
    "validate": "evaluate",
    "visualize": "explain",
}
"""The same for commands."""


def respelled(words: Sequence[str], arguments: Mapping[str, Argument]) -> list[str]:
    """Rewrites spellings that cyclopts doesn't read: words given by position that follow a flag, which come to the
    front; `--flip true`, since its flags never take the next word; and `--crop-size [96,128]`, since it reads JSON for
    lists of text alone. Where a flag takes several words, a single `null` is enough.

    Args:
        words: Those that follow the command.
        arguments: What the command takes.

    Raises:
        InputError: A value that is given by name is missing, or given twice.
    """
    by_position: list[str] = []
    flags: list[str] = []
    named: set[str] = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*flags, word, *by_position, *rest]
        if is_flag(word):
            argument = argument_of(word, arguments)
            if argument is not None and argument.kind.named:  # cyclopts would make one list of both
                flag = word.partition("=")[0].replace("-", "_")
                if flag in named:
                    raise InputError(f"{word.partition('=')[0]}: given twice: expected it once")
                named.add(flag)
            flags += _respelled_flag(word, argument, rest)
        else:
            by_position.append(word)
    return [*by_position, *flags]


def is_flag(word: str) -> bool:
    """Whether a word is a flag rather than a value; -1 and -.5 are values."""
    return re.match(r"--?[^\W\d]", word) is not None


def argument_of(flag: str, arguments: Mapping[str, Argument]) -> Argument | None:
    """The argument that a flag is of, be it `--crop-size`, `--crop_size=3`, `--no-flip` or `--options.NAME`; None if
    there is none."""
    called, _, inner = flag.partition("=")[0].replace("_", "-").partition(".")
    found = next((each for each in arguments.values() if called in each.flags), None)
    return found if found is None or found.kind.named or not inner else None


def _respelled_flag(word: str, argument: Argument | None, rest: list[str]) -> list[str]:
    """A flag and the words that belong to it, which are taken away from the rest.

    Raises:
        InputError: It can't be followed by what follows it.
    """
    if argument is None:  # what it is followed by stays behind it, to be complained of together
        return [word, *_taken(rest, None)]
    flag, equals, value = word.partition("=")
    kind = argument.kind
    if kind.item is bool:
        follows = not equals and not flag.startswith("--no-") and rest[:1] in (["true"], ["false"])
        return [f"{flag}={rest.pop(0)}"] if follows else [word]
    values = [value, *rest] if equals else rest  # the first is put back together if it is a list with spaces
    listed = _list(values) if kind.words != 1 else 0
    if listed:
        whole = " ".join(values[:listed])
        del rest[: listed - bool(equals)]
        return [flag, whole] if kind.named else [flag, *whole.strip("[] ").replace(",", " ").split()]
    if kind.optional and not kind.named and values[:1] == ["null"]:
        del rest[: 1 - bool(equals)]
        return [flag, "null"]
    if equals:
        return [word, *([] if kind.named else _taken(rest, kind.words and kind.words - 1))]
    taken = _taken(rest, kind.words)
    if kind.named and "." in flag and not taken:
        raise InputError(f"{flag}: expected a value, as in {flag} VALUE")
    return [word, *taken]


def _list(words: Sequence[str]) -> int:
    """How many words make up the list that they begin with, which may have spaces in it: those up to its last bracket
    or, if that is missing, to the next flag; 0 if they begin with none."""
    if not words or not words[0].startswith("["):
        return 0
    open_brackets = 0
    for number, word in enumerate(words):
        if is_flag(word):
            return number
        open_brackets += word.count("[") - word.count("]")
        if open_brackets <= 0:
            return number + 1
    return len(words)


def _taken(rest: list[str], number: int | None) -> list[str]:
    """At most so many words up to the next flag, all of them if None, which are taken away from the rest."""
    taken: list[str] = []
    while rest and not is_flag(rest[0]) and rest[0] != "--" and len(taken) != number:
        taken.append(rest.pop(0))
    return taken
