"""A frozen backbone: what isn't trained stays as it was to the bit, and the rest trains as ever."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

import segweave
from segweave import create_model, train
from segweave.segmentation.samples import LabelledImage
from segweave.segmentation.training import SegmentationTraining
from segweave.training.callbacks import exponential_average
from tests.training.test_resume import train_until


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, folder: Path, settings: dict[str, Any]) -> Path:
    """A run whose backbone has seen images, so that its statistics are not those it began with."""
    out = tmp_path_factory.mktemp("runs") / "first"
    train(folder, out=out, **settings | {"epochs": 1})
    return out


def split_state(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the backbone, and those of the rest."""
    backbone = {name: tensor for name, tensor in state.items() if "backbone." in name}
    return backbone, {name: tensor for name, tensor in state.items() if name not in backbone}


def assert_only_the_rest_was_trained(run: Path, start: Path) -> None:
    backbone, rest = split_state(segweave.load(run).state_dict())
    backbone_before, rest_before = split_state(segweave.load(start).state_dict())
    for name, tensor in backbone.items():
        assert torch.equal(tensor, backbone_before[name]), name
    unchanged = [name for name, tensor in rest.items() if torch.equal(tensor, rest_before[name])]
    assert not unchanged


@pytest.mark.parametrize(
    "variation",
    [{}, {"ema": 0.9}, {"optimizer": "adamw", "learning_rate": 0.001, "accumulate": 2, "clip_gradient": 1.0}],
    ids=["sgd", "ema", "adamw-accumulated-clipped"],
)
def test_the_backbone_stays_and_the_rest_is_trained(
    tmp_path: Path, first: Path, folder: Path, settings: dict[str, Any], variation: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    train(folder, out=run, init_from=str(first), freeze_backbone=True, **settings | variation)
    assert_only_the_rest_was_trained(run, first)

    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    backbone_before, _ = split_state(segweave.load(first).state_dict())
    for part in ("state_dict", "current_model_state"):
        for name, tensor in split_state(checkpoint.get(part, {}))[0].items():
            assert torch.equal(tensor, backbone_before[name.removeprefix("network.")]), name
    network = segweave.load(run)
    trained = len(list(network.parameters())) - len(list(network.backbone.parameters()))
    assert len(checkpoint["optimizer_states"][0]["param_groups"][0]["params"]) == trained


def record_modes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, set[bool], set[bool]]]:
    """Each training step adds its number, and the modes of the backbone's and of the other modules."""
    modes: list[tuple[int, set[bool], set[bool]]] = []
    step = SegmentationTraining.training_step

    def record(self: SegmentationTraining, batch: LabelledImage, batch_idx: int) -> Tensor:
        backbone = set(self.network.backbone.modules())
        others = set(self.modules()) - backbone
        modes.append((self.global_step, {m.training for m in backbone}, {m.training for m in others}))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTraining, "training_step", record)
    return modes


def test_the_backbone_is_in_evaluation_mode_at_every_step(
    tmp_path: Path, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    modes = record_modes(monkeypatch)
    monkeypatch.setattr("segweave.segmentation.training.report_run", lambda *arguments: None)
    chosen = settings | {"freeze_backbone": True, "ema": 0.9, "validate_every": 2, "epochs": 6}
    train_until(2, monkeypatch, data=folder, out=run, **chosen)
    train_until(None, monkeypatch, data=folder, out=run, resume=True)
    assert modes == [(step, {False}, {True}) for step in range(12)]


@pytest.mark.parametrize("name", ["pan", "ocnet", "ranet"])
def test_the_rest_has_the_gradients_that_it_had(name: str) -> None:
    network = create_model(name, num_classes=3, backbone="test_resnet")
    network.backbone.eval()
    frozen = copy.deepcopy(network)
    frozen.backbone.freeze()
    frozen.train()
    images, labels = torch.randn(2, 3, 64, 48), torch.randint(0, 3, (2, 64, 48))
    for each in (network, frozen):
        torch.manual_seed(1)
        torch.stack(list(each.losses(images, labels).values())).sum().backward()
    for (parameter_name, parameter), expected in zip(frozen.named_parameters(), network.parameters(), strict=True):
        if parameter_name.startswith("backbone."):
            assert parameter.grad is None, parameter_name
        else:
            torch.testing.assert_close(parameter.grad, expected.grad, msg=parameter_name)


def test_compiled_losses_leave_the_backbone() -> None:
    torch.compiler.reset()
    network = create_model("fcn", num_classes=3, backbone="test_resnet", dropout=0.0)
    network.backbone.freeze()
    before = copy.deepcopy(network.backbone.state_dict())
    compute = torch.compile(network.losses, backend="aot_eager")
    images, labels = torch.randn(2, 3, 32, 48), torch.randint(0, 3, (2, 32, 48))
    for _ in range(2):  # as around a validation
        network.train()
        compute(images, labels)["segmentation"].backward()
        network.eval()
    for parameter_name, parameter in network.named_parameters():
        assert (parameter.grad is None) == parameter_name.startswith("backbone."), parameter_name
    for tensor_name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, before[tensor_name]), tensor_name


def test_the_average_of_what_does_not_change_is_itself() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.BatchNorm1d(40), torch.nn.Linear(40, 1))
    module[1].num_batches_tracked.fill_(123_456_789)
    averaged = AveragedModel(module, avg_fn=exponential_average(0.999), use_buffers=True)
    start = copy.deepcopy(module.state_dict())
    expected = module[2].weight.detach().clone()
    for step in range(50):
        with torch.no_grad():
            module[2].weight += torch.randn(1, 40)
        averaged.update_parameters(module)
        expected = module[2].weight.detach().clone() if step == 0 else expected.lerp(module[2].weight.detach(), 0.001)
    for name, tensor in averaged.module.state_dict().items():
        if name == "2.weight":
            torch.testing.assert_close(tensor, expected)
        else:
            assert torch.equal(tensor, start[name]), name


def words_of(printed: str) -> str:
    """What was printed, wherever its lines were broken."""
    return " ".join(printed.split())


def test_a_run_tells_that_its_backbone_is_frozen(
    tmp_path: Path, first: Path, folder: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    short = settings | {"epochs": 1, "freeze_backbone": True}
    train(folder, out=tmp_path / "tuned", init_from=str(first), **short)
    printed = words_of(capsys.readouterr().out)
    network = segweave.load(first)
    count = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in network.backbone.parameters())
    assert f"the backbone is frozen: {count / 1e6:.1f} M parameters are trained" in printed
    assert "warning:" not in printed

    train(folder, out=tmp_path / "random", **short)
    printed = words_of(capsys.readouterr().out)
    assert "warning: the frozen backbone has random weights: expected pretrained or init_from" in printed

    train(folder, out=tmp_path / "other", init_from=str(first), **short | {"backbone": "resnet18"})
    printed = words_of(capsys.readouterr().out)
    assert "tensors of the frozen backbone keep their random weights" in printed

    train(folder, out=tmp_path / "plain", **short | {"freeze_backbone": False})
    assert "frozen" not in capsys.readouterr().out
