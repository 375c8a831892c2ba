"""segweave: dense prediction with context. The public names, each imported when it is first used."""

import importlib
from typing import TYPE_CHECKING

from segweave.errors import InputError, TrainingError

if TYPE_CHECKING:
    from segweave.commands.demo import demo
    from segweave.commands.evaluate import evaluate
    from segweave.commands.explain import explain
    from segweave.commands.predict import predict
    from segweave.commands.profile import profile
    from segweave.commands.train import train
    from segweave.detection.prediction import detect
    from segweave.models import create_model, list_models
    from segweave.saving import load
    from segweave.segmentation.prediction import segment
    from segweave.tasks import open_dataset

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
    "create_model": "segweave.models",
    "demo": "segweave.commands.demo",
    "detect": "segweave.detection.prediction",
    "evaluate": "segweave.commands.evaluate",
    "explain": "segweave.commands.explain",
    "list_models": "segweave.models",
    "load": "segweave.saving",
    "open_dataset": "segweave.tasks",
    "predict": "segweave.commands.predict",
    "profile": "segweave.commands.profile",
    "segment": "segweave.segmentation.prediction",
    "train": "segweave.commands.train",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'segweave' has no attribute {name!r}")
