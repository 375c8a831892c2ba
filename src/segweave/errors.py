"""The one error that users meet: what they gave cannot be used, and one line says why."""

import re


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names what was given (the file, the option, the value), and what was expected.
    The command line prints it and exits with status 2; from Python it is an ordinary `ValueError`.
    """


class TrainingError(RuntimeError):
    """A training run can't go on. The message says at which step, and what is left of it. The command line prints it
    and exits with status 1."""


def plain_message(error: Exception) -> str:
    """What jsonargparse says of a value of the wrong type, in one line: the setting, the value, what was expected."""
    message = " ".join(str(error).split())
    key = re.search(r'Parser key "(.+?)"', message)
    value = re.search(r".*(?:Given value|Got value): (.+)$", message)
    expected = re.findall(r"Expected (?:an? )?(.+?)(?=\.? Got value| - Expected| Given value|$)", message)
    kinds = [re.sub(r"<class '(\w+)'>", r"\1", kind).strip(" .") for kind in expected if "NoneType" not in kind]
    if key is None or value is None or not kinds:
        return message
    wanted = " or ".join(kinds)
    choice = re.fullmatch(r"typing\.Literal\[(.+)\]", wanted)
    return f"{key[1]} {value[1]}: expected {f'one of {choice[1]}' if choice else wanted}"
