"""The command line. Each command is the Python function of the same name, its flags that function's arguments."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from segweave.errors import InputError, TrainingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Those after the program's name; the process's own if None.

    Returns:
        The exit status: 0, 1 if training can't go on, 2 if something given can't be used, 130 if interrupted.
    """
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except InputError as error:
        return _failed(str(error), 2)
    except TrainingError as error:
        return _failed(str(error), 1)
    except BrokenPipeError:  # who reads the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except KeyboardInterrupt as interrupt:
        return _failed("; ".join(("interrupted", *map(str, interrupt.args))), 130)
    return 0


def _failed(message: str, status: int) -> int:
    print(f"segweave: {' '.join(message.split())}", file=sys.stderr)
    return status


def _run(words: Sequence[str]) -> None:
    from segweave.cli.commands import COMMANDS

    command = next((name for name in COMMANDS if list(words[: len(name.split())]) == name.split()), None)
    if command is None:
        _run_program(words)
        return
    given = _given(command, words[len(command.split()) :])
    if given is None:
        return  # the help was shown

    from segweave.cli.arguments import function_of

    last = Path(str(given["out"])) / "checkpoints" / "last.ckpt" if command == "train" else None
    before = _written(last)
    try:
        result = function_of(command)(**given)
    except KeyboardInterrupt as interrupt:
        if last is None:
            raise
        now = _written(last)  # as it was before: of the run that was to be replaced, unless that is resumed
        saved = now is not None and (now != before or bool(given.get("resume")))
        said = "the run continues with --resume" if saved else "nothing was saved yet"
        raise KeyboardInterrupt(said) from interrupt
    tell = COMMANDS[command].tell
    if tell is not None:
        tell(result, given)


def _run_program(words: Sequence[str]) -> None:
    """Does what is asked of the program itself rather than of a command."""
    from segweave.cli.application import application
    from segweave.cli.commands import COMMANDS
    from segweave.cli.complaints import unknown_command

    first, rest = (words[0], words[1:]) if words else ("--help", ())
    if first == "--install-completion":
        application(COMMANDS)(words, result_action="return_value")
    elif first in ("-h", "--help", "--version") or (first == "data" and rest[:1] in (["-h"], ["--help"])):
        application(())([first, *rest], result_action="return_value")
    else:
        raise unknown_command(words)


def _given(command: str, words: Sequence[str]) -> dict[str, object] | None:
    """What a command's function is given by words; None if they ask for its help, which then is shown."""
    from cyclopts import CycloptsError

    from segweave.cli.application import application
    from segweave.cli.arguments import arguments_of
    from segweave.cli.complaints import complaint
    from segweave.cli.spellings import respelled

    arguments = arguments_of(command)
    tokens = [*command.split(), *respelled(words, arguments)]
    try:
        given: object = application((command,))(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        raise complaint(command, words, error, arguments) from error
    return given if isinstance(given, dict) else None


def _written(path: Path | None) -> int | None:
    """When a file was last written to, in nanoseconds; None if there is none."""
    return path.stat().st_mtime_ns if path is not None and path.is_file() else None
