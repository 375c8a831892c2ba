"""Forward and training step of our PAN beside segmentation-models-pytorch's, on the same backbone.

    python benchmarks/pan_against_smp.py [--backbone resnet50 --size 512 --batch 2 --rounds 7]

The networks take turns, so that a machine that slows down slows them all; the ratio is the median of the rounds'
ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import segweave

CLASSES = 21


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    labels = torch.randint(0, CLASSES, (arguments.batch, arguments.size, arguments.size))
    networks = {
        "smp PAN, decoder 32": smp.PAN(arguments.backbone, encoder_weights=None, classes=CLASSES),
        "segweave PAN, decoder 32": _ours(arguments.backbone, 32),
        "segweave PAN, decoder 256": _ours(arguments.backbone, 256),
    }
    forward = _take_turns({name: _forward(network, images) for name, network in networks.items()}, arguments.rounds)
    step = _take_turns({name: _step(network, images, labels) for name, network in networks.items()}, arguments.rounds)
    print(f"{arguments.backbone}, {arguments.batch} x {arguments.size} x {arguments.size}, torch {torch.__version__}")
    print("| network | parameters | multiply-adds | forward | ratio | training step | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    first = next(iter(networks))
    for name, network in networks.items():
        parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        cells = [f"{parameters:.2f} M", f"{_multiply_adds(network, images[:1]) / 1e9:.2f} G"]
        for times in (forward, step):
            ratio = statistics.median(a / b for a, b in zip(times[name], times[first], strict=True))
            cells += [f"{statistics.median(times[name]):.3f} s", f"{ratio:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def _ours(backbone: str, decoder_channels: int) -> nn.Module:
    return segweave.create_model("pan", num_classes=CLASSES, backbone=backbone, decoder_channels=decoder_channels)


def _forward(network: nn.Module, images: Tensor) -> Callable[[], None]:
    def run() -> None:
        network.eval()
        with torch.inference_mode():
            network(images)

    return run


def _step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        network.train()
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return run


def _take_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, after one that isn't counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _multiply_adds(network: nn.Module, image: Tensor) -> float:
    """Of convolutions and matrix products, for one image."""
    counter = FlopCounterMode(display=False)
    network.eval()
    with counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() / 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
