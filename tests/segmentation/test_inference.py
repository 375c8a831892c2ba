"""Scales, flips and windows, each against the same done by hand."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segweave.errors import InputError
from segweave.segmentation.inference import Inference, slide

K = 5


class Recorder(nn.Module):
    """Passes images on to a network and remembers their sizes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape[-2:]))
        return self.network(images)


def network(kernel_size: int) -> Recorder:
    torch.manual_seed(0)
    return Recorder(nn.Conv2d(3, K, kernel_size, padding=kernel_size // 2)).eval()


@pytest.fixture
def pointwise() -> Recorder:
    return network(1)


@pytest.fixture
def lopsided() -> Recorder:
    """A network that isn't symmetric: a mirrored image gives other logits."""
    return network(5)


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.no_grad():
        yield


def draw(height: int = 33, width: int = 47, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def bilinear(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_single_pass_is_the_network_itself(lopsided: Recorder, batch: int) -> None:
    images = draw(batch=batch)
    scores = Inference()(lopsided, images)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, lopsided.network(images))


def test_a_single_scale_is_resized_back_to_the_image(lopsided: Recorder) -> None:
    images = draw(66, 94)
    expected = bilinear(lopsided.network(resized(images, (33, 47))), (66, 94))
    torch.testing.assert_close(Inference(scales=(0.5,))(lopsided, images), expected)


def test_flips_average_the_probabilities(lopsided: Recorder) -> None:
    images = draw()
    straight = lopsided.network(images).softmax(dim=1)
    mirrored = lopsided.network(images.flip(-1)).softmax(dim=1).flip(-1)
    assert not torch.allclose(straight, mirrored, atol=0.05)
    scores = Inference(flip=True)(lopsided, images)
    torch.testing.assert_close(scores.exp(), (straight + mirrored) / 2)
    torch.testing.assert_close(scores.softmax(dim=1), scores.exp())


def test_flipping_makes_the_scores_of_a_mirrored_image_mirrored(lopsided: Recorder) -> None:
    inference = Inference(flip=True, scales=(1.0, 1.5))
    scores = inference(lopsided, draw())
    torch.testing.assert_close(inference(lopsided, draw().flip(-1)).flip(-1), scores)


@pytest.mark.parametrize("flip", [False, True])
def test_scales_average_the_probabilities(lopsided: Recorder, flip: bool) -> None:
    images = draw(66, 94)
    passes = []
    for size in ((33, 47), (66, 94)):
        scaled = resized(images, size)
        passes.append(bilinear(lopsided.network(scaled), (66, 94)).softmax(dim=1))
        if flip:
            passes.append(bilinear(lopsided.network(scaled.flip(-1)).flip(-1), (66, 94)).softmax(dim=1))
    scores = Inference(scales=[0.5, 1.0], flip=flip)(lopsided, images)
    torch.testing.assert_close(scores.exp(), torch.stack(passes).mean(dim=0))


def test_scales_never_make_an_image_too_small_for_the_network(lopsided: Recorder) -> None:
    scores = Inference(scales=(0.1, 0.5, 1.0, 1.75))(lopsided, draw())
    assert scores.shape == (1, K, 33, 47)
    assert min(side for size in lopsided.sizes for side in size) >= 32
    assert lopsided.sizes[2:] == [(33, 47), (58, 82)]


def test_scores_are_finite_where_the_network_is_certain() -> None:
    class Certain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = images.new_full((len(images), K, *images.shape[-2:]), -1000.0)
            logits[:, 2] = 1000.0
            return logits

    scores = Inference(flip=True)(Certain(), draw())
    assert scores.isfinite().all()
    assert (scores.argmax(dim=1) == 2).all()


def test_short_edge_resizes_before_everything_else(lopsided: Recorder) -> None:
    images = draw()
    expected = bilinear(lopsided.network(resized(images, (66, 94))), (33, 47))
    torch.testing.assert_close(Inference(short_edge=66)(lopsided, images), expected)
    tall = Inference(short_edge=66)(lopsided, images.transpose(-1, -2))
    assert tall.shape == (1, K, 47, 33)
    lopsided.sizes.clear()
    Inference(short_edge=66, scales=(0.5, 2.0))(lopsided, images)
    assert lopsided.sizes == [(33, 47), (132, 188)]


@pytest.mark.parametrize("window", [(32, 32), (32, 40), (33, 47), (100, 32), (32, 1000), (500, 500)])
@pytest.mark.parametrize("size", [(33, 47), (70, 91), (64, 97)])
def test_windows_of_a_pointwise_network_give_the_whole_image(
    pointwise: Recorder, window: tuple[int, int], size: tuple[int, int]
) -> None:
    images = draw(*size, batch=2)
    torch.testing.assert_close(Inference(window=window)(pointwise, images), pointwise.network(images))
    height, width = min(window[0], size[0]), min(window[1], size[1])
    assert set(pointwise.sizes) == {(height, width)}


@pytest.mark.parametrize("length", range(32, 140))
def test_windows_cover_every_pixel_and_overlap_by_a_third(length: int) -> None:
    class Places(nn.Module):
        """Remembers which columns it was shown."""

        def forward(self, images: Tensor) -> Tensor:
            self.shown = [*getattr(self, "shown", []), images[0, 0, 0].long().tolist()]
            return images[:, :1]

    columns = torch.arange(length).float().expand(1, 3, 32, length)
    places = Places()
    assert torch.equal(slide(places, columns, (32, 32))[0, 0], columns[0, 0])
    assert {column for window in places.shown for column in window} == set(range(length))
    assert all(len(window) == 32 for window in places.shown)
    starts = [window[0] for window in places.shown]
    assert starts == sorted(set(starts))
    assert all(later - sooner <= 21 for sooner, later in itertools.pairwise(starts))
    assert len(starts) == max(-(-(length - 32) // 21), 0) + 1  # as few as can be


def test_overlapping_windows_average_the_logits(lopsided: Recorder) -> None:
    images = draw(33, 47)
    logits = torch.zeros(1, K, 33, 47)
    count = torch.zeros(33, 47)
    for top in (0, 1):
        for left in (0, 15):
            rows, columns = slice(top, top + 32), slice(left, left + 32)
            logits[..., rows, columns] += lopsided.network(images[..., rows, columns])
            count[rows, columns] += 1
    scores = Inference(window=(32, 32))(lopsided, images)
    torch.testing.assert_close(scores, logits / count)
    assert not torch.allclose(scores, lopsided.network(images))  # borders of windows see padding


def test_a_window_larger_than_the_image_sees_it_whole(lopsided: Recorder) -> None:
    images = draw()
    torch.testing.assert_close(Inference(window=(64, 64))(lopsided, images), lopsided.network(images))


def test_windows_go_with_scales_and_flips(pointwise: Recorder) -> None:
    images = draw(66, 94)
    whole = Inference(scales=(0.5, 1.0), flip=True)(pointwise, images)
    windows = Inference(scales=(0.5, 1.0), flip=True, window=(40, 40))(pointwise, images)
    torch.testing.assert_close(windows, whole)


def test_random_views_are_averaged(lopsided: Recorder) -> None:
    images = draw()
    inference = Inference(random_views=3, scale_range=(0.8, 1.6), seed=4)
    expected = torch.zeros(1, K, 33, 47)
    for scale, flipped in inference.views(5):
        seen = resized(images, (max(round(33 * scale), 32), max(round(47 * scale), round(47 * 32 / 33))))
        logits = lopsided.network(seen.flip(-1)).flip(-1) if flipped else lopsided.network(seen)
        expected += bilinear(logits, (33, 47)).softmax(dim=1) / 3
    torch.testing.assert_close(inference(lopsided, images, 5).exp(), expected)


def test_random_views_are_drawn_for_the_image_and_the_seed() -> None:
    inference = Inference(random_views=400, seed=4)
    views = inference.views(5)
    assert views == Inference(random_views=400, seed=4).views(5)
    assert views != inference.views(6)
    assert views != Inference(random_views=400, seed=5).views(5)
    scales = torch.tensor([scale for scale, _ in views])
    assert 0.5 <= scales.min() < 0.52
    assert 1.98 < scales.max() <= 2.0
    assert abs(scales.mean() - 1.25) < 0.08  # evenly over the scales, as the paper says, not over their logarithms
    assert 150 < sum(flipped for _, flipped in views) < 250


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inference(scales=()), r"scales \[\]"),
        (lambda: Inference(scales=(1.0, 0.0)), r"scales \[1.0, 0.0\]"),
        (lambda: Inference(scales=(-1.0,)), r"scales \[-1.0\]"),
        (lambda: Inference(scales=(float("nan"),)), "scales"),
        (lambda: Inference(scales=(float("inf"),)), "scales"),
        (lambda: Inference(window=(31, 64)), r"window \[31, 64\].*32"),
        (lambda: Inference(window=(64, 0)), r"window \[64, 0\].*32"),
        (lambda: Inference(short_edge=0), "short_edge 0.*32"),
        (lambda: Inference(random_views=-1), "^random_views -1: expected 0 or more$"),
        (lambda: Inference(seed=-1), "^seed -1: expected 0 or more$"),
        (lambda: Inference(random_views=2, seed=-1), "seed -1"),
        (lambda: Inference(random_views=2, scales=(0.5, 1.0)), "random_views: expected no scales"),
        (lambda: Inference(random_views=2, flip=True), "random_views: expected no scales and no flip"),
        (lambda: Inference(seed=3), "scale_range and seed: expected random_views"),
        (lambda: Inference(scale_range=(0.5, 0.6)), "scale_range and seed: expected random_views"),
        (lambda: Inference(random_views=2, scale_range=(2.0, 0.5)), r"scale_range \[2.0, 0.5\]"),
        (lambda: Inference(random_views=2, scale_range=(0.0, 0.5)), r"scale_range \[0.0, 0.5\]"),
    ],
)
def test_what_cannot_be_used_is_named(make: Callable[[], Inference], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
