"""Where networks run, and in how many processes."""

import os
from typing import Literal

import torch

from segweave.errors import InputError


def choose_device(device: str) -> Literal["cuda", "mps", "cpu"]:
    """The device that "auto" stands for: cuda if there is one, or cpu.

    Raises:
        InputError: The device is unknown or isn't there.
    """
    has_cuda = torch.cuda.is_available()
    if device == "auto":  # mps is there for the asking, but nobody has run segweave on it yet
        return "cuda" if has_cuda else "cpu"
    if device == "cpu":
        return "cpu"
    if device == "cuda" and has_cuda:
        return "cuda"
    has_mps = torch.backends.mps.is_available()
    if device == "mps" and has_mps:
        return "mps"
    usable = ", ".join([*(["cuda"] if has_cuda else []), *(["mps"] if has_mps else []), "cpu"])
    raise InputError(f"device {device!r}: expected auto or what this machine has: {usable}")


def require_processes(devices: int, device: str) -> None:
    """Refuses more processes than the machine can run, and a launcher (torchrun) that started another number of them
    than the run is to have: each of those would think itself alone, and write the same files.

    Args:
        devices: How many processes the run is to have.
        device: What each of them runs on: auto, cpu, cuda or mps.

    Raises:
        InputError: The machine has fewer GPUs, or for `cpu` fewer cores; the numbers differ; there is no process at
            all; or the device isn't there.
    """
    if devices < 1:
        raise InputError(f"devices {devices}: expected 1 or more")
    device = choose_device(device)
    most = _most_processes(device)
    if devices > most:
        counted = {"cuda": "GPUs", "mps": "GPUs"}.get(device, "CPU cores")
        raise InputError(
            f"devices {devices}: expected {most} or fewer, as this machine has {counted} (device {device})"
        )
    started = int(os.environ.get("WORLD_SIZE", devices))
    if started != devices:
        raise InputError(f"devices {devices}: started as {started} processes, expected --devices {started}")


def _most_processes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.device_count()
    if device == "mps":
        return 1
    return max(os.cpu_count() or 1, 2)  # two take turns on a single core, so that sharing can be tried anywhere
