"""What RANet's regions tell each other (Eq. 6 to 8): each function is the sum of one equation.

All take the pixels' features as queries, and the same features times the representative scores as values: A and J A.
The softmaxes run within a region (Eq. 6, 8) or within each other region (Eq. 7), as printed, over sets of any size;
nothing loops over regions, pixels or images.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Shapes: B images, P pixels, C channels, K representatives at most, Q regions at most, N slots, T of a tile

TILE_ELEMENTS = 2**22
"""How many weights of the interaction are computed at once."""


def representative_pixels(scores: Tensor, regions: Tensor, count: int) -> Tensor:
    """The pixels of each region that have the highest representative scores (Section 3.2).

    Args:
        scores: (B, P).
        regions: The root of each pixel's region, (B, P), int64.
        count: K.

    Returns:
        (B, P, K), int64: for each pixel, the numbers of its region's representatives, the best first (of equal ones the
        lowest-numbered), -1 where the region has no more pixels.
    """
    best_first = scores.argsort(dim=1, descending=True, stable=True)
    order = best_first.gather(1, regions.gather(1, best_first).argsort(dim=1, stable=True))  # region by region
    roots = regions.gather(1, order)
    rank = torch.arange(order.shape[1], device=order.device) - torch.searchsorted(roots, roots)
    # in a table with one more place, for those whose rank is too low
    place = torch.where(rank < count, roots * count + rank, count * order.shape[1])
    table = order.new_full((order.shape[0], count * order.shape[1] + 1), -1).scatter(1, place, order)
    of_roots = table[:, :-1].unflatten(1, (-1, count))
    return of_roots.gather(1, regions[..., None].expand(-1, -1, count))


def are_representatives(representatives: Tensor) -> Tensor:
    """Which pixels are representatives of their regions: (B, P, K) -> (B, P), bool."""
    numbers = torch.arange(representatives.shape[1], device=representatives.device)
    return (representatives == numbers[:, None]).any(dim=2)


def intra_region_collection(query: Tensor, value: Tensor, regions: Tensor, representatives: Tensor) -> Tensor:
    """What each representative collects from the other pixels of its region that aren't representatives (Eq. 6).

    Args:
        query: A, (B, P, C).
        value: J A, (B, P, C).
        regions: The root of each pixel's region, (B, P).
        representatives: See `representative_pixels`, (B, P, K).

    Returns:
        (B, P, C): the second term of Eq. 6 at the representatives; 0 at other pixels, and where there is nothing to
        collect.
    """
    count = representatives.shape[2]
    gives = (representatives >= 0) & ~are_representatives(representatives)[..., None]  # (B, P, K)
    places = representatives.clamp(min=0)
    logits = torch.stack([_dot(_at(query, places[..., k]), value) for k in range(count)], dim=2)  # (B, P, K)
    logits = logits.masked_fill(~gives, -torch.inf)
    # a softmax over the pixels of each region
    groups = regions[..., None].expand(-1, -1, count)
    greatest = torch.full_like(logits, -torch.inf).scatter_reduce(1, groups, logits.detach(), "amax")
    powers = torch.where(gives, logits - greatest.gather(1, groups), -torch.inf).exp()
    totals = torch.zeros_like(powers).scatter_add(1, groups, powers).gather(1, groups)
    weights = (powers / torch.where(totals > 0, totals, 1)).to(value.dtype)
    collected = torch.zeros_like(value)
    for k in range(count):
        index = places[..., k, None].expand_as(value)
        collected = collected.scatter_add(1, index, weights[..., k, None] * value)
    return collected


def intra_region_distribution(query: Tensor, value: Tensor, representatives: Tensor) -> Tensor:
    """What each pixel receives from the representatives of its region (Eq. 8).

    Args:
        query: A, (B, P, C).
        value: J A^g, (B, P, C).
        representatives: See `representative_pixels`, (B, P, K).

    Returns:
        The second term of Eq. 8, (B, P, C).
    """
    count = representatives.shape[2]
    places = representatives.clamp(min=0)
    values = [_at(value, places[..., k]) for k in range(count)]
    logits = torch.stack([_dot(query, one) for one in values], dim=2)  # (B, P, K)
    weights = logits.masked_fill(representatives < 0, -torch.inf).softmax(dim=2).to(value.dtype)
    distributed = torch.zeros_like(value)
    for k, one in enumerate(values):
        distributed = distributed + weights[..., k, None] * one
    return distributed


def inter_region_interaction(query: Tensor, value: Tensor, regions: Tensor, representatives: Tensor) -> Tensor:
    """What each representative receives from those of all other regions (Eq. 7): the sum over these regions of a mean
    over the representatives of each.

    The weights are computed in tiles, and again in backward.

    Args:
        query: A^l, (B, P, C).
        value: J A^l, (B, P, C).
        regions: The root of each pixel's region, (B, P).
        representatives: See `representative_pixels`, (B, P, K).

    Returns:
        (B, P, C): the second term of Eq. 7 at the representatives, 0 at other pixels.
    """
    received: Tensor = _inter_region_interaction(query, value, regions, representatives)
    return received


class _Slots(NamedTuple):
    """The representatives of a batch: the first of every region, the second of those that have a second, and so on.

    In each image the regions with most representatives come first, so that the regions that have a k-th are the first
    ones, and a region is at the same place of every part: its slots are reduced part by part, in a fixed order.
    """

    places: Tensor
    """Their pixels, (B, N); one past the last pixel where an image has fewer than another."""
    exists: Tensor
    """(B, N)."""
    parts: list[int]
    """How many regions have a k-th representative in the image where most have: Q is the first, N the sum."""

    def gather(self, features: Tensor) -> Tensor:
        """(B, P, C) -> (B, N, C), 0 where there is no representative."""
        return _at(_with_spare_pixel(features), self.places)

    def scatter(self, features: Tensor, like: Tensor) -> Tensor:
        """(B, N, C) -> (B, P, C), 0 at other pixels; P and type are those of `like`."""
        empty = _with_spare_pixel(torch.zeros_like(like))
        index = self.places[..., None].expand_as(features)
        return empty.scatter(1, index, features.to(like.dtype))[:, :-1].contiguous()

    def tiles(self) -> Iterator[slice]:
        """Parts of the N slots whose weights for all slots are `TILE_ELEMENTS`."""
        batch, slots = self.places.shape
        tile = max(TILE_ELEMENTS // (batch * slots), 1)
        return (slice(start, start + tile) for start in range(0, slots, tile))

    def weights(self, queries: Tensor, values: Tensor, tile: slice) -> Tensor:
        """The softmaxes of Eq. 7, 0 within a region: (B, T, C), (B, N, C) -> (B, T, N)."""
        logits = _products(queries, values)
        # finite, since a region that only other images have must get numbers too; its values are 0
        logits.masked_fill_(~self.exists[:, None], torch.finfo(logits.dtype).min)
        powers = self.combine_(logits, torch.sub, self.reduce(logits, torch.maximum)).exp_()
        weights = self.combine_(powers, torch.div, self.reduce(powers, torch.add))
        numbers = torch.cat([torch.arange(part, device=logits.device) for part in self.parts])
        return weights.mul_(numbers[tile, None] != numbers)

    def reduce(self, x: Tensor, operation: Callable[..., Tensor]) -> Tensor:
        """What an operation makes of the slots of each region: (B, T, N) -> (B, T, Q)."""
        first, *others = x.split(self.parts, dim=2)
        result = first.clone()
        for other in others:
            some = result[..., : other.shape[2]]
            operation(some, other, out=some)
        return result

    def combine_(self, x: Tensor, operation: Callable[..., Tensor], of_regions: Tensor) -> Tensor:
        """In place, each slot with its region's: (B, T, N), (B, T, Q) -> (B, T, N)."""
        for part in x.split(self.parts, dim=2):
            operation(part, of_regions[..., : part.shape[2]], out=part)
        return x


def _slots(regions: Tensor, representatives: Tensor) -> _Slots:
    pixels = regions.shape[1]
    is_root = regions == torch.arange(pixels, device=regions.device)
    table = representatives.masked_fill(~is_root[..., None], -1)
    most_first = (table >= 0).sum(dim=2).argsort(dim=1, descending=True, stable=True)
    table = table.gather(1, most_first[..., None].expand_as(table))
    parts = [part for part in (table >= 0).sum(dim=1).amax(dim=0).tolist() if part > 0]
    places = torch.cat([table[:, :part, k] for k, part in enumerate(parts)], dim=1)
    return _Slots(torch.where(places >= 0, places, pixels), places >= 0, parts)


def _with_spare_pixel(features: Tensor) -> Tensor:
    """(B, P, C) -> (B, P + 1, C), the last 0."""
    return F.pad(features, (0, 0, 0, 1))


# Operators of their own, as in `segweave.ops.regions`: how many regions there are depends on the values of the maps


@torch.library.custom_op("segweave::inter_region_interaction", mutates_args=())
def _inter_region_interaction(query: Tensor, value: Tensor, regions: Tensor, representatives: Tensor) -> Tensor:
    slots = _slots(regions, representatives)
    queries, values = slots.gather(query), slots.gather(value)
    received = torch.empty_like(values)
    for tile in slots.tiles():
        received[:, tile] = slots.weights(queries[:, tile], values, tile).to(values.dtype) @ values
    return slots.scatter(received, query)


@_inter_region_interaction.register_fake
def _(query: Tensor, value: Tensor, regions: Tensor, representatives: Tensor) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.custom_op("segweave::inter_region_interaction_backward", mutates_args=())
def _inter_region_interaction_backward(
    gradient: Tensor, query: Tensor, value: Tensor, regions: Tensor, representatives: Tensor
) -> tuple[Tensor, Tensor]:
    slots = _slots(regions, representatives)
    queries, values, gradients = slots.gather(query), slots.gather(value), slots.gather(gradient)
    of_queries, of_values = torch.empty_like(queries), torch.zeros_like(values)
    for tile in slots.tiles():
        weights = slots.weights(queries[:, tile], values, tile)
        of_weights = _products(gradients[:, tile], values)
        slots.combine_(of_weights, torch.sub, slots.reduce(weights * of_weights, torch.add))
        received, logits = (x.to(values.dtype) for x in (weights, weights * of_weights))
        of_queries[:, tile] = logits @ values
        of_values += received.mT @ gradients[:, tile] + logits.mT @ queries[:, tile]
    return slots.scatter(of_queries, query), slots.scatter(of_values, value)


@_inter_region_interaction_backward.register_fake
def _(
    gradient: Tensor, query: Tensor, value: Tensor, regions: Tensor, representatives: Tensor
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), value.new_empty(value.shape)


def _keep_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
    of_query, of_value = _inter_region_interaction_backward(gradient, *ctx.saved_tensors)
    return of_query, of_value, None, None


_inter_region_interaction.register_autograd(_backward, setup_context=_keep_for_backward)


def _products(one: Tensor, other: Tensor) -> Tensor:
    """(B, T, C), (B, N, C) -> (B, T, N), in float32 at least, whose range half precision doesn't have."""
    with torch.autocast(one.device.type, enabled=False):
        return at_least_float32(one) @ at_least_float32(other).mT


def _at(features: Tensor, places: Tensor) -> Tensor:
    """(B, P, C) at (B, N) -> (B, N, C)."""
    return features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))


def at_least_float32(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The dot product of the features of each pixel: twice (B, P, C) -> (B, P), in float32 at least."""
    return (one * other).sum(dim=2, dtype=torch.promote_types(one.dtype, torch.float32))
