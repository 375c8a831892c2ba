"""The command line. Each command is the Python function of the same name, its flags that function's arguments."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from segweave.errors import InputError, TrainingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Those after the program's name; the process's own if None.

    Returns:
        The exit status: 0, 1 if training can't go on, 2 if something given can't be used, 130 if interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    given: dict[str, object] = {}
    try:
        _run(words, given)
    except InputError as error:
        return _failed(str(error), 2)
    except TrainingError as error:
        return _failed(str(error), 1)
    except BrokenPipeError:  # who reads the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _failed(f"interrupted{_left(words, given)}", 130)
    return 0


def _failed(message: str, status: int) -> int:
    print(f"segweave: {' '.join(message.split())}", file=sys.stderr)
    return status


def _left(words: Sequence[str], given: Mapping[str, object]) -> str:
    """What an interrupted training leaves."""
    if words[:1] != ["train"]:
        return ""
    last = Path(str(given.get("out", ""))) / "checkpoints" / "last.ckpt"
    return "; the run continues with --resume" if last.exists() else "; nothing was saved yet"


def _run(words: Sequence[str], given: dict[str, object]) -> None:
    """Runs a command and notes in `given` what it is given."""
    from segweave.cli.commands import COMMANDS

    command = next((name for name in COMMANDS if list(words[: len(name.split())]) == name.split()), None)
    if command is not None:
        _run_command(command, words[len(command.split()) :], given)
        return

    from segweave.cli.application import application
    from segweave.cli.complaints import unknown_command

    first = words[0] if words else "--help"
    if first == "--install-completion":
        application(COMMANDS)(words, result_action="return_value")
    elif first in ("-h", "--help", "--version", "data") and not [word for word in words[1:] if word[:1] != "-"]:
        if first == "data" and len(words) == 1:
            raise InputError("data: expected data check DIR")
        application(())(words or ["--help"], result_action="return_value")
    else:
        raise unknown_command(words)


def _run_command(command: str, words: Sequence[str], given: dict[str, object]) -> None:
    from cyclopts import CycloptsError

    from segweave.cli.application import application
    from segweave.cli.arguments import arguments_of, function_of
    from segweave.cli.commands import COMMANDS
    from segweave.cli.complaints import complaint
    from segweave.cli.spellings import respelled

    arguments = arguments_of(command)
    app = application((command,))
    tokens = [*command.split(), *respelled(words, arguments)]
    try:
        called, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise complaint(command, error, arguments) from error
    if getattr(called, "__segweave__", None) is None:  # the help
        called(*bound.args, **bound.kwargs)
        return
    given.update(bound.arguments)
    for name, argument in arguments.items():
        if argument.kind.named and name in given:
            given[name] = argument.read_named(given[name])
    result = function_of(command)(**given)
    tell = COMMANDS[command].tell
    if tell is not None:
        tell(result, given)
