"""AGLN's Tables IV, V and VII on `shapes`: every row over several seeds, mean and spread beside the paper's figure.

    python benchmarks/agln_ablations.py [--seeds 0 1 2 --out runs/agln --processes 2 --precision bf16-mixed]

All rows have the same backbone, steps, batches and seeds; the decoder is narrower than the paper's, for a CPU. Runs
that are there already are read, not trained again.
"""

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
WIDTHS = {"channels": 64, "head_channels": 128}
MINUS = {"dense": False, "channel_resampling": False, "spatial_gating": False}


@dataclass(frozen=True)
class Row:
    """A row of a table: what the paper calls it, its mIoU there (PASCAL Context, ResNet-50), and how it is made."""

    title: str
    paper: float
    name: str
    model: str = "agln"
    options: dict[str, Any] = field(default_factory=dict)


FPN = Row("FPN", 46.91, "fpn", "fpn")
GEM = Row("AGLN-minus, GEM, N = 128", 51.24, "gem-128", options=MINUS)
TABLES = {
    "Table IV: global enhancement": [
        FPN,
        Row("AGLN-minus, GAP-GEM", 48.17, "gap-gem", options={**MINUS, "global_pooling": "average"}),
        Row("AGLN-minus, GEM, N = 1", 47.93, "gem-1", options={**MINUS, "descriptors": 1}),
        Row("AGLN-minus, GEM, N = 64", 50.98, "gem-64", options={**MINUS, "descriptors": 64}),
        GEM,
        Row("AGLN-minus, GEM, N = 256", 50.88, "gem-256", options={**MINUS, "descriptors": 256}),
    ],
    "Table V: local refinement": [
        FPN,
        GEM,
        Row("AGLN-minus, CR", 51.50, "cr", options={"dense": False, "spatial_gating": False}),
        Row("AGLN-minus, SG", 51.58, "sg", options={"dense": False, "channel_resampling": False}),
        Row("AGLN, CR and SG", 51.98, "cr-sg", options={"dense": False}),
    ],
    "Table VII: dense decoder": [
        FPN,
        Row("AGLN, straight", 51.98, "cr-sg", options={"dense": False}),
        Row("AGLN, dense", 52.45, "dense"),
    ],
}


def main() -> None:
    arguments = _arguments()
    rows = {row.name: row for table in TABLES.values() for row in table}
    runs = [(row, seed) for seed in arguments.seeds for row in rows.values()]
    threads = max((os.cpu_count() or 1) // arguments.processes, 1)
    with ThreadPoolExecutor(arguments.processes) as pool:  # each waits for a process of its own
        reached = dict(
            zip(
                [(row.name, seed) for row, seed in runs],
                pool.map(lambda run: _mean_iou(*run, arguments, threads), runs),
                strict=True,
            )
        )
    for title, table in TABLES.items():
        print(
            f"\n{title}\n\n| network | paper |{''.join(f' seed {seed} |' for seed in arguments.seeds)} mean | spread |"
        )
        print("| --- |" + " ---: |" * (len(arguments.seeds) + 3))
        means = {}
        for row in table:
            scores = [reached[row.name, seed] for seed in arguments.seeds]
            means[row.title] = statistics.mean(scores)
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            cells = [f"{score:.1f}" for score in (*scores, means[row.title], spread)]
            print(f"| {row.title} | {row.paper:.2f} | {' | '.join(cells)} |")
        _compare_order(table, means)


def _compare_order(table: list[Row], means: dict[str, float]) -> None:
    """Says which pairs of rows come out the other way round than in the paper."""
    swapped = [
        f"{worse.title} is {means[worse.title] - means[better.title]:.1f} above {better.title}"
        for better in table
        for worse in table
        if better.paper > worse.paper and means[better.title] < means[worse.title]
    ]
    print(f"\nOther order than the paper's: {'; '.join(swapped) or 'none'}.")


def _mean_iou(row: Row, seed: int, arguments: argparse.Namespace, threads: int) -> float:
    """Trains a row, if that wasn't done; its mean IoU after the last step, in per cent."""
    run = arguments.out / f"{row.name}-{seed}"
    settings = {**SETTINGS, "seed": seed, "precision": arguments.precision}
    options = {**WIDTHS, **row.options}
    if not _is_done(run, {**settings, "model": row.model, "options": options}):
        flags = [f"--{name.replace('_', '-')}={_shown(value)}" for name, value in settings.items()]
        flags += [f"--options.{name}={_shown(value)}" for name, value in options.items()]
        command = [sys.executable, "-m", "segweave", "train", "--data", "shapes", "--out", str(run), "--overwrite"]
        subprocess.run(
            [*command, "--model", row.model, *flags],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    return 100 * float(read_metrics(run / "metrics.csv")[-1]["val/mean_iou"])


def _is_done(run: Path, wanted: dict[str, Any]) -> bool:
    """Whether a run with these settings has ended there."""
    if not (run / "report.html").exists():
        return False
    settings = read_settings(run / "config.yaml")
    return all(settings[name] == (list(value) if isinstance(value, tuple) else value) for name, value in wanted.items())


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/agln"))
    parser.add_argument("--processes", type=int, default=2, help="runs at once, which share the cores")
    parser.add_argument("--precision", default="32", help="bf16-mixed is faster on a CPU that computes in bf16")
    return parser.parse_args()


if __name__ == "__main__":
    main()
