"""Forward and training step of our PAN beside segmentation-models-pytorch's, on the same backbone.

    python benchmarks/pan_against_smp.py [--backbone resnet50 --size 512 --batch 2 --rounds 7]

The networks take turns, so that a machine that slows down slows them all; the ratio is the median of the rounds'
ratios.
"""

import argparse
import statistics

import segmentation_models_pytorch as smp
import torch
from torch import nn

import segweave
from segweave.cost.profiling import count_multiply_adds
from turns import forward_pass, take_turns, training_step

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
    forward = take_turns({name: forward_pass(network, images) for name, network in networks.items()}, arguments.rounds)
    steps = {name: training_step(network, images, labels) for name, network in networks.items()}
    step = take_turns(steps, arguments.rounds)
    print(f"{arguments.backbone}, {arguments.batch} x {arguments.size} x {arguments.size}, torch {torch.__version__}")
    print("| network | parameters | multiply-adds | forward | ratio | training step | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    first = next(iter(networks))
    for name, network in networks.items():
        with torch.no_grad():
            multiply_adds = count_multiply_adds(network.eval(), images[:1])["total"]
        parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        cells = [f"{parameters:.2f} M", f"{multiply_adds / 1e9:.2f} G"]
        for times in (forward, step):
            ratio = statistics.median(a / b for a, b in zip(times[name], times[first], strict=True))
            cells += [f"{statistics.median(times[name]):.3f} s", f"{ratio:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def _ours(backbone: str, decoder_channels: int) -> nn.Module:
    return segweave.create_model("pan", num_classes=CLASSES, backbone=backbone, decoder_channels=decoder_channels)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
