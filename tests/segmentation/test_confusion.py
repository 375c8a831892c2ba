"""The confusion matrix and its figures, against a double loop and against torchmetrics."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from segweave.segmentation.confusion import class_iou, confusion_matrix, mean_iou, pixel_accuracy


def draw(seed: int = 0, *, classes: int = 5, ignored: bool = True) -> tuple[Tensor, Tensor]:
    """A prediction that is right about half of the time, and its truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes, (2, 13, 17), generator=generator)
    other = torch.randint(0, classes, truth.shape, generator=generator)
    prediction = torch.where(torch.rand(truth.shape, generator=generator) < 0.5, truth, other)
    if ignored:
        truth[torch.rand(truth.shape, generator=generator) < 0.2] = 255
    return prediction, truth


def test_counts_are_those_of_a_double_loop() -> None:
    prediction, truth = draw()
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for predicted, true in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if true != 255:
            expected[true, predicted] += 1
    result = confusion_matrix(prediction, truth, 5)
    assert result.dtype == torch.int64
    assert torch.equal(result, expected)


@pytest.mark.parametrize("ignored", [True, False])
def test_figures_agree_with_torchmetrics(ignored: bool) -> None:
    prediction, truth = draw(1, ignored=ignored)
    settings = {"num_classes": 5, "ignore_index": 255}
    confusion = confusion_matrix(prediction, truth, 5)
    assert torch.equal(confusion, MulticlassConfusionMatrix(**settings)(prediction, truth))
    per_class = MulticlassJaccardIndex(**settings, average=None)(prediction, truth)
    torch.testing.assert_close(class_iou(confusion).float(), per_class)
    assert mean_iou(confusion) == pytest.approx(float(MulticlassJaccardIndex(**settings)(prediction, truth)), abs=1e-6)
    accuracy = MulticlassAccuracy(**settings, average="micro")(prediction, truth)
    assert pixel_accuracy(confusion) == pytest.approx(float(accuracy), abs=1e-6)


def test_class_iou_agrees_with_the_segmentation_metric() -> None:
    prediction, truth = draw(2, ignored=False)
    expected = MeanIoU(num_classes=5, per_class=True, input_format="index")(prediction[:1], truth[:1])
    torch.testing.assert_close(class_iou(confusion_matrix(prediction[:1], truth[:1], 5)).float(), expected)


def test_absent_classes_are_nan_and_not_averaged() -> None:
    prediction, truth = draw(3, classes=3)
    confusion = confusion_matrix(prediction, truth, 6)
    iou = class_iou(confusion)
    assert iou.dtype == torch.float64
    assert iou.isnan().tolist() == [False] * 3 + [True] * 3
    assert mean_iou(confusion) == pytest.approx(float(iou[:3].mean()))
    expected = MulticlassJaccardIndex(num_classes=6, ignore_index=255)(prediction, truth)
    assert mean_iou(confusion) == pytest.approx(float(expected), abs=1e-6)


def test_a_class_that_is_only_predicted_or_only_true_counts_as_zero() -> None:
    confusion = confusion_matrix(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 0, 2]), 4)
    iou = class_iou(confusion)
    assert iou[:3].tolist() == [0.5, 0.0, 0.0]
    assert iou[3].isnan()
    assert mean_iou(confusion) == pytest.approx(0.5 / 3)
    assert pixel_accuracy(confusion) == 0.5


def test_matrices_add_up_over_batches() -> None:
    batches = [draw(seed) for seed in range(4)]
    total = sum((confusion_matrix(*batch, 5) for batch in batches), torch.zeros(5, 5, dtype=torch.int64))
    together = confusion_matrix(torch.cat([p for p, _ in batches]), torch.cat([t for _, t in batches]), 5)
    assert torch.equal(total, together)


def test_only_labels_within_the_classes_count() -> None:
    truth = torch.tensor([-1, 0, 4, 5, 255])
    assert confusion_matrix(torch.zeros(5, dtype=torch.int64), truth, 5).sum() == 2
    small = confusion_matrix(torch.zeros(5, dtype=torch.uint8), truth.to(torch.uint8), 5)
    assert small[:, 0].tolist() == [1, 0, 0, 0, 1]


def test_without_a_labelled_pixel_there_is_no_figure() -> None:
    confusion = confusion_matrix(torch.zeros(3, 3, dtype=torch.int64), torch.full((3, 3), 255), 4)
    assert confusion.sum() == 0
    assert math.isnan(mean_iou(confusion))
    assert math.isnan(pixel_accuracy(confusion))
    assert class_iou(confusion).isnan().all()


def test_counts_stay_exact_beyond_single_precision() -> None:
    confusion = torch.tensor([[2**40 + 1, 1], [0, 2**40]])
    assert class_iou(confusion)[0] == (2**40 + 1) / (2**40 + 2)
