"""Cross-entropy against its formula, pixel by pixel."""

import math

import pytest
import torch
from torch import Tensor

from segweave.losses import IGNORE_INDEX, pixel_cross_entropy


def naive_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of -log(exp(logit of the label) / sum of exp(logits)) over the labelled pixels; 0 without any."""
    terms = []
    batch, _, height, width = logits.shape
    for image in range(batch):
        for row in range(height):
            for column in range(width):
                label = int(labels[image, row, column])
                if label != 255:
                    scores = logits[image, :, row, column].exp()
                    terms.append(-torch.log(scores[label] / scores.sum()))
    return torch.stack(terms).mean() if terms else logits.sum() * 0


def some_labels() -> Tensor:
    labels = torch.randint(0, 5, (2, 4, 3))
    labels[0, :2] = 255  # the two images have different numbers of pixels that count
    labels[1, 3, 2] = 255
    return labels


def test_ignore_index() -> None:
    assert IGNORE_INDEX == 255


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_values_and_gradients(spread: float) -> None:
    logits = (spread * torch.randn(2, 5, 4, 3)).requires_grad_()
    labels = some_labels()
    loss, expected = pixel_cross_entropy(logits, labels), naive_cross_entropy(logits.double(), labels)
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected.float())
    gradient, expected_gradient = (torch.autograd.grad(term, logits)[0] for term in (loss, expected))
    torch.testing.assert_close(gradient, expected_gradient)
    assert gradient.permute(0, 2, 3, 1)[labels == 255].eq(0).all()


def test_nothing_known_is_the_logarithm_of_the_classes() -> None:
    loss = pixel_cross_entropy(torch.zeros(1, 7, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert loss.item() == pytest.approx(math.log(7))


def test_logits_of_pixels_that_do_not_count_do_not_matter() -> None:
    logits, labels = torch.randn(2, 5, 4, 3), some_labels()
    expected = pixel_cross_entropy(logits, labels)
    logits.permute(0, 2, 3, 1)[labels == 255] = 1e4
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), expected)


def test_without_a_labelled_pixel_loss_and_gradients_are_zero() -> None:
    logits = torch.randn(2, 5, 4, 3, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((2, 4, 3), 255))
    assert loss == 0
    loss.backward()
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(2, 5, 4, 3).to(dtype), some_labels()
    loss = pixel_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, pixel_cross_entropy(logits.float(), labels))
