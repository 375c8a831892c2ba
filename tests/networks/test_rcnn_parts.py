"""Images, anchors, RoIAlign and first weights of detectors."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from segweave.models import create_model
from segweave.networks.rcnn_parts import (
    BoxPredictor,
    MaskPredictor,
    Preparation,
    ProposalHead,
    PyramidAnchors,
    PyramidRoIAlign,
    paste_cut_masks,
    paste_masks,
)
from tests.ops.test_region_memory import LargestTensor

STRIDES = (4, 8, 16, 32, 64)
SIZES = (8.0, 16.0, 32.0, 64.0, 128.0)


class TestPreparation:
    def make(self, short_edge: int | None = None, long_edge: int | None = None) -> Preparation:
        return Preparation((0.5, 0.25, 0.0), (0.5, 0.25, 1.0), short_edge, long_edge)

    def test_normalises_and_pads_with_the_mean_colour(self) -> None:
        images = [torch.rand(3, 33, 64), torch.rand(3, 40, 20)]
        batch, _ = self.make()(images)
        assert batch.tensors.shape == (2, 3, 64, 64)
        assert batch.image_sizes == [(33, 64), (40, 20)]
        mean, std = torch.tensor([0.5, 0.25, 0.0])[:, None, None], torch.tensor([0.5, 0.25, 1.0])[:, None, None]
        for padded, image in zip(batch.tensors, images, strict=True):
            height, width = image.shape[1:]
            torch.testing.assert_close(padded[:, :height, :width], (image - mean) / std)
            assert padded[:, height:].eq(0).all()
            assert padded[:, :, width:].eq(0).all()

    @pytest.mark.parametrize(
        ("edges", "size"),
        [
            ((None, None), (60, 90)),
            ((30, None), (30, 45)),
            ((120, 150), (100, 150)),
            ((120, 180), (120, 180)),
            ((None, 45), (30, 45)),
            ((None, 100), (60, 90)),
            ((7, 2), (1, 2)),
        ],
        ids=str,
    )
    def test_resizes_in_evaluation_alone(self, edges: tuple[int | None, int | None], size: tuple[int, int]) -> None:
        preparation = self.make(*edges)
        assert preparation.train()([torch.rand(3, 60, 90)])[0].image_sizes == [(60, 90)]
        assert preparation.eval()([torch.rand(3, 60, 90)])[0].image_sizes == [size]

    def test_fine_patterns_do_not_alias(self) -> None:
        stripes = torch.arange(64).remainder(2).float().expand(3, 64, 64)
        batch, _ = self.make(16).eval()([stripes])
        assert (batch.tensors[0, 2, 2:14, 2:14] - 0.5).abs().max() < 0.05


class TestPasteMasks:
    @pytest.mark.parametrize("side", [2, 3, 4, 6, 10, 16, 28, 29, 40, 63])
    @pytest.mark.parametrize(("left", "top"), [(0, 0), (10, 7), (40, 90)])
    def test_what_a_network_is_trained_towards_gives_the_object_back(self, side: int, left: int, top: int) -> None:
        object_mask = torch.zeros(1, 128, 160)
        object_mask[:, top : top + side, left : left + side] = 1
        box = torch.tensor([[float(left), top, left + side, min(top + side, 128)]])
        target = project_masks_on_boxes(object_mask, box, torch.zeros(1), 28)
        pasted = paste_masks(target[:, None], box, (128, 160), (128, 160))
        assert pasted.shape == (1, 1, 128, 160)
        assert torch.equal(pasted[0] > 0.5, object_mask > 0.5)

    @pytest.mark.parametrize("factor", [2, 4])
    def test_of_an_image_that_was_enlarged(self, factor: int) -> None:
        object_mask = torch.zeros(1, 32, 40)
        object_mask[:, 5:15, 11:19] = 1
        box = torch.tensor([[11.0, 5.0, 19.0, 15.0]])
        seen = object_mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        target = project_masks_on_boxes(seen, box * factor, torch.zeros(1), 28)
        pasted = paste_masks(target[:, None], box, (32 * factor, 40 * factor), (32, 40))
        assert torch.equal(pasted[0] > 0.5, object_mask > 0.5)

    @pytest.mark.parametrize("count", [0, 1, 19])
    def test_cut(self, count: int) -> None:
        torch.manual_seed(12)
        corners = torch.rand(count, 2) * 30
        masks, boxes = torch.rand(count, 1, 7, 7), torch.cat([corners, corners + 5 + torch.rand(count, 2) * 30], dim=1)
        cut = paste_cut_masks(masks, boxes, (50, 64), (80, 64))
        assert cut.dtype == torch.bool
        assert torch.equal(cut, paste_masks(masks, boxes, (50, 64), (80, 64)) > 0.5)
        assert 0 < cut.float().mean() < 0.5 or not count

    def test_few_are_cut_at_a_time(self) -> None:
        masks, boxes = torch.rand(50, 1, 7, 7), torch.tensor([[0.0, 0.0, 200.0, 100.0]]).expand(50, 4)
        with LargestTensor(torch.float32) as largest:
            paste_cut_masks(masks, boxes, (100, 200), (100, 200))
        assert 0 < largest.elements < 50 * 100 * 200 / 4

    def test_against_a_loop_over_pixels(self) -> None:
        torch.manual_seed(13)
        masks = torch.rand(3, 1, 5, 5)
        boxes = torch.tensor([[1.2, 0.0, 9.9, 6.4], [-2.0, 3.3, 4.0, 14.0], [7.1, 7.1, 7.3, 7.2]])
        pasted = paste_masks(masks, boxes, (24, 20), (12, 10))
        for mask, box, actual in zip(masks[:, 0], boxes.tolist(), pasted[:, 0], strict=True):
            left, top, right, bottom = box
            for row in range(12):
                for column in range(10):
                    expected = 0.0
                    if left <= column + 0.5 < right and top <= row + 0.5 < bottom:
                        x = min(max((column + 0.25 - left) / (right - left) * 5 - 0.5, 0), 4)
                        y = min(max((row + 0.25 - top) / (bottom - top) * 5 - 0.5, 0), 4)
                        for i in range(5):
                            for j in range(5):
                                expected += max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0) * float(mask[i, j])
                    assert float(actual[row, column]) == pytest.approx(expected, abs=1e-5)


class TestPyramidAnchors:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("size", [(32, 32), (96, 160), (1024, 1344)], ids=str)
    def test_anchors_are_as_far_apart_as_the_strides(self, size: tuple[int, int], dtype: torch.dtype) -> None:
        levels = [torch.zeros(2, 1, *(-(-side // stride) for side in size), dtype=dtype) for stride in STRIDES]
        generator = PyramidAnchors(SIZES, (0.5, 2.0), STRIDES)
        anchors, others = generator(ImageList(torch.zeros(2, 3, *size), [size, size]), levels)
        assert torch.equal(anchors, others)
        assert anchors.dtype == torch.float32
        start = 0
        for level, stride, side in zip(levels, STRIDES, SIZES, strict=True):
            rows, columns = level.shape[2:]
            of_level = anchors[start : start + rows * columns * 2].reshape(rows, columns, 2, 4)
            start += rows * columns * 2
            centres = (of_level[..., :2] + of_level[..., 2:]) / 2
            assert torch.equal(centres[:, 0, 0, 1], torch.arange(rows) * float(stride))
            assert torch.equal(centres[0, :, 1, 0], torch.arange(columns) * float(stride))
            widths, heights = (of_level[..., 2:] - of_level[..., :2]).unbind(-1)
            for number, ratio in enumerate((0.5, 2.0)):
                assert (widths[..., number] - side / math.sqrt(ratio)).abs().max() <= 1
                assert (heights[..., number] - side * math.sqrt(ratio)).abs().max() <= 1
        assert start == len(anchors)

    def test_anchors_that_would_have_no_height(self) -> None:
        with pytest.raises(ValueError, match=r"anchors of 1 pixels: expected larger ones for \[0\.25, 1\.0\]"):
            PyramidAnchors((1, 2, 4, 8, 16), (0.25, 1.0), STRIDES)


class TestPyramidRoIAlign:
    def test_a_box_is_pooled_from_the_level_that_fits_its_size(self) -> None:
        torch.manual_seed(11)
        sides = (10.0, 60.0, 111.0, 113.0, 223.0, 250.0, 460.0)
        boxes = torch.tensor([[5.0, 3.0, 5 + side, 3 + side] for side in sides])
        # the first image that it sees is so small that its size doesn't tell the strides
        levels = {str(number): torch.randn(1, 2, 128 >> number, 128 >> number) for number in range(4)}
        pool = PyramidRoIAlign(STRIDES[:4], 7)
        pool(levels, [boxes[:1]], [(33, 33)])
        pooled = pool(levels, [boxes], [(512, 512)])
        numbers = [min(max(math.floor(4 + math.log2(side / 224)), 2), 5) - 2 for side in sides]  # FPN, Eq. 1
        assert set(numbers) == {0, 1, 2, 3}
        for box, number, actual in zip(boxes, numbers, pooled, strict=True):
            expected = roi_align(
                levels[str(number)], [box[None]], 7, spatial_scale=1 / STRIDES[number], sampling_ratio=2
            )
            torch.testing.assert_close(actual, expected[0])

    def test_of_boxes_and_masks(self) -> None:
        network = create_model("mask_rcnn", num_classes=1, backbone="test_resnet", channels=8, head_channels=8)
        for pool in (network.roi_heads.box_roi_pool, network.roi_heads.mask_roi_pool):
            assert pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        assert network.roi_heads.box_roi_pool.output_size == (7, 7)
        assert network.roi_heads.mask_roi_pool.output_size == (14, 14)


class TestHeads:
    def outputs(self, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(12)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits, offsets = ProposalHead(8, 3)([torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)])
            scores, box_offsets = BoxPredictor(8, 4)(torch.randn(5, 8))
            return [*logits, *offsets, scores, box_offsets, MaskPredictor(8, 4)(torch.randn(5, 8, 14, 14))]

    def test_give_float32_in_mixed_precision_too(self) -> None:
        outputs, rounded = self.outputs(torch.float32), self.outputs(torch.bfloat16)
        assert all(x.dtype == torch.float32 for x in rounded)
        assert not all(torch.equal(x, y) for x, y in zip(outputs, rounded, strict=True))  # bfloat16 was at work
        for x, y in zip(outputs, rounded, strict=True):
            torch.testing.assert_close(x, y, rtol=0.05, atol=0.01)

    def test_start_from_small_weights(self) -> None:
        torch.manual_seed(13)
        box, mask = BoxPredictor(256, 81), MaskPredictor(256, 2)
        for layer, deviation in ((box.cls_score, 0.01), (box.bbox_pred, 0.001), (mask.mask_fcn_logits, 0.001)):
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
            assert layer.bias.eq(0).all()
