"""What context is worth: FCN and PAN on `shapes` with the settings of `segweave demo`, over several seeds.

    python benchmarks/context_on_shapes.py [--seeds 0 1 2 --out runs/context]

Runs that are there already are read, not trained again.
"""

import argparse
import statistics
from pathlib import Path

from segweave import train
from segweave.commands.demo import SETTINGS
from segweave.training.callbacks import read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/context"))
    arguments = parser.parse_args()
    scores: dict[str, list[float]] = {"fcn": [], "pan": []}
    for seed in arguments.seeds:
        for model, reached in scores.items():
            run = arguments.out / f"{model}-{seed}"
            if not (run / "report.html").exists():
                train("shapes", out=run, model=model, seed=seed, overwrite=True, **SETTINGS)
            reached.append(100 * max(float(row["val/mean_iou"]) for row in read_metrics(run / "metrics.csv")))
    print(f"| network | {' | '.join(f'seed {seed}' for seed in arguments.seeds)} | mean | spread |")
    print("| --- |" + " ---: |" * (len(arguments.seeds) + 2))
    for model, reached in scores.items():
        spread = statistics.stdev(reached) if len(reached) > 1 else 0.0
        cells = [f"{score:.1f}" for score in (*reached, statistics.mean(reached), spread)]
        print(f"| {model} | {' | '.join(cells)} |")
    gains = [pan - fcn for fcn, pan in zip(scores["fcn"], scores["pan"], strict=True)]
    each = ", ".join(f"{gain:.1f}" for gain in gains)
    print(f"PAN is {statistics.mean(gains):.1f} points of mIoU above FCN (each seed: {each})")


if __name__ == "__main__":
    main()
