"""The part of a run's report that is about the classes of pixels."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segweave.data.colours import Colour
from segweave.data.transforms import normalise
from segweave.networks.losses import IGNORE_INDEX
from segweave.networks.network import SegmentationNetwork, evaluating
from segweave.reports.charts import HOVER_CLASSES, confusion_chart
from segweave.reports.page import PICTURE_WIDTH, Example, Page, Row, css_colour, data_uri, in_columns, percent, render
from segweave.reports.pictures import (
    CORRECT_COLOUR,
    IGNORE_COLOUR,
    WRONG_COLOUR,
    Mask,
    Picture,
    difference,
    palette_png,
)
from segweave.results import worst_and_best
from segweave.segmentation.confusion import class_iou
from segweave.segmentation.dataset import SegmentationDataset
from segweave.segmentation.evaluation import SegmentationResult
from segweave.segmentation.inference import Inference
from segweave.task import FinishedRun

SHARP_WIDTH = 320
"""Narrower pictures are enlarged with sharp pixels, not smoothly."""
CONFUSIONS_LISTED = 10
EXAMPLES = 4
"""How many of the best and how many of the worst images are shown."""
MARKS = {"right": CORRECT_COLOUR, "wrong": WRONG_COLOUR, "ignored": IGNORE_COLOUR}


def segmentation_page(
    finished: FinishedRun[SegmentationNetwork, SegmentationDataset, SegmentationResult], inference: Inference
) -> Page:
    """IoU by class, the confusion matrix, and the best and the worst validation images drawn again.

    Args:
        finished: The run, its network where it is to predict the examples.
        inference: How the network is run over an image.
    """
    result, palette = finished.result, finished.dataset.palette
    examples = _Examples(finished, inference)
    worst, best = (examples.drawn(names) for names in worst_and_best(result.image_scores, EXAMPLES))
    confusion = result.confusion.numpy()
    rows = _class_rows(result.classes, palette, confusion)
    scored = [iou for iou in class_iou(result.confusion).tolist() if not np.isnan(iou)]
    sections = render(
        "segmentation/figures.html.jinja",
        tables=in_columns(rows),
        mean_iou=float(np.mean(scored)) if scored else None,
        absent=len(rows) - len(scored),
        wide_confusion=len(rows) > HOVER_CLASSES,
        confusion=confusion_chart(confusion, result.classes),
        confusions=_largest_confusions(result.classes, confusion),
    )
    return Page(
        sections=sections,
        anchors={"classes": "Classes", "confusion": "Confusion matrix"},
        worst=worst,
        best=best,
        legend=[(result.classes[k], palette[k]) for k in sorted(examples.shown - {IGNORE_INDEX})],
        marks=list(MARKS.items()),
    )


class _Examples:
    """Draws images of the validation split with what is predicted in them.

    Attributes:
        shown: The labels that occur in what was drawn.
    """

    def __init__(
        self,
        finished: FinishedRun[SegmentationNetwork, SegmentationDataset, SegmentationResult],
        inference: Inference,
    ) -> None:
        self.finished = finished
        self.inference = inference
        self.indices = {finished.dataset.name(index): index for index in range(len(finished.dataset))}
        self.shown: set[int] = set()

    def drawn(self, names: Sequence[str]) -> list[Example]:
        return [self._drawn(name) for name in names]

    @torch.inference_mode()
    def _drawn(self, name: str) -> Example:
        network = self.finished.network
        image, mask = self.finished.dataset[self.indices[name]]
        pixels = image.as_subclass(torch.Tensor)[None].to(next(network.parameters()).device)
        with evaluating(network):
            scores = self.inference(network, normalise(pixels, network.backbone.mean, network.backbone.std))
        prediction, truth = scores[0].argmax(dim=0).cpu().numpy(), mask.numpy()
        self.shown.update(np.unique(prediction).tolist(), np.unique(truth).tolist())
        score = self.finished.result.image_scores[name]
        return draw_example(
            name, score, image.permute(1, 2, 0).numpy(), prediction, truth, palette=self.finished.dataset.palette
        )


def draw_example(
    name: str, score: float, image: Picture, prediction: Mask, truth: Mask, *, palette: Sequence[Colour]
) -> Example:
    """An image of the validation split with what was predicted, as four pictures.

    Args:
        name: As the data set calls it.
        score: The mean IoU over this image, 0 to 1.
        image: (H, W, 3), uint8.
        prediction: (H, W), integers.
        truth: (H, W), integers; 255 where no pixel counts.
        palette: The colour of each class.

    Raises:
        InputError: A mask holds an unknown value.
    """
    height, width = image.shape[:2]
    scale = min(1.0, PICTURE_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    masks = {
        "prediction": palette_png(prediction, palette),
        "truth": palette_png(truth, palette),
        "difference": Image.fromarray(difference(prediction, truth)),
    }
    resized = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    pictures = {"image": data_uri(resized, "JPEG", quality=82)}
    for caption, picture in masks.items():
        pictures[caption] = data_uri(picture.resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)
    return Example(name, f"mIoU {percent(score)}%", pictures, size, sharp=size[0] < SHARP_WIDTH)


def _class_rows(classes: Sequence[str], palette: Sequence[Colour], confusion: NDArray[np.int64]) -> list[Row]:
    """Name, colour, IoU (None where the class never occurs) and share of the true pixels of each class."""
    iou = class_iou(torch.as_tensor(confusion)).tolist()
    shares = confusion.sum(axis=1) / max(confusion.sum(), 1)
    return [
        {"name": name, "colour": css_colour(colour), "iou": None if np.isnan(score) else score, "share": float(share)}
        for name, colour, score, share in zip(classes, palette, iou, shares, strict=True)
    ]


def _largest_confusions(classes: Sequence[str], confusion: NDArray[np.int64]) -> list[Row]:
    """The pairs of classes that took most pixels from each other, as shares of the true class's pixels."""
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, confusion)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:CONFUSIONS_LISTED]
    pairs = [divmod(int(flat), len(classes)) for flat in order]
    return [
        {
            "truth": classes[row],
            "prediction": classes[column],
            "share_of_class": float(wrong[row, column] / confusion[row].sum()),
            "share_of_errors": float(wrong[row, column] / wrong.sum()),
        }
        for row, column in pairs
        if wrong[row, column] > 0
    ]
