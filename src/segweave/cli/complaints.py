"""What is said of words that can't be used, in one line: what was given, and the nearest that would be right."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from cyclopts import (
    CoercionError,
    CombinedShortOptionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from segweave.cli.arguments import Argument
from segweave.cli.commands import COMMANDS
from segweave.cli.spellings import PEER_COMMANDS, PEERS, argument_of, is_flag
from segweave.errors import InputError
from segweave.nearest import nearest

CLASS_COUNTS = ("classes", "n-classes", "nc", "num-classes")
"""What other programs call the number of classes."""


def unknown_command(words: Sequence[str]) -> InputError:
    """What is said of words that begin with no command."""
    word = words[0]
    if word == "data":
        said = f"unknown command 'data {words[1]}'" if len(words) > 1 else "data"
        return InputError(f"{said}: expected data check DIR")
    if word.startswith("-"):
        return InputError(f"{word}: expected a command first, as in segweave train --help: one of {_commands()}")
    meant = PEER_COMMANDS.get(word)
    said = f"did you mean {meant}?" if meant else nearest(word, [each.split()[0] for each in COMMANDS])
    return InputError(f"unknown command {word!r}: {said}")


def _commands() -> str:
    return ", ".join(COMMANDS)


def complaint(
    command: str, words: Sequence[str], error: CycloptsError, arguments: Mapping[str, Argument]
) -> InputError:
    """One line about words of a command that cyclopts can't bind.

    Args:
        command: Its name.
        words: All that were given.
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
    unknown = _unknown(words, arguments)
    if unknown is not None and isinstance(error, MissingArgumentError | UnusedCliTokensError):
        return unknown_flag(command, unknown, arguments)  # rather than what is missing, as it may be what was meant
    known = _argument(error, arguments)
    if isinstance(error, RepeatArgumentError):
        return InputError(f"{_called(error, known)}: given twice: expected it once")
    if isinstance(error, MissingArgumentError) and known is not None:
        return _missing(command, error, known)
    if isinstance(error, UnusedCliTokensError):
        return _unused(command, words, _first(error.unused_tokens), arguments)
    if isinstance(error, CoercionError) and known is not None and known.kind.item is bool:
        given = error.token
        return _no_value(f"{given.keyword}={given.value}" if given is not None else known.flag, known)
    if known is not None and known.kind.named:
        words = [] if error.argument is None else [token.value for token in error.argument.tokens]
        return InputError(
            " ".join([known.flag, *words]) + f": expected a name and a value, as in {known.flag}.NAME VALUE"
        )
    return InputError(" ".join(str(error).split()))


def unknown_flag(command: str, flag: str, arguments: Mapping[str, Argument]) -> InputError:
    """What is said of a flag that a command doesn't have: what it is called here, or the nearest."""
    flags = [name for each in arguments.values() for name in each.flags]
    word = flag.partition("=")[0]
    name = word.lstrip("-").replace("_", "-")
    theirs = PEERS.get(name)
    begun = [each for each in flags if each.startswith(f"--{name}")]
    if name in CLASS_COUNTS and "--num-classes" not in flags and "--data" in flags:
        said = "the number of classes comes from the data"
    elif theirs is not None and theirs.split()[0].partition(".")[0] in [*flags, *_positional(arguments)]:
        said = f"did you mean {theirs}?"
    elif len(begun) == 1:
        said = f"did you mean {begun[0]}?"
    elif begun:
        said = f"expected one of {', '.join(begun)}"
    elif flags:
        near = get_close_matches(name, [*(each[2:] for each in flags), "help"], n=1)
        said = f"did you mean --{near[0]}?" if near else f"segweave {command} --help tells what there is"
    else:
        said = "expected no flags"
    return InputError(f"unknown flag {word}: {said}")


def _unknown(words: Sequence[str], arguments: Mapping[str, Argument]) -> str | None:
    """The first flag that a command doesn't have."""
    before = words[: words.index("--")] if "--" in words else words
    return next((word for word in before if is_flag(word) and argument_of(word, arguments) is None), None)


def _positional(arguments: Mapping[str, Argument]) -> list[str]:
    return [each.flag for each in arguments.values() if each.positional]


def _unused(command: str, words: Sequence[str], unused: str, arguments: Mapping[str, Argument]) -> InputError:
    before = words[words.index(unused) - 1] if unused in words[1:] else ""
    switch = argument_of(before, arguments)
    if switch is not None and switch.kind.item is bool and "=" not in before:
        return _no_value(f"{before} {unused}", switch)
    return InputError(f"{unused}: expected nothing more{_taken(command, arguments)}")


def _no_value(given: str, switch: Argument) -> InputError:
    return InputError(f"{given}: expected {' or '.join(switch.flags)}, without a value")


def _missing(command: str, error: MissingArgumentError, argument: Argument) -> InputError:
    given, kind = list(error.tokens_so_far), argument.kind
    if error.keyword is None and not given:
        shown = argument.flag if argument.positional else f"{argument.flag} {argument.value}"
        return InputError(f"{argument.flag} is missing: expected {shown}; segweave {command} --help has examples")
    said = f"{' '.join([error.keyword or argument.flag, *given])}: expected {kind.expected}"
    apart = re.split(r"[,x]", given[0]) if len(given) == 1 else []
    if kind.words is not None and len(apart) == kind.words and all(map(_is_number, apart)):
        said += f": did you mean {argument.flag} {' '.join(apart)}?"
    elif given and kind.words is not None and _is_number(given[-1]):
        said += f", such as {argument.flag} {' '.join(given[-1:] * kind.words)}"
    return InputError(said)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?|\.\d+", word) is not None


def _argument(error: CycloptsError, arguments: Mapping[str, Argument]) -> Argument | None:
    return None if error.argument is None else arguments.get(error.argument.field_info.name)


def _called(error: RepeatArgumentError, argument: Argument | None) -> str:
    return error.token.keyword or (argument.flag if argument is not None else error.token.value)


def _first(words: Sequence[str] | None) -> str:
    return words[0] if words else ""


def _taken(command: str, arguments: Mapping[str, Argument]) -> str:
    positional = _positional(arguments)
    return f" after segweave {command} {' '.join(positional)}" if positional else f"; {command} takes flags alone"
