"""RANet's regions and representative scores beside the dense reference: time and memory from 33x33 to 129x129.

    python benchmarks/region_grouping.py [--sides 33 49 65 97 129 --dense-up-to 97 --figure regions.png]

Forward and backward on one image of 19 classes. "Trained": maps with smooth classes and thin boundaries between them.
"One region": maps as those of a network that has learned nothing, on which all pixels are one region, so that every
pair counts. Each measurement is a process of its own; memory is the most it ever held beyond what it held before. Ours
is measured right before and right after the dense reference. In brackets are processor seconds, of all threads, and
"times faster" is of these (of ours the mean), since other work on a machine stretches them less.

The dense reference makes the table of all pairs with plain torch operations (`segweave.ops.region_attention`), in
blocks of rows, so that only what backward needs is kept of all pairs: 8 GB at 97x97. Regions and scores are read from
the table. Each time, its regions, scores and gradients (of the logits of the classes) are checked to be ours.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segweave.ops import group_regions, representative_scores
from segweave.ops.region_attention import region_attention_from

CLASSES, THRESHOLD = 19, 0.8

BLOCK_PAIRS = 2**18
"""How many pairs of pixels the dense reference computes at once: it is fastest so."""


def main() -> None:
    arguments = _arguments()
    if arguments.measure:
        method, scene, side, found = arguments.measure
        print(json.dumps(_measure(method, scene, int(side), arguments.rounds, Path(found))))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {CLASSES} classes, forward and backward\n")
    print("| positions | scene | regions | segweave before | dense | segweave after | memory | dense | times faster |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    results = []
    for side in arguments.sides:
        for scene in ("trained", "one region"):
            with TemporaryDirectory() as folder:
                result = _compare(scene, side, arguments.rounds, side <= arguments.dense_up_to, Path(folder))
            results.append(result)
            print(_line(result), flush=True)
    if arguments.figure:
        _draw(results, arguments.figure)


def _compare(scene: str, side: int, rounds: int, with_dense: bool, folder: Path) -> dict[str, Any]:
    """Ours, and if asked the dense reference with ours again after it: what `_measure` says of each."""
    ours = [_in_a_process("ours", scene, side, rounds, folder)]
    dense = None
    if with_dense:
        dense = _in_a_process("dense", scene, side, 1, folder)
        ours.append(_in_a_process("ours", scene, side, rounds, folder))
        _check_they_agree(*(torch.load(folder / f"{method}.pt") for method in ("ours", "dense")))
    return {"side": side, "scene": scene, "ours": ours, "dense": dense}


def _in_a_process(method: str, scene: str, side: int, rounds: int, folder: Path) -> dict[str, Any]:
    measured = ["--measure", method, scene, str(side), str(folder / f"{method}.pt")]
    command = [sys.executable, __file__, *measured, "--rounds", str(rounds)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _check_they_agree(ours: list[Tensor], dense: list[Tensor]) -> None:
    """In regions, scores and gradients; in the last two but for rounding."""
    torch.testing.assert_close(ours[0], dense[0], rtol=0, atol=0)
    for one, other in zip(ours[1:], dense[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def _line(result: dict[str, Any]) -> str:
    """A line of the table."""
    ours, dense = result["ours"], result["dense"]
    runs = [ours[0], dense, *ours[1:]] if dense else [ours[0], None, None]
    seconds = [f"{run['seconds']:.2f} s ({run['processor_seconds']:.2f})" if run else "" for run in runs]
    memory = [f"{run['bytes'] / 1e6:.0f} MB" if run else "" for run in (ours[0], dense)]
    ratio = f"{dense['processor_seconds'] / _mean(ours, 'processor_seconds'):.0f}" if dense else ""
    size = f"{result['side']} x {result['side']}"
    return f"| {' | '.join([size, result['scene'], str(ours[0]['regions']), *seconds, *memory, ratio])} |"


def _mean(runs: list[dict[str, Any]], field: str) -> float:
    return statistics.mean(run[field] for run in runs)


def _measure(method: str, scene: str, side: int, rounds: int, found: Path) -> dict[str, Any]:
    """Seconds, bytes and the number of regions; regions, scores and gradients go to a file."""
    run = {"ours": _ours, "dense": _dense}[method]
    run(*_scene(scene, 9))  # compiled, and what a first call keeps is there
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, processor_seconds = [], []
    for _ in range(rounds):
        maps = _scene(scene, side)
        start, start_processor = time.perf_counter(), time.process_time()
        regions, scores = run(*maps)
        seconds.append(time.perf_counter() - start)
        processor_seconds.append(time.process_time() - start_processor)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    torch.save([regions, scores, *(x.grad for x in maps)], found)
    return {
        "seconds": statistics.median(seconds),
        "processor_seconds": statistics.median(processor_seconds),
        "bytes": held * 1024,
        "regions": len(regions.unique()),
    }


def _ours(boundaries: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = logits.softmax(dim=1)
    regions = group_regions(boundaries, probabilities, THRESHOLD)
    scores = representative_scores(boundaries, probabilities, regions)
    scores.sum().backward()
    return regions, scores.detach()


def _dense(boundaries: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = logits.softmax(dim=1)
    pixels = torch.arange(boundaries[0].numel())
    blocks = pixels.split(max(BLOCK_PAIRS // len(pixels), 1))
    rows = [region_attention_from(boundaries, probabilities, block) for block in blocks]
    attention = torch.cat(rows, dim=1)  # the table of all pairs
    del rows
    with torch.no_grad():
        regions = (attention >= THRESHOLD).byte().argmax(dim=2)  # the first that it is grouped with
        for _ in range(regions.shape[1].bit_length()):
            regions = regions.gather(1, regions)
    together = regions[:, :, None] == regions[:, None]
    scores = torch.where(together, attention, 0).sum(dim=2) / together.sum(dim=2)
    scores.sum().backward()
    return regions, scores.detach()


def _scene(scene: str, side: int) -> tuple[Tensor, Tensor]:
    """Boundaries and the logits of the classes."""
    generator = torch.Generator().manual_seed(0)
    if scene == "one region":
        boundaries = 0.1 * torch.rand(1, side, side, generator=generator)
        logits = 0.3 * torch.randn(1, CLASSES, side, side, generator=generator)
    else:
        coarse = torch.randn(1, CLASSES, 8, 8, generator=generator)
        scores = F.interpolate(coarse, size=(side, side), mode="bicubic")
        logits, classes = 8 * scores, scores.argmax(1)
        boundaries = torch.full((1, side, side), 0.03)
        boundaries[:, 1:][classes[:, 1:] != classes[:, :-1]] = 0.9
        boundaries[:, :, 1:][classes[:, :, 1:] != classes[:, :, :-1]] = 0.9
        # of equal points of a line any may get the gradient, which then can't be compared
        boundaries += 0.01 * torch.rand(boundaries.shape, generator=generator)
    return boundaries.requires_grad_(), logits.requires_grad_()


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
            measured = [one[method] if method == "ours" else [one[method]] for one in shown]
            for axis, field, unit in zip(axes, ("seconds", "bytes"), (1, 1e6), strict=True):
                values = [_mean(runs, field) / unit for runs in measured]
                axis.plot(positions, values, style, color=colour, marker="o", markersize=4, label=label)
    for axis, title in zip(axes, ("forward and backward, seconds", "memory beyond the inputs, MB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="positions", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[33, 49, 65, 97, 129])
    parser.add_argument(
        "--dense-up-to", type=int, default=97, help="the dense reference needs 8 GB at 97, 24 GB at 129"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
