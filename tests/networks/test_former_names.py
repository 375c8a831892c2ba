"""Weights that were saved when parameters had other names still load."""

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from segweave.models import NETWORKS, create_model
from segweave.networks.network import Labelling, Network
from segweave.saving import initialise_from, load, save_model

FPT_ONCE = [(r"\.st\.", ".self_transformer."), (r"\.gts\.", ".grounding."), (r"\.rts\.", ".rendering.")]
AGLN_ONCE = [
    (r"^sabs\.", "aggregations."),
    (r"\.sdm\.", ".distribution."),
    (r"\.lrm\.", ".refinement."),
    (r"^cfbs\.1_1", "decoder.0.0"),
    (r"^cfbs\.1_2", "decoder.1.0"),
    (r"^cfbs\.2_1", "decoder.1.1"),
    (r"^cfbs\.1_3", "decoder.2.0"),
    (r"^cfbs\.2_2", "decoder.2.1"),
    (r"^cfbs\.3_1", "decoder.2.2"),
]
NARROW = {"channels": 8, "head_channels": 8}
VARIANTS: dict[str, tuple[str, dict[str, Any], list[tuple[str, str]]]] = {
    "pan": ("pan", {"decoder_channels": 8}, [(r"^fpa\.", "context."), (r"^gaus\.", "decoder.")]),
    "agln": ("agln", {**NARROW, "descriptors": 4}, AGLN_ONCE),
    "agln, straight": ("agln", {**NARROW, "descriptors": 4, "dense": False}, AGLN_ONCE),
    "ranet": ("ranet", {"channels": 8}, [(r"^rcb\.", "construction."), (r"^rib\.", "interaction.")]),
    "fpt": ("fpt", NARROW, FPT_ONCE),
    "mask_rcnn": ("mask_rcnn", {**NARROW, "neck": "fpt"}, FPT_ONCE),
}
LABELLING = Labelling(("a", "b"), ((0, 0, 0), (1, 1, 1)))


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], list[tuple[str, str]]]:
    return request.param


def make(variant: tuple[str, dict[str, Any], Any], seed: int) -> Network:
    torch.manual_seed(seed)
    name, options, _ = variant
    return create_model(name, num_classes=2, backbone="test_resnet", **options)


def as_once(network: Network, names: list[tuple[str, str]]) -> dict[str, Tensor]:
    """The network's weights by their former names."""
    weights = {}
    for name, tensor in network.state_dict().items():
        once = name
        for current, former in names:
            once = re.sub(current, former, once)
        weights[once] = tensor.clone()
    assert len(weights.keys() - network.state_dict().keys()) > 1
    return weights


def assert_same(network: nn.Module, other: nn.Module) -> None:
    ours, theirs = network.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


class TestFormerNames:
    def test_load(self, variant: Any) -> None:
        trained, network = make(variant, 1), make(variant, 2)
        network.load_state_dict(as_once(trained, variant[2]))
        assert_same(network, trained)
        network.load_state_dict(make(variant, 3).state_dict())  # and those of today
        assert_same(network, make(variant, 3))

    def test_load_as_a_part_of_a_training_s_checkpoint(self, variant: Any) -> None:
        trained, network = make(variant, 1), make(variant, 2)
        training = nn.ModuleDict({"network": network})
        training.load_state_dict({f"network.{name}": x for name, x in as_once(trained, variant[2]).items()})
        assert_same(network, trained)

    def test_load_from_a_run(self, variant: Any, tmp_path: Path) -> None:
        trained = make(variant, 1)
        trained.labelling = LABELLING
        save_model(trained, tmp_path / "model")
        file = tmp_path / "model" / "model.safetensors"
        safetensors.torch.save_file({name: x.contiguous() for name, x in as_once(trained, variant[2]).items()}, file)
        assert_same(load(tmp_path), trained)
        network = make(variant, 2)
        assert initialise_from(network, tmp_path) == []
        assert_same(network, trained)

    def test_names_that_are_missing_or_too_many_are_told(self, variant: Any) -> None:
        weights = as_once(make(variant, 1), variant[2])
        weights["further.weight"] = weights.popitem()[1]
        with pytest.raises(RuntimeError, match=r"(?s)Missing key.*Unexpected key.*further.weight"):
            make(variant, 2).load_state_dict(weights)


@pytest.mark.parametrize(
    ("model", "once", "now"),
    [
        ("pan", "context.down.0.0.weight", "fpa.down.0.0.weight"),
        ("pan", "decoder.2.gate.1.1.bias", "gaus.2.gate.1.1.bias"),
        ("agln", "decoder.2.1.distribution.alpha", "cfbs.2_2.sdm.alpha"),
        ("agln", "decoder.1.0.refinement.gamma", "cfbs.1_2.lrm.gamma"),
        ("agln", "aggregations.0.attend.weight", "sabs.0.attend.weight"),
        ("ranet", "interaction.query.weight", "rib.query.weight"),
        ("fpt", "transformer.levels.0.grounding.2.key.weight", "transformer.levels.0.gts.2.key.weight"),
        (
            "mask_rcnn",
            "neck.transformer.levels.1.rendering.0.weigh.0.weight",
            "neck.transformer.levels.1.rts.0.weigh.0.weight",
        ),
        ("pspnet", "context.levels.0.0.weight", "context.levels.0.0.weight"),
    ],
)
def test_names(model: str, once: str, now: str) -> None:
    network_class = NETWORKS[model]
    assert network_class.current_name(once) == now == network_class.current_name(now)
    assert network_class.current_name(f"backbone.{once}") == f"backbone.{once}"
