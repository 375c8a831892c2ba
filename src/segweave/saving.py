"""Saving a trained network and loading it again: tensors in safetensors, the rest in JSON, nothing pickled."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import create_model
from segweave.networks.semantic import Labelling, SemanticNetwork

WEIGHTS_FILE = "model.safetensors"
CONFIGURATION_FILE = "config.json"


def save_model(network: SemanticNetwork, folder: Path) -> None:
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


def load(run: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> SemanticNetwork:
    """Loads the network of a run, in evaluation mode.

    Args:
        run: A run folder, or the folder `model` within one.
        device: Where the network is put.

    Returns:
        The network, its `labelling` set to the classes that it was trained on.

    Raises:
        InputError: There is no model, or its files don't belong together.
    """
    folder = Path(run)
    if not (folder / CONFIGURATION_FILE).is_file():
        folder = folder / "model"
    configuration = _read_configuration(folder)
    try:
        labelling = Labelling(
            classes=tuple(configuration["classes"]),
            palette=tuple((int(red), int(green), int(blue)) for red, green, blue in configuration["palette"]),
            short_edge=configuration["short_edge"],
        )
        network = create_model(
            configuration["model"],
            num_classes=configuration["num_classes"],
            backbone=configuration["backbone"],
            **configuration["options"],
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIGURATION_FILE}: expected what segweave wrote: {error}") from error
    if not len(labelling.classes) == len(labelling.palette) == network.num_classes:
        raise InputError(
            f"{folder / CONFIGURATION_FILE}: {len(labelling.classes)} classes and {len(labelling.palette)} colours: "
            f"expected {network.num_classes} of each"
        )
    weights = folder / WEIGHTS_FILE
    try:
        network.load_state_dict(safetensors.torch.load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise InputError(f"{weights}: expected the weights of a {configuration['model']}: {cause}") from error
    network.labelling = labelling
    network.backbone.mean, network.backbone.std = tuple(configuration["mean"]), tuple(configuration["std"])
    return network.to(device).eval()


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
