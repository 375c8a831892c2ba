"""The arguments of a command: read from its function's signature and docstring, and what words they take."""

import dataclasses
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args, get_origin

from segweave.cli.commands import COMMANDS
from segweave.cli.headings import CHOICES, CHOSEN, VALUES
from segweave.docstrings import argument_texts, description
from segweave.errors import InputError
from segweave.nearest import known_and_nearest

Annotation = object
"""What stands behind an argument's colon: a type, a union of types, a Literal."""


@dataclass(frozen=True)
class Kind:
    """What words an argument takes.

    Attributes:
        item: What each word is: bool (a flag, which takes no word), int, float or str.
        choices: The only words that it takes; empty if any will do.
        words: How many it takes; None for one or more.
        named: Whether it takes values by name, as `--options.NAME VALUE`.
        optional: Whether it may be given as `null`, which is what it is if it isn't given.
    """

    item: type = str
    choices: tuple[str, ...] = ()
    words: int | None = 1
    named: bool = False
    optional: bool = False

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        one, several = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers")}.get(
            self.item, ("a word", "words")
        )
        if self.words == 1:
            return one
        return f"one or more {several}" if self.words is None else f"{_in_words(self.words)} {several}"


def _in_words(number: int) -> str:
    return {2: "two", 3: "three"}.get(number, str(number))


def kind_of(annotation: Annotation) -> Kind:
    """What words an argument of this annotation takes. Of a union, the part that takes most words counts."""
    union = get_origin(annotation) in (typing.Union, types.UnionType)
    parts = get_args(annotation) if union else (annotation,)
    kinds = [_kind_of_part(part) for part in parts if part is not types.NoneType]
    kind = max(kinds, key=lambda each: (each.named, each.words != 1, bool(each.choices), each.item is not str))
    return dataclasses.replace(kind, optional=types.NoneType in parts)


def _kind_of_part(annotation: Annotation) -> Kind:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return Kind(choices=tuple(map(str, inner)))
    if origin is tuple:
        return Kind(kind_of(inner[0]).item, words=None if inner[-1] is Ellipsis else len(inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Kind(named=True, words=None)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return Kind(kind_of(inner[0]).item, words=None)
    if isinstance(annotation, type) and annotation in (bool, int, float):
        return Kind(annotation)
    return Kind()  # text and paths


@dataclass(frozen=True)
class Argument:
    """An argument of a command.

    Attributes:
        name: As in Python.
        kind: What words it takes.
        default: Its value if it isn't given; `inspect.Parameter.empty` if it must be.
        positional: Whether it is given by position.
        value: What stands for its value in the help: "HEIGHT WIDTH".
        text: What it means.
        chosen: What its default is chosen from, if it is None because it is chosen.
    """

    name: str
    kind: Kind
    default: object
    positional: bool
    value: str
    text: str
    chosen: str = ""

    @property
    def flag(self) -> str:
        """As on the command line."""
        return self.name.upper() if self.positional else as_flag(self.name)

    @property
    def flags(self) -> tuple[str, ...]:
        """All that it may be called by a flag."""
        if self.positional:
            return ()
        return (self.flag, f"--no-{self.flag[2:]}") if self.kind.item is bool else (self.flag,)

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty

    @property
    def shown_default(self) -> str:
        """Its default as a user would type it; empty if nothing is to be said."""
        if self.default is None:
            return self.chosen
        if isinstance(self.default, bool):
            return self.flag if self.default else f"--no-{self.flag.removeprefix('--')}"
        if isinstance(self.default, tuple):
            return " ".join(map(_typed, self.default))
        return _typed(self.default) if isinstance(self.default, int | float | str) else ""

    def read(self, words: Sequence[str]) -> object:
        """The value that words stand for.

        Raises:
            InputError: They stand for none.
        """
        if self.kind.optional and set(words) == {"null"}:
            return None
        try:
            values = tuple(self._read_one(word) for word in words)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.flag} {' '.join(words)}: expected {self.kind.expected}") from None
        return values[0] if self.kind.words == 1 else values

    def read_named(self, words: Mapping[str, Sequence[str]]) -> dict[str, object]:
        """The values of an argument that takes them by name.

        Raises:
            InputError: Words are no YAML.
        """
        values: dict[str, object] = {}
        for name, each in words.items():
            read = [scalar(word, f"{self.flag}.{name}") for word in each]
            values[name.replace("-", "_")] = read[0] if len(read) == 1 else read
        return values

    def _read_one(self, word: str) -> object:
        if self.kind.choices:
            if word not in self.kind.choices:
                raise InputError(f"{self.flag} {word}: {known_and_nearest(word, self.kind.choices)}")
            return word
        return self.kind.item(word)


def as_flag(name: str) -> str:
    """The flag of an argument: "crop_size" is --crop-size."""
    return "--" + name.replace("_", "-")


def _typed(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def scalar(word: str, flag: str) -> object:
    """What a word means in YAML, as it would in a recipe; 1e-3, which YAML takes for text, is a number.

    Raises:
        InputError: It is no YAML; `flag` is where it was given.
    """
    import yaml

    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", word):
        return float(word)
    try:
        return yaml.safe_load(word) if word else word
    except yaml.YAMLError:
        raise InputError(f"{flag} {word}: expected a number, true, false, null, a word, or a list [1, 2]") from None


def function_of(command: str) -> Callable[..., object]:
    """The function of a command, imported now."""
    module, _, name = COMMANDS[command].function.partition(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), name)
    return function


@cache
def arguments_of(command: str) -> Mapping[str, Argument]:
    """The arguments of a command by name, in the order of its function; settings of a run stand for `**settings`."""
    function = function_of(command)
    parameters = inspect.signature(function).parameters
    annotations = _annotations(function, list(parameters))
    defaults = {name: each.default for name, each in parameters.items()}
    texts = argument_texts(function)
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            from segweave.training.settings import RunSettings

            del annotations[name], defaults[name]
            annotations = {**typing.get_type_hints(RunSettings), **annotations}
            fields = {
                each.name: None if each.default is dataclasses.MISSING else each.default
                for each in dataclasses.fields(RunSettings)
            }
            defaults = {**fields, **defaults}
            texts = {**argument_texts(RunSettings), **texts}
    positional = COMMANDS[command].positional
    order = [*positional, *(name for name in defaults if name not in positional)]
    return {name: _argument(command, name, annotations[name], defaults[name], texts.get(name, "")) for name in order}


def _argument(command: str, name: str, annotation: Annotation, default: object, text: str) -> Argument:
    kind = kind_of(annotation)
    if name in CHOICES:
        kind = dataclasses.replace(kind, choices=CHOICES[name])
    value = VALUES.get(f"{command} {name}") or VALUES.get(name) or _value(kind)
    chosen = CHOSEN.get(name, "") if command == "train" else ""
    return Argument(name, kind, default, name in COMMANDS[command].positional, value, text, chosen)


def _value(kind: Kind) -> str:
    if kind.named:
        return ".NAME VALUE"
    if kind.choices:
        return "|".join(kind.choices)
    one = {int: "N", float: "X"}.get(kind.item, "NAME")
    return f"{one}..." if kind.words is None else " ".join([one] * kind.words)


def _annotations(function: Callable[..., object], names: Sequence[str]) -> dict[str, Annotation]:
    """Those of the parameters alone: what a function returns may be named for type checkers only."""
    of_parameters = {name: each for name, each in function.__annotations__.items() if name in names}
    holder = types.SimpleNamespace(__annotations__=of_parameters)
    return typing.get_type_hints(holder, globalns=vars(inspect.getmodule(function)))


def described(command: str) -> str:
    """What the docstring of a command's function says before it comes to the arguments."""
    return "\n\n".join(description(function_of(command)))


def for_the_command_line(text: str, names: Mapping[str, Argument]) -> str:
    """A docstring's text with the names of arguments as flags (`crop_size` is --crop-size), and without what is only
    for Python."""
    text = re.sub(r"; from Python [^.;]*", "", text)
    return re.sub(r"`+([^`]+)`+", lambda found: names[found[1]].flag if found[1] in names else found[1], text)
