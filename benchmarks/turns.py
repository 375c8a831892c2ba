"""What the timing scripts share: networks take turns, so that a machine that slows down slows them all."""

import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def forward_pass(network: nn.Module, images: Tensor) -> Callable[[], None]:
    """A forward pass in evaluation."""

    def run() -> None:
        network.eval()
        with torch.inference_mode():
            network(images)

    return run


def training_step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Forward, cross-entropy, backward and a step of SGD."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        network.train()
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return run


def take_turns(runs: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, after a round that isn't counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds
