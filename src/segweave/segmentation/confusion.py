"""The confusion matrix of a whole split, and the figures that are read off it."""

import torch
from torch import Tensor


def confusion_matrix(prediction: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Counts the pixels of each pair of true and predicted class.

    Args:
        prediction: Integers of any shape, in [0, K).
        truth: Integers of the same shape; values outside [0, K), such as 255 for "ignore", are not counted.
        num_classes: K.

    Returns:
        (K, K), int64: rows are the true classes, columns the predicted ones.
    """
    counted = (truth >= 0) & (truth < num_classes)
    pairs = truth[counted].long() * num_classes + prediction[counted].long()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class.

    Args:
        confusion: (K, K), rows are the true classes.

    Returns:
        (K,), float64 in [0, 1]; NaN for a class that occurs neither in the truth nor in the predictions.
    """
    counts = confusion.cpu().double()  # not every device has float64
    intersection = counts.diagonal()
    union = counts.sum(dim=0) + counts.sum(dim=1) - intersection
    return intersection / union


def mean_iou(confusion: Tensor) -> float:
    """The mean of `class_iou` over the classes that occur; NaN if none does."""
    return float(class_iou(confusion).nanmean())


def pixel_accuracy(confusion: Tensor) -> float:
    """The share of counted pixels whose class is predicted right; NaN if no pixel is counted."""
    counts = confusion.cpu().double()  # not every device has float64
    return float(counts.diagonal().sum() / counts.sum())
