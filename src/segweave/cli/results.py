"""What the command line prints of a result, for the functions that print nothing themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segweave.errors import InputError

if TYPE_CHECKING:
    from segweave.data.check_results import DatasetCheck


def tell_predict(paths: Sequence[Path], given: Mapping[str, object]) -> None:
    """Prints how many images were written, and where."""
    print(f"{len(paths)} image{'s' * (len(paths) != 1)} written to {given['out']}")


def tell_explain(paths: Sequence[Path], given: Mapping[str, object]) -> None:
    """Prints the sheets' files."""
    for path in paths:
        print(path)


def tell_check(check: "DatasetCheck", given: Mapping[str, object]) -> None:
    """Prints what a folder holds.

    Raises:
        InputError: There are problems, so that the program says so and exits with status 2.
    """
    from rich.console import Console

    from segweave.commands.check import print_check

    print_check(check, Console())
    if not check.ok:
        raise InputError(f"{given['root']}: {check.problem_count} problems: expected none before training")
