"""FPT's attention between all positions of two maps (Eq. 2 to 5): several softmaxes, mixed, weight one set of values.

No table of all pairs is made, neither forward nor backward, wherever torch has fused attention: a mixture of softmaxes
over N parts of the channels is attention with N heads that share their values, each head's output weighted, and fused
attention computes that block by block. (torch has it for half and single precision on CPUs and on CUDA, for double on
CPUs alone.) The plain reference, with its tables, is `dense_mixture_of_softmaxes`.
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
        (B, N, D), of the values' type. It has no second derivative.

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
    return _dense_weights(query, key, mixture, parts, similarity, scale) @ value


def mixture_weights_from(
    query: Tensor, key: Tensor, mixture: Tensor, *, similarity: Similarity, scale: float | None = None
) -> Tensor:
    """How much some queries attend to each key: (B, N, C), (B, M, C), (B, P) -> (B, N, M), each row of sum 1.

    A table of these queries alone, for pictures; see `mixture_of_softmaxes` for the arguments.
    """
    parts = _checked_parts(query, key, key, mixture, similarity)
    return _dense_weights(query, key, mixture, parts, similarity, scale)


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
    distances. And -|k|^2 / 2 is written as three numbers of 8 bits each, which half precision doesn't round, divided by
    256 (and the ones multiplied), so that float16 has room for them.

    Args:
        query: (B, P, N, W).
        key: (B, P, M, W).

    Returns:
        (B, P, N, W + 3), (B, P, M, W + 3), and channels of 0 up to a multiple of `ALIGNMENT`.
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
    factor = 256.0  # a power of two rounds nothing
    zeros = -(query.shape[3] + len(channels)) % ALIGNMENT
    of_queries = [query.new_full((*query.shape[:3], len(channels)), factor), query.new_zeros(*query.shape[:3], zeros)]
    of_keys = [*((one / factor).to(key.dtype) for one in channels), key.new_zeros(*key.shape[:3], zeros)]
    return torch.cat([query, *of_queries], dim=3), torch.cat([key, *of_keys], dim=3)


def _checked_parts(query: Tensor, key: Tensor, value: Tensor, mixture: Tensor, similarity: Similarity) -> int:
    """P, once the shapes are known to go together."""
    dimensions = tuple(x.ndim for x in (query, key, value, mixture))
    if (
        dimensions != (3, 3, 3, 2)
        or key.shape[::2] != query.shape[::2]
        or value.shape[:2] != key.shape[:2]
        or len(mixture) != len(query)
    ):
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value, mixture))
        raise ValueError(f"query, key, value, mixture of {shapes}: expected (B, N, C), (B, M, C), (B, M, D), (B, P)")
    check_parts(query.shape[2], mixture.shape[1])
    default_scale(similarity, query.shape[2])
    return mixture.shape[1]


def check_parts(channels: int, parts: int) -> None:
    """Refuses numbers of channels that can't be divided into parts.

    Raises:
        ValueError: They can't.
    """
    if parts < 1 or channels % parts:
        raise ValueError(f"{channels} channels in {parts} parts: expected a multiple of the parts")


def _dense_weights(
    query: Tensor, key: Tensor, mixture: Tensor, parts: int, similarity: Similarity, scale: float | None
) -> Tensor:
    """The table: (B, N, C), (B, M, C), (B, P) -> (B, N, M)."""
    if scale is None:
        scale = default_scale(similarity, query.shape[2] // parts)
    if similarity == "euclidean":  # the same distances, but of short vectors
        centre = key.mean(dim=1, keepdim=True).detach()
        query, key = query - centre, key - centre
    query, key = _parts(query, parts), _parts(key, parts)
    logits = query @ key.mT  # (B, P, N, M)
    if similarity == "euclidean":
        logits = 2 * logits - query.square().sum(dim=3)[..., None] - key.square().sum(dim=3)[:, :, None]
    return (mixture[:, :, None, None] * (scale * logits).softmax(dim=3)).sum(dim=1)


def _parts(x: Tensor, parts: int) -> Tensor:
    """(B, N, C) -> (B, P, N, C / P), the channels of a position side by side."""
    return x.contiguous().unflatten(2, (parts, -1)).transpose(1, 2)


def _widened(x: Tensor, width: int) -> Tensor:
    """With channels of zeros up to `width`, side by side."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x
