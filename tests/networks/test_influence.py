"""What a position depends on, against small changes made one at a time."""

import pytest
import torch
from torch import Tensor, nn

from segweave.networks.influence import influence

POSITION = (1, 2)


def joined(x: Tensor, y: Tensor) -> Tensor:
    """Not linear; mixes positions and channels of both maps: (B, 2, 3, 4), (B, 3, 3, 4) -> (B, 2, 3, 4)."""
    near = nn.functional.avg_pool2d(x.square(), 3, stride=1, padding=1)
    return near * y[:, :1].mean(dim=(2, 3), keepdim=True) + y[:, 1:].sin()


def some_maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, channels, 3, 4, generator=generator, dtype=torch.float64) for channels in (2, 3)]


def naive_influence(maps: list[Tensor], number: int, step: float = 1e-6) -> Tensor:
    """Each value of one map is moved up and down by a little; how much longer or shorter does the vector get?"""

    def length(change: Tensor) -> Tensor:
        changed = [x + change if other == number else x for other, x in enumerate(maps)]
        return joined(*changed)[:, :, POSITION[0], POSITION[1]].square().sum(dim=1).sqrt()  # (B,)

    strength = torch.zeros_like(maps[number][:, :1])
    _, channels, height, width = maps[number].shape
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                change = torch.zeros_like(maps[number])
                change[:, channel, row, column] = step
                strength[:, 0, row, column] += ((length(change) - length(-change)) / (2 * step)).abs()
    return strength / strength.sum(dim=(2, 3), keepdim=True)


def test_is_what_small_changes_are_felt_by() -> None:
    maps = some_maps()
    for number, look in enumerate(influence(joined, maps, POSITION)):
        torch.testing.assert_close(look, naive_influence(maps, number), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(look.sum(dim=(1, 2, 3)), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off(mode: type[torch.no_grad] | type[torch.inference_mode]) -> None:
    expected = influence(joined, some_maps(), POSITION)
    with mode():
        looks = influence(joined, some_maps(), POSITION)
    for look, other in zip(looks, expected, strict=True):
        assert torch.equal(look, other)


def test_leaves_the_weights_without_gradients() -> None:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    influence(layer, [torch.randn(1, 2, 3, 4)], POSITION)
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_nothing_is_felt_behind_a_relu_that_gives_0() -> None:
    (look,) = influence(lambda x: (x - 5).relu(), [torch.zeros(1, 2, 3, 4)], POSITION)
    assert torch.equal(look, torch.zeros(1, 1, 3, 4))


def test_a_map_that_is_not_used() -> None:
    used, unused = influence(lambda x, y: 2 * x, [torch.ones(1, 2, 3, 4), torch.ones(1, 1, 5, 5)], POSITION)
    assert used[0, 0, 1, 2] == used.sum() == 1
    assert torch.equal(unused, torch.zeros(1, 1, 5, 5))
