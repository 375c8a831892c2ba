"""FPT's attention between all positions of two maps (Eq. 2 to 5): several softmaxes, mixed, weight one set of values.

Nothing makes a table of all pairs, neither forward nor backward: a mixture of softmaxes over N parts of the channels is
attention with N heads that share their values, each head's output weighted, and fused attention computes that block by
block. The plain reference, with its tables, is `dense_mixture_of_softmaxes`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Similarity = Literal["dot", "euclidean"]
"""Of a query and a key: their dot product, or the negative square of their distance (Eq. 4)."""

# Shapes: B images, N queries, M keys, C channels of both, D channels of a value, P parts, W channels of one

ALIGNMENT = 8
"""Fused kernels on GPUs want numbers of channels that are multiples of this."""


def mixture_of_softmaxes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixture: Tensor,
    *,
    similarity: Similarity = "dot",
    scale: float | None = None,
) -> Tensor:
    """The values, weighted by a mixture of softmaxes over the similarities of parts of queries and keys (Eq. 2, 3, 5).

    Args:
        query: (B, N, C).
        key: (B, M, C).
        value: (B, M, D).
        mixture: The weight of each part, pi of Eq. 2, (B, P); P divides C.
        similarity: Of a part of a query and the same part of a key.
        scale: What the similarity is multiplied by; if not given 1 / sqrt(C / P) for the dot product, and 1, as
            printed, for the distance.

    Returns:
        (B, N, D), of the values' type.

    Raises:
        ValueError: The shapes don't go together, or the similarity is unknown.
    """
    parts = _checked_parts(query, key, value, mixture, similarity)
    if scale is None:
        scale = default_scale(similarity, query.shape[2] // parts)
    query, key = _parts(query, parts), _parts(key, parts)  # (B, P, N or M, C / P)
    if similarity == "euclidean":
        query, key = distances_as_dot_products(query, key)
        scale = 2 * scale
    width = -(-query.shape[3] // ALIGNMENT) * ALIGNMENT
    query, key = _widened(query, width), _widened(key, width)
    # Fused attention on a CPU wants values as wide as the queries, and channels that lie side by side
    pieces = []
    for piece in value.split(width, dim=2):
        weighted = mixture[:, :, None, None].to(value.dtype) * _widened(piece, width)[:, None]  # (B, P, M, W)
        pieces.append(F.scaled_dot_product_attention(query, key, weighted, scale=scale).sum(dim=1))  # (B, N, W)
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)
    return joined[:, :, : value.shape[2]].to(value.dtype)


def dense_mixture_of_softmaxes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixture: Tensor,
    *,
    similarity: Similarity = "dot",
    scale: float | None = None,
) -> Tensor:
    """The plain reference of `mixture_of_softmaxes`, with tables of all pairs: the same arguments, the same result."""
    parts = _checked_parts(query, key, value, mixture, similarity)
    if scale is None:
        scale = default_scale(similarity, query.shape[2] // parts)
    query, key = _parts(query, parts), _parts(key, parts)
    logits = query @ key.mT  # (B, P, N, M)
    if similarity == "euclidean":
        logits = 2 * logits - query.square().sum(dim=3)[..., None] - key.square().sum(dim=3)[:, :, None]
    weights = (mixture[:, :, None, None] * (scale * logits).softmax(dim=3)).sum(dim=1)  # (B, N, M)
    return weights @ value


def mixture_weights_from(
    query: Tensor, key: Tensor, mixture: Tensor, *, similarity: Similarity, scale: float | None = None
) -> Tensor:
    """How much some queries attend to each key: (B, N, C), (B, M, C), (B, P) -> (B, N, M), each row of sum 1.

    A table of these queries alone, for pictures; see `mixture_of_softmaxes` for the arguments.
    """
    identity = torch.eye(key.shape[1], dtype=key.dtype, device=key.device).expand(len(key), -1, -1)
    return dense_mixture_of_softmaxes(query, key, identity, mixture, similarity=similarity, scale=scale)


def default_scale(similarity: Similarity, part_channels: int) -> float:
    """What a similarity is multiplied by if nothing else is said: 1 / sqrt(C / P) for the dot product, 1 for the
    distance.

    Raises:
        ValueError: The similarity is unknown.
    """
    scales = {"dot": part_channels**-0.5, "euclidean": 1.0}
    if similarity not in scales:
        raise ValueError(f"similarity {similarity!r}: expected one of {', '.join(scales)}")
    return scales[similarity]


def distances_as_dot_products(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors whose dot product differs from -|query - key|^2 / 2 by a number of the query's own, which no softmax over
    the keys sees.

    -|q - k|^2 / 2 = q . k - |k|^2 / 2 - |q|^2 / 2, so that the keys get channels for -|k|^2 / 2, and the queries ones.
    Distances don't change where both are moved, so the mean key becomes the origin: its length would drown the
    distances. And -|k|^2 / 2 is written as three numbers of 8 bits each, which half precision doesn't round.

    Args:
        query: (B, P, N, W).
        key: (B, P, M, W).

    Returns:
        (B, P, N, W + 3), (B, P, M, W + 3).
    """
    centre = key.mean(dim=2, keepdim=True).detach()
    query, key = query - centre, key - centre
    precise = key if key.dtype == torch.float64 else key.float()
    rest = -precise.square().sum(dim=3, keepdim=True) / 2
    channels = []
    for _ in range(2):
        channels.append(rest.detach().bfloat16().to(rest.dtype))
        rest = rest - channels[-1]  # has the gradient
    channels.append(rest)
    ones = query.new_ones(*query.shape[:3], len(channels))
    return torch.cat([query, ones], dim=3), torch.cat([key, *(channel.to(key.dtype) for channel in channels)], dim=3)


def _checked_parts(query: Tensor, key: Tensor, value: Tensor, mixture: Tensor, similarity: Similarity) -> int:
    """P, once the shapes are known to go together."""
    batch, parts = mixture.shape
    channels = query.shape[2]
    if key.shape != (batch, key.shape[1], channels) or len(query) != batch or value.shape[:2] != key.shape[:2]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value, mixture))
        raise ValueError(f"query, key, value, mixture of {shapes}: expected (B, N, C), (B, M, C), (B, M, D), (B, P)")
    if channels % parts:
        raise ValueError(f"{channels} channels in {parts} parts: expected a multiple of the parts")
    default_scale(similarity, channels)
    return parts


def _parts(x: Tensor, parts: int) -> Tensor:
    """(B, N, C) -> (B, P, N, C / P), the channels of a position side by side."""
    return x.contiguous().unflatten(2, (parts, -1)).transpose(1, 2)


def _widened(x: Tensor, width: int) -> Tensor:
    """With channels of zeros up to `width`, side by side."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x
