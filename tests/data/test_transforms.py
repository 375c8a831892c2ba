"""Augmentation: images and masks stay together, and each step does what it is called."""

import collections
import itertools

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from segweave.data.loading import seed_of
from segweave.data.transforms import RandomScale, normalise
from segweave.segmentation.samples import training_transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOURS = torch.tensor([[250, 10, 20], [15, 240, 30], [25, 35, 245], [200, 190, 5]])
"""The colour of each class of the scene, all of them far from each other and from the mean."""
VOID_COLOUR = torch.tensor([250, 5, 240])


def scene(height: int = 96, width: int = 120) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Blocks of constant colour without symmetry; the colour tells the class. One block is void."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[: height // 3, width // 4 :] = 1
    mask[height // 2 :, : width // 3] = 2
    mask[height // 2 :, 2 * width // 3 :] = 3
    mask[height // 2 : 3 * height // 4, width // 3 : width // 2] = 255
    colours = torch.cat([COLOURS, VOID_COLOUR.expand(252, 3)]).to(torch.uint8)
    return tv_tensors.Image(colours[mask.long()].permute(2, 0, 1)), tv_tensors.Mask(mask)


def stripes(height: int, width: int = 8, border: int = 40) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Black above a border, white below; the mask tells the same."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[border:] = 1
    return tv_tensors.Image((mask * 255).expand(3, -1, -1).contiguous()), tv_tensors.Mask(mask)


def pixels_of(image: Tensor) -> Tensor:
    """(3, H, W) normalised -> (H, W, 3), intensities from 0 to 255."""
    values = image.as_subclass(Tensor) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return values.permute(1, 2, 0) * 255


def interior(mask: Tensor, margin: int = 3) -> Tensor:
    """Pixels whose surroundings all have one label, and lie within the picture."""
    labels = mask.float()[None, None]
    size = 2 * margin + 1
    largest = torch.nn.functional.max_pool2d(labels, size, stride=1)
    smallest = -torch.nn.functional.max_pool2d(-labels, size, stride=1)
    result = torch.zeros(mask.shape, dtype=torch.bool)
    result[margin:-margin, margin:-margin] = (largest == smallest)[0, 0]
    return result


def plain(**changes: object) -> torch.nn.Module:
    """A transform that changes nothing but what is asked for."""
    settings: dict[str, object] = {
        "crop_size": (96, 120), "mean": MEAN, "std": STD, "scale_range": (1.0, 1.0), "flip_probability": 0.0,
    }  # fmt: skip
    return training_transform(**{**settings, **changes})


def test_colours_and_labels_stay_together_under_scale_crop_and_flip() -> None:
    transform = training_transform(crop_size=(80, 100), mean=MEAN, std=STD)
    seen: set[int] = set()
    padded = 0
    for draw in range(60):
        torch.manual_seed(draw)
        image, mask = transform(*scene())
        assert image.shape == (3, 80, 100)
        assert mask.shape == (80, 100)
        assert image.dtype == torch.float32
        assert mask.dtype == torch.uint8
        inside = interior(mask)
        colours = pixels_of(image)
        for label in mask[inside].unique().tolist():
            found = colours[inside & (mask == label)]
            if label == 255:  # the void block or padding, whose colours differ
                is_padding = (found - 255 * torch.tensor(MEAN)).abs().amax(dim=1) <= 0.6
                is_void = (found - VOID_COLOUR).abs().amax(dim=1) <= 1.5
                assert (is_padding | is_void).all()
                padded += int(is_padding.sum())
            else:
                assert (found - COLOURS[label]).abs().max() <= 1.5
                seen.add(label)
    assert seen == {0, 1, 2, 3}
    assert padded > 0


def test_borders_of_image_and_mask_stay_in_place_under_any_scale() -> None:
    """Nearest-neighbour resizing of masks can shift them by half a pixel against a bilinearly resized image."""
    differences = []
    for size in range(51, 200, 3):
        for border in range(20, 80, 7):
            image, mask = RandomScale((size / 100, size / 100))(*stripes(100, border=border))
            differences.append(float((image[0] / 255).sum(dim=0).mean() - mask.float().sum(dim=0).mean()))
    assert abs(sum(differences) / len(differences)) < 0.05


def test_scale_is_uniform_in_its_range_and_keeps_the_aspect() -> None:
    torch.manual_seed(0)
    transform = RandomScale((0.5, 2.0))
    sizes = [transform(*stripes(100))[1].shape[0] for _ in range(400)]
    assert 50 <= min(sizes) < 56
    assert 194 < max(sizes) <= 200
    assert abs(sum(sizes) / len(sizes) - 125) < 8  # the standard error is 2.2
    image, mask = RandomScale((1.5, 1.5))(*scene(40, 60))
    assert image.shape == (3, 60, 90)
    assert mask.shape == (60, 90)


def test_scaling_never_invents_labels() -> None:
    torch.manual_seed(1)
    labels = {label for _ in range(20) for label in RandomScale((0.5, 2.0))(*scene())[1].unique().tolist()}
    assert labels == {0, 1, 2, 3, 255}


def test_what_an_image_lacks_is_padded_with_the_mean_and_ignored() -> None:
    torch.manual_seed(0)
    image, mask = plain(crop_size=(150, 130))(*scene())
    assert image.shape[-2:] == mask.shape == (150, 130)
    is_mean = image.abs().amax(dim=0) < 0.01  # one intensity of 255 is 0.017
    assert int(is_mean.sum()) == 150 * 130 - 96 * 120
    assert (mask[is_mean] == 255).all()
    void = int((scene()[1] == 255).sum())
    assert int((mask == 255).sum()) == 150 * 130 - 96 * 120 + void


def test_padding_stays_the_mean_under_brightness() -> None:
    torch.manual_seed(0)
    for _ in range(10):
        image, _ = plain(crop_size=(150, 130), brightness=0.5)(*scene())
        is_mean = image.abs().amax(dim=0) < 0.01
        assert int(is_mean.sum()) == 150 * 130 - 96 * 120


def test_crops_come_from_everywhere() -> None:
    torch.manual_seed(0)
    rows = torch.arange(96)[:, None].expand(96, 120).to(torch.uint8)
    tops = {int(plain(crop_size=(90, 120))(scene()[0], tv_tensors.Mask(rows))[1][0, 0]) for _ in range(100)}
    assert tops == set(range(7))


def test_flip_mirrors_left_to_right_half_of_the_time() -> None:
    torch.manual_seed(0)
    image, mask = plain()(*scene())
    flipped = 0
    for _ in range(100):
        other_image, other_mask = plain(flip_probability=0.5)(*scene())
        if torch.equal(other_mask, mask):
            assert torch.equal(other_image, image)
        else:
            assert torch.equal(other_mask, mask.flip(-1))
            assert torch.equal(other_image, image.flip(-1))
            flipped += 1
    assert 30 < flipped < 70
    assert torch.equal(plain(flip_probability=1.0)(*scene())[1], mask.flip(-1))


def test_brightness_changes_the_image_within_its_range_and_leaves_the_mask() -> None:
    torch.manual_seed(0)
    grey = tv_tensors.Image(torch.full((3, 96, 120), 100, dtype=torch.uint8))
    mask = scene()[1]
    factors = []
    for _ in range(100):
        image, same = plain(brightness=0.4)(grey, mask)
        assert torch.equal(same, mask)
        values = pixels_of(image)
        assert values.max() - values.min() < 0.01
        factors.append(float(values.mean()) / 100)
    assert 0.59 <= min(factors) < 0.68
    assert 1.32 < max(factors) <= 1.41


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    image, mask = scene()
    expected = torch.stack([(image[c].as_subclass(Tensor) / 255 - MEAN[c]) / STD[c] for c in range(3)])
    torch.testing.assert_close(normalise(image.as_subclass(Tensor)[None], MEAN, STD)[0], expected)
    result, same = plain()(image, mask)
    torch.testing.assert_close(result.as_subclass(Tensor), expected)
    assert torch.equal(same, mask)


@pytest.mark.parametrize("size", [(50, 70), (70, 50)])
def test_short_edge_resizes_before_everything_else(size: tuple[int, int]) -> None:
    crop = (100, 140) if size[0] < size[1] else (140, 100)
    image, mask = scene(*size)
    mask[mask == 255] = 0
    result, labels = plain(short_edges=(100,), crop_size=crop)(image, mask)
    assert result.shape == (3, *crop)
    expected = mask.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    assert torch.equal(labels.as_subclass(Tensor), expected.as_subclass(Tensor))  # whole: nothing is cropped or padded


def test_short_edge_keeps_borders_in_place() -> None:
    differences = []
    for edge in range(33, 64, 2):
        for border in range(5, 35, 4):
            transform = plain(short_edges=(edge,), crop_size=(edge, edge))
            image, mask = transform(*stripes(40, 40, border=border))
            differences.append(float(pixels_of(image)[..., 0].sum(dim=0).mean() / 255 - mask.sum(dim=0).float().mean()))
    assert abs(sum(differences) / len(differences)) < 0.05


def test_each_short_edge_is_as_likely_as_the_others() -> None:
    torch.manual_seed(0)
    edges = (40, 60, 70, 90)
    transform = RandomScale((1.0, 1.0), edges)
    counts = collections.Counter(tuple(transform(*scene(50, 80))[1].shape) for _ in range(800))
    assert set(counts) == {(edge, edge * 80 // 50) for edge in edges}
    assert all(abs(count - 200) < 60 for count in counts.values())  # the standard deviation is 12


def test_the_random_scale_follows_the_short_edge() -> None:
    torch.manual_seed(0)
    transform = RandomScale((0.5, 2.0), (40, 200))
    sizes = [transform(*stripes(60, 60))[1].shape[0] for _ in range(400)]
    small, large = [size for size in sizes if size < 90], [size for size in sizes if size >= 90]
    assert len(small) + len(large) == 400
    assert 140 < len(small) < 260
    assert (min(small), max(small)) == (pytest.approx(20, abs=2), pytest.approx(80, abs=2))
    assert (min(large), max(large)) == (pytest.approx(100, abs=8), pytest.approx(400, abs=8))


def test_one_short_edge_draws_nothing() -> None:
    for short_edges in (None, (96,)):  # the scene's own
        torch.manual_seed(5)
        results = training_transform(crop_size=(80, 100), mean=MEAN, std=STD, short_edges=short_edges)(*scene())
        following = torch.rand(())
        if short_edges is None:
            expected, expected_following = results, following
    for result, other in zip(results, expected, strict=True):
        assert torch.equal(result.as_subclass(Tensor), other.as_subclass(Tensor))
    assert torch.equal(following, expected_following)


def test_seeds_repeat_and_differ_for_any_other_numbers() -> None:
    numbers = [key for length in (1, 2, 3) for key in itertools.product((0, 1, 2, 7, 1000), repeat=length)]
    seeds = [seed_of(*key) for key in numbers]
    assert seeds == [seed_of(*key) for key in numbers]
    assert len(set(seeds)) == len(numbers)
    assert all(0 <= seed < 2**63 for seed in seeds)
