"""Explanations: `explain`, the function behind `segweave explain`, draws the context that a network used."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segweave.devices import choose_device
from segweave.errors import InputError
from segweave.evaluation.inference import SMALLEST_SIDE
from segweave.files import written_whole
from segweave.models import SEMANTIC_NETWORKS
from segweave.networks.semantic import SemanticNetwork
from segweave.prediction import Prediction, checked_targets, segment
from segweave.reports.explanation import explanation_sheet
from segweave.saving import load


def explain(
    run: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    maps: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Draws, for each image file, the context that a network used (what its `explain` gives): a sheet, NAME.png.

    Args:
        run: A run folder.
        images: Image files, folders of them, or patterns such as "photos/*.jpg".
        out: The folder to write to.
        names: Which of the network's maps to draw, in this order; None for all.
        maps: Whether to write the maps themselves too: NAME.npz, an array (C, h, w), float32, for each.
        device: auto, cpu, cuda or mps.
        overwrite: Whether files may be replaced.

    Returns:
        The sheets' files.

    Raises:
        InputError: The run has no model, or one that explains nothing, it has no map of a name, an image can't be found
            or read, or a file exists already.
    """
    network = load(run, device=choose_device(device))
    chosen = _chosen_names(run, network, names)
    targets = checked_targets(images, out, [_maps_path] if maps else [], overwrite=overwrite)
    for target, source in targets.items():
        prediction, explained = _explained(network, source)
        arrays: dict[str, Any] = {name: explained[name] for name in chosen}
        sheet = explanation_sheet(
            arrays,
            image=prediction.image,
            mask=prediction.mask,
            classes=prediction.classes,
            palette=prediction.palette,
            title=f"{source.name}  ·  {network.recipe['model']}, {network.recipe['backbone']}",
        )
        with written_whole(target) as unfinished:
            sheet.save(unfinished, format="PNG")
        if maps:
            with written_whole(_maps_path(target)) as unfinished, unfinished.open("wb") as file:
                np.savez(file, **arrays)
    return list(targets)


@torch.inference_mode()
def _chosen_names(run: str | os.PathLike[str], network: SemanticNetwork, names: Sequence[str] | None) -> list[str]:
    """The names of the maps to draw, known before any image is read: which there are doesn't depend on the image."""
    side = 2 * SMALLEST_SIDE
    known = list(network.explain(torch.zeros(1, 3, side, side, device=next(network.parameters()).device)))
    if not known:
        explaining = [name for name, kind in SEMANTIC_NETWORKS.items() if kind.explain is not SemanticNetwork.explain]
        raise InputError(
            f"{os.fspath(run)}: {_described(network)} explains nothing: "
            f"expected one that does: {', '.join(explaining)}, with their default options"
        )
    if names is None:
        return known
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"names {', '.join(unknown) or 'of no map'}: expected some of {', '.join(known)}")
    return list(dict.fromkeys(names))


def _described(network: SemanticNetwork) -> str:
    options = ", ".join(f"{option}={value!r}" for option, value in network.recipe["options"].items())
    return f"{network.recipe['model']} with {options}" if options else str(network.recipe["model"])


def _explained(network: SemanticNetwork, source: Path) -> tuple[Prediction, dict[str, NDArray[np.float32]]]:
    """The prediction for an image, and the network's maps, (C, h, w), of the very pixels that it was made from."""
    seen: list[Tensor] = []

    def remember(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(arguments[0])

    hook = network.register_forward_pre_hook(remember)
    try:
        prediction = segment(network, source)
    finally:
        hook.remove()
    with torch.inference_mode():
        explained = network.explain(seen[0])
    return prediction, {name: values[0].float().cpu().numpy() for name, values in explained.items()}


def _maps_path(sheet: Path) -> Path:
    return sheet.with_suffix(".npz")
