"""Training steps at a paper's size: seconds and the most memory ever held.

    python benchmarks/training_memory.py  # RANet: resnet101s, 1 x 769 x 769
    python benchmarks/training_memory.py --model fpt --backbone resnet50 --size 512 --batch 2

On a CPU the process's own peak, with torch and the weights in it; on CUDA the allocator's.
"""

import argparse
import resource
import time

import torch

import segweave

CLASSES = 19


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(0)
    network = segweave.create_model(arguments.model, num_classes=CLASSES, backbone=arguments.backbone)
    network.to(arguments.device)
    size = (arguments.size, arguments.size)
    images = torch.randn(arguments.batch, 3, *size, device=arguments.device).contiguous(
        memory_format=torch.channels_last
    )
    coarse = torch.randint(0, CLASSES, (arguments.batch, 1, 7, 7)).float()
    labels = torch.nn.functional.interpolate(coarse, size=size, mode="nearest")[:, 0].long().to(arguments.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    for step in range(1, arguments.steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        losses = network.losses(images, labels)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        shown = ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
        print(f"step {step}: {time.perf_counter() - start:.1f} s, {shown}", flush=True)
    peak = (
        torch.cuda.max_memory_allocated()
        if arguments.device == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    print(
        f"{arguments.model}, {arguments.backbone}, {arguments.batch} x {size[0]} x {size[1]}, {arguments.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}: peak {peak / 1e9:.2f} GB"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ranet")
    parser.add_argument("--backbone", default="resnet101s")
    parser.add_argument("--size", type=int, default=769)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
