"""What every network is, beside what the contract asks of each."""

import pytest
import torch
from torch import Tensor, nn

import segweave
from segweave.models import create_model
from segweave.networks.network import Labelling, Network, SegmentationNetwork, evaluating
from segweave.segmentation.inference import Inference


class TestPrepared:
    @pytest.mark.parametrize("size", [(48, 64), (33, 47), (20, 200), (64, 31)], ids=str)
    @pytest.mark.parametrize("short_edge", [None, 32, 40, 100])
    def test_is_what_inference_gives_the_network(self, size: tuple[int, int], short_edge: int | None) -> None:
        network = create_model("fcn", num_classes=2, backbone="test_resnet").eval()
        network.labelling = Labelling(("a", "b"), ((0, 0, 0), (1, 1, 1)), short_edge)
        image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
        seen: list[Tensor] = []

        class Watched(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                seen.append(images)
                return images

        mean, std = (torch.tensor(values)[:, None, None] for values in (network.backbone.mean, network.backbone.std))
        Inference(short_edge=short_edge)(Watched(), ((image - mean) / std)[None])
        prepared = network.prepared(image)
        assert torch.equal(prepared, seen[0])
        assert min(prepared.shape[-2:]) >= 32
        assert network(prepared).shape == (1, 2, *prepared.shape[-2:])

    def test_before_training_an_image_keeps_its_size(self) -> None:
        network = create_model("fcn", num_classes=2, backbone="test_resnet")
        image = torch.rand(3, 40, 50)
        network.backbone.mean, network.backbone.std = (0.5, 0.25, 0.0), (1.0, 2.0, 0.5)
        expected = torch.stack([image[0] - 0.5, (image[1] - 0.25) / 2, image[2] / 0.5])
        torch.testing.assert_close(network.prepared(image), expected[None])


class TestEvaluating:
    def test_each_module_s_own_mode_comes_back(self) -> None:
        network = create_model("fcn", num_classes=2, backbone="test_resnet")
        network.head.eval()  # as a frozen part is
        before = [module.training for module in network.modules()]
        with evaluating(network):
            assert not any(module.training for module in network.modules())
        assert [module.training for module in network.modules()] == before
        assert network.training
        assert not network.head.training

    def test_it_comes_back_after_an_error_too(self) -> None:
        network = create_model("fcn", num_classes=2, backbone="test_resnet")
        with pytest.raises(RuntimeError, match="broken"), evaluating(network):
            raise RuntimeError("broken")
        assert all(module.training for module in network.modules())

    def test_batch_norm_that_a_backbone_keeps_stays_as_it_is(self) -> None:
        network = create_model("fcn", num_classes=2, backbone="test_resnet")
        network.backbone.freeze()
        with evaluating(network):
            pass
        assert network.training
        assert not any(module.training for module in network.backbone.modules())


def test_networks_for_pixels_and_for_objects_are_networks() -> None:
    network = create_model("fcn", num_classes=2, backbone="test_resnet")
    detector = create_model("faster_rcnn", num_classes=2, backbone="test_resnet", channels=8, head_channels=8)
    assert isinstance(network, SegmentationNetwork)
    assert isinstance(network, Network)
    assert isinstance(detector, Network)
    assert (SegmentationNetwork.most_classes, type(detector).most_classes) == (255, None)


@pytest.mark.parametrize("name", ["fcn", "faster_rcnn"])
def test_looking_at_an_image_leaves_every_mode_as_it_was(name: str) -> None:
    network = create_model(name, num_classes=2, backbone="test_resnet")
    network.labelling = Labelling(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    for module in network.backbone.modules():
        module.training = False  # by hand, not by `freeze`
    look = segweave.segment if name == "fcn" else segweave.detect
    look(network, torch.rand(3, 40, 50))
    assert network.training
    assert not any(module.training for module in network.backbone.modules())
