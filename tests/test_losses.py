"""The losses against their formulas, pixel by pixel."""

import math

import pytest
import torch
from torch import Tensor

from segweave.networks.losses import IGNORE_INDEX, boundary_cross_entropy, boundary_mask, pixel_cross_entropy
from tests.networks.ranet_transcription import naive_boundary_mask


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


class TestBoundaryMask:
    @pytest.mark.parametrize("radius", [1, 2, 3])
    @pytest.mark.parametrize("size", [(9, 11), (8, 5), (2, 3), (1, 7), (6, 1), (1, 1)], ids=str)
    def test_is_the_definition(self, size: tuple[int, int], radius: int) -> None:
        for classes in (2, 3, 20):
            labels = torch.randint(0, classes, (3, *size))
            labels[1] = labels[1].div(2, rounding_mode="floor") if classes > 2 else 0  # less boundary, or none
            labels[torch.rand(labels.shape) < 0.2] = IGNORE_INDEX
            assert torch.equal(boundary_mask(labels, radius), naive_boundary_mask(labels, radius))

    def test_of_two_halves(self) -> None:
        """A band between them, as wide as the radius on either side; what doesn't count makes no boundary."""
        labels = torch.zeros(1, 6, 10, dtype=torch.int64)
        labels[:, :, 5:] = 7
        labels[0, 2, 4] = IGNORE_INDEX
        expected = torch.zeros(1, 6, 10, dtype=torch.int64)
        expected[:, :, 3:7] = 1
        expected[0, 2, 4] = IGNORE_INDEX
        expected[0, 2, 6] = 0  # the only pixel of the other half that was near enough
        assert torch.equal(boundary_mask(labels, 2), expected)
        labels[:, :, 5:] = IGNORE_INDEX
        assert boundary_mask(labels, 2).unique().tolist() == [0, IGNORE_INDEX]

    def test_a_disc_around_a_pixel(self) -> None:
        labels = torch.zeros(1, 9, 9, dtype=torch.int64)
        labels[0, 4, 4] = 1
        rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
        for radius in (1, 2, 3, 4):
            disc = (rows - 4) ** 2 + (columns - 4) ** 2 <= radius**2
            assert torch.equal(boundary_mask(labels, radius)[0], disc.long())

    def test_leaves_the_labels_as_they_are(self) -> None:
        labels = torch.randint(0, 3, (2, 5, 6))
        before = labels.clone()
        boundary_mask(labels, 2)
        assert torch.equal(labels, before)


class TestBoundaryCrossEntropy:
    @staticmethod
    def some_boundaries() -> Tensor:
        return boundary_mask(some_labels(), 1)

    @pytest.mark.parametrize("spread", [1.0, 10.0])
    def test_values_and_gradients(self, spread: float) -> None:
        logits = (spread * torch.randn(2, 4, 3)).requires_grad_()
        boundaries = self.some_boundaries()
        assert boundaries.unique().tolist() == [0, 1, IGNORE_INDEX]
        terms = []
        for logit, boundary in zip(logits.double().flatten(), boundaries.flatten().tolist(), strict=True):
            score = 1 / (1 + torch.exp(-logit))
            if boundary != IGNORE_INDEX:
                terms.append(-torch.log(score if boundary == 1 else 1 - score))
        loss, expected = boundary_cross_entropy(logits, boundaries), torch.stack(terms).mean()
        assert loss.shape == ()
        torch.testing.assert_close(loss, expected.float())
        gradient, expected_gradient = (torch.autograd.grad(term, logits)[0] for term in (loss, expected))
        torch.testing.assert_close(gradient, expected_gradient)
        assert gradient[boundaries == IGNORE_INDEX].eq(0).all()

    def test_without_a_pixel_that_counts_loss_and_gradients_are_zero(self) -> None:
        logits = torch.randn(2, 4, 3, requires_grad=True)
        loss = boundary_cross_entropy(logits, torch.full((2, 4, 3), IGNORE_INDEX))
        assert loss == 0
        loss.backward()
        assert logits.grad.eq(0).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_is_computed_in_float32(self, dtype: torch.dtype) -> None:
        logits, boundaries = torch.randn(2, 4, 3).to(dtype), self.some_boundaries()
        loss = boundary_cross_entropy(logits, boundaries)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, boundary_cross_entropy(logits.float(), boundaries))
