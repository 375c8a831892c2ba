"""`models`, the function behind `segweave models`: which networks there are, and what each can be told."""

import re
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Literal, Union, get_args, get_origin

from segweave.errors import InputError
from segweave.nearest import nearest

if TYPE_CHECKING:
    from rich.console import Console

    from segweave.models import Network


def models(name: str | None = None) -> None:
    """Prints the names of the networks, or the options of one of them.

    Args:
        name: Of a network, whose options are printed with their defaults and meanings.

    Raises:
        InputError: There is no network of this name.
    """
    from rich.console import Console
    from rich.text import Text

    from segweave.docstrings import first_sentence
    from segweave.models import NETWORKS
    from segweave.tasks import TASKS

    console = Console(highlight=False)
    if name is not None:
        if name not in NETWORKS:
            raise InputError(f"unknown model {name!r}: {nearest(name, list(NETWORKS))}")
        _print_options(console, name)
        return
    width = max(map(len, NETWORKS))
    for task in TASKS.values():
        console.print(Text(f"{first_sentence(type(task))}:", "bold"))
        for each, network_class in NETWORKS.items():
            if issubclass(network_class, task.network_class):
                line = Text(f"  {each.ljust(width)}  {_title(network_class)}")
                console.print(line, no_wrap=True, overflow="ellipsis")
    console.print(Text("segweave models NAME lists the options of one."))


def _print_options(console: "Console", name: str) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from segweave.models import NETWORKS, described_options

    console.print(Text(f"{name}: {_title(NETWORKS[name])}", "bold"))
    for option, known in described_options(name).items():
        values = "|".join(_typed(value) for value in _choices(known.kind))
        default = f"[default: {_typed(known.default)}]"
        console.print(Text.assemble((f"--options.{option}", "cyan"), f" {values}" * bool(values), f" {default}"))
        console.print(Padding(Text(_as_typed(known.text)), (0, 0, 0, 4)))


def _title(network_class: "type[Network]") -> str:
    """The first sentence of a network's docstring, without the places in its paper."""
    from segweave.docstrings import first_sentence

    return re.sub(r" \((Section|Figure)[^)]*\)", "", first_sentence(network_class))


def _choices(kind: object) -> list[object]:
    """The only values that an option takes; none if it takes others too."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    values: list[object] = []
    for part in parts:
        if get_origin(part) is Literal:
            values += get_args(part)
        elif part is NoneType:
            values.append(None)
        else:
            return []
    return values


def _typed(value: object) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, tuple | list):
        return " ".join(map(_typed, value))
    if isinstance(value, float):
        return f"{value:g}"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _as_typed(text: str) -> str:
    """A docstring's text with Python's words as they are typed on the command line."""
    return text.replace("`", "").replace("None", "null")
