"""Saving a trained network and loading it again: tensors in safetensors, the rest in JSON, nothing pickled."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import NETWORKS, Network, create_model
from segweave.networks.network import Labelling

WEIGHTS_FILE = "model.safetensors"
CONFIGURATION_FILE = "config.json"


def save_model(network: Network, folder: Path) -> None:
    """Writes two files to `folder`: the network's weights, and what is needed to make it again.

    Args:
        network: Made by `segweave.create_model`, with its `labelling` set.
        folder: Is made if need be. Each file is replaced whole or not at all; others are left alone.
    """
    assert network.labelling is not None, "a network is saved with the classes that it was trained on"
    labelling = network.labelling
    configuration = {
        "segweave": version("segweave"),
        **network.recipe,
        "classes": labelling.classes,
        "palette": labelling.palette,
        "short_edge": labelling.short_edge,
        "long_edge": labelling.long_edge,
        "category_ids": labelling.category_ids,
        "mean": network.backbone.mean,
        "std": network.backbone.std,
    }
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with written_whole(folder / WEIGHTS_FILE) as unfinished:
        permissions = unfinished.stat().st_mode
        safetensors.torch.save_file(state, unfinished)
        unfinished.chmod(permissions)  # safetensors gives its files to their owner alone
    with written_whole(folder / CONFIGURATION_FILE) as unfinished:
        unfinished.write_text(json.dumps(configuration, indent=2) + "\n")


def load(run: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Network:
    """Loads the network of a run, in evaluation mode.

    Args:
        run: A run folder, or the folder `model` within one.
        device: Where the network is put.

    Returns:
        The network, its `labelling` set to the classes that it was trained on.

    Raises:
        InputError: There is no model, or its files don't belong together.
    """
    folder = _model_folder(run)
    configuration = _read_configuration(folder)
    try:
        labelling = Labelling(
            classes=tuple(configuration["classes"]),
            palette=tuple((int(red), int(green), int(blue)) for red, green, blue in configuration["palette"]),
            short_edge=configuration["short_edge"],
            long_edge=configuration.get("long_edge"),  # of networks for objects; older files don't have these
            category_ids=tuple(configuration["category_ids"]) if configuration.get("category_ids") else None,
        )
        name: str = configuration["model"]
        network = create_model(
            name,
            num_classes=configuration["num_classes"],
            backbone=configuration["backbone"],
            **_option_values(configuration["options"]),
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIGURATION_FILE}: expected what segweave wrote: {error}") from error
    if not len(labelling.classes) == len(labelling.palette) == network.num_classes:
        raise InputError(
            f"{folder / CONFIGURATION_FILE}: {len(labelling.classes)} classes and {len(labelling.palette)} colours: "
            f"expected {network.num_classes} of each"
        )
    try:
        network.load_state_dict(_read_weights(folder, configuration))
    except RuntimeError as error:
        raise _not_its_weights(folder, configuration, error) from error
    network.labelling = labelling
    network.backbone.mean, network.backbone.std = tuple(configuration["mean"]), tuple(configuration["std"])
    network.to(device).eval()
    return network


def network_of(model: str | os.PathLike[str] | Network, *, device: str | torch.device = "cpu") -> Network:
    """The network that is meant by a run's folder, or by the network itself.

    Args:
        model: A run folder, the folder `model` within one, or a network, which stays where it is.
        device: Where a network that is loaded is put.

    Raises:
        InputError: There is no model in the folder.
    """
    return load(model, device=device) if isinstance(model, str | os.PathLike) else model


def initialise_from(network: Network, run: str | os.PathLike[str]) -> list[str]:
    """Takes all weights of a trained network that fit by name and shape, such as all but the classifier of one that was
    trained on other classes.

    Args:
        network: Its weights are replaced where the run has fitting ones.
        run: A run folder, or the folder `model` within one.

    Returns:
        The weights that stay as they were, each with the reason.

    Raises:
        InputError: There is no model, or none of its weights fits.
    """
    folder = _model_folder(run)
    configuration = _read_configuration(folder)
    theirs = _read_weights(folder, configuration)
    ours = network.state_dict()
    taken = {name: tensor for name, tensor in theirs.items() if name in ours and tensor.shape == ours[name].shape}
    if not any(tensor.is_floating_point() for tensor in taken.values()):
        raise InputError(
            f"{folder}: a {configuration['model']} on {configuration['backbone']}: none of its weights fits a "
            f"{network.recipe['model']} on {network.recipe['backbone']}: expected one with the same backbone"
        )
    network.load_state_dict(taken, strict=False)
    return [
        f"{name} {tuple(tensor.shape)} is {tuple(theirs[name].shape)} there"
        if name in theirs
        else f"{name} isn't there"
        for name, tensor in ours.items()
        if name not in taken
    ]


def saved_recipe(run: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """The name of a run's network, and the options that it was made with.

    Raises:
        InputError: There is no model.
    """
    configuration = _read_configuration(_model_folder(run))
    return configuration["model"], configuration["options"]


def require_model(run: str | os.PathLike[str]) -> Path:
    """The folder of a run's trained network.

    Raises:
        InputError: There is none.
    """
    folder = _model_folder(run)
    _read_configuration(folder)
    return folder


def _option_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as saved, where text may stand for a number, a list or null: `create_model` once took these, and they
    were saved as they were given.

    Raises:
        TypeError: They aren't names with values.
    """
    if not isinstance(options, Mapping):
        raise TypeError(f"options {options!r}: expected names with values")
    return {name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in options.items()}


def _model_folder(run: str | os.PathLike[str]) -> Path:
    folder = Path(run)
    return folder if (folder / CONFIGURATION_FILE).is_file() else folder / "model"


def _read_weights(folder: Path, configuration: dict[str, Any]) -> dict[str, Tensor]:
    """The weights, by the names that they have now."""
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise _not_its_weights(folder, configuration, error) from error
    network_class = NETWORKS.get(configuration["model"], Network)
    return {network_class.current_name(name): tensor for name, tensor in weights.items()}


def _not_its_weights(folder: Path, configuration: dict[str, Any], error: Exception) -> InputError:
    cause = " ".join(str(error).split())[:200]
    return InputError(f"{folder / WEIGHTS_FILE}: expected the weights of a {configuration['model']}: {cause}")


def _read_configuration(folder: Path) -> dict[str, Any]:
    path = folder / CONFIGURATION_FILE
    try:
        configuration: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{folder.parent}: expected the folder of a run with a trained model ({folder.name}/{CONFIGURATION_FILE})"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected JSON: {error}") from error
    expected = {"model", "num_classes", "backbone", "options", "classes", "palette", "short_edge", "mean", "std"}
    if not isinstance(configuration, dict) or not expected <= configuration.keys():
        raise InputError(f"{path}: expected the keys {', '.join(sorted(expected))}")
    return configuration
