"""The report of a training run: its figures, and its best and worst validation images drawn again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segweave.data.dataset import SegmentationDataset
from segweave.data.transforms import normalise
from segweave.devices import choose_device
from segweave.evaluation.evaluator import SegmentationResult, worst_and_best
from segweave.evaluation.inference import Inference
from segweave.networks.semantic import SemanticNetwork
from segweave.reports.page import ExamplePicture, write_report

EXAMPLES = 4
"""How many of the best and how many of the worst images are shown."""


def report_run(
    run: Path,
    network: SemanticNetwork,
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

    parameters = sum(parameter.numel() for parameter in network.parameters())
    write_report(
        run / "report.html",
        title=f"{configuration['model']} on {Path(configuration['data']).name}",
        facts={
            "mean IoU": f"{100 * result.mean_iou:.1f} %",
            "pixel accuracy": f"{100 * result.pixel_accuracy:.1f} %",
            "backbone": str(configuration["backbone"]),
            "parameters": f"{parameters / 1e6:.1f} M",
            "epochs": str(metrics[-1]["epoch"]) if metrics else "0",
            "training time": f"{seconds / 60:.1f} min",
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


@torch.inference_mode()
def _example(
    network: SemanticNetwork, dataset: SegmentationDataset, index: int, score: float, inference: Inference
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
