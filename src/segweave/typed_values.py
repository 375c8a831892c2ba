"""Values of known types from words and YAML, and one line about those that aren't."""

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


def of_type(adapter: TypeAdapter[Value], value: object, name: str = "") -> Value:
    """A value brought into the type that an adapter is of: lists become tuples, and texts that say a number numbers.

    Args:
        adapter: Of the type.
        value: As given.
        name: What it is called, for the message; its parts are called by their own names.

    Raises:
        InputError: It isn't of this type; the message names the part, what it is and what was expected.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _first_fault(error, name) from error


def _first_fault(error: ValidationError, name: str) -> InputError:
    details = error.errors()
    reached = max(len(fault["loc"]) for fault in details)
    fault = next(fault for fault in details if len(fault["loc"]) == reached)  # the nearest to what is wrong
    if fault["type"] == "missing" and isinstance(fault["loc"][-1], str):
        return InputError(f"{fault['loc'][-1]} is missing")
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    same = [other for other in details if other["input"] is fault["input"] or other["input"] == fault["input"]]
    wanted = list(dict.fromkeys(_expected(other["type"], other.get("ctx", {}), other["msg"]) for other in same))
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
        return "more values"
    return _EXPECTED.get(kind.partition("_")[0], message[0].lower() + message[1:])
