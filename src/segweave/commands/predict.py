"""`predict`, the function behind `segweave predict`: what a trained network sees in files and folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segweave.errors import InputError

if TYPE_CHECKING:
    from segweave.models import Network
else:  # importing torch would take seconds of the command line's help
    Network = Any


def predict(
    run: str | os.PathLike[str] | Network,
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: tuple[int, int] | None = None,
    coarse: bool | None = None,
    probabilities: bool | None = None,
    overlays: bool | None = None,
    score: float | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Predicts what is in image files.

    A network for pixels writes a mask for each, NAME.png, and with the legend over the image NAME_overlay.jpg. A
    detector draws the objects on each, NAME.png, and writes them all to OUT/predictions.json in COCO's format.

    Args:
        run: A run folder; from Python a network, too.
        images: Image files, folders of them, or patterns such as "photos/*.jpg".
        out: The folder to write to.
        scales: Factors by which the images are also seen larger and smaller.
        flip: Whether each scale is also seen mirrored.
        window: Height and width in pixels of a sliding window, for large images.
        coarse: Whether to take the network's coarse segmentation, from which its context is made (RANet, Table 4).
        probabilities: Whether to write NAME_probabilities.npy, (K, H, W), float16, too.
        overlays: Whether to write the overlays; they are written if nothing is said.
        score: The least score of an object that a detector draws and writes, 0.5 if not given; it finds none below its
            own score_threshold.
        device: auto, cpu, cuda or mps.
        overwrite: Whether files may be replaced.

    Returns:
        The masks' or the pictures' files.

    Raises:
        InputError: The run has no model, an argument isn't for its kind of network, an image can't be found or read, or
            a file exists already.
    """
    from segweave.commands.targets import checked_targets
    from segweave.data.images import to_array
    from segweave.devices import choose_device
    from segweave.progress import followed
    from segweave.saving import network_of
    from segweave.task import PredictionOptions
    from segweave.tasks import task_of_network

    network = network_of(run, device=choose_device(device))
    task = task_of_network(network)
    options = PredictionOptions(
        scales=scales,
        flip=flip,
        window=window,
        coarse=coarse,
        probabilities=probabilities,
        overlays=overlays,
        score=score,
    )
    task.require_options(options, network, os.fspath(run) if isinstance(run, str | os.PathLike) else "the network")
    predictor = task.predictor(network, Path(out), options)
    targets = checked_targets(images, out, predictor.companions, overwrite=overwrite)
    written: list[Path] = []
    unreadable: list[InputError] = []
    for picture, source in followed(targets.items(), len(targets), "predicting"):
        try:
            image = to_array(source)
        except InputError as error:  # all others are predicted first
            unreadable.append(error)
            continue
        predictor.write(picture, source, image)
        written.append(picture)
    predictor.finish()
    if unreadable:
        others = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        raise InputError(f"{unreadable[0]}{others}; the other {len(written)} images are in {os.fspath(out)}")
    return written
