"""The program as cyclopts sees it: commands, their arguments under headings, help and completion."""

import inspect
import types
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter, Token

from segweave.cli.arguments import Argument, Kind, arguments_of, described, for_the_command_line
from segweave.cli.commands import COMMANDS
from segweave.cli.headings import HEADINGS, OTHER, heading
from segweave.errors import InputError

PURPOSE = (
    "Train, evaluate and explain networks that use context (PAN, AGLN, RANet, FPT and their baselines) for segmentation "
    "and detection, on your own images."
)

AFTERWARDS = "\n".join(
    (
        "segweave COMMAND --help tells what a command takes, with examples.",
        "segweave --install-completion makes your shell complete commands and flags.",
    )
)


def application(commands: Collection[str]) -> App:
    """The program.

    Args:
        commands: Those that are to be called or to show their arguments; of the others only the summaries are known,
            which spares the imports of their functions.
    """
    app = App(
        name="segweave",
        help=PURPOSE,
        help_epilogue=AFTERWARDS,
        help_format="plaintext",
        version=version("segweave"),
        usage="Usage: segweave COMMAND [ARGUMENTS]\n",
        group_commands=Group("Choose what to do."),
        group_parameters=Group("Ask about the program itself."),
        suppress_keyboard_interrupt=False,
    )
    for flag in ("--help", "--version"):
        app[flag].group = Group("Ask about the program itself.")
    app.register_install_completion_command(
        help="Make this shell complete commands and flags.", group=Group("Ask about the program itself.")
    )
    groups = {"": app}
    for order, name in enumerate(COMMANDS):
        *above, last = name.split()
        for word in above:
            if word not in groups:
                groups[word] = App(
                    name=word,
                    help="Look at data before anything is trained on it.",
                    usage=f"Usage: segweave {word} COMMAND [ARGUMENTS]\n",
                    group_commands=Group("Choose what to do."),
                    help_flags=["--help", "-h"],
                    version_flags=[],
                    sort_key=order,
                )
                app.command(groups[word])
        groups[" ".join(above)].command(_command(name, last, order, known=name in commands))
    return app


def _command(name: str, word: str, order: int, *, known: bool) -> App:
    command = COMMANDS[name]
    app = App(name=word, help=command.summary, sort_key=order, version_flags=[])
    if known:
        arguments = arguments_of(name)
        more = for_the_command_line(described(name), arguments)
        app.help = f"{command.summary}\n\n{more}"
        app.usage = f"Usage: {_usage(name, arguments.values())}\n"
        app.help_epilogue = "Examples:\n" + "\n".join(f"  {example}" for example in command.examples)
        app.default(_callable(name, list(arguments.values())))
    return app


def _usage(name: str, arguments: Collection[Argument]) -> str:
    words = ["segweave", name]
    for each in arguments:
        if each.positional:
            shown = f"{each.flag}..." if each.kind.words is None else each.flag
            words.append(shown if each.required else f"[{shown}]")
    words += [f"{each.flag} {each.value}" for each in arguments if each.required and not each.positional]
    return " ".join([*words, *(["[FLAGS]"] if any(not each.positional for each in arguments) else [])])


def _callable(name: str, arguments: Sequence[Argument]) -> Callable[..., None]:
    """A function whose signature is the command's arguments, for cyclopts to read; what it binds to it is run by
    `segweave.cli.main`."""

    def command(*positional: object, **named: object) -> None:
        """Is never called."""

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
    shown = argument.shown_default

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
        annotation=Annotated[_annotation(kind), parameter],
    )


def _annotation(kind: Kind) -> object:
    """What cyclopts is told of an argument, which decides how many words it takes and what completes them."""
    if kind.named:
        return dict[str, tuple[str, ...]]
    one: object = Literal[kind.choices] if kind.choices else kind.item
    if kind.words is None:
        return types.GenericAlias(tuple, (one, ...))
    return one if kind.words == 1 else types.GenericAlias(tuple, (one,) * kind.words)
