"""What a network costs, against sums done by hand."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segweave import InputError, create_model, profile
from segweave.cli import main
from segweave.cost import profiling
from segweave.cost.activation_memory import peak_activation_bytes
from segweave.cost.paper_tables import FURTHER_TABLES, PAPER_TABLES, AddedCost
from segweave.cost.profiling import ComparedCost, count_multiply_adds, count_parameters, profile_network
from segweave.networks.network import SegmentationNetwork


def small(name: str = "pspnet") -> SegmentationNetwork:
    return create_model(name, num_classes=3, backbone="test_resnet")


class Chain(nn.Module):
    """Three maps one after the other, each as large as the image: 12 * pixels bytes."""

    def forward(self, images: Tensor) -> Tensor:
        return ((images * 2).exp() * 3).add_(1)


class Product(nn.Module):
    """A 3x3 convolution from 3 to 5 channels and the affinity of all pairs of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.convolution(images).flatten(2)
        return x.mT @ x


def test_multiply_adds_of_convolutions_and_matrix_products() -> None:
    with torch.no_grad():
        counts = count_multiply_adds(Product(), torch.zeros(1, 3, 8, 10))
    assert counts == {"convolutions": 80 * 5 * 27, "matrix_products": 80 * 80 * 5, "total": 80 * 5 * 27 + 80 * 80 * 5}


def test_activations_live_until_they_are_needed_no_more() -> None:
    images = torch.rand(2, 3, 8, 10)
    one_map = images.numel() * 4
    with torch.no_grad():
        assert peak_activation_bytes(Chain(), images) == 2 * one_map
    # exp keeps its result for backward; the products keep nothing, since they are with constants
    assert peak_activation_bytes(Chain(), images.requires_grad_()) == 2 * one_map
    squares = nn.Sequential(*(Square() for _ in range(4)))  # each keeps what it squares
    assert peak_activation_bytes(squares, images) == 4 * one_map
    with torch.no_grad():
        assert peak_activation_bytes(squares, images) == 2 * one_map


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**2


def test_parameters_belong_to_backbone_context_or_head() -> None:
    network = small()
    counts = count_parameters(network)
    assert counts["backbone"] == sum(p.numel() for p in network.backbone.parameters())
    assert counts["context"] == sum(p.numel() for p in network.context.parameters())
    heads = [*network.head.parameters(), *network.auxiliary_head.parameters()]
    assert counts["head"] == sum(p.numel() for p in heads)
    assert counts["total"] == sum(p.numel() for p in network.parameters())


def test_multiply_adds_are_for_one_image_and_memory_for_the_batch() -> None:
    network = small()
    one, two = (profile_network(network, size=(64, 64), batch=batch, rounds=1) for batch in (1, 2))
    assert one.multiply_adds == two.multiply_adds
    assert two.activation_bytes["inference"] == pytest.approx(2 * one.activation_bytes["inference"], rel=0.02)
    assert one.activation_bytes["training"] > 2 * one.activation_bytes["inference"]
    assert one.latency > 0


def test_a_profile_leaves_the_network_as_it_was() -> None:
    network = small()
    network.backbone.eval()  # as one that is trained with a frozen backbone
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    profile_network(network, size=(64, 64), rounds=1)
    assert network.training
    assert not any(module.training for module in network.backbone.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_command_line_compares_networks(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", "fcn", "agln", "--backbone", "test_resnet", "--size", "64", "64", "--rounds", "1"]
    assert main([*words, "--options.output_stride", "32", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "fcn" in printed
    assert "agln" in printed
    assert "latency" in printed
    assert "convolutions and matrix products" in printed


def test_command_line_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", "agln", "--backbone", "test_resnet", "--size", "64", "64", "--rounds", "1", "--json"]
    assert main([*words, "--options.lite", "true", "--num-classes", "4", "--device", "cpu"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    network = create_model("agln", num_classes=4, backbone="test_resnet", lite=True)
    assert one["parameters"] == count_parameters(network)
    assert one["options"] == {"lite": True}


def test_a_paper_s_table_has_its_figures_beside_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = dataclasses.replace(PAPER_TABLES["agln"], backbone="test_resnet", size=(64, 64))
    monkeypatch.setitem(PAPER_TABLES, "agln", table)
    assert main(["profile", "--paper", "agln", "--rounds", "1", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, parameters, multiply_adds in (
        ("FCN-8s", "52.09 M", "196.75 G"),
        ("FPN", "54.32 M", "124.59 G"),
        ("AGLN", "61.71 M", "187.16 G"),
        ("AGLN-Lite", "55.74 M", "135.56 G"),
    ):
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert parameters in line
        assert multiply_adds in line


def test_fpt_s_table_4_has_its_figures_beside_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = dataclasses.replace(PAPER_TABLES["fpt"], backbone="test_resnet", size=(65, 65))
    monkeypatch.setitem(PAPER_TABLES, "fpt", table)
    profiles = profile(paper="fpt")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("UFP") and "%" in line]
    assert [float(line.split()[3]) for line in lines] == [71.3, 91.2, 102.8, 77.4, 121.3, 96.2, 107.0, 127.2]
    ufp, st, lgt, rt, lgt_st, rt_st, lgt_rt, everything = (one.parameters["total"] for one in profiles)
    assert lgt_st - lgt == rt_st - rt == everything - lgt_rt  # ST
    assert lgt_st - st == lgt_rt - rt == everything - rt_st  # LGT
    assert rt_st - st == lgt_rt - lgt == everything - lgt_st  # RT
    assert ufp < min(st, lgt, rt)
    # self-attention of 4 levels of 9 x 9 positions, in 2 parts: all queries with all keys once for each of two pieces
    # of the values, and all values for each part; and the weights of the mixtures
    products = [one.multiply_adds["matrix_products"] for one in profiles]
    self_attention, grounding = 4 * (2 + 2) * 81**2 * 256 + 4 * 256 * 2, 6 * 256 * 4
    assert products[0] == products[3] == 0
    assert products[1] == products[5] == self_attention
    assert products[2] == products[6] == grounding
    assert products[4] == products[7] == self_attention + grounding
    assert all(one.latency is None for one in profiles)


def test_fpt_s_table_1_has_its_figures_beside_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (table,) = FURTHER_TABLES["fpt"]
    named = {row.name: row for row in table.rows}
    assert list(named) == ["BFP", "+ST", "+GT", "+RT", "+ST+GT", "+ST+RT", "+GT+RT", "+ST+GT+RT"]
    parts = {"+ST": ("self_transformer", False), "+GT": ("grounding", "none"), "+RT": ("rendering", False)}
    for name, row in list(named.items())[1:]:
        assert row.options == {"neck": "fpt", **dict(option for part, option in parts.items() if part not in name)}
    rows = tuple(
        dataclasses.replace(named[name], options={**named[name].options, "channels": 16, "head_channels": 16})
        for name in ("BFP", "+RT")
    )
    small = dataclasses.replace(table, backbone="test_resnet", num_classes=3, size=(64, 96), rows=rows)
    monkeypatch.setitem(FURTHER_TABLES, "fpt", (small,))
    assert main(["profile", "--paper", "fpt", "--table", "1"]) == 0
    bfp, rt = (line.split() for line in capsys.readouterr().out.splitlines() if "%" in line)
    assert (bfp[0], bfp[3], bfp[9]) == ("BFP", "34.60", "172.30")
    assert (rt[0], rt[3], rt[9]) == ("+RT", "39.80", "187.90")
    assert float(bfp[1]) < float(rt[1])


def test_a_detector_is_counted_with_as_many_boxes_as_it_looks_at() -> None:
    options: dict[str, Any] = {"neck": "bfp", "channels": 8, "head_channels": 16, "test_proposals": (60, 40)}
    network = create_model("mask_rcnn", num_classes=3, backbone="test_resnet", detections_per_image=10, **options)
    one = profile_network(network, size=(64, 96), rounds=1)
    with torch.no_grad():
        backbone = count_multiply_adds(network.backbone.eval(), torch.zeros(1, 3, 64, 96))["total"]
    network.backbone.train()
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    positions = [height * width for height, width in sizes]
    laterals = sum(count * width * 8 for count, width in zip(positions[:4], network.backbone.channels, strict=True))
    proposals = sum(positions) * (8 * 8 * 9 + 8 * 3 + 8 * 12)
    masks = 10 * (196 * 4 * 8 * 8 * 9 + 784 * (8 * 8 + 8 * 4))
    boxes = 40 * (8 * 49 * 16 + 16 * 16 + 16 * 4 + 16 * 16)
    assert one.multiply_adds == {
        "convolutions": backbone + laterals + proposals + masks,
        "matrix_products": boxes,
        "total": backbone + laterals + proposals + masks + boxes,
    }
    assert one.parameters["context"] == sum(parameter.numel() for parameter in network.neck.parameters())
    heads = [*network.rpn.parameters(), *network.roi_heads.parameters()]
    assert one.parameters["head"] == sum(parameter.numel() for parameter in heads)
    assert one.activation_bytes["training"] > one.activation_bytes["inference"] > 0
    assert one.latency is not None
    assert one.latency > 0


@pytest.fixture(scope="module")
def added_costs() -> dict[str, ComparedCost]:
    table = PAPER_TABLES["ranet"]
    # its maps are as many, as wide and as large as those of the table's backbone, so that what is added is the same
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PAPER_TABLES, "ranet", dataclasses.replace(table, backbone="resnet26d"))
        return {one.name: one for one in profile(paper="ranet")}


def test_what_ranet_adds_is_near_its_paper(added_costs: dict[str, ComparedCost]) -> None:
    ours, paper = added_costs["RANet"].ours, added_costs["RANet"].paper
    assert ours is not None
    assert paper == AddedCost(multiply_adds=212, parameters=21, memory=1893)
    assert ours.parameters == pytest.approx(21, rel=0.03)
    # all its convolutions are on maps of 97 x 97: each weight multiplies once a pixel
    assert ours.multiply_adds == pytest.approx(ours.parameters * 9409 / 1000, rel=0.001)


def test_non_local_attention_adds_no_table_of_all_pairs(added_costs: dict[str, ComparedCost]) -> None:
    row = added_costs["Non-local attention"]
    assert row.model == "ocnet"
    assert row.paper is None
    assert row.ours is not None
    # queries with keys, weights with values, and the convolutions
    products = 2 * 9409**2 * 256 / 1e9
    assert row.ours.multiply_adds == pytest.approx(products + row.ours.parameters * 9409 / 1000, rel=0.001)
    assert 0 < row.ours.memory < 9409**2 * 4 / 1e6


@pytest.fixture
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = dataclasses.replace(PAPER_TABLES["ranet"], backbone="test_resnet", size=(65, 65))
    monkeypatch.setitem(PAPER_TABLES, "ranet", table)


@pytest.mark.usefixtures("small_table")
def test_what_methods_add_is_printed_beside_the_paper_s(capsys: pytest.CaptureFixture[str]) -> None:
    (ours,) = (one.ours for one in profile(paper="ranet") if one.name == "RANet")
    printed = capsys.readouterr().out
    rows = {line[1:20].strip(): line[20:].split() for line in printed.splitlines() if line.startswith(" ")}
    for name, multiply_adds, parameters, memory in (
        ("Asymmetric NL", 163, 13, 634),
        ("CCNet", 198, 18, 730),
        ("DANet", 264, 23, 2611),
        ("PSANet", 372, 50, 3124),
    ):
        assert rows[name] == f"- {multiply_adds} G - {parameters} M - {memory} MB".split()
    assert ours is not None
    assert rows["RANet"] == (
        f"{ours.multiply_adds:.1f} G 212 G {ours.parameters:.1f} M 21 M {ours.memory:.0f} MB 1893 MB".split()
    )
    assert rows["Non-local attention"][1::3] == ["G", "M", "MB"]  # a figure and a dash, three times
    assert rows["Non-local attention"][2::3] == ["-", "-", "-"]
    assert "isn't counted" in printed


@pytest.mark.usefixtures("small_table")
def test_what_methods_add_is_the_difference_of_two_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--paper", "ranet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {
        "name": "Asymmetric NL",
        "model": None,
        "ours": None,
        "paper": {"multiply_adds": 163, "parameters": 13, "memory": 634},
    }
    assert [row["model"] for row in rows] == [None, None, None, None, "ranet", "ocnet"]
    settings: dict[str, Any] = {"num_classes": 19, "backbone": "test_resnet", "output_stride": 8}
    without = create_model("fcn", **settings)
    images = torch.randn(1, 3, 65, 65).contiguous(memory_format=torch.channels_last)
    for row, options in ((rows[4], {"auxiliary": "res4"}), (rows[5], {"auxiliary_weight": 0.0})):
        network = create_model(row["model"], **settings, **options)
        for quantity, unit, count in (
            ("multiply_adds", 1e9, lambda one: count_multiply_adds(one, images)["total"]),
            ("parameters", 1e6, lambda one: count_parameters(one)["total"]),
            ("memory", 1e6, lambda one: peak_activation_bytes(one, images)),
        ):
            assert row["ours"][quantity] == (count(network) - count(without)) / unit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"models": "fcn", "paper": "agln"}, "and not both"),
        ({"paper": "agln", "size": (64, 64)}, "a paper's table has its own setting"),
        ({"paper": "agln", "backbone": "resnet18"}, "a paper's table has its own setting"),
        ({"paper": "ranet", "num_classes": 3}, "a paper's table has its own setting"),
        ({"paper": "ranet", "batch": 2}, "batch 2: expected 1, RANet, Table 3 is for one image"),
        ({"paper": "pan"}, "paper 'pan': expected one of agln, fpt, ranet"),
        ({"paper": "fpt", "table": 2}, "table 2 of paper 'fpt': expected one of 4, 1"),
        ({"models": "fcn", "table": 1}, "table 1: expected a paper beside it"),
        ({"models": ["fcn", "unet"]}, "unknown model 'unet'"),
        ({"models": "fcn", "batch": 0}, "batch 0"),
        ({"models": "fcn", "num_classes": 0}, "num_classes 0: expected 1 to 255"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(words: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "profile_network", None)  # nothing is measured before all is known to be right
    with pytest.raises(InputError, match=message):
        profile(**{"backbone": "test_resnet", "device": "cpu", **words} if "models" in words else words)
