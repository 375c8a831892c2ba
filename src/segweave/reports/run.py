"""The report of a training run: its figures, and its best and worst validation images drawn again."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segweave.data.transforms import normalise
from segweave.detection.average_precision import DetectionResult
from segweave.detection.dataset import DetectionDataset
from segweave.detection.page import DetectionExample, write_detection_report
from segweave.detection.pictures import Objects, objects_of
from segweave.devices import choose_device
from segweave.networks.network import DetectionNetwork, SegmentationNetwork
from segweave.reports.page import ExamplePicture, write_report
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.evaluation import SegmentationResult, worst_and_best
from segweave.segmentation.inference import Inference

EXAMPLES = 4
"""How many of the best and how many of the worst images are shown."""


def report_run(
    run: Path,
    network: SegmentationNetwork,
    dataset: SegmentationDataset,
    result: SegmentationResult,
    inference: Inference,
    configuration: Mapping[str, Any],
    seconds: float,
    versions: Mapping[str, str],
    metrics: Sequence[Mapping[str, str]],
) -> None:
    """Writes RUN/report.html.

    Args:
        run: The run folder.
        network: With its best weights.
        dataset: The validation split.
        result: The network's on the split.
        inference: How the network was run over an image.
        configuration: The run's settings.
        seconds: How long the run has trained.
        versions: Of what it was made with.
        metrics: The rows of metrics.csv.
    """
    network.to(choose_device(configuration["device"]))
    worst, best = worst_and_best(result.image_scores, EXAMPLES)
    indices = {dataset.name(index): index for index in range(len(dataset))}

    def examples(names: Sequence[str]) -> list[ExamplePicture]:
        return [_example(network, dataset, indices[name], result.image_scores[name], inference) for name in names]

    write_report(
        run / "report.html",
        title=_title(configuration),
        facts={
            "mean IoU": _per_cent(result.mean_iou),
            "pixel accuracy": _per_cent(result.pixel_accuracy),
            **_facts(network, configuration, seconds, metrics),
        },
        metrics=metrics,
        classes=result.classes,
        palette=dataset.palette,
        confusion=result.confusion.numpy(),
        best=examples(best),
        worst=examples(worst),
        configuration=configuration,
        versions=versions,
    )


def report_detection_run(
    run: Path,
    network: DetectionNetwork,
    dataset: DetectionDataset,
    result: DetectionResult,
    predictions: Sequence[Mapping[str, Any]],
    configuration: Mapping[str, Any],
    seconds: float,
    versions: Mapping[str, str],
    metrics: Sequence[Mapping[str, str]],
) -> None:
    """Writes RUN/report.html of a run that detects objects.

    Args:
        run: The run folder.
        network: With its best weights; it isn't run again.
        dataset: The validation split.
        result: The network's on the split.
        predictions: What it found there, in COCO's format for results.
        configuration: The run's settings.
        seconds: How long the run has trained.
        versions: Of what it was made with.
        metrics: The rows of metrics.csv.
    """
    worst, best = worst_and_best(result.image_scores, EXAMPLES)
    indices = {dataset.name(index): index for index in range(len(dataset))}

    def examples(names: Sequence[str]) -> list[DetectionExample]:
        masks = result.mask is not None
        return [
            _detection_example(dataset, indices[name], result.image_scores[name], predictions, masks) for name in names
        ]

    figures = {"box AP": result.box.ap, "box AP50": result.box.ap50}
    if result.mask is not None:
        figures |= {"mask AP": result.mask.ap, "mask AP50": result.mask.ap50}
    annotations = dataset.ground_truth(masks=False)["annotations"]
    counts = Counter(annotation["category_id"] for annotation in annotations if not annotation["iscrowd"])
    write_detection_report(
        run / "report.html",
        title=_title(configuration),
        facts={
            **{name: _per_cent(value) for name, value in figures.items()},
            **_facts(network, configuration, seconds, metrics),
        },
        metrics=metrics,
        classes=dataset.classes,
        palette=dataset.palette,
        counts=[counts[number] for number in dataset.category_ids],
        result=result,
        best=examples(best),
        worst=examples(worst),
        configuration=configuration,
        versions=versions,
    )


def _title(configuration: Mapping[str, Any]) -> str:
    return f"{configuration['model']} on {Path(configuration['data']).name}"


def _facts(
    network: nn.Module, configuration: Mapping[str, Any], seconds: float, metrics: Sequence[Mapping[str, str]]
) -> dict[str, str]:
    """What the page of any run tells beside its figures."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {
        "backbone": str(configuration["backbone"]),
        "parameters": f"{parameters / 1e6:.1f} M",
        "epochs": str(metrics[-1]["epoch"]) if metrics else "0",
        "training time": f"{seconds / 60:.1f} min",
    }


def _per_cent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


@torch.inference_mode()
def _example(
    network: SegmentationNetwork, dataset: SegmentationDataset, index: int, score: float, inference: Inference
) -> ExamplePicture:
    image, mask = dataset[index]
    device = next(network.parameters()).device
    images = normalise(image.as_subclass(torch.Tensor)[None].to(device), network.backbone.mean, network.backbone.std)
    prediction = inference(network.eval(), images)[0].argmax(dim=0)
    return ExamplePicture(
        name=dataset.name(index),
        score=score,
        image=image.permute(1, 2, 0).numpy(),
        prediction=prediction.cpu().numpy(),
        truth=mask.numpy(),
    )


def _detection_example(
    dataset: DetectionDataset, index: int, score: float, predictions: Sequence[Mapping[str, Any]], masks: bool
) -> DetectionExample:
    image, target = dataset[index]
    image_id = dataset.image_id(index)
    found = objects_of([each for each in predictions if each["image_id"] == image_id], dataset.category_ids)
    return DetectionExample(
        name=dataset.name(index),
        score=score,
        image=image.permute(1, 2, 0).numpy(),
        prediction=found if masks else found._replace(masks=None),
        truth=Objects(
            boxes=target["boxes"].numpy(),
            labels=target["labels"].numpy(),
            masks=target["masks"].numpy() if masks else None,
            crowd=target["iscrowd"].numpy(),
        ),
    )
