"""What a network costs: parameters, multiply-adds, activation memory and latency."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from segweave.cost.activation_memory import peak_activation_bytes
from segweave.cost.paper_tables import AddedCost, AddedCostTable, PaperTable
from segweave.errors import InputError
from segweave.models import Network, create_model
from segweave.networks.network import evaluating
from segweave.progress import followed

COUNTED = (
    "Multiply-adds are those of convolutions and matrix products (attention's among them), for one image; norms, "
    "activations, pooling, softmax and resizing are not counted. Activations: the most bytes of tensors that live at "
    "once in a forward pass, without the weights; in training all that backward needs is kept. Scratch memory inside "
    "an operation is not counted. Detectors are counted with as many boxes as they look at in evaluation at most. "
    "Latency: median of forward passes in evaluation."
)


@dataclass(frozen=True)
class Profile:
    """What a network costs.

    Attributes:
        model: Its name.
        backbone: Its backbone's.
        options: What it was made with beside these.
        num_classes: K.
        size: Height and width of the images in pixels.
        batch: Images at once, for memory and latency.
        device: Where it ran.
        parameters: Of the `backbone`, the `context` (all between backbone and head), the `head`, and the `total`.
        multiply_adds: Of `convolutions`, of `matrix_products`, and the `total`, for one image.
        activation_bytes: In `training` and in `inference`, at the peak of a forward pass.
        latency: Seconds of a forward pass in evaluation; None where nothing was run.
    """

    model: str
    backbone: str
    options: dict[str, Any]
    num_classes: int
    size: tuple[int, int]
    batch: int
    device: str
    parameters: dict[str, int]
    multiply_adds: dict[str, int]
    activation_bytes: dict[str, int]
    latency: float | None


@dataclass(frozen=True)
class ComparedCost:
    """What a method adds to a network, in ours and in a paper.

    Attributes:
        name: As the paper calls it.
        model: Its name in `segweave.list_models()`; None if we don't have it.
        ours: None if we don't have it.
        paper: None if the paper doesn't have it.
    """

    name: str
    model: str | None
    ours: AddedCost | None
    paper: AddedCost | None


def compare_costs(table: AddedCostTable) -> list[ComparedCost]:
    """Counts what a paper's methods add to its baseline. Nothing is run."""
    without = _counts(table, table.baseline, {})
    costs = []
    for row in followed(table.rows, len(table.rows), "profiling", unit="method"):
        ours = None
        if row.model is not None:
            counts = _counts(table, row.model, row.options)
            multiply_adds, parameters, memory = (count - before for count, before in zip(counts, without, strict=True))
            ours = AddedCost(multiply_adds=multiply_adds / 1e9, parameters=parameters / 1e6, memory=memory / 1e6)
        costs.append(ComparedCost(row.name, row.model, ours, row.paper))
    return costs


def profile_paper(table: PaperTable, batch: int) -> list[Profile]:
    """Counts what the networks of a paper's table cost, in its setting. Nothing is run.

    Args:
        table: The paper's.
        batch: Images at once, for memory.
    """
    networks = (
        create_model(row.model, num_classes=table.num_classes, backbone=table.backbone, **row.options)
        for row in table.rows
    )
    return [  # one after the other is made
        _profile_without_running(one, table.size, batch)
        for one in followed(networks, len(table.rows), "profiling", unit="network")
    ]


def _counts(table: AddedCostTable, model: str, options: Mapping[str, Any]) -> tuple[int, int, int]:
    """A network's multiply-adds, its parameters, and the bytes of its activations in training, for one image."""
    network = create_model(
        model,
        num_classes=table.num_classes,
        backbone=table.backbone,
        **{"output_stride": table.output_stride, **options},
    )
    counted = _profile_without_running(network, table.size, batch=1)
    return counted.multiply_adds["total"], counted.parameters["total"], counted.activation_bytes["training"]


def _profile_without_running(network: Network, size: tuple[int, int], batch: int) -> Profile:
    """Counts what needs no time: the tensors have sizes, but no numbers.

    They pass for tensors of a CPU, unlike those of torch's meta device, on which fused attention falls back to a table
    of all pairs.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(batch, 3, *size).contiguous(memory_format=torch.channels_last)
        counted = network.countable()
        multiply_adds = count_multiply_adds(counted, images[:1])
        kept = peak_activation_bytes(counted, images)
        with evaluating(network), torch.no_grad():
            inference = peak_activation_bytes(counted, images)
    return _profile(network, size, batch, multiply_adds, {"training": kept, "inference": inference}, None)


def profile_models(
    wanted: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    backbone: str,
    num_classes: int,
    size: tuple[int, int],
    batch: int,
    rounds: int,
    device: str,
) -> list[Profile]:
    """Makes networks and measures them.

    Args:
        wanted: The name and the options of each.
        backbone: The timm model that all are built on.
        num_classes: K.
        size: Height and width of the images in pixels.
        batch: Images at once, for memory and latency.
        rounds: Forward passes to time, after one that isn't counted.
        device: Where they run.

    Raises:
        InputError: A network can't be made of these, or the images are too small for any.
    """
    if min(size) < 32:
        raise InputError(f"size {list(size)}: expected a height and a width from 32 up")
    # all are made before any is measured: what can't be made is known at once
    networks = [
        create_model(name, num_classes=num_classes, backbone=backbone, **options).to(device) for name, options in wanted
    ]
    return [
        profile_network(one, size=size, batch=batch, rounds=rounds)
        for one in followed(networks, len(networks), "profiling", unit="network")
    ]


def profile_network(
    network: Network, *, size: tuple[int, int] = (512, 512), batch: int = 1, rounds: int = 5
) -> Profile:
    """Measures a network where it is; its mode and its statistics are left as they were.

    Args:
        network: From `segweave.create_model` or `segweave.load`.
        size: Height and width of the images in pixels.
        batch: Images at once, for memory and latency.
        rounds: Forward passes to time, after one that isn't counted.
    """
    device = next(network.parameters()).device
    images = torch.randn(batch, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    counted = network.countable()
    statistics_before = [buffer.clone() for buffer in network.buffers()]
    try:
        with evaluating(network):
            with torch.no_grad():
                multiply_adds = count_multiply_adds(counted, images[:1])
                inference = peak_activation_bytes(counted, images)
                latency = _median_latency(network, images, rounds)
            network.train()
            kept = peak_activation_bytes(counted, images)
    finally:
        for buffer, before in zip(network.buffers(), statistics_before, strict=True):  # batch norm has seen noise
            buffer.copy_(before)
    return _profile(network, size, batch, multiply_adds, {"training": kept, "inference": inference}, latency)


def _profile(
    network: Network,
    size: tuple[int, int],
    batch: int,
    multiply_adds: dict[str, int],
    activation_bytes: dict[str, int],
    latency: float | None,
) -> Profile:
    return Profile(
        model=network.recipe["model"],
        backbone=network.recipe["backbone"],
        options=dict(network.recipe["options"]),
        num_classes=network.num_classes,
        size=size,
        batch=batch,
        device=next(network.parameters()).device.type,
        parameters=count_parameters(network),
        multiply_adds=multiply_adds,
        activation_bytes=activation_bytes,
        latency=latency,
    )


def count_parameters(network: Network) -> dict[str, int]:
    """The parameters of the `backbone`, of the `head` (with auxiliary ones), of the `context` between, and in
    `total`."""
    counts = {"backbone": 0, "context": 0, "head": 0}
    for name, parameter in network.named_parameters():
        part = name.split(".")[0]
        is_head = part.endswith("head") or part in ("rpn", "roi_heads")
        group = "backbone" if part == "backbone" else "head" if is_head else "context"
        counts[group] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def count_multiply_adds(network: nn.Module, images: Tensor) -> dict[str, int]:
    """The multiply-adds of `convolutions`, of `matrix_products`, and of both in `total`, in one forward pass."""
    counter = FlopCounterMode(display=False)
    with counter:
        network(images)
    operations = counter.get_flop_counts()["Global"]
    # torch counts a multiplication and an addition each
    total = counter.get_total_flops() // 2
    convolutions = operations.get(torch.ops.aten.convolution, 0) // 2
    return {"convolutions": convolutions, "matrix_products": total - convolutions, "total": total}


def _median_latency(network: Network, images: Tensor, rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        network(images)
        if images.device.type != "cpu":
            torch.accelerator.synchronize(images.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def print_profiles(console: Console, profiles: Sequence[Profile]) -> None:
    """Prints what networks cost, side by side."""
    first = profiles[0]
    height, width = first.size
    options = "".join(f", {name}={value}" for name, value in first.options.items())
    console.print(
        f"{first.backbone}{options}, {first.num_classes} classes, images of {height} x {width}, "
        f"{first.batch} at once, {first.device}\n"
    )
    table = Table("", *(one.model for one in profiles), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for title, unit, field in (("parameters", "M", "parameters"), ("multiply-adds", "G", "multiply_adds")):
        for part in reversed(getattr(first, field)):
            label = title if part == "total" else f"  {part.replace('_', ' ')}"
            factor = {"M": 1e6, "G": 1e9}[unit]
            table.add_row(label, *(f"{getattr(one, field)[part] / factor:.2f} {unit}" for one in profiles))
    for mode in ("training", "inference"):
        table.add_row(f"activations, {mode}", *(f"{one.activation_bytes[mode] / 2**20:.0f} MiB" for one in profiles))
    table.add_row("latency", *("-" if one.latency is None else f"{1000 * one.latency:.0f} ms" for one in profiles))
    console.print(table)
    console.print(f"\n{COUNTED}", style="dim", highlight=False)


def print_paper_table(console: Console, paper: PaperTable, profiles: Sequence[Profile]) -> None:
    """Prints what the networks of a paper's table cost, beside the paper's figures."""
    height, width = paper.size
    console.print(f"{paper.title}: {paper.backbone}, {paper.num_classes} classes, {height} x {width}\n")
    table = Table("", "parameters", "paper", "", "multiply-\nadds", "paper", "", "matrix\nproducts", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row, one in zip(paper.rows, profiles, strict=True):
        parameters, convolutions = one.parameters["total"] / 1e6, one.multiply_adds["convolutions"] / 1e9
        table.add_row(
            row.name,
            f"{parameters:.2f} M",
            f"{row.parameters:.2f} M",
            f"{100 * (parameters / row.parameters - 1):+.1f} %",
            f"{convolutions:.2f} G",
            f"{row.multiply_adds:.2f} G",
            f"{100 * (convolutions / row.multiply_adds - 1):+.1f} %",
            f"{one.multiply_adds['matrix_products'] / 1e9:.2f} G",
        )
    console.print(table)
    console.print(
        f"\nMultiply-adds of convolutions, and those of matrix products beside. {paper.note}",
        style="dim",
        highlight=False,
    )


def print_compared_costs(console: Console, paper: AddedCostTable, costs: Sequence[ComparedCost]) -> None:
    """Prints what methods add to a network, beside the paper's figures."""
    height, width = paper.size
    console.print(
        f"{paper.title}, what methods add to {paper.baseline}: {paper.backbone}, {paper.num_classes} classes, "
        f"{height} x {width}, one image\n"
    )
    table = Table("", "multiply-\nadds", "paper", "parameters", "paper", "memory", "paper", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for one in costs:
        figures = []
        for quantity, unit, decimals in (("multiply_adds", "G", 1), ("parameters", "M", 1), ("memory", "MB", 0)):
            for cost, places in ((one.ours, decimals), (one.paper, 0)):
                figures.append("-" if cost is None else f"{getattr(cost, quantity):.{places}f} {unit}")
        table.add_row(one.name, *figures)
    console.print(table)
    console.print(f"\n{paper.note}", style="dim", highlight=False)
