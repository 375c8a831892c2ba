"""RANet and its two blocks against a naive transcription of the paper, the rows of its tables, and its parameters."""

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segweave.errors import InputError
from segweave.models import create_model
from segweave.networks.losses import IGNORE_INDEX
from segweave.networks.ranet import RANet, RegionConstruction, RegionInteraction, Regions
from tests.networks.ranet_transcription import (
    clear_threshold,
    make_irregular,
    naive_boundary_mask,
    naive_ranet,
    naive_region_attention,
    naive_region_interaction,
    naive_regions,
    naive_representatives,
    naive_scores,
    some_maps,
)
from tests.networks.transcription import assert_same_outputs_and_gradients, some_map

SIZE = (41, 33)
ROWS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "Table 1, boundary map": {"regions": "boundaries"},
    "Table 1, semantic map": {"regions": "semantics"},
    "Section 5.1, no exchange within regions": {"intra_region": False},
    "Section 5.1, no exchange between regions": {"inter_region": False},
    **{f"Table 2, K={count}": {"representatives": count} for count in (2, 4)},
    "Table 3, scores from res4": {"auxiliary": "res4"},
    "scores from res4, boundaries": {"auxiliary": "res4", "regions": "boundaries", "representatives": 1},
    "another threshold": {"threshold": 0.5},
    "Eq. 6 to 8 as printed": {"affinity_scaling": "none", "interaction_scaling": "none"},
}


def make_ranet(**options: Any) -> RANet:
    torch.manual_seed(0)
    narrow = {"channels": 5, "dropout": 0.0}
    network = create_model("ranet", num_classes=4, backbone="test_resnet", **{**narrow, **options})
    assert isinstance(network, RANet)
    return make_irregular(network)


def some_images() -> Tensor:
    return torch.randn(2, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def some_labels() -> Tensor:
    """Blobs, so that not all is boundary; and parts that don't count."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randint(0, 4, (2, 1, 3, 3), generator=generator).double()
    labels = F.interpolate(coarse, size=SIZE, mode="nearest")[:, 0].long()
    labels[0, 20:30, :15] = IGNORE_INDEX
    labels[1, :, 30:] = IGNORE_INDEX
    return labels


class TestRegionConstruction:
    @pytest.mark.parametrize("weight", [1.0, 0.9, -1.2])
    @pytest.mark.parametrize("near", [0.6, 0.9])
    def test_is_the_paper_s(self, near: float, weight: float) -> None:
        """W^g scales the scores, and moves no threshold."""
        boundaries, probabilities = some_maps((6, 7))
        attention = naive_region_attention(boundaries, probabilities)
        threshold = clear_threshold(attention, near)
        module = RegionConstruction(threshold=threshold).double()
        torch.nn.init.constant_(module.weight, weight)
        regions = module(boundaries, probabilities)
        roots = naive_regions(attention, threshold)
        assert torch.equal(regions.roots, roots)
        assert all(1 < len(image.unique()) < 42 for image in roots)
        assert regions.boundaries is boundaries
        assert regions.probabilities is probabilities
        expected = module.weight * naive_scores(attention, roots)
        assert_same_outputs_and_gradients(module, regions.scores, expected, [boundaries, probabilities])

    def test_scores_teach_the_weight(self) -> None:
        boundaries, probabilities = some_maps((6, 7))
        module = RegionConstruction(threshold=0.8).double()
        regions = module(boundaries, probabilities)
        regions.scores.sum().backward()
        torch.testing.assert_close(module.weight.grad, regions.scores.sum())  # it starts from 1

    def test_starts_as_in_the_text(self) -> None:
        module = RegionConstruction()
        assert module.threshold == 0.8
        assert module.weight == 1
        assert module.weight.requires_grad

    def test_a_score_at_the_threshold_groups(self) -> None:
        regions = RegionConstruction()(torch.tensor([[[0.1, 0.2, 0.3]]]), torch.tensor([[[[1.0, 0, 1]], [[0, 1, 0]]]]))
        assert regions.roots.tolist() == [[0, 1, 0]]

    @pytest.mark.parametrize("threshold", [0.0, -0.5, 1.1])
    def test_thresholds_that_there_are_not(self, threshold: float) -> None:
        with pytest.raises(ValueError, match=f"threshold {threshold}: expected one above 0, and 1 at most"):
            RegionConstruction(threshold=threshold)


class TestRegionInteraction:
    @pytest.mark.parametrize("affinity_scaling", ["none", "square_root"])
    @pytest.mark.parametrize("interaction_scaling", ["none", "mean"])
    @pytest.mark.parametrize(
        ("intra_region", "inter_region"),
        [(True, True), (True, False), (False, True)],
        ids=["both", "within", "between"],
    )
    @pytest.mark.parametrize(("size", "representatives"), [((5, 6), 1), ((6, 5), 3), ((3, 4), 8), ((1, 1), 2)], ids=str)
    def test_is_the_paper_s(
        self,
        size: tuple[int, int],
        representatives: int,
        inter_region: bool,
        intra_region: bool,
        interaction_scaling: Any,
        affinity_scaling: Any,
    ) -> None:
        options = {
            "representatives": representatives,
            "inter_region": inter_region,
            "intra_region": intra_region,
            "affinity_scaling": affinity_scaling,
            "interaction_scaling": interaction_scaling,
        }
        module = RegionInteraction(5, **options).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(2)
        boundaries, probabilities = some_maps(size)
        attention = naive_region_attention(boundaries, probabilities).detach()
        roots = naive_regions(attention, 0.8)
        scores = naive_scores(attention, roots).requires_grad_()
        a = some_map(2, 5, size)
        actual = module(a, Regions(boundaries, probabilities, roots, scores))
        expected = naive_region_interaction(module, a, scores, roots, **options)
        assert_same_outputs_and_gradients(module, actual, expected, [a, scores])

    @pytest.mark.parametrize(
        ("options", "convolutions"),
        [({}, 5), ({"inter_region": False}, 4), ({"intra_region": False}, 2)],
        ids=str,
    )
    def test_has_3x3_convolutions_where_there_are_steps(self, options: dict[str, bool], convolutions: int) -> None:
        shapes = [parameter.shape for parameter in RegionInteraction(6, **options).parameters()]
        assert shapes == [(6, 6, 3, 3)] * convolutions

    def test_some_exchange_there_must_be(self) -> None:
        with pytest.raises(ValueError, match="expected one of them, or a network without regions"):
            RegionInteraction(6, intra_region=False, inter_region=False)

    def test_representatives_that_there_are_not(self) -> None:
        with pytest.raises(ValueError, match="representatives 0: expected 1 or more"):
            RegionInteraction(6, representatives=0)


@pytest.mark.parametrize("options", ROWS.values(), ids=ROWS.keys())
class TestRows:
    def test_is_put_together_as_in_the_paper(self, options: dict[str, Any]) -> None:
        network = make_ranet(**options).eval()
        steps = naive_ranet(network, some_images(), **options)
        assert steps["attention"].shape[1] == 30
        if options.get("regions") != "boundaries":  # without classes neighbours are never apart
            assert all(1 < len(image.unique()) < 30 for image in steps["roots"])
        assert_same_outputs_and_gradients(network, network(some_images()), steps["logits"])

    def test_losses(self, options: dict[str, Any]) -> None:
        """Segmentation, and what supervises the scores that the regions are made from."""
        network = make_ranet(**options).eval()
        losses = network.losses(some_images(), some_labels())
        steps = naive_ranet(network, some_images(), **options)
        labels = some_labels()
        counts = labels != IGNORE_INDEX

        def cross_entropy(logits: Tensor) -> Tensor:
            return -logits.softmax(dim=1).gather(1, labels.where(counts, 0)[:, None])[:, 0][counts].log().mean()

        expected = {"segmentation": cross_entropy(steps["logits"])}
        if "coarse_logits" in steps:
            expected["coarse"] = 0.4 * cross_entropy(steps["coarse_logits"])
        if "boundary_logits" in steps:
            boundary = naive_boundary_mask(labels, 2)
            scores = 1 / (1 + torch.exp(-steps["boundary_logits"]))
            likelihood = torch.where(boundary == 1, scores, 1 - scores)
            expected["boundaries"] = -0.2 * likelihood[counts].log().mean()
        assert list(losses) == list(expected)
        for name, loss in losses.items():
            torch.testing.assert_close(loss.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)

    def test_trains(self, options: dict[str, Any]) -> None:
        """Every parameter learns; the weight of the region attention too, from the scores."""
        network = make_ranet(**options)
        sum(network.losses(some_images(), some_labels()).values()).backward()
        no_exchange = not (options.get("intra_region", True) or options.get("inter_region", True))
        for name, parameter in network.named_parameters():
            if name == "construction.weight" and no_exchange:
                continue
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_explains_with_what_it_computed(self, options: dict[str, Any]) -> None:
        network = make_ranet(**options).eval()
        with torch.no_grad():
            explained = network.explain(some_images(), at=(32, 40))
            steps = naive_ranet(network, some_images(), **options)
        size = (6, 5)
        chosen = torch.zeros(2, 30, dtype=torch.bool)
        for image in range(2):
            count = options.get("representatives", 8)
            for best in naive_representatives(steps["scores"][image], steps["roots"][image], count).values():
                chosen[image, best] = True
        expected = {"boundaries": steps["boundaries"][:, None]} if "boundary_logits" in steps else {}
        expected["regions"] = steps["roots"].view(2, 1, *size)
        expected["representative_scores"] = steps["scores"].view(2, 1, *size)
        expected["representatives"] = chosen.view(2, 1, *size)
        expected["region_attention_at"] = steps["attention"][:, 29].view(2, 1, *size)
        assert list(explained) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(explained[name], value, rtol=1e-9, atol=1e-9, msg=name)
        assert list(network.explain(some_images())) == list(expected)[:-1]


class TestRANet:
    def test_boundary_radius_and_weights_of_the_losses(self) -> None:
        narrow, wide = make_ranet().eval(), make_ranet(boundary_radius=4, coarse_weight=0.5, boundary_weight=3.0).eval()
        with torch.no_grad():
            losses, others = (network.losses(some_images(), some_labels()) for network in (narrow, wide))
            boundary = naive_boundary_mask(some_labels(), 4)
            logits = naive_ranet(wide, some_images())["boundary_logits"]
        counts = boundary != IGNORE_INDEX
        expected = 3 * F.binary_cross_entropy_with_logits(logits[counts], boundary[counts].double())
        torch.testing.assert_close(others["boundaries"].double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(others["coarse"], 0.5 / 0.4 * losses["coarse"])
        assert others["segmentation"] == losses["segmentation"]

    def test_pixels_that_do_not_count_do_not_matter(self) -> None:
        network = make_ranet().eval()
        nothing = network.losses(some_images(), torch.full((2, *SIZE), IGNORE_INDEX))
        assert list(nothing) == ["segmentation", "coarse", "boundaries"]
        assert all(loss == 0 for loss in nothing.values())
        sum(nothing.values()).backward()
        assert all(parameter.grad.eq(0).all() for parameter in network.parameters())

    @pytest.mark.parametrize("auxiliary", ["res5", "res4"])
    def test_coarse_segmentation(self, auxiliary: str) -> None:
        network = make_ranet(auxiliary=auxiliary).eval()
        expected = naive_ranet(network, some_images(), auxiliary=auxiliary)["coarse_logits"]
        coarse = network.coarse_logits(some_images())
        assert coarse.shape == (2, 4, *SIZE)
        assert_same_outputs_and_gradients(network, coarse, expected)

    def test_without_semantic_scores_there_is_no_coarse_segmentation(self) -> None:
        with pytest.raises(InputError, match="regions 'boundaries': a RANet without semantic scores has no coarse seg"):
            make_ranet(regions="boundaries").coarse_logits(some_images())

    def test_other_networks_have_no_coarse_segmentation(self) -> None:
        network = create_model("fcn", num_classes=2, backbone="test_resnet")
        with pytest.raises(InputError, match=r"FCN has no coarse segmentation: .*expected a RANet"):
            network.coarse_logits(some_images())

    @torch.no_grad()
    def test_rows_differ(self) -> None:
        """With the same weights: no option is without effect."""
        weights = make_ranet(auxiliary="res4").state_dict()
        logits = []
        for options in ROWS.values():
            network = make_ranet(**options).eval()
            network.load_state_dict({name: weights[name] for name in network.state_dict()})
            logits.append(network(some_images()))
        for index, one in enumerate(logits):
            assert all((one - other).abs().max() > 1e-4 for other in logits[:index])

    @torch.no_grad()
    def test_in_float32(self) -> None:
        network = make_ranet().eval()
        expected = network(some_images())
        actual = network.float()(some_images().float())
        assert (actual - expected).abs().max() < 1e-4 * (expected.max() - expected.min())

    @torch.no_grad()
    def test_pixels_of_the_images_are_pixels_of_the_map(self) -> None:
        network = make_ranet().eval()
        for pixel, position in [((0, 0), 0), ((32, 0), 4), ((0, 40), 25), ((16, 20), 17)]:
            explained = network.explain(some_images(), at=pixel)["region_attention_at"]
            assert explained.flatten(1)[:, position].eq(1).all()
            torch.testing.assert_close(
                explained.flatten(1), naive_ranet(network, some_images())["attention"][:, position]
            )

    def test_pixels_that_the_images_do_not_have(self) -> None:
        with pytest.raises(InputError, match=r"at \(33, 0\): expected a pixel \(x, y\) of images of 33 x 41 pixels"):
            make_ranet().explain(some_images(), at=(33, 0))

    def test_defaults_are_the_paper_s(self) -> None:
        defaults = {p.name: p.default for p in inspect.signature(RANet).parameters.values()}
        assert RANet.default_output_stride == 8
        assert (defaults["channels"], defaults["representatives"], defaults["threshold"]) == (512, 8, 0.8)
        assert (defaults["regions"], defaults["intra_region"], defaults["inter_region"]) == ("both", True, True)
        assert (defaults["coarse_weight"], defaults["boundary_weight"]) == (0.4, 0.2)

    def test_dropout_is_for_training(self) -> None:
        network = make_ranet(dropout=0.5)
        assert not torch.equal(network(some_images()), network(some_images()))
        assert torch.equal(network.eval()(some_images()), network(some_images()))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": 0.0}, "threshold 0.0: expected one above 0"),
            ({"representatives": 0}, "representatives 0: expected 1 or more"),
            ({"boundary_radius": 0}, "boundary_radius 0: expected 1 or more"),
            ({"regions": "neither"}, "regions"),
            ({"auxiliary": "res3"}, "auxiliary"),
            ({"channels": 0}, "channels=0"),
        ],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
    def test_options_that_there_are_not(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            create_model("ranet", num_classes=4, backbone="test_resnet", **options)


def test_parameters_are_those_of_table_3() -> None:
    """21 M more than the backbone's own segmentation network has."""

    def parameters(name: str, **options: Any) -> int:
        with torch.device("meta"):
            network = create_model(name, num_classes=19, backbone="resnet101s", output_stride=8, **options)
        return sum(parameter.numel() for parameter in network.parameters())

    assert (parameters("ranet", auxiliary="res4") - parameters("fcn")) / 1e6 == pytest.approx(21, rel=0.03)
