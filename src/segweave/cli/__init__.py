"""The command line. Each command is the Python function of the same name, its flags that function's arguments."""

import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from segweave.errors import InputError, TrainingError, plain_message


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Those after the program's name; the process's own if None.

    Returns:
        The exit status: 0, 1 if training can't go on, 2 if something given can't be used, 130 if interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except InputError as error:
        print(f"segweave: {error}", file=sys.stderr)
        return 2
    except ArgumentError as error:
        print(f"segweave: {plain_message(error)}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"segweave: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"segweave: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; the run continues with --resume" if words[:1] == ["train"] else ""
        print(f"segweave: interrupted{hint}", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(version("segweave"))
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        raise InputError(f"unknown command {words[0]!r}: expected one of {', '.join(COMMANDS)}")
    command.run(words[1:])
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: segweave COMMAND ...", "", *lines, "", "segweave COMMAND --help tells a command's arguments."]
    )


def _demo(words: list[str]) -> None:
    from segweave.commands.demo import demo

    demo(**_parse("demo", words, demo))


def _train(words: list[str]) -> None:
    from segweave.commands.train import train
    from segweave.training.configuration import RunConfiguration

    parser = _parser("train")
    parser.add_function_arguments(train, skip={"settings"})
    parser.add_class_arguments(RunConfiguration, skip={"data"})
    types = {**typing.get_type_hints(train), **typing.get_type_hints(RunConfiguration)}
    arguments = parser.parse_args(_joined(words, types), defaults=False)
    given = arguments.as_dict()
    if "out" not in given:
        raise InputError("--out is missing: expected the folder to write the run to")
    train(**given)


def _evaluate(words: list[str]) -> None:
    from segweave.commands.evaluate import evaluate

    evaluate(**_parse("evaluate", words, evaluate, {"run": None}))


def _predict(words: list[str]) -> None:
    from segweave.commands.predict import predict

    arguments = _parse("predict", words, predict, {"run": None, "images": "+"})
    paths = predict(**arguments)
    print(f"{len(paths)} image{'s' * (len(paths) != 1)} written to {arguments['out']}")


def _explain(words: list[str]) -> None:
    from segweave.commands.explain import explain

    arguments = _parse("explain", words, explain, {"run": None, "images": "+"})
    for path in explain(**arguments):
        print(path)


def _profile(words: list[str]) -> None:
    from segweave.cost.profiling import profile

    profile(**_parse("profile", words, profile, {"models": "*"}))


def _models(words: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from segweave.models import NETWORKS, model_options

    _parser("models").parse_args(words)
    table = Table("model", "network", "options and defaults", box=None, pad_edge=False)
    for name, network_class in NETWORKS.items():
        summary = (inspect.getdoc(network_class) or "").split("\n")[0]
        options = ", ".join(f"{option}={value!r}" for option, value in model_options(name).items())
        table.add_row(name, summary, options)
    Console().print(table)


def _datasets(words: list[str]) -> None:
    _parser("datasets").parse_args(words)
    print("shapes   drawn by code; needs no files")
    print("camvid   ROOT/SPLIT/images and masks, or the SegNet tutorial's folders; --root ROOT")
    print(
        "DIR      your own: DIR/SPLIT/images, DIR/SPLIT/masks, and if you like dataset.yaml "
        "(classes, palette, ignore_index)"
    )
    print("         objects: DIR/SPLIT/images, DIR/SPLIT/instances.json, or MS-COCO's folders and annotations/*.json")


def _data(words: list[str]) -> None:
    from rich.console import Console

    from segweave.commands.check import check, print_check

    if words[:1] != ["check"]:
        raise InputError(f"unknown command {' '.join(['data', *words[:1]])!r}: expected data check DIR")
    arguments = _parse("data check", words[1:], check, {"root": None}, skip={"dataset_class"})
    result = check(**arguments)
    print_check(result, Console())
    if not result.ok:
        raise InputError(f"{arguments['root']}: {result.problem_count} problems: expected none before training")


def _parser(command: str) -> ArgumentParser:
    return ArgumentParser(
        prog=f"segweave {command}", description=COMMANDS[command.split()[0]].summary, exit_on_error=False
    )


def _parse(
    command: str,
    words: list[str],
    function: Callable[..., Any],
    positional: Mapping[str, str | None] | None = None,
    skip: set[str] | None = None,
) -> dict[str, Any]:
    """The arguments of `function` from the words of the command line.

    Args:
        command: Its name.
        words: What follows it.
        function: Is to be called.
        positional: Arguments that are given by position: how many words each takes (None for one).
        skip: Arguments that the command line doesn't offer.
    """
    parser = _parser(command)
    for name, count in (positional or {}).items():
        parser.add_argument(name, nargs=count, type=str)
    parser.add_function_arguments(function, skip={*(positional or ()), *(skip or ())})
    arguments: Namespace = parser.parse_args(_joined(words, typing.get_type_hints(function)))
    return arguments.as_dict()


def _joined(words: Sequence[str], types: Mapping[str, Any]) -> list[str]:
    """Rewrites flags to the form that jsonargparse takes, as the arguments' types tell.

    ``--crop-size 360 480`` becomes ``--crop_size=[360,480]``, and a bare ``--flip`` becomes ``--flip=true``.
    """
    joined: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("--"):
            joined.append(word)
            continue
        name, equals, value = word.partition("=")
        name = "--" + name[2:].replace("-", "_")
        kind = types.get(name[2:].split(".")[0])
        several, option = _is(kind, tuple, Sequence), name.startswith("--options.")
        following: list[str] = []
        while not equals and index + len(following) < len(words) and not words[index + len(following)].startswith("--"):
            following.append(words[index + len(following)])
        if equals:
            joined.append(f"{name}={value}")
        elif _is(kind, bool):
            if following[:1] in (["true"], ["false"]):
                index += 1
                joined.append(f"{name}={following[0]}")
            else:
                joined.append(f"{name}=true")
        elif following and not following[0].startswith("[") and (several or (len(following) > 1 and option)):
            index += len(following)
            joined.append(f"{name}=[{','.join(following)}]")
        else:
            joined.append(name)
    return joined


def _is(annotation: Any, *kinds: Any) -> bool:
    """Whether an annotation, or one part of a union, is one of `kinds`."""
    parts = [annotation, *typing.get_args(annotation)]
    return any(part in kinds or typing.get_origin(part) in kinds for part in parts)


class Command(NamedTuple):
    """A command of the program.

    Attributes:
        run: Is given the words that follow the command's name.
        summary: What it does.
    """

    run: Callable[[list[str]], None]
    summary: str


COMMANDS = {
    "demo": Command(_demo, "train FCN and PAN on the embedded data set and compare them: minutes on two cores"),
    "train": Command(_train, "train a network on a folder of images with masks or objects"),
    "evaluate": Command(_evaluate, "evaluate a trained network on a split"),
    "predict": Command(_predict, "segment images, or find the objects in them"),
    "explain": Command(_explain, "draw the context that a trained network used for images"),
    "profile": Command(_profile, "tell what networks cost: parameters, multiply-adds, memory, latency"),
    "models": Command(_models, "list the networks and their options"),
    "datasets": Command(_datasets, "list the data sets that have a name"),
    "data": Command(_data, "check a folder of images with masks or objects: segweave data check DIR"),
}
