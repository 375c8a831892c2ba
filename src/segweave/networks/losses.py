"""Training losses."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = 255
"""The label of pixels that no loss and no metric counts. Every data set maps its own "void" to it."""


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy averaged over all labelled pixels of the batch (PAN, Section 4: "the cross-entropy error at each
    pixel").

    Args:
        logits: (B, K, H, W), of any floating type; the loss is computed in float32.
        labels: (B, H, W), int64, in [0, K) or `IGNORE_INDEX`.

    Returns:
        A scalar. A batch without one labelled pixel (a crop that is all void) gives 0, with zero gradients, not NaN.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)


def boundary_mask(labels: Tensor, radius: int) -> Tensor:
    """Where boundaries between classes are: at pixels that have one of another class within a distance (RANet,
    Section 4, after the semantic boundaries that it cites).

    Args:
        labels: (B, H, W), int64, in [0, K) or `IGNORE_INDEX`.
        radius: The distance in pixels, from 1 up.

    Returns:
        (B, H, W), int64: 1 on boundaries, 0 elsewhere, `IGNORE_INDEX` where the labels have it. A pixel that is ignored
        makes no boundary.
    """
    height, width = labels.shape[-2:]
    labelled = labels != IGNORE_INDEX
    boundaries = torch.zeros_like(labels)
    for rows in range(min(radius, height - 1) + 1):
        for columns in range(-min(radius, width - 1), min(radius, width - 1) + 1):
            if (rows == 0 and columns <= 0) or rows**2 + columns**2 > radius**2:
                continue  # each pair of pixels once
            here = (..., slice(0, height - rows), slice(max(0, -columns), width - max(0, columns)))
            there = (..., slice(rows, height), slice(max(0, columns), width - max(0, -columns)))
            differ = (labels[here] != labels[there]) & labelled[here] & labelled[there]
            boundaries[here] |= differ
            boundaries[there] |= differ
    return torch.where(labelled, boundaries, IGNORE_INDEX)


def boundary_cross_entropy(logits: Tensor, boundaries: Tensor) -> Tensor:
    """Binary cross-entropy averaged over all pixels that count.

    Args:
        logits: Of a boundary, (B, H, W), of any floating type; the loss is computed in float32.
        boundaries: (B, H, W), as `boundary_mask` gives them.

    Returns:
        A scalar, 0 for a batch without one pixel that counts.
    """
    counts = boundaries != IGNORE_INDEX
    target = torch.where(counts, boundaries, 0).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return torch.where(counts, losses, 0).sum() / counts.sum().clamp(min=1)
