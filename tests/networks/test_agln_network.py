"""The whole of AGLN against a naive transcription, the rows of its tables, and its costs."""

import inspect
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segweave.errors import InputError
from segweave.models import create_model
from segweave.networks.agln import (
    AGLN,
)
from segweave.networks.backbones import Backbone
from segweave.networks.network import SegmentationNetwork
from tests.networks.agln_transcription import (
    make_irregular,
    naive_agln,
    naive_decoder,
    naive_descriptor_map,
    naive_descriptors,
    naive_fusion,
    sigmoid,
)
from tests.networks.test_fpn import naive_fpn, naive_laterals
from tests.networks.transcription import assert_same_outputs_and_gradients, convolve, upsample

STRAIGHT = {"dense": False}
MINUS = {**STRAIGHT, "channel_resampling": False, "spatial_gating": False}
ROWS: dict[str, dict[str, Any] | None] = {
    "Tables IV to VII, FPN": None,
    "Table IV, GAP-GEM": {**MINUS, "global_pooling": "average"},
    **{f"Table IV, GEM, N={n}": {**MINUS, "descriptors": n} for n in (1, 64, 128, 256)},
    "Table V, AGLN-minus": MINUS,
    "Table V, CR": {**STRAIGHT, "spatial_gating": False},
    "Table V, SG": {**STRAIGHT, "channel_resampling": False},
    "Table V, CR and SG": STRAIGHT,
    **{
        f"Table VI, alpha {'l' if alpha else '1'}, beta {'l' if beta else '1'}": {
            **STRAIGHT,
            "learnable_alpha": alpha,
            "learnable_beta": beta,
        }
        for alpha in (True, False)
        for beta in (True, False)
    },
    "Table VII, dense": {},
    "Table VIII, AGLN-Lite": {"lite": True},
    "straight, refinement as printed": {**STRAIGHT, "shortcut": False, "affinity_scaling": "none"},
    "dense, no shortcut": {"shortcut": False},
    "straight, lite": {**STRAIGHT, "lite": True},
    "dense, GAP-GEM": {"global_pooling": "average"},
    "dense, affinity as printed": {"affinity_scaling": "none"},
    "dense, affinity divided by the root": {"affinity_scaling": "square_root"},
}


def make_agln(num_classes: int = 4, **options: Any) -> AGLN:
    network = create_model(
        "agln", num_classes=num_classes, backbone="test_resnet", **{"channels": 6, "head_channels": 8, **options}
    )
    assert isinstance(network, AGLN)
    return network


def make_row(options: dict[str, Any] | None) -> SegmentationNetwork:
    if options is None:
        return create_model("fpn", num_classes=4, backbone="test_resnet", channels=6, head_channels=8)
    return make_agln(**options)


class TestAGLN:
    @pytest.mark.parametrize("options", ROWS.values(), ids=ROWS.keys())
    def test_rows_of_the_tables(self, options: dict[str, Any] | None) -> None:
        """Each network, put together by hand from the paper's parts on the backbone's maps; and it trains."""
        network = make_irregular(make_row(options)).eval()
        images = torch.randn(2, 3, 40, 33, dtype=torch.float64)
        expected = naive_fpn(network, images) if options is None else naive_agln(network, images, **options)
        assert_same_outputs_and_gradients(network, network(images), expected)

        network.train()
        losses = network.losses(images, torch.randint(0, 4, (2, 40, 33)))
        assert list(losses) == ["segmentation"]
        losses["segmentation"].backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), name

    @pytest.mark.parametrize("dense", [True, False], ids=["dense", "straight"])
    @pytest.mark.parametrize("size", [(32, 32), (33, 49)], ids=str)
    def test_other_sizes(self, size: tuple[int, int], dense: bool) -> None:
        network = make_irregular(make_agln(dense=dense, descriptors=8, lateral_kernel_size=3)).eval()
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        assert network.laterals[0][0].kernel_size == (3, 3)
        assert_same_outputs_and_gradients(network, network(images), naive_agln(network, images, dense=dense))

    def test_rows_differ(self) -> None:
        """With the same weights: no option is without effect."""
        images = torch.randn(2, 3, 40, 33, dtype=torch.float64)
        names = ["V, AGLN-minus", "V, CR", "V, SG", "V, CR and SG"]
        rows = [ROWS[f"Table {name}"] for name in names]
        rows += [{**STRAIGHT, "affinity_scaling": "none"}, {**STRAIGHT, "affinity_scaling": "square_root"}]
        rows += [{**STRAIGHT, "shortcut": False}]
        weights = make_irregular(make_agln(**STRAIGHT)).state_dict()
        logits = []
        with torch.no_grad():
            for row in rows:
                network = make_agln(**row).double().eval()
                network.load_state_dict({name: weights[name] for name in network.state_dict()})
                logits.append(network(images))
        for index, one in enumerate(logits):
            assert all((one - other).abs().max() > 1e-4 for other in logits[:index])

    def test_descriptors_reach_every_stage(self) -> None:
        network = make_irregular(make_agln()).eval()
        network(torch.randn(2, 3, 40, 33, dtype=torch.float64)).square().sum().backward()
        for name, parameter in network.sabs.named_parameters():
            assert parameter.grad.abs().max() > 0, name

    @pytest.mark.parametrize(
        ("dense", "sabs", "blocks"),
        [(True, 3, ["1_1", "1_2", "2_1", "1_3", "2_2", "3_1"]), (False, 1, ["1_1", "1_2", "1_3"])],
    )
    def test_blocks_of_the_decoder(self, dense: bool, sabs: int, blocks: list[str]) -> None:
        network = make_agln(dense=dense)
        assert len(network.sabs) == sabs
        assert list(network.cfbs) == blocks
        names = [name for name, _ in network.named_parameters()]
        assert sum(name.endswith(".alpha") for name in names) == len(blocks)
        assert sum(name.endswith(".beta") for name in names) == len(blocks)
        assert all(p == 0 for name, p in network.named_parameters() if name.endswith(".alpha"))
        assert all(p == 1 for name, p in network.named_parameters() if name.endswith(".beta"))

    def test_alpha_and_beta_are_fixed_on_their_own(self) -> None:
        def scalars(**options: Any) -> set[str]:
            names = [name.split(".")[-1] for name in make_agln(**options).state_dict()]
            return {name for name in names if name in ("alpha", "beta")}

        assert scalars() == {"alpha", "beta"}
        assert scalars(learnable_alpha=False) == {"beta"}
        assert scalars(learnable_beta=False) == {"alpha"}
        assert scalars(learnable_alpha=False, learnable_beta=False) == set()

    @pytest.mark.parametrize("dense", [True, False], ids=["dense", "straight"])
    def test_global_average_pooling_has_one_descriptor(self, dense: bool) -> None:
        network = make_agln(global_pooling="average", dense=dense)
        with torch.no_grad():
            for sab in network.sabs:
                assert sab(torch.randn(2, 6, 3, 3)).shape == (2, 6, 1)
        assert not any("attend" in name for name, _ in network.sabs.named_parameters())

    def test_all_but_the_decoder_is_that_of_fpn(self) -> None:
        with torch.device("meta"):
            baseline = create_model("fpn", num_classes=4, backbone="test_resnet").state_dict()
            network = create_model("agln", num_classes=4, backbone="test_resnet").state_dict()
        own = {name for name in network if name.startswith(("sabs.", "cfbs."))}
        assert {name: network[name].shape for name in network.keys() - own} == {
            name: tensor.shape for name, tensor in baseline.items()
        }

    def test_defaults_are_the_papers(self) -> None:
        defaults = {p.name: p.default for p in inspect.signature(AGLN).parameters.values()}
        assert AGLN.default_output_stride == 32
        assert (defaults["channels"], defaults["descriptors"]) == (256, 128)
        assert (defaults["global_pooling"], defaults["dense"], defaults["lite"]) == ("attention", True, False)
        assert all(
            defaults[name] for name in ("channel_resampling", "spatial_gating", "learnable_alpha", "learnable_beta")
        )
        network = AGLN(backbone=Backbone("test_resnet"), num_classes=4)
        assert network.sabs[0].attend.weight.shape == (128, 256, 1, 1)

    def test_dropout_of_the_head(self) -> None:
        assert make_agln().head.classify[1].p == 0.1
        assert make_agln(dropout=0.3).head.classify[1].p == 0.3

    @pytest.mark.parametrize("dense", [True, False], ids=["dense", "straight"])
    @pytest.mark.parametrize("spatial_gating", [True, False], ids=["SG", "no SG"])
    def test_explains_with_what_it_computed(self, dense: bool, spatial_gating: bool) -> None:
        network = make_irregular(make_agln(dense=dense, descriptors=8, spatial_gating=spatial_gating)).eval()
        images = torch.randn(2, 3, 40, 33, dtype=torch.float64)
        with torch.no_grad():
            explained = network.explain(images)
            res2, res3, res4, x = naive_laterals(network.laterals, network.backbone(images))
            stages = naive_decoder(network, x, res4, res3, res2, dense=dense, spatial_gating=spatial_gating)
        expected = {}
        for name, stage in zip(("res4", "res3", "res2"), stages, strict=True):
            expected |= {f"{key}_{name}": value for key, value in stage.items() if key != "output"}
            if spatial_gating:
                expected[f"gate_{name}"] = sigmoid(stage["descriptor_map"])
        aggregated = [x, stages[0]["output"], stages[1]["output"]][: 3 if dense else 1]
        for number, source in enumerate(aggregated, start=1):
            scores = convolve(source, network.sabs[number - 1].attend)
            powers = torch.exp(scores)
            expected[f"attention_{number}"] = powers / powers.sum(dim=(2, 3), keepdim=True)
        assert explained.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(explained[name], value, rtol=1e-9, atol=1e-9, msg=name)

    @pytest.mark.parametrize("dense", [True, False], ids=["dense", "straight"])
    @pytest.mark.parametrize("at", [(0, 0), (32, 17)], ids=str)
    def test_explains_where_a_pixel_s_descriptors_were_gathered(self, at: tuple[int, int], dense: bool) -> None:
        """Eq. 1 and 2 in one: what a pixel is given is the sum of phi(X), weighted by what is explained."""
        network = make_irregular(make_agln(dense=dense, descriptors=8)).eval()
        images = torch.randn(2, 3, 40, 33, dtype=torch.float64)
        with torch.no_grad():
            explained, without = network.explain(images, at), network.explain(images)
            res2, res3, res4, x = naive_laterals(network.laterals, network.backbone(images))
            at_16, at_8, at_4 = naive_decoder(network, x, res4, res3, res2, dense=dense)
            sources = [x, at_16["output"], at_8["output"]]
            described = [naive_descriptors(sab, source) for sab, source in zip(network.sabs, sources, strict=False)]
            decoder_maps = {("1_1", "res4"): upsample(x, res4), ("1_2", "res3"): upsample(sources[1], res3)}
            decoder_maps["1_3", "res2"] = upsample(sources[2], res2)
            if dense:
                first = naive_fusion(network.cfbs["1_3"], described[0], decoder_maps["1_3", "res2"], res2)
                decoder_maps["2_1", "res3"] = at_8["decoder"]
                decoder_maps["2_2", "res2"] = first["output"]
                decoder_maps["3_1", "res2"] = at_4["decoder"]
            names = {f"attention_{name[0]}_at_{stage}" for name, stage in decoder_maps}
            assert explained.keys() - without.keys() == names
            for (name, stage), decoder_map in decoder_maps.items():
                number = int(name[0]) - 1
                row, column = (
                    int((at[1] + 0.5) * decoder_map.shape[2] / 40),
                    int((at[0] + 0.5) * decoder_map.shape[3] / 33),
                )
                given = naive_descriptor_map(network.cfbs[name].sdm, described[number], decoder_map)[:, :, row, column]
                look = explained[f"attention_{name[0]}_at_{stage}"]
                features = convolve(sources[number], network.sabs[number].features)
                assert look.shape == (2, 1, *features.shape[2:])
                torch.testing.assert_close((features * look).sum(dim=(2, 3)), given, rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(look.sum(dim=(1, 2, 3)), torch.ones(2, dtype=torch.float64))


class TestTableVIII:
    @pytest.mark.parametrize(
        ("name", "options", "millions", "billions"),
        [
            ("fcn", {}, 52.09, 196.75),
            ("fpn", {}, 54.32, 124.59),
            ("agln", {}, 61.71, 187.16),
            ("agln", {"lite": True}, 55.74, 135.56),
        ],
        ids=["FCN-8s", "FPN", "AGLN", "AGLN-Lite"],
    )
    def test_parameters_and_multiply_adds(
        self, name: str, options: dict[str, Any], millions: float, billions: float
    ) -> None:
        """With ResNet-101 and the 59 classes of PASCAL Context at 480x480; the convolutions alone, as the paper counts.

        On the meta device, where tensors have a shape and nothing is computed.
        """
        with torch.device("meta"):
            network = create_model(name, num_classes=59, backbone="resnet101s", **options).eval()
            images = torch.empty(1, 3, 480, 480)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert network(images).shape == (1, 59, 480, 480)
        parameters = sum(p.numel() for p in network.parameters())
        multiply_adds = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2
        assert parameters / 1e6 == pytest.approx(millions, rel=0.005)
        assert multiply_adds / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_descriptors_are_one_or_more() -> None:
    with pytest.raises(InputError, match="descriptors=0: expected widths of 1 or more"):
        create_model("agln", num_classes=3, backbone="test_resnet", descriptors=0)
