"""FPT's attention to a square around each position (Section 3.3, locality-constrained grounding transformer).

The square's positions are gone through one after the other, so that there never is an unfolded copy of the map, as many
times its size as the square has positions. The plain reference, which makes it, is `dense_local_mixture_of_softmaxes`.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segweave.ops.mixture_of_softmaxes import Similarity, check_parts, default_scale

# Shapes: B images, C channels of queries and keys, D of values, P parts, H x W positions of the queries, h x w of keys
# and values, S positions of a square


def local_mixture_of_softmaxes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixture: Tensor,
    *,
    square_size: int = 5,
    similarity: Similarity = "euclidean",
    scale: float | None = None,
) -> Tensor:
    """The values in a square around each query's position, weighted by a mixture of softmaxes (Section 3.3).

    Positions of the square that lie outside the map have keys and values of 0: they take part in the softmax. Where the
    two maps differ in size, the square's centre is the position of the other map that the middle of the query's
    position lies in.

    Args:
        query: (B, C, H, W).
        key: (B, C, h, w).
        value: (B, D, h, w).
        mixture: The weight of each part, (B, P); P divides C.
        square_size: Positions along a side of the square, odd.
        similarity: Of a part of a query and the same part of a key.
        scale: What the similarity is multiplied by; if not given 1 / sqrt(C / P) for the dot product, and 1, as
            printed, for the distance.

    Returns:
        (B, D, H, W), of the values' type. It has no second derivative.

    Raises:
        ValueError: The shapes don't go together, the square is even, or the similarity is unknown.
    """
    scale = _checked_scale(query, key, value, mixture, square_size, similarity, scale)
    attended: Tensor = _LocalMixture.apply(query, key, value, mixture, square_size, similarity, scale)
    return attended


def dense_local_mixture_of_softmaxes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixture: Tensor,
    *,
    square_size: int = 5,
    similarity: Similarity = "euclidean",
    scale: float | None = None,
) -> Tensor:
    """The plain reference of `local_mixture_of_softmaxes`, on unfolded maps: the same arguments, the same result."""
    scale = _checked_scale(query, key, value, mixture, square_size, similarity, scale)
    parts = mixture.shape[1]
    queries = query[:, :, None].unflatten(1, (parts, -1))  # (B, P, C / P, 1, H, W)
    keys = _unfolded(key, query, square_size).unflatten(1, (parts, -1))  # (B, P, C / P, S, H, W)
    similarities = (queries * keys).sum(dim=2) if similarity == "dot" else -(queries - keys).square().sum(dim=2)
    weights = _mixed((scale * similarities).softmax(dim=2), mixture)  # (B, S, H, W)
    return (weights[:, None] * _unfolded(value, query, square_size)).sum(dim=2)


@torch.no_grad()
def local_mixture_weights_at(
    query: Tensor,
    key: Tensor,
    mixture: Tensor,
    position: tuple[int, int],
    *,
    square_size: int = 5,
    similarity: Similarity = "euclidean",
    scale: float | None = None,
) -> Tensor:
    """How much one query attends to each position of the other map, for pictures; see `local_mixture_of_softmaxes`.

    Args:
        position: The query's row and column.

    Returns:
        (B, 1, h, w): 0 outside the square; of sum 1 but for what falls outside the map.
    """
    scale = _checked_scale(query, key, key, mixture, square_size, similarity, scale)
    softmaxes = _softmaxes(query, key, mixture.shape[1], square_size, similarity, scale)
    weights = _mixed(softmaxes, mixture)[:, :, position[0], position[1]]  # (B, S)
    square = _Square(query.shape[2:], key.shape[2:], square_size)
    top, left = square.centre(*position)
    looked_at = torch.zeros_like(square.padded(key[:, :1]))
    looked_at[:, 0, top : top + square_size, left : left + square_size] = weights.unflatten(1, (square_size, -1))
    return square.unpadded(looked_at)


class _LocalMixture(torch.autograd.Function):
    """Computes in float32 at least; keeps what it was given and the softmaxes, S P numbers a position."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mixture: Tensor,
        square_size: int,
        similarity: Similarity,
        scale: float,
    ) -> Tensor:
        softmaxes = _softmaxes(query, key, mixture.shape[1], square_size, similarity, scale)
        square = _Square(query.shape[2:], value.shape[2:], square_size)
        values = square.padded(value)
        attended = values.new_zeros(len(query), value.shape[1], *query.shape[2:])
        for place, weight in zip(square.places(), _mixed(softmaxes, mixture).unbind(1), strict=True):
            attended.addcmul_(weight[:, None], square.seen(values, place))
        ctx.save_for_backward(query, key, value, mixture, softmaxes)
        ctx.square_size, ctx.similarity, ctx.scale = square_size, similarity, scale
        return attended.to(value.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixture, softmaxes = ctx.saved_tensors
        square = _Square(query.shape[2:], key.shape[2:], ctx.square_size)
        of_values, of_weights = _value_gradients(_precise(gradient), value, _mixed(softmaxes, mixture), square)
        of_weights = of_weights[:, None]  # (B, 1, S, H, W)
        of_mixture = (softmaxes * of_weights).sum(dim=(2, 3, 4))
        of_softmaxes = _by_part(mixture, softmaxes) * of_weights
        mean = (softmaxes * of_softmaxes).sum(dim=2, keepdim=True)
        of_similarities = ctx.scale * softmaxes * (of_softmaxes - mean)  # (B, P, S, H, W)
        of_queries, of_keys = _key_gradients(of_similarities, query, key, ctx.similarity, square)
        return (
            of_queries.to(query.dtype),
            of_keys.to(key.dtype),
            of_values.to(value.dtype),
            of_mixture.to(mixture.dtype),
            None,
            None,
            None,
        )


def _value_gradients(gradient: Tensor, value: Tensor, weights: Tensor, square: "_Square") -> tuple[Tensor, Tensor]:
    """Of the values (B, D, h, w) and of the weights (B, S, H, W), from that of the result (B, D, H, W)."""
    values = square.padded(value)
    of_values, of_weights = torch.zeros_like(values), torch.empty_like(weights)
    scratch = torch.empty_like(gradient)
    for number, place in enumerate(square.places()):
        torch.mul(gradient, square.seen(values, place), out=scratch)
        of_weights[:, number] = scratch.sum(dim=1)
        square.add(of_values, place, weights[:, number, None], gradient)
    return square.unpadded(of_values), of_weights


def _key_gradients(
    of_similarities: Tensor, query: Tensor, key: Tensor, similarity: Similarity, square: "_Square"
) -> tuple[Tensor, Tensor]:
    """Of the queries (B, C, H, W) and of the keys (B, C, h, w), from that of the similarities (B, P, S, H, W)."""
    queries, keys = _precise(query), square.padded(key)
    of_queries, of_keys = torch.zeros_like(queries), torch.zeros_like(keys)
    part_channels = query.shape[1] // of_similarities.shape[1]
    scratch = torch.empty_like(queries)
    for number, place in enumerate(square.places()):
        factor = of_similarities[:, :, number].repeat_interleave(part_channels, dim=1)  # (B, C, H, W)
        seen = square.seen(keys, place)
        if similarity == "dot":
            of_queries.addcmul_(factor, seen)
            square.add(of_keys, place, factor, queries)
        else:
            torch.sub(queries, seen, out=scratch)
            of_queries.addcmul_(factor, scratch, value=-2)
            square.add(of_keys, place, factor.mul_(2), scratch)
    return of_queries, square.unpadded(of_keys)


class _Square:
    """The positions of a map (h, w) that queries at each position of a map (H, W) look at.

    Args:
        query_size: H, W.
        size: h, w.
        square_size: Positions along a side of the square.
    """

    def __init__(self, query_size: torch.Size, size: torch.Size, square_size: int) -> None:
        self.query_size = query_size
        self.size = size
        self.square_size = square_size
        self.radius = square_size // 2
        self._first: Tensor | None = None

    def places(self) -> Iterator[tuple[int, int]]:
        """Of the square's S positions: how far down and to the right of its first they lie."""
        return product(range(self.square_size), range(self.square_size))

    def padded(self, x: Tensor) -> Tensor:
        """In float32 at least, with zeros where squares reach beyond the map."""
        return F.pad(_precise(x), [self.radius] * 4)

    def unpadded(self, x: Tensor) -> Tensor:
        height, width = self.size
        return x[..., self.radius : self.radius + height, self.radius : self.radius + width]

    def seen(self, padded: Tensor, place: tuple[int, int]) -> Tensor:
        """What each query sees at one place of its square: (B, C, H, W)."""
        if self.size == self.query_size:
            return padded[self._window(place)]
        return padded.flatten(2).index_select(2, self._numbers(place, padded)).unflatten(2, self.query_size)

    def add(self, padded: Tensor, place: tuple[int, int], factor: Tensor, x: Tensor) -> None:
        """Adds factor * x, (B, C, H, W), to what the queries see there."""
        if self.size == self.query_size:
            padded[self._window(place)].addcmul_(factor, x)
        else:  # several queries may see one position
            padded.view(*padded.shape[:2], -1).index_add_(2, self._numbers(place, padded), (factor * x).flatten(2))

    def centre(self, row: int, column: int) -> tuple[int, int]:
        """The position of the other map that the middle of a query's position lies in."""
        (height, width), (query_height, query_width) = self.size, self.query_size
        return (2 * row + 1) * height // (2 * query_height), (2 * column + 1) * width // (2 * query_width)

    def _window(self, place: tuple[int, int]) -> tuple[Any, ...]:
        (down, right), (height, width) = place, self.query_size
        return ..., slice(down, down + height), slice(right, right + width)

    def _numbers(self, place: tuple[int, int], padded: Tensor) -> Tensor:
        """Of the padded map's positions that the queries see: (H W,)."""
        (down, right), (height, width) = place, self.query_size
        if self._first is None:  # of the square's first place
            rows = torch.tensor([self.centre(row, 0)[0] for row in range(height)], device=padded.device)
            columns = torch.tensor([self.centre(0, column)[1] for column in range(width)], device=padded.device)
            self._first = (rows[:, None] * padded.shape[3] + columns).flatten()
        return self._first + (down * padded.shape[3] + right)


def _softmaxes(
    query: Tensor, key: Tensor, parts: int, square_size: int, similarity: Similarity, scale: float
) -> Tensor:
    """Of each part over its square: (B, P, S, H, W)."""
    square = _Square(query.shape[2:], key.shape[2:], square_size)
    queries, keys = _precise(query), square.padded(key)
    scratch = torch.empty_like(queries)  # a new one for each place would let the allocator's memory grow
    similarities = queries.new_empty(len(query), parts, square_size**2, *query.shape[2:])
    for number, place in enumerate(square.places()):
        seen = square.seen(keys, place)
        if similarity == "dot":
            torch.mul(queries, seen, out=scratch)
        else:
            torch.sub(queries, seen, out=scratch).square_().neg_()
        similarities[:, :, number] = scratch.unflatten(1, (parts, -1)).sum(dim=2)
    return (scale * similarities).softmax(dim=2)


def _mixed(softmaxes: Tensor, mixture: Tensor) -> Tensor:
    """(B, P, S, H, W), (B, P) -> (B, S, H, W)."""
    return (_by_part(mixture, softmaxes) * softmaxes).sum(dim=1)


def _by_part(mixture: Tensor, softmaxes: Tensor) -> Tensor:
    """(B, P) -> (B, P, 1, 1, 1), of the softmaxes' type."""
    return mixture.to(softmaxes.dtype)[..., None, None, None]


def _precise(x: Tensor) -> Tensor:
    return (x if x.dtype == torch.float64 else x.float()).contiguous()  # several times faster than channels last


def _unfolded(x: Tensor, query: Tensor, square_size: int) -> Tensor:
    """What each query sees in its square: (B, C, h, w) -> (B, C, S, H, W)."""
    square = _Square(query.shape[2:], x.shape[2:], square_size)
    padded = square.padded(x)
    return torch.stack([square.seen(padded, place) for place in square.places()], dim=2)


def _checked_scale(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixture: Tensor,
    square_size: int,
    similarity: Similarity,
    scale: float | None,
) -> float:
    """The scale, once the arguments are known to go together."""
    dimensions = tuple(x.ndim for x in (query, key, value, mixture))
    if (
        dimensions != (4, 4, 4, 2)
        or key.shape[:2] != query.shape[:2]
        or value[:, :1].shape != key[:, :1].shape
        or len(mixture) != len(query)
    ):
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value, mixture))
        raise ValueError(
            f"query, key, value, mixture of {shapes}: expected (B, C, H, W), (B, C, h, w), (B, D, h, w), (B, P)"
        )
    channels, parts = query.shape[1], mixture.shape[1]
    check_parts(channels, parts)
    if square_size < 1 or square_size % 2 == 0:
        raise ValueError(f"square_size {square_size}: expected an odd number of positions")
    default = default_scale(similarity, channels // parts)
    return default if scale is None else scale
