"""Training losses."""

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
