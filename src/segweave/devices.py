"""Where networks run."""

import torch

from segweave.errors import InputError


def choose_device(device: str) -> str:
    """The device that "auto" stands for: cuda, mps or cpu.

    Raises:
        InputError: The device is unknown or isn't there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in available.items() if there)
    if not available.get(device, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise InputError(f"device {device!r}: expected auto or what this machine has: {usable}")
    return device
