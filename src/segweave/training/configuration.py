"""A run's configuration: its settings, typed and checked, and the choices made for what they leave open."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter

from segweave.devices import choose_device
from segweave.errors import InputError
from segweave.nearest import nearest
from segweave.training.settings import Optimizer, Precision, RunSettings
from segweave.typed_values import of_type

VALIDATIONS = 20
"""At most about so many times a run is validated and saved, if `validate_every` isn't given."""

MOST_EPOCHS = 200
"""As many passes over a few images are chosen at most: they would be learnt by heart."""


@dataclass(frozen=True, kw_only=True)
class RunConfiguration(RunSettings):
    """A run as resolved: what is chosen when the data is known has its value."""

    model: str
    backbone: str
    epochs: int
    batch_size: int
    short_edge: int
    scale_range: tuple[float, float]
    optimizer: Optimizer
    learning_rate: float
    validate_every: int
    precision: Precision
    workers: int

    def to_yaml(self) -> str:
        """The settings as YAML, which `read_settings` reads back."""
        settings = {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }
        return yaml.safe_dump(settings, sort_keys=False)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a task chooses for a run; what the settings give goes before it.

    Attributes:
        batch_size: Images a step.
        steps: Of the run.
        short_edge: Of images in evaluation, in pixels; 0 for their own.
        scale_range: Of the random scale.
        optimizer: The optimiser.
        learning_rate: Given the optimiser and the images a step.
        crop_size: Of training crops; None where whole images are seen.
        long_edge: The largest length of a long edge, in pixels; None where there is no such limit.
        options: Of the network.
    """

    batch_size: int
    steps: int
    short_edge: int
    scale_range: tuple[float, float]
    optimizer: Optimizer
    learning_rate: Callable[[Optimizer, int], float]
    crop_size: tuple[int, int] | None = None
    long_edge: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)


def configure(settings: Mapping[str, object]) -> RunSettings:
    """Checks the types and values of settings.

    Args:
        settings: Fields of `RunSettings` by name; texts that say a number become numbers.

    Raises:
        InputError: A setting is unknown or missing, or its value can't be used.
    """
    _require_known(settings)
    if not settings.get("data"):
        raise InputError("data is missing: expected a folder, or the name of a data set")
    return of_type(TypeAdapter(RunSettings), dict(settings))


def configuration_of(settings: Mapping[str, object]) -> RunConfiguration:
    """The configuration that a run's config.yaml holds.

    Raises:
        InputError: A setting is unknown or missing, or its value can't be used.
    """
    _require_known(settings)
    return of_type(TypeAdapter(RunConfiguration), dict(settings))


def _require_known(settings: Mapping[str, object]) -> None:
    known = [f.name for f in dataclasses.fields(RunSettings)]
    for name in settings:
        if name not in known:
            raise InputError(f"unknown setting {name!r}: {nearest(name, known)}")


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a recipe, or the config.yaml of a run.

    Raises:
        InputError: The file is missing or isn't a YAML mapping.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a YAML file of settings: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a mapping of settings to values")
    return settings


def resolve(settings: RunSettings, choices: Choices, *, images: int) -> RunConfiguration:
    """Chooses what the settings leave open.

    Args:
        settings: Of the run, its network among them.
        choices: Of the task.
        images: How many the training split has.
    """
    device = choose_device(settings.device)
    kind = kind_of(device)
    batch_size = settings.batch_size
    if batch_size is None:
        batch_size = max(choices.batch_size // settings.devices, 1) * settings.devices
    epochs = settings.epochs
    if epochs is None:
        steps_per_epoch = max(images // (min(batch_size, images) * settings.accumulate), 1)
        epochs = min(max(-(-choices.steps // steps_per_epoch), 1), MOST_EPOCHS)
    optimizer = settings.optimizer or choices.optimizer
    chosen: dict[str, object] = {
        "backbone": {"cpu": "resnet18", "cuda": "resnet50"}[kind],
        "crop_size": choices.crop_size,
        "short_edge": choices.short_edge,
        "long_edge": choices.long_edge,
        "scale_range": choices.scale_range,
        "learning_rate": choices.learning_rate(optimizer, batch_size),
        "validate_every": -(-epochs // VALIDATIONS),
        "precision": _precision(device),
        "workers": 2 if kind == "cpu" else 8,
    }
    given = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    decided = {name: value if given[name] is None else given[name] for name, value in chosen.items()}
    decided |= {"epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "device": device}
    decided["options"] = {**choices.options, **settings.options}
    return of_type(TypeAdapter(RunConfiguration), {**given, **decided})


def kind_of(device: str) -> str:
    """What choices depend on: "cuda", or "cpu" for all else."""
    return "cuda" if device == "cuda" else "cpu"


def middle(lengths: tuple[int, ...]) -> int:
    """The middle one of some lengths, of two in the middle the longer."""
    return sorted(lengths)[len(lengths) // 2]


def chosen_short_edge(settings: RunSettings, image_size: tuple[int, int], longest: int) -> int:
    """The middle one of those that are trained on; without them, what large images are made smaller to.

    Args:
        settings: Of the run.
        image_size: (height, width) in pixels that is typical.
        longest: In pixels.

    Returns:
        In pixels; 0 for the images' own.
    """
    if settings.short_edge is not None:
        return settings.short_edge
    if settings.short_edges is not None:
        return middle(settings.short_edges)
    return longest if min(image_size) > longest else 0


def _precision(device: str) -> Precision:
    if device != "cuda":
        return "32"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
