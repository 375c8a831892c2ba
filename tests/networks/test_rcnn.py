"""Faster and Mask R-CNN are made of finished parts."""

import pytest
import torch

from segweave.models import create_model
from segweave.networks.backbones import Backbone
from segweave.networks.necks import PathAggregation
from segweave.networks.rcnn import FasterRCNN, MaskRCNN
from segweave.networks.rcnn_heads import FixedBoxes, HeadOptions, ProposalOptions, PyramidHeads, PyramidProposals
from tests.networks.detection_samples import narrow


def test_is_what_its_finished_parts_make() -> None:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet")
    neck = PathAggregation(backbone, 8)
    network = MaskRCNN(
        backbone=backbone,
        num_classes=3,
        neck=neck,
        rpn=PyramidProposals(neck, ProposalOptions(test_proposals=(60, 40))),
        roi_heads=PyramidHeads(neck, 3, HeadOptions(head_channels=8, detections_per_image=7), masks=True),
    )
    torch.manual_seed(0)
    named = create_model(
        "mask_rcnn",
        num_classes=3,
        backbone="test_resnet",
        neck="bpa",
        channels=8,
        head_channels=8,
        test_proposals=(60, 40),
        detections_per_image=7,
    )
    assert network.detections_per_image == named.detections_per_image == 7
    assert network.neck is neck
    assert list(network.state_dict()) == list(named.state_dict())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(network.parameters(), named.parameters(), strict=True))


@pytest.mark.parametrize(("network_class", "expected"), [(FasterRCNN, "no mask head"), (MaskRCNN, "a mask head")])
def test_heads_that_find_something_else(network_class: type[FasterRCNN], expected: str) -> None:
    backbone = Backbone("test_resnet")
    neck = PathAggregation(backbone, 8)
    heads = PyramidHeads(neck, 3, HeadOptions(head_channels=8), masks=network_class is FasterRCNN)
    with pytest.raises(ValueError, match=f"roi_heads of {network_class.__name__}: expected {expected}"):
        network_class(backbone=backbone, num_classes=3, neck=neck, rpn=PyramidProposals(neck), roi_heads=heads)


@pytest.mark.parametrize("augmented_head", [False, True])
@torch.no_grad()
def test_what_is_counted_looks_at_a_fixed_number_of_boxes(augmented_head: bool) -> None:
    options = narrow(neck="fpn", augmented_head=augmented_head, test_proposals=(60, 40), detections_per_image=7)
    network = create_model("mask_rcnn", num_classes=3, backbone="test_resnet", **options).eval()
    counted = network.countable()
    assert isinstance(counted, FixedBoxes)
    assert {id(p) for p in counted.parameters()} == {id(p) for p in network.parameters()}
    *of_levels, logits, offsets, masks = counted(torch.randn(2, 3, 64, 64))
    assert len(of_levels) == 2 * 5
    assert logits.shape == (2 * 40, 4)
    assert offsets.shape == (2 * 40, 4 * 4)
    assert masks.shape == (2 * 7, 4, 28, 28)


def test_a_network_for_pixels_is_counted_itself() -> None:
    network = create_model("fcn", num_classes=2, backbone="test_resnet")
    assert network.countable() is network
