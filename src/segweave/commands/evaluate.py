"""`evaluate`, the function behind `segweave evaluate`: how well a trained network predicts a split."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segweave.errors import InputError
from segweave.files import written_whole

if TYPE_CHECKING:
    from segweave.models import Network
    from segweave.results import Result
else:  # importing torch would take seconds of the command line's help
    Network = Result = Any


def evaluate(
    run: str | os.PathLike[str] | Network,
    *,
    data: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "val",
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    random_views: int | None = None,
    scale_range: tuple[float, float] | None = None,
    seed: int | None = None,
    window: tuple[int, int] | None = None,
    coarse: bool | None = None,
    device: str = "auto",
    devices: int = 1,
    workers: int = 2,
    out: str | os.PathLike[str] | None = None,
    predictions: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Result:
    """Evaluates a trained network on a split, at the images' own sizes: mean IoU, pixel accuracy and the IoU of each
    class for pixels; COCO's AP, AP50, AP75 and by size for objects.

    Args:
        run: A run folder; from Python a network, too.
        data: A folder with SPLIT/images and either SPLIT/masks or SPLIT/instances.json, or the name of a data set.
        root: The folder of a data set that is given by name.
        split: The split's name.
        scales: Factors by which the images are also seen larger and smaller, such as 0.5 0.75 1.0 1.25 1.5 1.75.
        flip: Whether each scale is also seen mirrored.
        random_views: How many times each image is seen at a random scale, mirrored or not by chance, in place of
            `scales` and `flip`.
        scale_range: The random scales are drawn evenly from between these two; from 0.5 to 2 if not given.
        seed: Of the random views.
        window: Height and width in pixels of a sliding window, for large images.
        coarse: Whether to evaluate the network's coarse segmentation, from which its context is made (RANet, Table 4).
        device: auto, cpu, cuda or mps.
        devices: Processes that share the split.
        workers: Processes that load the images, for each of them.
        out: A JSON file to write the figures to.
        predictions: A JSON file to write the objects that were found to, in COCO's format for results.
        overwrite: Whether `out` and `predictions` may replace files.

    Raises:
        InputError: The run has no model, the data doesn't fit it, or an argument can't be used.
    """
    from rich.console import Console

    from segweave.devices import choose_device, require_processes
    from segweave.networks.network import required_labelling
    from segweave.reports.tables import print_result
    from segweave.saving import network_of
    from segweave.task import EvaluationOptions
    from segweave.tasks import open_dataset, task_of_network
    from segweave.training.trainer import is_first_process, run_evaluator

    for flag, file in (("out", out), ("predictions", predictions)):
        if file is not None and Path(file).exists() and not overwrite:
            raise InputError(f"{file}: exists already: expected --overwrite to replace it, or another --{flag}")
    device = choose_device(device)
    require_processes(devices, device)
    if workers < 0:
        raise InputError(f"workers {workers}: expected 0 or more")
    network = network_of(run)
    task = task_of_network(network)
    options = EvaluationOptions(
        scales=scales,
        flip=flip,
        window=window,
        random_views=random_views,
        scale_range=scale_range,
        seed=seed,
        coarse=coarse,
        predictions=None if predictions is None else Path(predictions),
    )
    task.require_options(options, network, _called(run))
    labelling = required_labelling(network)
    dataset = open_dataset(data, root, split, task=task.name, classes=labelling.classes)
    labelling.require_classes(dataset.classes, os.fspath(data), _called(run))
    result: Result = run_evaluator(
        task.evaluator(network, dataset, options), device=device, devices=devices, workers=workers
    )
    if is_first_process():
        print_result(Console(), result)
        _write_json(out, result.to_json())
        _write_json(predictions, list(result.predictions))
    return result


def _called(run: str | os.PathLike[str] | Network) -> str:
    return os.fspath(run) if isinstance(run, str | os.PathLike) else "the network"


def _write_json(file: str | os.PathLike[str] | None, content: object) -> None:
    if file is not None:
        with written_whole(Path(file)) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n")
