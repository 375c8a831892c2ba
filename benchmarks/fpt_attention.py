"""FPT's transformers beside tables of all pairs: time and memory of maps from 32x32 to 128x128.

    python benchmarks/fpt_attention.py [--sides 32 48 64 96 128 --figure fpt_attention.png --device cpu --precision 32]

Queries are the positions of a map of 256 channels; keys and values those of one of half its side (at side 128 16,384
queries meet 4,096 keys) for ST (2 parts, dot product) and GT (4 parts, distance), and for LGT (4 parts, distance)
squares of 5 x 5 of a map as large. LGT's "table" is the unfolded map. Forward alone, and forward and backward. On a
CPU each measurement is a process of its own, and memory is the most it ever held beyond what it held before and the
result; on CUDA it is the allocator's. The plain references are those of `segweave.ops`.
"""

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segweave.ops import (
    dense_local_mixture_of_softmaxes,
    dense_mixture_of_softmaxes,
    local_mixture_of_softmaxes,
    mixture_of_softmaxes,
)

CHANNELS = 256
GROUNDING = functools.partial(mixture_of_softmaxes, similarity="euclidean")
DENSE_GROUNDING = functools.partial(dense_mixture_of_softmaxes, similarity="euclidean")
METHODS = {
    "ST": {"parts": 2, "ours": mixture_of_softmaxes, "table": dense_mixture_of_softmaxes},
    "GT": {"parts": 4, "ours": GROUNDING, "table": DENSE_GROUNDING},
    "LGT": {"parts": 4, "ours": local_mixture_of_softmaxes, "table": dense_local_mixture_of_softmaxes},
}
TYPES = {"32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    arguments = _arguments()
    if arguments.measure:
        where, method, passes, side = arguments.measure
        print(json.dumps(_measure(where, method, passes, int(side), arguments)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.device}, {arguments.precision}\n")
    print("| queries | | passes | table | memory | segweave | memory | times faster | of the memory |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    results = []
    for side in arguments.sides:
        for where in METHODS:
            for passes in ("forward", "training"):
                table, ours = (_in_a_process(where, method, passes, side) for method in ("table", "ours"))
                results.append({"side": side, "where": where, "passes": passes, "table": table, "ours": ours})
                shown = [f"{one['seconds']:.3f} s | {one['bytes'] / 1e6:.0f} MB" for one in (table, ours)]
                faster, share = table["seconds"] / ours["seconds"], ours["bytes"] / max(table["bytes"], 1)
                print(
                    f"| {side} x {side} | {where} | {passes} | {shown[0]} | {shown[1]} | {faster:.1f} | {share:.2f} |"
                )
                sys.stdout.flush()
    if arguments.figure:
        _draw(results, arguments.figure)


def _in_a_process(where: str, method: str, passes: str, side: int) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--measure", where, method, passes, str(side)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure(where: str, method: str, passes: str, side: int, arguments: argparse.Namespace) -> dict[str, float]:
    _run(where, method, passes, _inputs(where, 8, arguments), arguments)  # what a first call keeps is there
    inputs = _inputs(where, side, arguments)
    before = _peak(arguments)
    seconds = [_run(where, method, passes, inputs, arguments) for _ in range(arguments.rounds)]
    result = inputs[0].numel() * inputs[0].element_size()
    return {"seconds": statistics.median(seconds), "bytes": _peak(arguments) - before - result}


def _run(where: str, method: str, passes: str, inputs: list[Tensor], arguments: argparse.Namespace) -> float:
    """Seconds."""
    start = time.perf_counter()
    with torch.set_grad_enabled(passes == "training"):
        result = METHODS[where][method](*inputs)
        if passes == "training":
            torch.autograd.grad(result.sum(), inputs)
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _inputs(where: str, side: int, arguments: argparse.Namespace) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    if where == "LGT":
        shapes = [(1, CHANNELS, side, side)] * 3
    else:
        shapes = [(1, side**2, CHANNELS), *[(1, (side // 2) ** 2, CHANNELS)] * 2]
    parts = METHODS[where]["parts"]
    drawn = [*(torch.randn(*shape, generator=generator) for shape in shapes), torch.full((1, parts), 1 / parts)]
    dtype = TYPES[arguments.precision]
    return [x.to(arguments.device, dtype).requires_grad_() for x in drawn]


def _peak(arguments: argparse.Namespace) -> int:
    """Bytes."""
    if arguments.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _draw(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 2, figsize=(9, 9.4), layout="constrained", sharex=True)
    for row, where in enumerate(METHODS):
        for method, colour in (("table", "#b0522d"), ("ours", "#2563eb")):
            for passes, style in (("training", "-"), ("forward", "--")):
                shown = [one for one in results if (one["where"], one["passes"]) == (where, passes)]
                positions = [one["side"] ** 2 for one in shown]
                label = f"{'segweave' if method == 'ours' else method}, {passes}"
                for column, (field, unit) in enumerate((("seconds", 1), ("bytes", 1e6))):
                    values = [one[method][field] / unit for one in shown]
                    axes[row, column].plot(
                        positions, values, style, color=colour, marker="o", markersize=4, label=label
                    )
        axes[row, 0].set(title=f"{where}: seconds", yscale="log")
        axes[row, 1].set(title=f"{where}: memory beyond inputs and result, MB", yscale="log")
    for axis in axes.flat:
        axis.set(xscale="log")
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("queries")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 48, 64, 96, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=TYPES, default="32")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
