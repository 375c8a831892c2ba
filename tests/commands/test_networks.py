"""A run is given to `evaluate`, `predict` and `explain` as its folder or as a network, which stays as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segweave
from segweave.commands.evaluate import evaluate
from segweave.commands.explain import explain
from segweave.commands.predict import predict
from segweave.errors import InputError

HERE: dict[str, Any] = {"device": "cpu", "workers": 0}


def test_evaluate_takes_a_folder_or_a_network(run: Path, small_folder: Path) -> None:
    expected = evaluate(run, data=small_folder, **HERE).to_json()
    for model in (str(run), run / "model", segweave.load(run)):
        assert evaluate(model, data=small_folder, **HERE).to_json() == expected
    network = segweave.create_model("fcn", num_classes=12, backbone="test_resnet")
    with pytest.raises(InputError, match=r"the network has no classes: expected one from segweave\.load"):
        evaluate(network, data=small_folder, **HERE)


def test_a_network_in_training_is_evaluated_in_evaluation_and_stays_as_it_was(run: Path, small_folder: Path) -> None:
    network = segweave.load(run).train()
    network.backbone.eval()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = evaluate(network, data=small_folder, **HERE)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert result.to_json() == evaluate(run, data=small_folder, **HERE).to_json()


def test_predict_takes_a_folder_or_a_network(run: Path, photos: Path, tmp_path: Path) -> None:
    written = []
    for number, model in enumerate((str(run), run, run / "model", segweave.load(run))):
        written.append(predict(model, photos, out=tmp_path / str(number), device="cpu"))
    for paths in written[1:]:
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in written[0]]
    with pytest.raises(InputError, match=r"nowhere: expected the folder of a run"):
        predict(tmp_path / "nowhere", photos, out=tmp_path / "masks", device="cpu")


def test_a_network_in_training_predicts_in_evaluation_and_stays_as_it_was(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    network = segweave.load(run).train()
    network.backbone.eval()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    written = predict(network, photos, out=tmp_path / "written", device="cpu")
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    expected = predict(run, photos, out=tmp_path / "expected", device="cpu")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in expected]


def test_explain_takes_a_folder_or_a_network(run: Path, photos: Path, tmp_path: Path) -> None:
    expected = [path.read_bytes() for path in explain(run, photos, out=tmp_path / "expected", device="cpu")]
    for number, model in enumerate((str(run), run / "model", segweave.load(run))):
        written = explain(model, photos, out=tmp_path / str(number), device="cpu")
        assert [path.read_bytes() for path in written] == expected


def test_a_network_in_training_is_explained_in_evaluation_and_stays_as_it_was(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    expected = explain(run, photos, out=tmp_path / "expected", maps=True, device="cpu")
    network = segweave.load(run).train()
    network.backbone.eval()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    written = explain(network, photos, out=tmp_path / "written", maps=True, device="cpu")
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for path, other in zip(written, expected, strict=True):
        assert path.read_bytes() == other.read_bytes()
        maps, others = np.load(path.with_suffix(".npz")), np.load(other.with_suffix(".npz"))
        for name in others:
            np.testing.assert_array_equal(maps[name], others[name])
