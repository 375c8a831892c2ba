"""Explanations: `explain`, the function behind `segweave explain`, draws the context that a network used."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segweave.commands.predict import Prediction, checked_targets, segment
from segweave.data.images import read_image
from segweave.detection.pictures import detection_heading
from segweave.detection.prediction import Detections, as_intensities, detect
from segweave.devices import choose_device
from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import NETWORKS, Network
from segweave.networks.network import SegmentationNetwork
from segweave.networks.rcnn import DetectionNetwork
from segweave.reports.explanation import Heading, explanation_sheet
from segweave.saving import load
from segweave.segmentation.inference import SMALLEST_SIDE
from segweave.segmentation.pictures import segmentation_heading


def explain(
    run: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    at: tuple[int, int] | None = None,
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
        at: A pixel (x, y) of the images, x from the left and y from the top as they are seen upright. Networks that
            have attention of single positions add maps of this pixel's own attention, and it is ringed.
        maps: Whether to write the maps themselves too: NAME.npz, an array (C, h, w) for each, float32, or as they are
            where they hold integers (labels of regions) or booleans (true at single positions).
        device: auto, cpu, cuda or mps.
        overwrite: Whether files may be replaced.

    Returns:
        The sheets' files.

    Raises:
        InputError: The run has no model, or one that explains nothing, it has no map of a name or of single pixels, an
            image can't be found or read or has no such pixel, or a file exists already.
    """
    network = load(run, device=choose_device(device))
    general, of_pixel = _known_names(network)
    chosen = _chosen_names(run, network, names, at, general, of_pixel)
    targets = checked_targets(images, out, [_maps_path] if maps else [], overwrite=overwrite)
    if at is not None:
        for source in targets.values():
            _require_pixel(source, at)
    for target, source in targets.items():
        prediction, explained = _explained(network, source, at)
        arrays: dict[str, Any] = {name: explained[name] for name in chosen}
        sheet = explanation_sheet(
            arrays,
            heading=_heading(prediction),
            title=f"{source.name}  ·  {network.recipe['model']}, {network.recipe['backbone']}",
            at=at,
            of_pixel=of_pixel,
        )
        with written_whole(target) as unfinished:
            sheet.save(unfinished, format="PNG")
        if maps:
            with written_whole(_maps_path(target)) as unfinished, unfinished.open("wb") as file:
                np.savez(file, **arrays)
    return list(targets)


def _heading(prediction: Prediction | Detections) -> Heading:
    if isinstance(prediction, Prediction):
        return segmentation_heading(prediction.image, prediction.mask, prediction.classes, prediction.palette)
    return detection_heading(prediction.image, prediction.objects, prediction.classes, prediction.palette)


@torch.inference_mode()
def _known_names(network: Network) -> tuple[list[str], list[str]]:
    """The names of the maps that there always are, and of those that there are of a chosen pixel alone.

    Known before any image is read: they don't depend on the image.
    """
    side = 2 * SMALLEST_SIDE
    images = torch.zeros(1, 3, side, side, device=next(network.parameters()).device)
    general = list(network.explain(images))
    return general, [name for name in network.explain(images, at=(0, 0)) if name not in general]


def _chosen_names(
    run: str | os.PathLike[str],
    network: Network,
    names: Sequence[str] | None,
    at: tuple[int, int] | None,
    general: Sequence[str],
    of_pixel: Sequence[str],
) -> list[str]:
    """The names of the maps to draw, once the network is known to have them."""
    if not general and not of_pixel:
        silent = (SegmentationNetwork.explain, DetectionNetwork.explain)
        explaining = [name for name, kind in NETWORKS.items() if kind.explain not in silent]
        raise InputError(
            f"{os.fspath(run)}: {_described(network)} explains nothing: "
            f"expected one that does: {', '.join(explaining)}, with their default options (detectors with neck fpt)"
        )
    if at is not None and not of_pixel:
        raise InputError(
            f"at {_pixel(at)}: {_described(network)} in {os.fspath(run)} has no attention of single pixels: "
            "expected no at, or a network that has"
        )
    known = [*general, *of_pixel] if at is not None else list(general)
    if not known:
        raise InputError(f"{os.fspath(run)}: {_described(network)} explains single pixels only: expected at too")
    if names is None:
        return known
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        more = f"; with at {', '.join(of_pixel)} too" if of_pixel and at is None else ""
        raise InputError(f"names {', '.join(unknown) or 'of no map'}: expected some of {', '.join(known)}{more}")
    return list(dict.fromkeys(names))


def _described(network: Network) -> str:
    options = ", ".join(f"{option}={value!r}" for option, value in network.recipe["options"].items())
    return f"{network.recipe['model']} with {options}" if options else str(network.recipe["model"])


def _require_pixel(source: Path, at: tuple[int, int]) -> None:
    width, height = read_image(source).size
    if not (0 <= at[0] < width and 0 <= at[1] < height):
        raise InputError(
            f"{source}: at {_pixel(at)}: expected x from 0 to {width - 1} and y from 0 to {height - 1}, "
            f"a pixel of this image of {width}x{height}"
        )


def _pixel(at: tuple[int, int]) -> str:
    return f"x={at[0]}, y={at[1]}"


def _explained(
    network: Network, source: Path, at: tuple[int, int] | None
) -> tuple[Prediction | Detections, dict[str, NDArray[Any]]]:
    """The prediction for an image, and the network's maps, (C, h, w), of the very pixels that it was made from; of a
    detector without the padding to multiples of 32 pixels that detection adds."""
    prediction: Prediction | Detections
    if isinstance(network, DetectionNetwork):
        prediction = detect(network, source)
        images = network.prepared(as_intensities(prediction.image, network))
    else:
        prediction, images = _segmented(network, source)
    with torch.inference_mode():
        explained = network.explain(images, at=None if at is None else _rescaled(at, prediction.image, images))
    return prediction, {name: _as_array(values[0]) for name, values in explained.items()}


def _segmented(network: SegmentationNetwork, source: Path) -> tuple[Prediction, Tensor]:
    """The prediction for an image, and what the network was given for it, (1, 3, h, w)."""
    seen: list[Tensor] = []

    def remember(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(arguments[0])

    hook = network.register_forward_pre_hook(remember)
    try:
        prediction = segment(network, source)
    finally:
        hook.remove()
    (images,) = seen
    return prediction, images


def _rescaled(at: tuple[int, int], image: NDArray[np.uint8], images: Tensor) -> tuple[int, int]:
    """The pixel of the resized images, (1, 3, h, w), that the middle of a pixel (x, y) of the image lies in."""
    (height, width), (new_height, new_width) = image.shape[:2], images.shape[-2:]
    return (2 * at[0] + 1) * new_width // (2 * width), (2 * at[1] + 1) * new_height // (2 * height)


def _as_array(values: Tensor) -> NDArray[Any]:
    """float32, or integers and booleans as they are."""
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


def _maps_path(sheet: Path) -> Path:
    return sheet.with_suffix(".npz")
