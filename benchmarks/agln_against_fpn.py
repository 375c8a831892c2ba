"""Forward and training step of AGLN beside FPN's on the same backbone: time per multiply-add, and memory.

    python benchmarks/agln_against_fpn.py [--backbone resnet50 --size 512 --batch 1 --rounds 5]

The networks take turns; a ratio is the median of the rounds' ratios of time per multiply-add (of convolutions and
matrix products).
"""

import argparse
import statistics

import torch

import segweave
from segweave.cost.profiling import profile_network
from turns import forward_pass, take_turns, training_step

CLASSES = 59
NETWORKS = {
    "FPN": ("fpn", {}),
    "AGLN, straight": ("agln", {"dense": False}),
    "AGLN": ("agln", {}),
    "AGLN-Lite": ("agln", {"lite": True}),
}


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(0)
    size = (arguments.size, arguments.size)
    images = torch.randn(arguments.batch, 3, *size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (arguments.batch, *size))
    networks = {
        title: segweave.create_model(name, num_classes=CLASSES, backbone=arguments.backbone, **options)
        for title, (name, options) in NETWORKS.items()
    }
    profiles = {
        title: profile_network(network, size=size, batch=arguments.batch, rounds=1)
        for title, network in networks.items()
    }
    forward = take_turns(
        {title: forward_pass(network, images) for title, network in networks.items()}, arguments.rounds
    )
    step = take_turns(
        {title: training_step(network, images, labels) for title, network in networks.items()}, arguments.rounds
    )
    print(
        f"{arguments.backbone}, {arguments.batch} x {arguments.size} x {arguments.size}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| network | multiply-adds | forward | per multiply-add | training step | per multiply-add | activations |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    costs = {title: one.multiply_adds["total"] for title, one in profiles.items()}
    for title, one in profiles.items():
        cells = [f"{costs[title] / 1e9:.1f} G"]
        for times in (forward, step):
            ratio = statistics.median(
                (ours / costs[title]) / (first / costs["FPN"])
                for ours, first in zip(times[title], times["FPN"], strict=True)
            )
            cells += [f"{statistics.median(times[title]):.2f} s", f"{ratio:.2f}"]
        cells.append(f"{one.activation_bytes['training'] / 2**20:.0f} MiB")
        print(f"| {title} | {' | '.join(cells)} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
