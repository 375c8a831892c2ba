"""FPT's paper (Section 3) transcribed naively, for its tests: a position, a part of the channels, a place of the square
at a time."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from tests.networks.transcription import block, convolve, make_irregular, some_map, upsample

Size = tuple[int, int]
"""Rows and columns."""

# Shapes: B images, C channels of a pyramid's map, D of a transformed one, N = H W positions of queries, M = h w of keys
# and values, P parts, W channels of one


# Sections 3.1 to 3.3


def naive_similarity(query: Tensor, keys: Tensor, similarity: str) -> Tensor:
    """F_sim of a query and all keys, (B, W), (B, M, W) -> (B, M): the dot product, or F_eud of Eq. 4."""
    if similarity == "dot":
        return (query[:, None] * keys).sum(dim=2)
    return -((query[:, None] - keys) ** 2).sum(dim=2)


def naive_weights(query: Tensor, keys: Tensor, mixture: Tensor, similarity: str, scale: float) -> Tensor:
    """Eq. 2 for a query and all keys, (B, C), (B, M, C), (B, P) -> (B, M): F_mos, a part of the channels at a time."""
    channels, parts = query.shape[1], mixture.shape[1]
    width = channels // parts
    terms = []
    for part in range(parts):
        own = slice(part * width, (part + 1) * width)
        powers = torch.exp(scale * naive_similarity(query[:, own], keys[:, :, own], similarity))
        terms.append(mixture[:, part, None] * powers / powers.sum(dim=1, keepdim=True))
    return sum(terms)


def naive_mixture_of_softmaxes(
    query: Tensor, key: Tensor, value: Tensor, mixture: Tensor, *, similarity: str = "dot", scale: float
) -> Tensor:
    """Eq. 3 and 5, (B, N, C), (B, M, C), (B, M, D), (B, P) -> (B, N, D), a query at a time."""
    attended = []
    for one in query.unbind(dim=1):
        weights = naive_weights(one, key, mixture, similarity, scale)
        attended.append((weights[:, :, None] * value).sum(dim=1))
    return torch.stack(attended, dim=1)


def squares_positions(position: tuple[int, int], size: Size, other: Size, square_size: int) -> list[tuple[int, int]]:
    """The positions of the other map in the square around a position, row by row, those outside the map too.

    Its centre is the position of the other map that the middle of the position lies in.
    """
    centre = [
        math.floor((place + Fraction(1, 2)) * theirs / own)
        for place, own, theirs in zip(position, size, other, strict=True)
    ]
    reach = range(-(square_size // 2), square_size // 2 + 1)
    return [(centre[0] + down, centre[1] + right) for down, right in product(reach, reach)]


def seen_at(x: Tensor, positions: list[tuple[int, int]]) -> Tensor:
    """A map at some positions, 0 outside it: (B, C, h, w) -> (B, M, C)."""
    height, width = x.shape[2:]
    inside = [0 <= row < height and 0 <= column < width for row, column in positions]
    vectors = [
        x[:, :, row, column] if there else torch.zeros_like(x[:, :, 0, 0])
        for (row, column), there in zip(positions, inside, strict=True)
    ]
    return torch.stack(vectors, dim=1)


def naive_local_mixture_of_softmaxes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixture: Tensor,
    *,
    square_size: int = 5,
    similarity: str = "euclidean",
    scale: float,
) -> Tensor:
    """LGT's (Section 3.3), (B, C, H, W), (B, C, h, w), (B, D, h, w), (B, P) -> (B, D, H, W), a query at a time."""
    size, other = tuple(query.shape[2:]), tuple(key.shape[2:])
    attended = []
    for position in product(*map(range, size)):
        square = squares_positions(position, size, other, square_size)
        weights = naive_weights(query[:, :, *position], seen_at(key, square), mixture, similarity, scale)
        attended.append((weights[:, :, None] * seen_at(value, square)).sum(dim=1))
    return torch.stack(attended, dim=2).unflatten(2, size)


def naive_local_weights(
    query: Tensor,
    key: Tensor,
    mixture: Tensor,
    position: tuple[int, int],
    *,
    square_size: int = 5,
    similarity: str = "euclidean",
    scale: float,
) -> Tensor:
    """What LGT weighs the positions of the other map with for one query: (B, 1, h, w)."""
    square = squares_positions(position, tuple(query.shape[2:]), tuple(key.shape[2:]), square_size)
    weights = naive_weights(query[:, :, *position], seen_at(key, square), mixture, similarity, scale)
    looked_at = torch.zeros_like(key[:, :1])
    for place, (row, column) in enumerate(square):
        if 0 <= row < key.shape[2] and 0 <= column < key.shape[3]:
            looked_at[:, 0, row, column] = weights[:, place]
    return looked_at


def naive_aggregating_weights(mean_key: Tensor, mixture: nn.Linear) -> Tensor:
    """pi of Eq. 2, (B, D) -> (B, P): the softmax of w_n . mean key over the parts n."""
    powers = [torch.exp((mean_key * vector).sum(dim=1)) for vector in mixture.weight]
    return torch.stack([power / sum(powers) for power in powers], dim=1)


def naive_scale(similarity: str, width: int, distance_scaling: str) -> float:
    return 1.0 if similarity == "euclidean" and distance_scaling == "none" else 1 / math.sqrt(width)


def naive_interaction(
    module: nn.Module,
    query_map: Tensor,
    key_map: Tensor,
    *,
    parts: int,
    similarity: str,
    normaliser: str = "mixture",
    distance_scaling: str = "none",
    square_size: int | None = None,
    position: tuple[int, int] | None = None,
) -> Tensor:
    """ST (both maps are one), GT, or with a square size LGT: (B, C, H, W), (B, C, h, w) -> (B, D, H, W).

    Or, of a position, the weights that it gives the other map's: (B, 1, h, w).
    """
    query, key, value = (
        convolve(x, own) for x, own in [(query_map, module.query), (key_map, module.key), (key_map, module.value)]
    )
    parts = 1 if normaliser == "softmax" else parts
    if parts == 1:
        mixture = torch.ones_like(key[:, :1, 0, 0])
    else:
        mean_key = sum(key.flatten(2).unbind(dim=2)) / key[0, 0].numel()
        mixture = naive_aggregating_weights(mean_key, module.mixture)
    assert mixture.shape[1] == parts
    weighing: dict[str, Any] = {
        "similarity": similarity,
        "scale": naive_scale(similarity, key.shape[1] // parts, distance_scaling),
    }
    if square_size is not None:
        weighing["square_size"] = square_size
        if position is not None:
            return naive_local_weights(query, key, mixture, position, **weighing)
        return naive_local_mixture_of_softmaxes(query, key, value, mixture, **weighing)
    if position is not None:
        weights = naive_weights(query[:, :, *position], key.flatten(2).mT, mixture, **weighing)
        return weights.view(len(key), 1, *key.shape[2:])
    attended = naive_mixture_of_softmaxes(*(x.flatten(2).mT for x in (query, key, value)), mixture, **weighing)
    return attended.mT.unflatten(2, query.shape[2:])


# Section 3.4


def naive_strided_convolution(x: Tensor, convolution: nn.Conv2d, stride: Size) -> Tensor:
    """F_sconv, 3x3: its output at every stride-th position, from the first on."""
    rows, columns = (range(0, size, step) for size, step in zip(x.shape[2:], stride, strict=True))
    kernel = [(down, right) for down in range(-1, 2) for right in range(-1, 2)]
    outputs = []
    for row, column in product(rows, columns):
        seen = seen_at(x, [(row + down, column + right) for down, right in kernel])  # (B, 9, C)
        weight = torch.stack([convolution.weight[:, :, down + 1, right + 1] for down, right in kernel])  # (9, D, C)
        outputs.append(sum(seen[:, place] @ weight[place].T for place in range(9)))
    return torch.stack(outputs, dim=2).unflatten(2, (len(rows), len(columns)))


def naive_gate(module: nn.Module, fine: Tensor) -> Tensor:
    """w of Eq. 6, (B, C, H, W) -> (B, C, 1, 1): the average of K, through a 1x1 convolution, batch norm and ReLU."""
    average = sum(fine.flatten(2).unbind(dim=2)) / fine[0, 0].numel()
    return block(average[:, :, None, None], module.weigh)


def naive_rendering(module: nn.Module, coarse: Tensor, fine: Tensor) -> Tensor:
    """Eq. 6: Q, K and V -> (B, D, h, w), the size of Q."""
    gate = naive_gate(module, fine)
    weighted_query = torch.stack([coarse[:, c] * gate[:, c] for c in range(coarse.shape[1])], dim=1)
    (height, width), (coarse_height, coarse_width) = fine.shape[2:], coarse.shape[2:]
    stride = math.ceil(Fraction(height, coarse_height)), math.ceil(Fraction(width, coarse_width))
    reduced_value = upsample(naive_strided_convolution(fine, module.reduce, stride), coarse)
    return convolve(convolve(weighted_query, module.refine) + reduced_value, module.add)


# Section 3.5


def naive_feature_pyramid_transformer(
    module: nn.Module,
    maps: Sequence[Tensor],
    *,
    self_transformer: bool = True,
    grounding: str = "global",
    rendering: bool = True,
    self_parts: int = 2,
    grounding_parts: int = 4,
    self_similarity: str = "dot",
    grounding_similarity: str = "euclidean",
    square_size: int = 5,
    **weighing: str,
) -> list[Tensor]:
    """Figure 2, without DropBlock: of each level the map itself, ST, GT from the coarser levels, the nearest first, and
    RT from the finer ones, the finest first, through a 3x3 convolution."""
    side = square_size if grounding == "local" else None
    levels = []
    for number, (level, x) in enumerate(zip(module.levels, maps, strict=True)):
        joined = [x]
        if self_transformer:
            own = {"parts": self_parts, "similarity": self_similarity, **weighing}
            joined.append(naive_interaction(level.st, x, x, **own))
        if grounding != "none":
            theirs = {"parts": grounding_parts, "similarity": grounding_similarity, **weighing}
            for ground, coarse in zip(level.gts, maps[number + 1 :], strict=True):
                joined.append(naive_interaction(ground, x, coarse, square_size=side, **theirs))
        if rendering:
            for render, fine in zip(level.rts, maps[:number], strict=True):
                joined.append(naive_rendering(render, x, fine))
        fuse = convolve if isinstance(level.fuse, nn.Conv2d) else block
        levels.append(fuse(torch.cat(joined, dim=1), level.fuse))
    return levels


# What the tests give it


PYRAMID: list[tuple[int, Size]] = [(3, (5, 7)), (5, (3, 4)), (4, (2, 3)), (6, (1, 3))]
"""Channels and sizes of levels that are multiples of nothing."""


def make_attentive(module: nn.Module) -> Any:
    """In float64, with batch norms that do something, and weights so large that attention isn't the same everywhere."""
    make_irregular(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.split(".")[-2] in ("query", "key", "mixture"):
                parameter.mul_(2)
    return module


def some_maps(*shapes: tuple[int, Size]) -> list[Tensor]:
    """Of two images, each of so many channels and such a size; if none is given, a pyramid's."""
    return [some_map(2, channels, size) for channels, size in shapes or PYRAMID]
