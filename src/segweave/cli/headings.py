"""How the help of a command is arranged: which argument stands under which heading, and what stands for its value."""

from collections.abc import Mapping
from typing import get_args

from segweave.training.settings import Device

HEADINGS: Mapping[str, tuple[str, ...]] = {
    "Name what it works on.": ("run", "images", "models", "name"),
    "Choose the data.": ("data", "root", "split", "splits", "train_split", "val_split", "task", "check"),
    "Go on from what there is.": ("config", "resume", "init_from"),
    "Choose the network.": (
        *("model", "backbone", "pretrained", "freeze_backbone", "freeze_batch_norm", "options", "num_classes"),
    ),
    "Choose how it learns, and how long.": (
        *("epochs", "batch_size", "accumulate", "optimizer", "learning_rate", "momentum", "weight_decay", "power"),
        *("milestones", "warmup_steps", "clip_gradient", "ema", "early_stopping", "validate_every", "seed"),
    ),
    "Choose how images are resized and varied.": (
        *("crop_size", "short_edge", "short_edges", "long_edge", "scale_range", "flip_probability", "brightness"),
    ),
    "Choose how it looks at an image.": ("scales", "flip", "random_views", "window", "coarse", "score"),
    "Choose what is drawn.": ("names", "at"),
    "Choose what is counted.": ("size", "batch", "rounds", "paper", "table"),
    "Choose what it runs on.": ("device", "devices", "workers", "precision", "sync_batch_norm", "compile"),
    "Choose what is written, and where.": (
        *("out", "overwrite", "overlays", "probabilities", "predictions", "maps", "contact_sheet"),
        *("most_problems", "progress", "json"),
    ),
}
"""The arguments of all commands; headings stand in this order."""

OTHER = "Choose what else there is."
"""For an argument that `HEADINGS` doesn't have."""

ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("evaluate", "scale_range"): "Choose how it looks at an image.",
    ("evaluate", "seed"): "Choose how it looks at an image.",
    ("data check", "root"): "Name what it works on.",
}
"""Where an argument of a command means something else than in the others."""

VALUES: Mapping[str, str] = {
    "at": "X Y",
    "config": "FILE",
    "contact_sheet": "FILE",
    "crop_size": "HEIGHT WIDTH",
    "data": "DIR",
    "init_from": "RUN",
    "out": "DIR",
    "predictions": "FILE",
    "root": "DIR",
    "scale_range": "LEAST MOST",
    "run": "RUN",
    "size": "HEIGHT WIDTH",
    "window": "HEIGHT WIDTH",
    "evaluate out": "FILE",
}
"""What stands for an argument's value, where its type says too little; "COMMAND ARGUMENT" is of one command alone."""

CHOICES: Mapping[str, tuple[str, ...]] = {"device": get_args(Device)}
"""What an argument takes that is any text for Python."""

CHOSEN: Mapping[str, str] = {
    "model": "chosen from the data",
    "backbone": "chosen for the device",
    "epochs": "chosen from the data",
    "batch_size": "chosen from the data",
    "crop_size": "chosen from the data",
    "short_edge": "chosen from the data",
    "long_edge": "chosen from the data",
    "scale_range": "chosen from the data",
    "optimizer": "chosen from the network",
    "learning_rate": "chosen from the optimizer and the batch size",
    "validate_every": "chosen from the epochs",
    "precision": "chosen for the device",
    "workers": "chosen for the device",
}
"""The default of the settings of a run, which `train` chooses if they aren't given."""


def heading(command: str, argument: str) -> str:
    """The heading that an argument of a command stands under."""
    known = next((title for title, names in HEADINGS.items() if argument in names), OTHER)
    return ELSEWHERE.get((command, argument), known)
