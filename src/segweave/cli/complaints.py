"""What is said of words that can't be used, in one line: what was given, and the nearest that would be right."""

from collections.abc import Mapping, Sequence

from cyclopts import (
    CombinedShortOptionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from segweave.cli.arguments import Argument
from segweave.cli.commands import COMMANDS
from segweave.cli.spellings import PEER_COMMANDS, PEERS
from segweave.errors import InputError
from segweave.nearest import nearest


def unknown_command(words: Sequence[str]) -> InputError:
    """What is said of words that begin with no command."""
    word = words[0]
    if word == "data" and len(words) > 1:
        return InputError(f"unknown command 'data {words[1]}': expected data check DIR")
    if word.startswith("-"):
        return InputError(f"{word}: expected a command first, as in segweave train --help: one of {_commands()}")
    meant = PEER_COMMANDS.get(word)
    said = f"did you mean {meant}?" if meant else nearest(word, [each.split()[0] for each in COMMANDS])
    return InputError(f"unknown command {word!r}: {said}")


def _commands() -> str:
    return ", ".join(COMMANDS)


def complaint(command: str, error: CycloptsError, arguments: Mapping[str, Argument]) -> InputError:
    """One line about words of a command that cyclopts can't bind.

    Args:
        command: Its name.
        error: What cyclopts says.
        arguments: What the command takes.
    """
    cause = error.__cause__
    if isinstance(cause, InputError):  # raised in reading a value
        return cause
    if isinstance(error, UnknownOptionError | CombinedShortOptionError):
        token = getattr(error, "token", None)
        word = (token.keyword or token.value) if token is not None else _first(error.unused_tokens)
        return unknown_flag(command, word, arguments)
    known = _argument(error, arguments)
    if isinstance(error, RepeatArgumentError):
        return InputError(f"{_called(error, known)}: given twice: expected it once")
    if isinstance(error, MissingArgumentError) and known is not None:
        return _missing(command, error, known)
    if isinstance(error, UnusedCliTokensError):
        return InputError(f"{_first(error.unused_tokens)}: expected nothing more{_taken(command, arguments)}")
    return InputError(" ".join(str(error).split()))


def unknown_flag(command: str, flag: str, arguments: Mapping[str, Argument]) -> InputError:
    """What is said of a flag that a command doesn't have: what it is called here, or the nearest."""
    flags = [name for each in arguments.values() for name in each.flags]
    word = flag.partition("=")[0]
    name = word.lstrip("-").replace("_", "-")
    theirs = PEERS.get(name)
    begun = [each for each in flags if each.startswith(f"--{name}")]
    if theirs is not None and theirs.split()[0].partition(".")[0] in [*flags, *_positional(arguments)]:
        said = f"did you mean {theirs}?"
    elif len(begun) == 1:
        said = f"did you mean {begun[0]}?"
    elif begun:
        said = f"expected one of {', '.join(begun)}"
    elif flags:
        close = nearest(f"--{name}", flags)
        said = close if close.startswith("did") else f"segweave {command} --help tells what there is"
    else:
        said = "expected no flags"
    return InputError(f"unknown flag {word}: {said}")


def _positional(arguments: Mapping[str, Argument]) -> list[str]:
    return [each.flag for each in arguments.values() if each.positional]


def _missing(command: str, error: MissingArgumentError, argument: Argument) -> InputError:
    given = list(error.tokens_so_far)
    words = argument.kind.words
    if error.keyword is None and not given:
        return InputError(f"{argument.flag} is missing: segweave {command} {argument.example}")
    shown = " ".join([error.keyword or argument.flag, *given])
    return InputError(f"{shown}: expected {argument.kind.expected}, as in {argument.flag} {_example(argument, given)}"
                      if words != 1 else f"{shown}: expected {argument.kind.expected}")


def _example(argument: Argument, given: Sequence[str]) -> str:
    word = given[-1] if given else argument.kind.sample
    return " ".join([word] * (argument.kind.words or 1))


def _argument(error: CycloptsError, arguments: Mapping[str, Argument]) -> Argument | None:
    return None if error.argument is None else arguments.get(error.argument.field_info.name)


def _called(error: RepeatArgumentError, argument: Argument | None) -> str:
    return error.token.keyword or (argument.flag if argument is not None else error.token.value)


def _first(words: Sequence[str] | None) -> str:
    return words[0] if words else ""


def _taken(command: str, arguments: Mapping[str, Argument]) -> str:
    positional = _positional(arguments)
    return f" after segweave {command} {' '.join(positional)}" if positional else f"; {command} takes flags alone"
