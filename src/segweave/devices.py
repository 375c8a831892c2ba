"""Where networks run, and in how many processes."""

import os

import torch

from segweave.errors import InputError


def choose_device(device: str) -> str:
    """The device that "auto" stands for: cuda if there is one, or cpu.

    Raises:
        InputError: The device is unknown or isn't there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":  # mps is there for the asking, but nobody has run segweave on it yet
        return "cuda" if available["cuda"] else "cpu"
    if not available.get(device, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise InputError(f"device {device!r}: expected auto or what this machine has: {usable}")
    return device


def require_processes(devices: int) -> None:
    """Refuses a launcher (torchrun) that started another number of processes than the run is to have.

    Each of them would think itself alone, and write the same files.

    Raises:
        InputError: The numbers differ, or there is no process at all.
    """
    if devices < 1:
        raise InputError(f"devices {devices}: expected 1 or more")
    started = int(os.environ.get("WORLD_SIZE", devices))
    if started != devices:
        raise InputError(f"devices {devices}: started as {started} processes, expected --devices {started}")
