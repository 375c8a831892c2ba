"""Values of known types from words and YAML, and one line about those that aren't."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from segweave.errors import InputError

Value = TypeVar("Value")

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "names with values",
    "tuple": "a list of values",
    "list": "a list of values",
    "finite": "a finite number",
}
"""What is said of pydantic's kinds of errors, by how they begin."""

MORE = "more values"


def of_type(adapter: TypeAdapter[Value], value: object, name: str = "") -> Value:
    """A value brought into the type that an adapter is of: lists become tuples, and texts that say a number numbers.

    Args:
        adapter: Of the type.
        value: As given.
        name: What it is called, for the message; without one, its parts are called by their own names.

    Raises:
        InputError: It isn't of this type; the message names the part, what it is and what was expected.
    """
    try:
        typed = adapter.validate_python(value)
    except ValidationError as error:
        raise _first_fault(error, name) from error
    _require_no_truth_as_number(value, typed, name)
    return typed


def _require_no_truth_as_number(given: object, typed: object, name: str) -> None:
    """Refuses true and false where numbers are expected, since pydantic takes them for 1 and 0."""
    if isinstance(given, bool) and isinstance(typed, int | float) and not isinstance(typed, bool):
        raise InputError(f"{name or 'value'} {given}: expected {_EXPECTED[type(typed).__name__]}")
    if isinstance(given, Mapping):
        for key, part in given.items():
            typed_part = typed.get(key) if isinstance(typed, Mapping) else getattr(typed, key, None)
            _require_no_truth_as_number(part, typed_part, name or str(key))
    elif isinstance(given, list | tuple) and isinstance(typed, list | tuple):
        for part, typed_part in zip(given, typed, strict=True):
            _require_no_truth_as_number(part, typed_part, name)


def _first_fault(error: ValidationError, name: str) -> InputError:
    details = error.errors()
    reached = max(len(fault["loc"]) for fault in details)
    fault = next(fault for fault in details if len(fault["loc"]) == reached)  # the nearest to what is wrong
    if fault["type"] == "missing" and isinstance(fault["loc"][-1], str):
        return InputError(f"{fault['loc'][-1]} is missing")
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    # where one of several types is expected, the value is wrong in several ways
    same = [other for other in details if name or other["loc"][:1] == fault["loc"][:1]]
    same = [other for other in same if other["input"] is fault["input"] or other["input"] == fault["input"]]
    wanted = list(dict.fromkeys(_expected(other["type"], other.get("ctx", {}), other["msg"]) for other in same))
    if fault["type"] == "missing":  # each value that a list lacks is a fault of its own
        lacking = sum(other["type"] == "missing" and other["loc"][:-1] == fault["loc"][:-1] for other in details)
        wanted[wanted.index(MORE)] = f"{len(fault['input']) + lacking} values, not {len(fault['input'])}"
    path = [str(part) for part in fault["loc"] if isinstance(part, str) and "[" not in part]
    called = name or (path[0] if path else "value")
    shown = fault["input"] if isinstance(fault["input"], str | int | float) else repr(fault["input"])
    return InputError(f"{called} {shown}: expected {' or '.join(wanted)}")


def _expected(kind: str, context: dict[str, object], message: str) -> str:
    if kind == "literal_error":
        return f"one of {str(context['expected']).replace(' or ', ', ')}"
    if kind == "too_short":
        return f"{context['min_length']} or more values, not {context['actual_length']}"
    if kind == "too_long":
        return f"{context['max_length']} values, not {context['actual_length']}"
    if kind == "missing":
        return MORE
    return _EXPECTED.get(kind.partition("_")[0], message[0].lower() + message[1:])
