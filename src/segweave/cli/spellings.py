"""Spellings of arguments: those that cyclopts doesn't read and we always have, and what other programs call them."""

from collections.abc import Mapping, Sequence

from segweave.cli.arguments import Argument

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
    "num-classes": "--data",
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
    """Rewrites three spellings that cyclopts doesn't read: `--flip true`, since its flags never take the next word;
    `--crop-size [96,128]`, since it reads JSON for lists of text alone; and `--crop-size null` for two words.

    Args:
        words: Those that follow the command.
        arguments: What the command takes.
    """
    rewritten: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*rewritten, word, *rest]
        flag, equals, value = word.partition("=")
        argument = arguments.get(flag.removeprefix("--").replace("-", "_")) if flag.startswith("--") else None
        if argument is None or argument.positional or argument.kind.named:
            rewritten.append(word)
        elif argument.kind.item is bool:
            follows = not equals and rest[:1] in (["true"], ["false"])
            rewritten.append(f"{flag}={rest.pop(0)}" if follows else word)
        elif argument.kind.words != 1 and (value if equals else rest and rest[0])[:1] == "[":
            listed = value if equals else rest.pop(0)
            rewritten += [flag, *listed.strip("[] ").replace(",", " ").split()]
        elif argument.kind.optional and (value if equals else rest and rest[0]) == "null":
            if not equals:
                rest.pop(0)
            rewritten += [flag, *["null"] * (argument.kind.words or 1)]
        else:
            rewritten.append(word)
    return rewritten
