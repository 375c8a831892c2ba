"""`profile`, the function behind `segweave profile`: what networks cost."""

import dataclasses
import json as json_format
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from segweave.cost.paper_tables import FURTHER_TABLES, PAPER_TABLES, AddedCostTable, PaperTable
from segweave.errors import InputError
from segweave.nearest import nearest

if TYPE_CHECKING:
    from segweave.cost.profiling import ComparedCost, Profile
else:  # importing torch would take seconds of the command line's help
    ComparedCost = Profile = Any


@overload
def profile(*, paper: Literal["ranet"], table: int | None = None, json: bool = False) -> list[ComparedCost]: ...


@overload
def profile(
    models: Sequence[str] | str = (),
    *,
    backbone: str | None = None,
    options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    device: str = "auto",
    rounds: int = 5,
    paper: Literal["agln", "fpt"] | None = None,
    table: int | None = None,
    json: bool = False,
) -> list[Profile]: ...


def profile(
    models: Sequence[str] | str = (),
    *,
    backbone: str | None = None,
    options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    device: str = "auto",
    rounds: int = 5,
    paper: Literal["agln", "ranet", "fpt"] | None = None,
    table: int | None = None,
    json: bool = False,
) -> list[Profile] | list[ComparedCost]:
    """Prints what networks cost, side by side, or a paper's table of costs with its figures beside ours.

    Args:
        models: Names of networks.
        backbone: The timm model that all are built on; resnet50 if not given.
        options: The networks' own options, such as output_stride, for all of them.
        num_classes: K; 21 if not given.
        size: Height and width of the images in pixels; 512 x 512 if not given.
        batch: Images at once, for memory and latency.
        device: auto, cpu, cuda or mps.
        rounds: Forward passes to time, after one that isn't counted.
        paper: Instead of `models`: whose table to print, in its own setting: agln (Table VIII), fpt (Table 4), or ranet
            (Table 3: what its context adds to fcn, for one image). Nothing runs, so that device and rounds don't
            matter.
        table: The number of another table of the paper: FPT's Table 1, of detectors.
        json: Whether to print JSON instead of a table.

    Returns:
        What was measured of each network; for "ranet", each of the table's rows with ours.

    Raises:
        InputError: A model, an option, or a number can't be used.
    """
    from rich.console import Console

    from segweave.cost.profiling import (
        compare_costs,
        print_compared_costs,
        print_paper_table,
        print_profiles,
        profile_models,
        profile_paper,
    )
    from segweave.devices import choose_device

    names = [models] if isinstance(models, str) else list(models)
    if (paper is None) == (not names):
        raise InputError("profile: expected the names of one or more models, or --paper, and not both")
    if batch < 1 or rounds < 1:
        raise InputError(f"batch {batch} and rounds {rounds}: expected 1 or more")
    kind = choose_device(device)
    if paper is None:
        if table is not None:
            raise InputError(f"table {table}: expected a paper beside it")
        measured = profile_models(
            [(name, dict(options or {})) for name in names],
            backbone="resnet50" if backbone is None else backbone,
            num_classes=21 if num_classes is None else num_classes,
            size=(512, 512) if size is None else size,
            batch=batch,
            rounds=rounds,
            device=kind,
        )
        if json:
            _print_json(measured)
        else:
            print_profiles(Console(), measured)
        return measured

    printed = _paper_table(paper, table)
    if any(setting is not None for setting in (backbone, options, num_classes, size)):
        raise InputError(
            "profile: a paper's table has its own setting: expected no backbone, options, num_classes and size"
        )
    if isinstance(printed, AddedCostTable):
        if batch != 1:
            raise InputError(f"batch {batch}: expected 1, {printed.title} is for one image")
        costs = compare_costs(printed)
        if json:
            _print_json(costs)
        else:
            print_compared_costs(Console(), printed, costs)
        return costs
    profiles = profile_paper(printed, batch)
    if json:
        _print_json(profiles)
    else:
        print_paper_table(Console(), printed, profiles)
    return profiles


def _print_json(rows: Sequence[Profile] | Sequence[ComparedCost]) -> None:
    print(json_format.dumps([dataclasses.asdict(row) for row in rows], indent=2))


def _paper_table(paper: str, number: int | None) -> PaperTable | AddedCostTable:
    if paper not in PAPER_TABLES:
        raise InputError(f"paper {paper!r}: {nearest(paper, list(PAPER_TABLES))}")
    tables = {table.number: table for table in (PAPER_TABLES[paper], *FURTHER_TABLES.get(paper, ()))}
    if number is not None and number not in tables:
        raise InputError(f"table {number} of paper {paper!r}: expected one of {', '.join(map(str, tables))}")
    return PAPER_TABLES[paper] if number is None else tables[number]
