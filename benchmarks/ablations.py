"""What the ablation scripts share: every row of a paper's tables trained on `shapes` with several seeds, and printed
with mean and spread beside the paper's figure."""

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from segweave.training.callbacks import read_metrics
from segweave.training.configuration import read_settings

SETTINGS: dict[str, Any] = {
    "backbone": "resnet18",
    "epochs": 4,
    "batch_size": 8,
    "short_edge": 96,
    "crop_size": (96, 120),
    "scale_range": (0.75, 1.5),
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.01,
    "warmup_steps": 30,
    "validate_every": 4,
    "workers": 1,
    "device": "cpu",
}
"""The same for all rows of a script: 300 steps of 8 images, where it says nothing else."""


@dataclass(frozen=True)
class Row:
    """A row of a table: what the paper calls it, its figure there (NaN for none), a name for its runs, and how its
    network is made."""

    title: str
    paper: float
    name: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)


BACKBONE = Row("FCN", math.nan, "fcn", "fcn", {"head_channels": 64})
"""Whose backbone is frozen; the papers' tables don't have it."""


def parse_arguments(
    description: str | None, out: str, settings: Mapping[str, Any] = SETTINGS, flags: Sequence[str] = ()
) -> argparse.Namespace:
    """Seeds, epochs, the folder of the runs, processes, precision, a script's own `flags`, and what all rows share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=settings["epochs"], help="passes over the 600 images")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--processes", type=int, default=2, help="runs at once, which share the cores")
    parser.add_argument("--threads", type=int, help="of each run; the cores divided by the processes if not given")
    parser.add_argument("--precision", default="32", help="bf16-mixed is faster on a CPU that computes in bf16")
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args(namespace=argparse.Namespace(settings=settings))


def train_rows(rows: Sequence[Row], arguments: argparse.Namespace) -> dict[tuple[str, int], Path]:
    """Trains each row with each seed, each in a process of its own; runs that are there already are left.

    Returns:
        The run folder of each row's name and seed.

    Raises:
        SystemExit: A run with other settings is there.
    """
    threads = arguments.threads or max((os.cpu_count() or 1) // arguments.processes, 1)
    runs = {(row.name, seed): arguments.out / f"{row.name}-{seed}" for seed in arguments.seeds for row in rows}
    jobs = [(row, seed) for seed in arguments.seeds for row in {row.name: row for row in rows}.values()]
    with ThreadPoolExecutor(arguments.processes) as pool:  # each thread waits for a process
        list(pool.map(lambda job: _train(*job, runs[job[0].name, job[1]], threads, arguments), jobs))
    return runs


def train_on_frozen_backbones(
    rows: Sequence[Row], arguments: argparse.Namespace, backbone_settings: Mapping[str, Any] | None = None
) -> dict[tuple[str, int], Path]:
    """Trains an FCN with each seed, then each row on its backbone, which stays as it is, in the folder `frozen`.

    Args:
        rows: Of the tables.
        arguments: As of `parse_arguments`.
        backbone_settings: Of the FCNs; None for those of the rows.

    Returns:
        The run folder of each row's name and seed.
    """
    first = {**vars(arguments), "settings": backbone_settings or arguments.settings}
    if backbone_settings is not None:
        first["epochs"] = backbone_settings["epochs"]
    backbones = train_rows([BACKBONE], argparse.Namespace(**first))
    print("the FCN: " + ", ".join(f"{mean_iou(run):.1f}" for run in backbones.values()))
    runs = {}
    for seed in arguments.seeds:
        frozen = {"init_from": str(backbones[BACKBONE.name, seed].resolve()), "freeze_backbone": True}
        settings = {**arguments.settings, **frozen}
        of_seed = {"seeds": [seed], "settings": settings, "out": arguments.out / "frozen"}
        runs |= train_rows(rows, argparse.Namespace(**{**vars(arguments), **of_seed}))
    return runs


def mean_iou(run: Path) -> float:
    """Of a run after its last step, in per cent."""
    return last_figure(run, "val/mean_iou")


def last_figure(run: Path, name: str) -> float:
    """A figure of a run after its last step, in per cent."""
    return 100 * float(read_metrics(run / "metrics.csv")[-1][name])


def print_table(title: str, rows: Sequence[Row], scores: Mapping[tuple[str, int], float], seeds: Sequence[int]) -> None:
    """A table in Markdown, and which pairs of rows come out the other way round than in the paper.

    Args:
        title: Its heading.
        rows: In order.
        scores: Of each row's name and seed.
        seeds: In order.
    """
    print(f"\n{title}\n\n| network | paper |{''.join(f' seed {seed} |' for seed in seeds)} mean | spread |")
    print("| --- |" + " ---: |" * (len(seeds) + 3))
    means = {}
    for row in rows:
        reached = [scores[row.name, seed] for seed in seeds]
        means[row.title] = statistics.mean(reached)
        spread = statistics.stdev(reached) if len(reached) > 1 else 0.0
        cells = [f"{score:.1f}" for score in (*reached, means[row.title], spread)]
        printed = "-" if math.isnan(row.paper) else f"{row.paper:.2f}"
        print(f"| {row.title} | {printed} | {' | '.join(cells)} |")
    swapped = [
        f"{worse.title} is {means[worse.title] - means[better.title]:.1f} above {better.title}"
        for better in rows
        for worse in rows
        if better.paper > worse.paper and means[better.title] < means[worse.title]
    ]
    print(f"\nOther order than the paper's: {'; '.join(swapped) or 'none'}.")


def _train(row: Row, seed: int, run: Path, threads: int, arguments: argparse.Namespace) -> None:
    given = {"epochs": arguments.epochs, "validate_every": arguments.epochs, "precision": arguments.precision}
    settings = {**arguments.settings, **given, "seed": seed}
    if (run / "report.html").exists():
        if _is_of(run, {**settings, "model": row.model}, row.options):
            return
        raise SystemExit(f"{run}: a run with other settings: expected another --out, or an empty folder")
    wanted = {**settings, "model": row.model, "options": row.options}
    command = [sys.executable, "-m", "segweave", "train", "--data", "shapes", "--out", str(run), "--overwrite"]
    with TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(_as_saved(wanted)))
        subprocess.run(
            [*command, "--config", str(recipe)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )


def _is_of(run: Path, wanted: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether a run has these settings; a detector's has options that were chosen for it, too."""
    settings = read_settings(run / "config.yaml")
    return all(settings[name] == _as_saved(value) for name, value in wanted.items()) and all(
        settings["options"].get(name) == _as_saved(value) for name, value in options.items()
    )


def _as_saved(value: Any) -> Any:
    """As YAML has it."""
    if isinstance(value, Mapping):
        return {name: _as_saved(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value
