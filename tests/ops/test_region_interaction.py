"""What regions tell each other (Eq. 6 to 8) against the formulas, representative by representative."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from segweave.ops import region_interaction
from segweave.ops.region_interaction import (
    are_representatives,
    inter_region_interaction,
    intra_region_collection,
    intra_region_distribution,
    representative_pixels,
)
from tests.networks.ranet_transcription import (
    attend,
    members,
    naive_collection,
    naive_distribution,
    naive_interaction,
    naive_representatives,
)

CHANNELS = 5


class Scene(NamedTuple):
    """A batch of images of different numbers of regions, of different sizes."""

    query: Tensor
    value: Tensor
    regions: Tensor
    representatives: Tensor

    def by_image(self, naive: Callable[..., Tensor], *, of_regions: bool) -> Tensor:
        """What the transcription of an equation says of each image."""
        images = []
        for query, value, regions, table in zip(*self, strict=True):
            own = members(regions)
            chosen = {root: [pixel for pixel in table[root].tolist() if pixel >= 0] for root in own}
            images.append(naive(query, value, *([own] if of_regions else []), chosen))
        return torch.stack(images)


def some_regions() -> Tensor:
    """(3, 30): pixels that are neighbours of nobody in particular; regions of all sizes, one alone in its image."""
    images = []
    for count in (2, 12, 1):
        labels = torch.randint(0, count, (30,))
        labels[:count] = torch.arange(count)  # every region has a pixel
        images.append(torch.tensor([labels.tolist().index(label) for label in labels.tolist()]))
    return torch.stack(images)


def some_scene(count: int, dtype: torch.dtype = torch.float64) -> Scene:
    query, value = (torch.randn(3, 30, CHANNELS, dtype=dtype, requires_grad=True) for _ in range(2))
    regions = some_regions()
    return Scene(query, value, regions, representative_pixels(torch.rand(3, 30), regions, count))


def assert_is_the_paper_s(actual: Tensor, expected: Tensor, sources: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(expected)
    gradients, expected_gradients = (
        torch.autograd.grad((x * weight).sum(), sources, allow_unused=True, materialize_grads=True)
        for x in (actual, expected)
    )
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


class TestRepresentativePixels:
    @pytest.mark.parametrize("count", [1, 3, 8, 40])
    def test_is_the_definition(self, count: int) -> None:
        scores, regions = torch.rand(3, 30), some_regions()
        table = representative_pixels(scores, regions, count)
        assert table.shape == (3, 30, count)
        assert table.dtype == torch.int64
        for image in range(3):
            chosen = naive_representatives(scores[image], regions[image], count)
            for pixel, root in enumerate(regions[image].tolist()):
                best = chosen[root]
                assert table[image, pixel].tolist() == best + [-1] * (count - len(best))
            marked = are_representatives(table)[image].nonzero()[:, 0].tolist()
            assert marked == sorted(pixel for best in chosen.values() for pixel in best)

    def test_of_equal_scores_the_lowest_numbered_pixels(self) -> None:
        regions = torch.tensor([[0, 1, 0, 0, 1, 0, 1]])
        scores = torch.tensor([[0.5, 0.2, 0.7, 0.7, 0.2, 0.5, 0.2]])
        table = representative_pixels(scores, regions, 3)
        assert table[0, 0].tolist() == [2, 3, 0]
        assert table[0, 1].tolist() == [1, 4, 6]
        for _ in range(10):
            images = torch.randint(0, 3, (2, 200)).float(), torch.randint(0, 2, (2, 200))
            table = representative_pixels(*images, 50)
            for image in range(2):
                chosen = naive_representatives(images[0][image], images[1][image], 50)
                for root, best in chosen.items():
                    pixel = images[1][image].tolist().index(root)
                    assert table[image, pixel].tolist() == best

    def test_regions_of_one_pixel(self) -> None:
        table = representative_pixels(torch.rand(2, 7), torch.arange(7).expand(2, 7), 2)
        assert torch.equal(table[..., 0], torch.arange(7).expand(2, 7))
        assert table[..., 1].eq(-1).all()
        assert are_representatives(table).all()

    def test_one_pixel(self) -> None:
        assert representative_pixels(torch.rand(1, 1), torch.zeros(1, 1, dtype=torch.long), 2).tolist() == [[[0, -1]]]


class TestCollection:
    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_is_the_paper_s(self, count: int) -> None:
        scene = some_scene(count)
        collected = intra_region_collection(*scene)
        expected = scene.by_image(naive_collection, of_regions=True)
        assert_is_the_paper_s(collected, expected, scene[:2])
        assert collected[~are_representatives(scene.representatives)].eq(0).all()

    def test_representatives_give_nothing(self) -> None:
        scene = some_scene(3)
        chosen = are_representatives(scene.representatives)
        value = scene.value.detach().clone()
        value[chosen] += 5
        assert torch.equal(intra_region_collection(*scene._replace(value=value)), intra_region_collection(*scene))
        (gradient,) = torch.autograd.grad(intra_region_collection(*scene).square().sum(), scene.value)
        assert gradient[chosen].eq(0).all()
        assert gradient[~chosen].abs().min() > 0

    def test_a_region_that_is_all_representatives_collects_nothing(self) -> None:
        scene = some_scene(30)
        collected = intra_region_collection(*scene)
        assert collected.eq(0).all()
        for gradient in torch.autograd.grad(collected.sum(), scene[:2]):
            assert gradient.eq(0).all()

    def test_of_one_other_pixel_all(self) -> None:
        query, value = torch.randn(2, 1, 3, CHANNELS)
        regions = torch.tensor([[0, 0, 2]])
        collected = intra_region_collection(query, value, regions, torch.tensor([[[1], [1], [2]]]))
        torch.testing.assert_close(collected[0, 1], value[0, 0])
        assert collected[0, [0, 2]].eq(0).all()


class TestInteraction:
    @pytest.mark.parametrize("tile", [None, 1, 200], ids=["one tile", "a slot a tile", "tiles"])
    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_is_the_paper_s(self, count: int, tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """In tiles of any size: `segweave.ops.region_interaction.TILE_ELEMENTS` decides nothing."""
        if tile is not None:
            monkeypatch.setattr(region_interaction, "TILE_ELEMENTS", tile)
        scene = some_scene(count)
        received = inter_region_interaction(*scene)
        assert_is_the_paper_s(received, scene.by_image(naive_interaction, of_regions=False), scene[:2])
        assert received[~are_representatives(scene.representatives)].eq(0).all()

    @pytest.mark.parametrize("tile", [None, 400], ids=["one tile", "tiles"])
    def test_one_large_region_and_many_pixels_alone(self, tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beside an image of fewer regions, of three pixels each: only representatives that exist take part."""
        if tile is not None:
            monkeypatch.setattr(region_interaction, "TILE_ELEMENTS", tile)
        pixels = torch.arange(30)
        large = torch.where((pixels >= 4) & (pixels < 16), 4, pixels)
        regions = torch.stack([large, pixels // 3 * 3])
        query, value = (torch.randn(2, 30, CHANNELS, dtype=torch.float64, requires_grad=True) for _ in range(2))
        scene = Scene(query, value, regions, representative_pixels(torch.rand(2, 30), regions, 8))
        received = inter_region_interaction(*scene)
        assert_is_the_paper_s(received, scene.by_image(naive_interaction, of_regions=False), scene[:2])
        slots = region_interaction._slots(regions, scene.representatives)
        assert slots.parts == [19, 10, 10, 1, 1, 1, 1, 1]
        for image, chosen in enumerate(are_representatives(scene.representatives)):
            places = slots.places[image, slots.exists[image]]
            assert sorted(places.tolist()) == chosen.nonzero()[:, 0].tolist()

    def test_by_hand(self) -> None:
        """One region of two representatives, one of one: their mean, and the one as it is."""
        query, value = torch.randn(2, 1, 3, CHANNELS)
        regions, representatives = torch.tensor([[0, 0, 2]]), torch.tensor([[[1, 0], [1, 0], [2, -1]]])
        received = inter_region_interaction(query, value, regions, representatives)[0]
        torch.testing.assert_close(received[:2], value[0, 2].expand(2, CHANNELS))
        torch.testing.assert_close(received[2], attend(query[0, 2], [value[0, 0], value[0, 1]]))

    def test_a_single_region_receives_nothing(self) -> None:
        scene = some_scene(3)
        assert len(scene.regions[2].unique()) == 1
        received = inter_region_interaction(*scene)
        assert received[2].eq(0).all()
        gradients = torch.autograd.grad(received.square().sum(), scene[:2])
        assert all(gradient[2].eq(0).all() for gradient in gradients)
        alone = Scene(*(x[2:] for x in scene))
        assert inter_region_interaction(*alone).eq(0).all()

    def test_images_are_alone(self) -> None:
        scene = some_scene(3)
        together = inter_region_interaction(*scene)
        for image in range(3):
            alone = inter_region_interaction(*(x[image : image + 1] for x in scene))
            torch.testing.assert_close(together[image : image + 1], alone, rtol=1e-12, atol=1e-12)

    def test_products_beyond_float16(self) -> None:
        """Whose sums half precision can't hold: of large features, and of the large gradients of a scaled loss."""
        scene = some_scene(3, torch.float32)
        query, value = ((40 * x.detach()).half().requires_grad_() for x in scene[:2])
        received = inter_region_interaction(query, value, *scene[2:])
        assert received.dtype == torch.float16
        assert received.isfinite().all()
        gradients = torch.autograd.grad(received, (query, value), torch.full_like(received, 500))
        assert all(gradient.isfinite().all() for gradient in gradients)

    def test_features_may_be_a_map_s(self) -> None:
        """Whose channels come first in memory; gradients may too."""
        scene = some_scene(3)
        query, value = (x.detach().mT.contiguous().mT.requires_grad_() for x in scene[:2])
        assert not query.is_contiguous()
        received = inter_region_interaction(query, value, *scene[2:])
        expected = inter_region_interaction(*scene)
        torch.testing.assert_close(received, expected)
        weight = torch.randn(3, CHANNELS, 30, dtype=torch.float64).mT
        gradients, expected_gradients = (
            torch.autograd.grad(*pair, weight) for pair in ((received, (query, value)), (expected, scene[:2]))
        )
        torch.testing.assert_close(gradients, expected_gradients)

    def test_operators_are_registered_as_they_are(self) -> None:
        scene = some_scene(2, torch.float32)
        gradient = torch.randn(3, 30, CHANNELS)
        torch.library.opcheck(region_interaction._inter_region_interaction, tuple(scene))
        plain = (scene.query.detach().mT.contiguous().mT, scene.value.detach(), *scene[2:])
        torch.library.opcheck(region_interaction._inter_region_interaction, plain)
        torch.library.opcheck(region_interaction._inter_region_interaction_backward, (gradient, *plain))


class TestDistribution:
    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_is_the_paper_s(self, count: int) -> None:
        scene = some_scene(count)
        distributed = intra_region_distribution(scene.query, scene.value, scene.representatives)
        assert_is_the_paper_s(distributed, scene.by_image(naive_distribution, of_regions=True), scene[:2])

    def test_one_representative_is_received_as_it_is(self) -> None:
        scene = some_scene(1)
        distributed = intra_region_distribution(scene.query, scene.value, scene.representatives)
        for image in range(3):
            best = scene.representatives[image, :, 0]
            torch.testing.assert_close(distributed[image], scene.value[image, best])


class Steps(nn.Module):
    """All steps in a row, each of what the one before gives."""

    def forward(self, query: Tensor, scores: Tensor, regions: Tensor) -> Tensor:
        representatives = representative_pixels(scores, regions, 3)
        value = scores[..., None].to(query.dtype) * query
        x = value + intra_region_collection(query, value, regions, representatives)
        x = x + inter_region_interaction(x, x, regions, representatives)
        return x + intra_region_distribution(query, x, representatives)


class TestAllSteps:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str)
    def test_lower_precision(self, dtype: torch.dtype, tolerance: float) -> None:
        query, scores, regions = torch.randn(3, 30, CHANNELS).to(dtype), torch.rand(3, 30), some_regions()
        leaves = [query.requires_grad_(), query.detach().double().requires_grad_()]
        outputs = [Steps()(leaf, scores, regions) for leaf in leaves]
        gradients = [torch.autograd.grad(x.mean(), leaf)[0] for x, leaf in zip(outputs, leaves, strict=True)]
        for actual, expected in (outputs, gradients):
            assert actual.dtype == dtype
            assert (actual - expected).abs().max() < tolerance * expected.abs().max()

    def test_large_products_do_not_overflow(self) -> None:
        query = (100 * torch.randn(3, 30, CHANNELS)).requires_grad_()
        x = Steps()(query, torch.rand(3, 30), some_regions())
        x.mean().backward()
        assert x.isfinite().all()
        assert query.grad.isfinite().all()

    def test_compiled_and_exported(self) -> None:
        torch.compiler.reset()
        example, other = ((torch.randn(3, 30, CHANNELS), torch.rand(3, 30), some_regions()) for _ in range(2))
        compiled = torch.compile(Steps(), fullgraph=True, backend="eager")
        exported = torch.export.export(Steps(), example).module()
        for inputs in (example, other):
            for steps in (compiled, exported):
                torch.testing.assert_close(steps(*inputs), Steps()(*inputs), rtol=1e-5, atol=1e-5)
