"""What a run prints before its first step: what is trained on what, and what was chosen for it."""

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segweave.data.check_results import CheckedSplit
from segweave.data.dataset import SplitDataset
from segweave.models import Network
from segweave.training.configuration import RunConfiguration
from segweave.training.run import Splits
from segweave.training.settings import RunSettings

NAMED_AT_MOST = 8
"""How many warnings of a split, and how many weights that `init_from` doesn't give, are named."""

ROOM = 20
"""How much of a line the settings that were chosen need beside their flags, in characters."""


def print_start(
    asked: RunSettings,
    configuration: RunConfiguration,
    splits: Splits[SplitDataset[object]],
    checks: Sequence[CheckedSplit],
    network: Network,
) -> None:
    """Prints what is trained, on what, and which settings were chosen.

    Args:
        asked: The settings as given.
        configuration: As resolved.
        splits: To train and to validate on.
        checks: What was found in those that were checked.
        network: Is trained.
    """
    console = Console()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _say(
        console,
        f"{configuration.model} on {configuration.backbone}, {parameters / 1e6:.1f} M parameters; "
        f"{len(splits.train)} images to train on, {len(splits.val)} to validate on, "
        f"{len(splits.train.classes)} classes",
    )
    for check in checks:
        _say(console, check.contents)
        for warning in check.warnings[:NAMED_AT_MOST]:
            _warn(console, warning)
    chosen = _chosen(asked, configuration)
    if chosen:
        print_chosen(console, chosen)


def print_chosen(console: Console, chosen: Sequence[tuple[str, str, str]]) -> None:
    """Prints a table of settings that were chosen. Nothing is cut off, and flags are on one line where they fit.

    Args:
        console: To print on.
        chosen: The name of each, its value, and the flag that changes it.
    """
    table = Table(box=None, header_style="dim")
    table.add_column("chosen for you", overflow="fold")
    table.add_column("value", overflow="fold")
    longest = max(len(flag) for _, _, flag in chosen)
    fits = console.width >= longest + ROOM
    table.add_column("change with", no_wrap=fits, overflow="fold")  # the others give way to what doesn't wrap
    for name, value, flag in chosen:
        table.add_row(name, Text(value), flag)
    console.print(table)


def print_initialised(configuration: RunConfiguration, network: Network, not_taken: Sequence[str] | None) -> None:
    """Prints what was taken from another run, what wasn't, and how much is trained if the backbone is frozen.

    Args:
        configuration: Of the run.
        network: Is trained.
        not_taken: The weights that the other run doesn't give; None if none was asked.
    """
    console = Console()
    if not_taken is not None:
        count = len(network.state_dict())
        _say(console, f"{count - len(not_taken)} of {count} tensors start from {configuration.init_from}")
        if not_taken:
            rest = len(not_taken) - NAMED_AT_MOST
            more = f"; and {rest} more" if rest > 0 else ""
            _say(console, f"not taken: {'; '.join(not_taken[:NAMED_AT_MOST])}{more}")
    if not configuration.freeze_backbone:
        return
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    _say(console, f"the backbone is frozen: {trained / 1e6:.1f} M parameters are trained")
    if configuration.pretrained:
        return
    missing = sum(name.startswith("backbone.") for name in not_taken or ())
    if configuration.init_from is None:
        _warn(
            console,
            "the frozen backbone has random weights: expected pretrained or init_from with freeze_backbone",
        )
    elif missing:
        _warn(
            console,
            f"{missing} tensors of the frozen backbone keep their random weights: expected an init_from with the same "
            "backbone",
        )


def _chosen(asked: RunSettings, configuration: RunConfiguration) -> list[tuple[str, str, str]]:
    """What was chosen: its name, its value, and the flag that changes it."""
    chosen = []
    for field in dataclasses.fields(configuration):
        before, after = getattr(asked, field.name), getattr(configuration, field.name)
        if field.name == "options":
            chosen += [(name, _shown(after[name]), f"--options.{name}") for name in after if name not in before]
        elif before != after:
            chosen.append((field.name, _shown(after), f"--{field.name.replace('_', '-')}"))
    return chosen


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)  # as text: rich would take [brackets] in names for markup


def _warn(console: Console, text: str) -> None:
    console.print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)
