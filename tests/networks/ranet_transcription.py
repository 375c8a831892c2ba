"""RANet's paper (Section 3) transcribed naively, for its tests: a pixel, a pair of pixels, a region at a time."""

import math
from fractions import Fraction
from functools import cache, partial
from itertools import combinations, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segweave.networks.ranet import RANet
from tests.networks.transcription import block, convolve, upsample
from tests.networks.transcription import make_irregular as make_norms_irregular

# Shapes: B images, H x W their size, P = H W pixels (numbered row by row), K classes, C channels

Members = dict[int, list[int]]
"""The pixels of each region of an image (or its representatives), by the region's number."""


# Section 3.1


Point = list[tuple[int, int, float]]
"""The one or two pixels that a point lies on or between: row, column, and their shares in linear interpolation."""


@cache
def points_between(rows: int, columns: int) -> list[Point]:
    """The points strictly between a pixel (0, 0) and another: as many steps as the pixels are apart in rows or in
    columns, whichever is more."""
    steps = max(abs(rows), abs(columns))
    points = []
    for step in range(1, steps):
        row, column = Fraction(rows * step, steps), Fraction(columns * step, steps)
        near = product(*(range(math.floor(at), math.ceil(at) + 1) for at in (row, column)))
        points.append([(r, c, float((1 - abs(row - r)) * (1 - abs(column - c)))) for r, c in near])
    return points


def interpolated(values: list[list[float]], row: int, column: int, point: Point) -> float:
    """The value of a map at a point that is given from a pixel on."""
    return sum([share * values[row + r][column + c] for r, c, share in point])


def naive_line_maximum(boundaries: Tensor) -> Tensor:
    """Eq. 1, (B, H, W) -> (B, P, P): the greatest boundary on the line between two pixels, 0 between neighbours."""
    height, width = boundaries.shape[1:]
    pixels = list(product(range(height), range(width)))
    images = []
    for image in boundaries:
        values = image.tolist()
        between = [[[(0, 0.0), (0, 0.0)] for _ in pixels] for _ in pixels]  # of each pair two pixels and their shares
        for (i, (row, column)), (j, (other_row, other_column)) in combinations(enumerate(pixels), 2):
            points = points_between(other_row - row, other_column - column)
            greatest = max(points, key=partial(interpolated, values, row, column), default=[])
            for place, (r, c, share) in enumerate(greatest):
                between[i][j][place] = between[j][i][place] = ((row + r) * width + column + c, share)
        pixel, share = torch.tensor(between, dtype=image.dtype).unbind(dim=-1)  # (P, P, 2)
        images.append((share * image.flatten()[pixel.long()]).sum(dim=-1))
    return torch.stack(images)


def naive_divergence(probabilities: Tensor) -> Tensor:
    """Eq. 2 with its logarithms, (B, P, K) -> (B, P, P): how far each of two pixels is from their mean, on average."""

    def distance(one: Tensor, mean: Tensor) -> Tensor:
        return torch.where(one > 0, one * torch.log2(one / mean), 0).sum(dim=-1)

    lines = []
    for pixel in range(probabilities.shape[1]):
        one, other = probabilities[:, pixel, None], probabilities
        mean = (one + other) / 2
        lines.append((distance(one, mean) + distance(other, mean)) / 2)
    return torch.stack(lines, dim=1)


def naive_region_attention(boundaries: Tensor, probabilities: Tensor) -> Tensor:
    """Eq. 3, (B, H, W), (B, K, H, W) -> (B, P, P)."""
    return (1 - naive_line_maximum(boundaries)) * (1 - naive_divergence(probabilities.flatten(2).mT))


def naive_regions(attention: Tensor, threshold: float) -> Tensor:
    """Eq. 4, (B, P, P) -> (B, P): every pixel follows the lowest-numbered one that it is grouped with, until a root."""
    images = []
    for table in attention.tolist():
        pixels = range(len(table))
        leaders = [min(j for j in pixels if j == i or table[i][j] >= threshold) for i in pixels]
        roots = []
        for pixel in pixels:
            while leaders[pixel] != pixel:
                pixel = leaders[pixel]
            roots.append(pixel)
        images.append(roots)
    return torch.tensor(images)


def members(regions: Tensor) -> Members:
    """The pixels of the regions of an image, (P,)."""
    pixels: Members = {}
    for pixel, root in enumerate(regions.tolist()):
        pixels.setdefault(root, []).append(pixel)
    return pixels


def naive_scores(attention: Tensor, regions: Tensor) -> Tensor:
    """Eq. 5, (B, P, P), (B, P) -> (B, P): the mean attention between a pixel and all of its region."""
    images = []
    for table, of_image in zip(attention, regions, strict=True):
        scores: dict[int, Tensor] = {}
        for pixels in members(of_image).values():
            for i in pixels:
                scores[i] = table[i, pixels].sum() / len(pixels)
        images.append(torch.stack([scores[i] for i in range(len(table))]))
    return torch.stack(images)


# Section 3.2, an image at a time: features are (P, C)


def naive_representatives(scores: Tensor, regions: Tensor, count: int) -> Members:
    """The `count` pixels of each region that have the highest scores (P,), of equal ones the lowest-numbered."""
    values = scores.tolist()
    best = {
        root: sorted(pixels, key=lambda pixel: (-values[pixel], pixel)) for root, pixels in members(regions).items()
    }
    return {root: pixels[:count] for root, pixels in best.items()}


def attend(query: Tensor, values: list[Tensor]) -> Tensor:
    """The sums of Eq. 6 to 8: of the values, each weighted by the softmax of its product with the query."""
    powers = [torch.exp(query @ value) for value in values]
    return sum(power * value for power, value in zip(powers, values, strict=True)) / sum(powers)


def naive_collection(query: Tensor, value: Tensor, regions: Members, representatives: Members) -> Tensor:
    """The second term of Eq. 6 at the representatives, 0 elsewhere."""
    collected = [torch.zeros_like(one) for one in value]
    for root, chosen in representatives.items():
        others = [value[i] for i in regions[root] if i not in chosen]
        for pixel in chosen:
            if others:
                collected[pixel] = attend(query[pixel], others)
    return torch.stack(collected)


def naive_interaction(query: Tensor, value: Tensor, representatives: Members) -> Tensor:
    """The second term of Eq. 7 at the representatives, 0 elsewhere."""
    received = [torch.zeros_like(one) for one in value]
    for root, chosen in representatives.items():
        for pixel in chosen:
            for other, theirs in representatives.items():
                if other != root:
                    received[pixel] = received[pixel] + attend(query[pixel], [value[i] for i in theirs])
    return torch.stack(received)


def naive_distribution(query: Tensor, value: Tensor, regions: Members, representatives: Members) -> Tensor:
    """The second term of Eq. 8."""
    distributed = {}
    for root, pixels in regions.items():
        for pixel in pixels:
            distributed[pixel] = attend(query[pixel], [value[i] for i in representatives[root]])
    return torch.stack([distributed[pixel] for pixel in range(len(value))])


def naive_region_interaction(
    module: nn.Module,
    a: Tensor,
    scores: Tensor,
    regions: Tensor,
    *,
    representatives: int,
    intra_region: bool = True,
    inter_region: bool = True,
    affinity_scaling: str = "square_root",
    interaction_scaling: str = "mean",
) -> Tensor:
    """Eq. 6 to 8, with a convolution for queries, one for values, and one after each step: O, (B, C, h, w)."""
    factor = 1 / math.sqrt(a.shape[1]) if affinity_scaling == "square_root" else 1

    def pixels(x: Tensor) -> Tensor:  # of an image, (P, C)
        return x.flatten(1).T

    def after(convolution: nn.Conv2d, x: Tensor) -> Tensor:
        return pixels(convolve(x.T.unflatten(1, a.shape[-2:])[None], convolution)[0])

    images = []
    for image, j, of_image in zip(a, scores[..., None], regions, strict=True):
        own = members(of_image)
        chosen = naive_representatives(j[:, 0], of_image, representatives)
        value = x = pixels(convolve(image[None], module.value)[0])
        if intra_region:
            query = factor * pixels(convolve(image[None], module.query)[0])
            x = after(module.collected, j * x + naive_collection(query, j * x, own, chosen))
        if inter_region:
            received = naive_interaction(factor * x, j * x, chosen)
            if interaction_scaling == "mean" and len(chosen) > 1:
                received = received / (len(chosen) - 1)
            x = after(module.interacted, j * x + received)
        if intra_region:
            x = after(module.distributed, j * value + naive_distribution(query, j * x, own, chosen))
        images.append(x.T.unflatten(1, a.shape[-2:]))
    return torch.stack(images)


# Section 4, and the network


def naive_boundary_mask(labels: Tensor, radius: int) -> Tensor:
    """1 where a pixel has one of another class within the radius, 255 where it doesn't count, else 0."""
    height, width = labels.shape[1:]
    masks = []
    for image in labels.tolist():
        mask = [[255 if label == 255 else 0 for label in line] for line in image]
        for row, column in product(range(height), range(width)):
            rows = range(max(0, row - radius), min(height, row + radius + 1))
            columns = range(max(0, column - radius), min(width, column + radius + 1))
            for r, c in product(rows, columns):
                near = (r - row) ** 2 + (c - column) ** 2 <= radius**2
                if near and 255 not in (image[r][c], image[row][column]) and image[r][c] != image[row][column]:
                    mask[row][column] = 1
        masks.append(mask)
    return torch.tensor(masks)


def naive_ranet(
    network: RANet,
    images: Tensor,
    *,
    threshold: float = 0.8,
    representatives: int = 8,
    regions: str = "both",
    auxiliary: str = "res5",
    **interaction: Any,
) -> dict[str, Tensor]:
    """Figure 1, in evaluation: what the network computes on its way, `boundary_logits`, `coarse_logits` and `logits` as
    large as the images."""
    *_, res4, res5 = network.backbone(images)
    a = block(res5, network.reduce)
    source = upsample(block(res4, network.auxiliary_head), a) if auxiliary == "res4" else a
    batch, _, height, width = a.shape
    steps = {}
    boundaries = a.new_zeros(batch, height, width)
    probabilities = a.new_ones(batch, 1, height, width)  # of one class
    if regions != "semantics":
        boundary_logits = convolve(source, network.boundary_head)
        steps["boundary_logits"] = upsample(boundary_logits, images)[:, 0]
        boundaries = 1 / (1 + torch.exp(-boundary_logits[:, 0]))
    if regions != "boundaries":
        coarse_logits = convolve(source, network.coarse_head)
        steps["coarse_logits"] = upsample(coarse_logits, images)
        probabilities = coarse_logits.exp() / coarse_logits.exp().sum(dim=1, keepdim=True)
    attention = naive_region_attention(boundaries, probabilities)
    roots = naive_regions(attention, threshold)
    scores = naive_scores(network.rcb.weight * attention, roots)
    o = naive_region_interaction(
        network.rib,
        a,
        scores,
        roots,
        representatives=representatives,
        **interaction,
    )
    fuse, _, classify = network.head
    logits = convolve(block(torch.cat([a, o], dim=1), fuse), classify)
    steps |= {"boundaries": boundaries, "attention": attention, "roots": roots, "scores": scores}
    return {**steps, "logits": upsample(logits, images)}


# What the tests give it


def make_irregular(module: nn.Module) -> nn.Module:
    """In float64, with batch norms that do something; and a network's scores divide images into regions."""
    make_norms_irregular(module, (-0.3, 1.0))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in ("boundary_head.weight", "coarse_head.weight"):
                parameter.uniform_(-6, 6)
            if name == "boundary_head.bias":
                parameter.fill_(-2)
            if name.endswith("construction.weight"):
                parameter.fill_(1.1)
    return module


def some_maps(
    size: tuple[int, int], *, batch: int = 2, classes: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Boundaries (B, H, W), most of them low, and probabilities (B, K, H, W) that are like their neighbours'."""
    boundaries = torch.rand(batch, *size, dtype=torch.float64) ** 3
    blobs = F.interpolate(torch.randn(batch, classes, 3, 3, dtype=torch.float64), size=size, mode="bilinear")
    logits = 6 * blobs + 0.5 * torch.randn(batch, classes, *size, dtype=torch.float64)
    return boundaries.to(dtype).requires_grad_(), logits.softmax(dim=1).to(dtype).requires_grad_()


def clear_threshold(attention: Tensor, near: float) -> float:
    """A threshold that no score is close to, so that rounding doesn't decide who is grouped."""
    scores = attention.detach().flatten().sort().values
    scores = scores[(scores - near).abs() < 0.02]
    gaps = scores.diff()
    place = int(gaps.argmax())
    assert gaps[place] > 1e-5
    return float(scores[place] + scores[place + 1]) / 2
