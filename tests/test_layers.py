"""The shared blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segweave.networks.layers import BatchNorm2d, ConvNormAct, DropBlock2d, resize_like, resize_to


def make_norm() -> BatchNorm2d:
    norm = BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.0, -1.0, 1.0]))
        norm.running_mean.copy_(torch.tensor([1.0, 0.0, -1.0]))
        norm.running_var.copy_(torch.tensor([4.0, 1.0, 0.25]))
    return norm


class TestBatchNorm2d:
    def test_single_value_is_normalised_by_the_running_statistics(self) -> None:
        norm = make_norm().train()
        x = torch.tensor([3.0, 2.0, 0.0]).reshape(1, 3, 1, 1).requires_grad_()
        output = norm(x)
        torch.testing.assert_close(output.flatten(), torch.tensor([1.0, 3.0, 2.0]), rtol=0, atol=1e-4)
        output.sum().backward()
        torch.testing.assert_close(x.grad.flatten(), torch.tensor([0.5, 2.0, 1.0]), rtol=0, atol=1e-4)
        torch.testing.assert_close(norm.weight.grad, torch.tensor([1.0, 2.0, 2.0]), rtol=0, atol=1e-4)
        torch.testing.assert_close(norm.bias.grad, torch.ones(3))

    def test_single_value_changes_no_statistics(self) -> None:
        norm = make_norm().train()
        before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
        norm(torch.randn(1, 3, 1, 1))
        assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())

    def test_evaluation_and_a_single_value_in_training_agree(self) -> None:
        norm, x = make_norm(), torch.randn(1, 3, 1, 1)
        torch.testing.assert_close(norm.train()(x), norm.eval()(x))

    @pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 1, 2), (1, 3, 2, 1), (4, 3, 5, 6)], ids=str)
    @pytest.mark.parametrize("training", [True, False])
    def test_is_torchs_otherwise(self, shape: tuple[int, ...], training: bool) -> None:
        norm, torchs = make_norm().train(training), nn.BatchNorm2d(3).train(training)
        torchs.load_state_dict(norm.state_dict())
        x = torch.randn(shape)
        assert torch.equal(norm(x), torchs(x))
        assert all(torch.equal(tensor, torchs.state_dict()[name]) for name, tensor in norm.state_dict().items())


class TestConvNormAct:
    @pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
    @pytest.mark.parametrize("dilation", [1, 2, 12])
    def test_keeps_the_size(self, kernel_size: int, dilation: int) -> None:
        assert ConvNormAct(2, 4, kernel_size, dilation=dilation)(torch.randn(2, 2, 5, 3)).shape == (2, 4, 5, 3)

    def test_activation_is_a_relu(self) -> None:
        block = ConvNormAct(2, 4).eval()
        convolution, norm, _ = block
        x = torch.randn(2, 2, 5, 3)
        linear = norm(convolution(x))
        assert linear.min() < 0
        torch.testing.assert_close(block(x), linear.clamp(min=0))

    def test_refuses_even_kernels(self) -> None:
        with pytest.raises(ValueError, match="kernel size 4: expected an odd one"):
            ConvNormAct(2, 4, 4)

    def test_batch_norm_has_the_only_bias(self) -> None:
        assert {name for name, _ in ConvNormAct(2, 4).named_parameters()} == {"0.weight", "1.weight", "1.bias"}


class TestDropBlock:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_keeps_the_mean_of_maps_that_half_precision_can_not_count(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        dropped = DropBlock2d(5, 0.9)(torch.ones(2, 32, 64, 64, dtype=dtype))
        assert dropped.dtype == dtype
        assert dropped.numel() > torch.finfo(torch.float16).max
        assert dropped.double().mean().item() == pytest.approx(1.0, abs=0.005)
        assert (dropped == 0).double().mean().item() == pytest.approx(0.1, abs=0.02)

    @pytest.mark.parametrize(
        ("size", "side"), [((9, 8), 5), ((4, 9), 3), ((9, 4), 3), ((2, 7), 1), ((1, 1), 1)], ids=str
    )
    def test_squares_are_as_large_as_the_map_allows(self, size: tuple[int, int], side: int) -> None:
        torch.manual_seed(0)
        dropped = DropBlock2d(5, 0.9)(torch.ones(64, 64, *size)) == 0
        whole = -F.max_pool2d(-F.pad(dropped.float(), [0] * 4), side, stride=1)
        covered = F.max_pool2d(F.pad(whole, [side - 1] * 4), side, stride=1).bool()
        assert torch.equal(covered, dropped)
        assert 0.05 < dropped.float().mean() < 0.15

    def test_gradient_is_that_of_what_is_kept(self) -> None:
        x = torch.ones(2, 3, 9, 9, requires_grad=True)
        dropped = DropBlock2d(3, 0.7)(x)
        dropped.sum().backward()
        torch.testing.assert_close(x.grad, dropped.detach())

    def test_nothing_happens_in_evaluation(self) -> None:
        x = torch.randn(2, 3, 9, 9)
        assert DropBlock2d(3, 0.5).eval()(x) is x
        assert DropBlock2d(3, 1.0)(x) is x

    @pytest.mark.parametrize("block_size", [-1, 0, 4])
    def test_refuses_squares_without_a_middle(self, block_size: int) -> None:
        with pytest.raises(ValueError, match=f"drop_block_size {block_size}: expected an odd number of positions"):
            DropBlock2d(block_size, 0.9)

    @pytest.mark.parametrize("keep_probability", [0.0, -0.1, 1.1])
    def test_refuses_what_is_no_probability(self, keep_probability: float) -> None:
        with pytest.raises(ValueError, match=f"keep_probability {keep_probability}: expected one above 0, and 1"):
            DropBlock2d(3, keep_probability)


class TestResize:
    @pytest.mark.parametrize("size", [(7, 9), (3, 2), (5, 9), (1, 1)], ids=str)
    def test_is_bilinear(self, size: tuple[int, int]) -> None:
        x = torch.randn(2, 3, 5, 4)
        torch.testing.assert_close(resize_to(x, size), F.interpolate(x, size, mode="bilinear", align_corners=False))

    def test_values(self) -> None:
        row = resize_to(torch.tensor([[[[0.0, 1.0]]]]), (1, 4)).flatten()
        torch.testing.assert_close(row, torch.tensor([0.0, 0.25, 0.75, 1.0]))

    def test_a_map_of_that_size_is_returned_as_it_is(self) -> None:
        x = torch.randn(2, 3, 5, 4)
        assert resize_to(x, (5, 4)) is x
        assert resize_like(x, torch.empty(1, 9, 5, 4)) is x

    def test_one_pixel_is_repeated(self) -> None:
        x = torch.randn(2, 3, 1, 1, requires_grad=True)
        resized = resize_to(x, (4, 5))
        torch.testing.assert_close(resized, F.interpolate(x, (4, 5), mode="bilinear", align_corners=False))
        resized.sum().backward()
        torch.testing.assert_close(x.grad, torch.full_like(x, 20.0))

    def test_like_another_map(self) -> None:
        assert resize_like(torch.randn(2, 3, 5, 4), torch.empty(1, 7, 6, 9)).shape == (2, 3, 6, 9)
