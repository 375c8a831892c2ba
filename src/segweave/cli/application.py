"""The program as cyclopts sees it: its commands, and what its help says."""

from collections.abc import Collection

from cyclopts import App, Group
from cyclopts.help import DefaultFormatter, HelpPanel
from rich.console import Console, ConsoleOptions

from segweave.cli.commands import COMMANDS

PURPOSE = (
    "Train, evaluate and explain networks that use context (PAN, AGLN, RANet, FPT and their baselines) for "
    "segmentation and detection, on your own images."
)

AFTERWARDS = "\n".join(
    (
        "segweave COMMAND --help tells what a command takes, with examples.",
        "segweave --install-completion makes your shell complete commands and flags.",
        "",
    )
)


def _version() -> str:
    from importlib.metadata import version  # takes as long as half of the help

    return version("segweave")


class _Help(DefaultFormatter):
    """cyclopts' own panels, but for values that are given by name."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        entries = [
            each.copy(positive_names=(f"{each.positive_names[0]}.NAME",), metavar=each.metavar.removeprefix(".NAME "))
            if each.metavar and each.metavar.startswith(".NAME ")
            else each
            for each in panel.entries
        ]
        super().__call__(console, options, panel.copy(entries=entries))


def application(commands: Collection[str]) -> App:
    """The program.

    Args:
        commands: Those that are to be called or to show their arguments; of the others only the summaries are known,
            which spares the imports of their functions.
    """
    to_do, about = Group("Choose what to do.", sort_key=0), Group("Ask about the program itself.", sort_key=1)
    app = App(
        name="segweave",
        help=PURPOSE,
        help_epilogue=AFTERWARDS,
        help_format="plaintext",
        version=_version,
        usage="Usage: segweave COMMAND [ARGUMENTS]",
        group_commands=to_do,
        help_formatter=_Help(),
        suppress_keyboard_interrupt=False,
    )
    for flag in ("--help", "--version"):
        app[flag].group = (about,)
    app.register_install_completion_command(help="Make this shell complete commands and flags.", group=about)
    groups = {"": app}
    for order, name in enumerate(COMMANDS):
        *above, last = name.split()
        for word in above:
            if word not in groups:
                groups[word] = App(
                    name=word,
                    help="Look at data before anything is trained on it.",
                    usage=f"Usage: segweave {word} COMMAND [ARGUMENTS]",
                    group_commands=to_do,
                    version_flags=[],
                    sort_key=order,
                )
                app.command(groups[word])
        groups[" ".join(above)].command(_command(name, last, order, known=name in commands))
    return app


def _command(name: str, word: str, order: int, *, known: bool) -> App:
    app = App(name=word, help=COMMANDS[name].summary, sort_key=order, version_flags=[])
    if known:
        from segweave.cli.signatures import complete

        complete(app, name)
    return app
