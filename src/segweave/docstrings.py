"""What docstrings say, for those who use a thing without reading its code: in the help, and in lists of options."""

import inspect
from collections.abc import Callable

from docstring_parser import parse


def argument_texts(documented: Callable[..., object]) -> dict[str, str]:
    """What the docstring of a function says of each argument, or that of a class of each argument and attribute.

    Args:
        documented: The function or the class.
    """
    found = parse(inspect.getdoc(documented) or "").params
    return {each.arg_name: _in_a_line(each.description) for each in found}


def description(documented: Callable[..., object]) -> list[str]:
    """The paragraphs of a docstring before it comes to the arguments."""
    found = parse(inspect.getdoc(documented) or "")
    return [
        _in_a_line(paragraph)
        for part in (found.short_description, found.long_description)
        for paragraph in (part or "").split("\n\n")
        if paragraph
    ]


def first_sentence(documented: Callable[..., object]) -> str:
    """The first sentence of a docstring."""
    return (description(documented) or [""])[0].partition(". ")[0].rstrip(".")


def _in_a_line(text: str | None) -> str:
    return " ".join((text or "").split())
