"""The arguments of a command as cyclopts sees them: a signature whose annotations hold flags, headings and help."""

import inspect
import operator
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter, Token

from segweave.cli.arguments import Argument, Kind, arguments_of, described, for_the_command_line
from segweave.cli.commands import COMMANDS
from segweave.cli.headings import HEADINGS, OTHER, heading


def complete(app: App, name: str) -> None:
    """Gives a command's app its arguments and its help. When it is called, it returns what it was given by name.

    Args:
        app: Of the command alone.
        name: The command's.
    """
    command, arguments = COMMANDS[name], arguments_of(name)
    app.help = f"{command.summary}\n\n{for_the_command_line(described(name), arguments)}"
    app.usage = f"Usage: {_usage(name, list(arguments.values()))}"
    app.help_epilogue = "\n".join(("Examples:", *(f"  {example}" for example in command.examples), ""))
    app.default(_callable(name, list(arguments.values())))


def _usage(name: str, arguments: Sequence[Argument]) -> str:
    words = ["segweave", name]
    for each in arguments:
        if each.positional:
            shown = f"{each.flag}..." if each.kind.words is None else each.flag
            words.append(shown if each.required else f"[{shown}]")
    words += [f"{each.flag} {each.value}" for each in arguments if each.required and not each.positional]
    return " ".join([*words, *["[FLAGS]"] * any(not each.positional for each in arguments)])


def _callable(name: str, arguments: Sequence[Argument]) -> Callable[..., dict[str, object]]:
    """A function whose signature is the command's arguments, for cyclopts to read; it gives back what was given."""
    positional = [each.name for each in arguments if each.positional]
    by_name = [each for each in arguments if each.kind.named]

    def command(*values: object, **named: object) -> dict[str, object]:
        for each in by_name:
            if each.name in named:
                words = named[each.name]
                assert isinstance(words, dict)
                named[each.name] = each.read_named(words)
        return {**dict(zip(positional, values, strict=False)), **named}

    groups = {title: Group(title, sort_key=order) for order, title in enumerate([*HEADINGS, OTHER])}
    parameters = [_parameter(name, each, groups, arguments) for each in arguments]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__dict__["__signature__"] = inspect.Signature(parameters)
    return command


def _parameter(
    command: str, argument: Argument, groups: dict[str, Group], others: Sequence[Argument]
) -> inspect.Parameter:
    kind = argument.kind
    names = {each.name: each for each in others}
    shown, hint = argument.shown_default, _annotation(kind)

    def read(_: type, tokens: Sequence[Token]) -> object:
        return argument.read([token.value for token in tokens])

    parameter = Parameter(
        name=argument.name.upper() if argument.positional else argument.flag,
        converter=None if kind.named or kind.item is bool else read,
        consume_multiple=kind.words is None,
        negative=(f"--no-{argument.flag[2:]}",) if kind.item is bool else (),
        group=groups[heading(command, argument.name)],
        help=for_the_command_line(argument.text, names),
        show_default=(lambda _: shown) if shown else False,
        show_choices=False,
        metavar=argument.value,
        required=argument.required,
    )
    return inspect.Parameter(
        argument.name,
        inspect.Parameter.POSITIONAL_ONLY if argument.positional else inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if argument.required else argument.default,
        # cyclopts looks at defaults too, where pydantic is imported already
        annotation=Annotated[hint if argument.required else operator.or_(hint, None), parameter],
    )


def _annotation(kind: Kind) -> object:
    """What cyclopts is told of an argument, which decides how many words it takes and what completes them."""
    if kind.named:
        return dict[str, tuple[str, ...]]
    one: object = Literal[kind.choices] if kind.choices else kind.item
    if kind.words is None:
        return types.GenericAlias(tuple, (one, ...))
    return one if kind.words == 1 else types.GenericAlias(tuple, (one,) * kind.words)
