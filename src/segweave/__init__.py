"""segweave: dense prediction with context. The public names; what trains and evaluates is imported when it is first
used."""

import importlib
from typing import Any

from segweave.errors import InputError, TrainingError
from segweave.models import create_model, list_models

__all__ = [
    "InputError",
    "TrainingError",
    "create_model",
    "demo",
    "detect",
    "evaluate",
    "explain",
    "list_models",
    "load",
    "open_dataset",
    "predict",
    "profile",
    "segment",
    "train",
]

_HOMES = {
    "demo": "segweave.commands.demo",
    "detect": "segweave.detection.prediction",
    "evaluate": "segweave.commands.evaluate",
    "explain": "segweave.commands.explain",
    "load": "segweave.saving",
    "open_dataset": "segweave.tasks",
    "predict": "segweave.commands.predict",
    "profile": "segweave.cost.profiling",
    "segment": "segweave.segmentation.prediction",
    "train": "segweave.commands.train",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'segweave' has no attribute {name!r}")
