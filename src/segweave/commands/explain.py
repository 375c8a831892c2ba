"""`explain`, the function behind `segweave explain`: draws the context that a trained network used."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from segweave.errors import InputError
from segweave.files import written_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segweave.models import Network
else:  # importing torch would take seconds of the command line's help
    Network = Any

Pixel = tuple[int, int]
"""x from the left, y from the top."""


def explain(
    run: str | os.PathLike[str] | Network,
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    at: tuple[int, int] | None = None,
    maps: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Draws, for each image file, the context that a network used: a sheet, NAME.png.

    Args:
        run: A run folder; from Python a network, too.
        images: Image files, folders of them, or patterns such as "photos/*.jpg".
        out: The folder to write to.
        names: Which of the network's maps to draw, in this order; all if none is named.
        at: A pixel of the images, x from the left and y from the top as they are seen upright. The sheet then also
            shows where this pixel's own context comes from, and rings it.
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
    import numpy as np

    from segweave.commands.targets import checked_targets
    from segweave.data.images import image_size, to_array
    from segweave.devices import choose_device
    from segweave.progress import followed
    from segweave.reports.explanation import explanation_sheet
    from segweave.saving import network_of
    from segweave.task import PredictionOptions
    from segweave.tasks import task_of_network

    network = network_of(run, device=choose_device(device))
    task = task_of_network(network)
    known = _known_maps(network)
    chosen = _chosen_names(known, names, at, network, run)
    targets = checked_targets(images, out, _maps_path_alone if maps else None, overwrite=overwrite)
    if at is not None:
        for source in targets.values():
            _require_pixel(source, image_size(source), at)
    for target, source in followed(targets.items(), len(targets), "explaining"):
        image = to_array(source)
        explained = _explained(network, image, at)
        arrays = {name: explained[name] for name in chosen}
        sheet = explanation_sheet(
            arrays,
            heading=task.predict(network, image, PredictionOptions()).heading(),
            title=f"{source.name}  ·  {network.recipe['model']}, {network.recipe['backbone']}",
            at=at,
            of_pixel=known.of_pixel,
        )
        with written_whole(target) as unfinished:
            sheet.save(unfinished, format="PNG")
        if maps:
            with written_whole(_maps_path(target)) as unfinished, unfinished.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
    return list(targets)


class _KnownMaps(NamedTuple):
    """The names of a network's maps, which don't depend on the image."""

    general: list[str]
    """Of those that there always are."""
    of_pixel: list[str]
    """Of those that there are of a chosen pixel alone."""


def _known_maps(network: Network) -> _KnownMaps:
    import torch

    from segweave.networks.network import SMALLEST_SIDE

    side = 2 * SMALLEST_SIDE
    with torch.inference_mode():
        images = torch.zeros(1, 3, side, side, device=next(network.parameters()).device)
        general = list(network.explain(images))
    return _KnownMaps(general, [name for name in network.explain(images.clone(), at=(0, 0)) if name not in general])


def _chosen_names(
    known: _KnownMaps,
    names: Sequence[str] | None,
    at: Pixel | None,
    network: Network,
    run: str | os.PathLike[str] | Network,
) -> list[str]:
    """The names of the maps to draw, once the network is known to have them."""
    from segweave.models import NETWORKS
    from segweave.networks.network import Network as AnyNetwork

    where = os.fspath(run) if isinstance(run, str | os.PathLike) else "the network"
    options = ", ".join(f"{option}={value!r}" for option, value in network.recipe["options"].items())
    described = f"{network.recipe['model']}{f' with {options}' if options else ''}"
    if not known.general and not known.of_pixel:
        explaining = [name for name, kind in NETWORKS.items() if kind.explain is not AnyNetwork.explain]
        raise InputError(
            f"{where}: {described} explains nothing: expected one that does: {', '.join(explaining)}, with their "
            "default options"
        )
    if at is not None and not known.of_pixel:
        raise InputError(
            f"at x={at[0]}, y={at[1]}: {described} in {where} has no attention of single pixels: expected no at, or a "
            "network that has"
        )
    there = [*known.general, *known.of_pixel] if at is not None else known.general
    if not there:
        raise InputError(f"{where}: {described} explains single pixels only: expected at too")
    if names is None:
        return there
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        more = f"; with at {', '.join(known.of_pixel)} too" if known.of_pixel and at is None else ""
        raise InputError(f"names {', '.join(unknown) or 'of no map'}: expected some of {', '.join(there)}{more}")
    return list(dict.fromkeys(names))


def _require_pixel(source: Path, size: tuple[int, int], at: Pixel) -> None:
    width, height = size
    if not (0 <= at[0] < width and 0 <= at[1] < height):
        raise InputError(
            f"{source}: at x={at[0]}, y={at[1]}: expected x from 0 to {width - 1} and y from 0 to {height - 1}, "
            f"a pixel of this image of {width}x{height}"
        )


def _explained(network: Network, image: "NDArray[np.uint8]", at: Pixel | None) -> "dict[str, NDArray[Any]]":
    """The network's maps, (C, h, w), of an image as it sees it in evaluation: float32, or integers and booleans."""
    import torch

    device = next(network.parameters()).device
    pixels = torch.from_numpy(image).permute(2, 0, 1).to(device, torch.float32) / 255
    with torch.no_grad():
        images = network.prepared(pixels)
        pixel = None if at is None else _rescaled(at, (image.shape[0], image.shape[1]), images.shape[-2:])
        explained = network.explain(images, at=pixel)
    return {
        name: (values[0].float() if values.is_floating_point() else values[0]).detach().cpu().numpy()
        for name, values in explained.items()
    }


def _rescaled(at: Pixel, size: tuple[int, int], seen: Sequence[int]) -> Pixel:
    """The pixel of a resized image, (h, w), that the middle of a pixel of the image, (H, W), lies in."""
    (height, width), (new_height, new_width) = size, seen
    return (2 * at[0] + 1) * new_width // (2 * width), (2 * at[1] + 1) * new_height // (2 * height)


def _maps_path(sheet: Path) -> Path:
    return sheet.with_suffix(".npz")


def _maps_path_alone(sheet: Path) -> list[Path]:
    return [_maps_path(sheet)]
