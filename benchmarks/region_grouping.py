"""RANet's regions and representative scores beside the dense reference: time and memory from 33x33 to 129x129.

    python benchmarks/region_grouping.py [--sides 33 49 65 97 129 --dense-up-to 97 --figure regions.png]

Forward and backward on one image of 19 classes. "Trained": maps with smooth classes and thin boundaries between them.
"One region": maps as those of a network that has learned nothing, on which all pixels are one region, so that every
pair counts. Each measurement is a process of its own; memory is the most it ever held beyond what it held before. The
dense reference makes the table of all pairs with plain torch operations (`segweave.ops.region_attention`).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segweave.ops import group_regions, region_attention, representative_scores

CLASSES, THRESHOLD = 19, 0.8


def main() -> None:
    arguments = _arguments()
    if arguments.measure:
        method, scene, side = arguments.measure
        print(json.dumps(_measure(method, scene, int(side), arguments.rounds)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {CLASSES} classes, forward and backward\n")
    print("| positions | scene | regions | dense | memory | segweave | memory | times faster |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    results = []
    for side in arguments.sides:
        for scene in ("trained", "one region"):
            ours = _in_a_process("ours", scene, side, arguments.rounds)
            dense = _in_a_process("dense", scene, side, 1) if side <= arguments.dense_up_to else None
            results.append({"side": side, "scene": scene, "ours": ours, "dense": dense})
            dense_cells = ["", ""] if dense is None else [f"{dense['seconds']:.2f} s", f"{dense['bytes'] / 1e6:.0f} MB"]
            ratio = "" if dense is None else f"{dense['seconds'] / ours['seconds']:.0f}"
            cells = [*dense_cells, f"{ours['seconds']:.2f} s", f"{ours['bytes'] / 1e6:.0f} MB", ratio]
            print(f"| {side} x {side} | {scene} | {ours['regions']} | {' | '.join(cells)} |", flush=True)
    if arguments.figure:
        _draw(results, arguments.figure)


def _in_a_process(method: str, scene: str, side: int, rounds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", method, scene, str(side), "--rounds", str(rounds)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure(method: str, scene: str, side: int, rounds: int) -> dict[str, Any]:
    run = {"ours": _ours, "dense": _dense}[method]
    run(*_scene(scene, 9))  # compiled, and what a first call keeps is there
    boundaries, probabilities = _scene(scene, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        regions = run(boundaries, probabilities)
        seconds.append(time.perf_counter() - start)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(seconds), "bytes": held * 1024, "regions": len(regions.unique())}


def _ours(boundaries: Tensor, probabilities: Tensor) -> Tensor:
    regions = group_regions(boundaries, probabilities, THRESHOLD)
    representative_scores(boundaries, probabilities, regions).sum().backward()
    return regions


def _dense(boundaries: Tensor, probabilities: Tensor) -> Tensor:
    attention = region_attention(boundaries, probabilities)
    with torch.no_grad():
        regions = (attention >= THRESHOLD).byte().argmax(dim=2)  # the first that it is grouped with
        for _ in range(regions.shape[1].bit_length()):
            regions = regions.gather(1, regions)
    together = regions[:, :, None] == regions[:, None]
    (torch.where(together, attention, 0).sum(dim=2) / together.sum(dim=2)).sum().backward()
    return regions


def _scene(scene: str, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if scene == "one region":
        boundaries = 0.1 * torch.rand(1, side, side, generator=generator)
        probabilities = (0.3 * torch.randn(1, CLASSES, side, side, generator=generator)).softmax(1)
    else:
        coarse = torch.randn(1, CLASSES, 8, 8, generator=generator)
        scores = F.interpolate(coarse, size=(side, side), mode="bicubic")
        probabilities, classes = (8 * scores).softmax(1), scores.argmax(1)
        boundaries = torch.full((1, side, side), 0.03)
        boundaries[:, 1:][classes[:, 1:] != classes[:, :-1]] = 0.9
        boundaries[:, :, 1:][classes[:, :, 1:] != classes[:, :, :-1]] = 0.9
    return boundaries.requires_grad_(), probabilities.requires_grad_()


def _draw(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for method, colour in (("dense", "#b0522d"), ("ours", "#2563eb")):
        for scene, style in (("one region", "-"), ("trained", "--")):
            shown = [one for one in results if one["scene"] == scene and one[method]]
            positions = [one["side"] ** 2 for one in shown]
            label = f"{'table' if method == 'dense' else 'segweave'}, {scene}"
            for axis, field, unit in zip(axes, ("seconds", "bytes"), (1, 1e6), strict=True):
                values = [one[method][field] / unit for one in shown]
                axis.plot(positions, values, style, color=colour, marker="o", markersize=4, label=label)
    for axis, title in zip(axes, ("forward and backward, seconds", "memory beyond the inputs, MB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="positions", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[33, 49, 65, 97, 129])
    parser.add_argument("--dense-up-to", type=int, default=97, help="the dense reference needs tens of GB above")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--measure", nargs=3, metavar=("METHOD", "SCENE", "SIDE"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
