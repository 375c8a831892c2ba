"""`evaluate`, the function behind `segweave evaluate`."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from segweave.detection.average_precision import DetectionResult
from segweave.detection.evaluation import detection_figures, evaluate_detector, print_detections
from segweave.devices import choose_device, require_processes
from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import Network
from segweave.networks.network import DetectionNetwork, SegmentationNetwork
from segweave.saving import load
from segweave.segmentation.confusion import defined
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.evaluation import SegmentationEvaluator, SegmentationResult, create_trainer, is_first_process
from segweave.segmentation.inference import Inference
from segweave.tasks import open_dataset


def evaluate(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str = "val",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    random_views: int = 0,
    scale_range: tuple[float, float] = (0.5, 2.0),
    seed: int = 0,
    window: tuple[int, int] | None = None,
    device: str = "auto",
    devices: int = 1,
    workers: int = 2,
    out: str | os.PathLike[str] | None = None,
    predictions: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> SegmentationResult | DetectionResult:
    """Evaluates a trained network on a split, at the images' own sizes: mean IoU, pixel accuracy and the IoU of each
    class for pixels; COCO's AP, AP50, AP75 and by size for objects.

    Args:
        run: A run folder.
        data: A folder with SPLIT/images and either SPLIT/masks or SPLIT/instances.json, or the name of a data set.
        root: The folder of a data set that is given by name.
        split: The split's name.
        scales: Factors by which the images are also seen larger and smaller, such as 0.5 0.75 1.0 1.25 1.5 1.75.
        flip: Whether each scale is also seen mirrored.
        random_views: How many times each image is seen at a random scale, mirrored or not by chance, in place of
            `scales` and `flip`; 0 for these.
        scale_range: The random scales are drawn evenly from between these two.
        seed: Of the random views.
        window: Height and width in pixels of a sliding window, for large images.
        device: auto, cpu, cuda or mps.
        devices: Processes that share the split.
        workers: Processes that load the images, for each of them.
        out: A JSON file to write the figures to.
        predictions: A JSON file to write the objects that were found to, in COCO's format for results.
        overwrite: Whether `out` and `predictions` may replace files.

    Raises:
        InputError: The run has no model, the data doesn't fit it, or an argument can't be used.
    """
    for flag, file in (("out", out), ("predictions", predictions)):
        if file is not None and Path(file).exists() and not overwrite:
            raise InputError(f"{file}: exists already: expected --overwrite to replace it, or another --{flag}")
    require_processes(devices)
    if workers < 0:
        raise InputError(f"workers {workers}: expected 0 or more")
    network = load(run)
    assert network.labelling is not None
    if isinstance(network, DetectionNetwork):
        if tuple(scales) != (1.0,) or flip or random_views or window is not None:
            raise InputError(
                f"{os.fspath(run)}: a {network.recipe['model']} finds objects: expected no scales, flip, random_views "
                "or window"
            )
        return _evaluate_objects(network, run, data, root, split, device, devices, workers, out, predictions)
    if predictions is not None:
        raise InputError(
            f"predictions {predictions}: {os.fspath(run)} is a {network.recipe['model']}, which labels pixels: "
            "expected a detector"
        )
    inference = Inference(
        scales=tuple(scales),
        flip=flip,
        window=window,
        short_edge=network.labelling.short_edge,
        random_views=random_views,
        scale_range=scale_range,
        seed=seed,
    )
    dataset = open_dataset(data, root, split, task="semantic", classes=network.labelling.classes)
    _require_classes(network, run, data, dataset.classes)
    result = evaluate_network(network, dataset, inference=inference, device=device, devices=devices, workers=workers)
    if is_first_process():
        _print_result(Console(), result)
        _write_json(out, _figures(result))
    return result


def _evaluate_objects(
    network: DetectionNetwork,
    run: str | os.PathLike[str],
    data: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    split: str,
    device: str,
    devices: int,
    workers: int,
    out: str | os.PathLike[str] | None,
    predictions: str | os.PathLike[str] | None,
) -> DetectionResult:
    """What `evaluate` does with a detector."""
    dataset = open_dataset(data, root, split, task="instance")
    _require_classes(network, run, data, dataset.classes)
    evaluated = evaluate_detector(
        network,
        dataset,
        detections_per_image=network.detections_per_image,
        device=device,
        devices=devices,
        workers=workers,
    )
    if is_first_process():
        print_detections(Console(), evaluated.result)
        _write_json(out, detection_figures(evaluated.result))
        _write_json(predictions, evaluated.predictions)
    return evaluated.result


def _require_classes(
    network: Network, run: str | os.PathLike[str], data: str | os.PathLike[str], classes: Sequence[str]
) -> None:
    """Refuses data of other classes than the network was trained on."""
    assert network.labelling is not None
    if tuple(classes) != network.labelling.classes:
        raise InputError(
            f"{data}: the data has the {len(classes)} classes {', '.join(classes)}; "
            f"expected the {network.num_classes} "
            f"that {run} was trained on: {', '.join(network.labelling.classes)}"
        )


def _write_json(file: str | os.PathLike[str] | None, content: object) -> None:
    if file is not None:
        with written_whole(Path(file)) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n")


def evaluate_network(
    network: SegmentationNetwork,
    dataset: SegmentationDataset,
    *,
    inference: Inference,
    device: str = "auto",
    devices: int = 1,
    workers: int = 2,
) -> SegmentationResult:
    """Runs a network over a split.

    Args:
        network: Its predictions are evaluated.
        dataset: The split.
        inference: How the network is run over an image.
        device: auto, cpu, cuda or mps.
        devices: Processes that share the split.
        workers: Processes that load the images, for each of them.
    """
    device = choose_device(device)
    trainer = create_trainer(
        device, devices, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    evaluator = SegmentationEvaluator(network, dataset.classes, inference)
    trainer.validate(evaluator, evaluator.val_loader(dataset, trainer, workers), verbose=False)
    assert evaluator.result is not None
    return evaluator.result


def _figures(result: SegmentationResult) -> dict[str, object]:
    return {
        "mean_iou": defined(result.mean_iou),
        "pixel_accuracy": defined(result.pixel_accuracy),
        "class_iou": {name: defined(iou) for name, iou in result.class_iou.items()},
        "confusion": result.confusion.tolist(),
    }


def _print_result(console: Console, result: SegmentationResult) -> None:
    table = Table("class", "IoU", box=None)
    table.columns[1].justify = "right"
    for name, iou in result.class_iou.items():
        table.add_row(name, "-" if math.isnan(iou) else f"{100 * iou:.2f} %")
    console.print(table)
    console.print(
        f"mIoU {100 * result.mean_iou:.2f} %   pixel accuracy {100 * result.pixel_accuracy:.2f} %", highlight=False
    )
