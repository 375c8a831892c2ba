"""Saving and loading: what is written, and what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import segweave
from segweave.errors import InputError
from segweave.models import create_model
from segweave.networks.network import Labelling, SegmentationNetwork
from segweave.saving import initialise_from, load, save_model

LABELLING = Labelling(("road", "sky", "tree"), ((10, 20, 30), (0, 0, 255), (0, 255, 0)), short_edge=48)


def make_network(name: str = "pan", num_classes: int = 3, **options: Any) -> SegmentationNetwork:
    options = {"decoder_channels": 16, "kernel_sizes": (3, 3, 3)} if name == "pan" and not options else options
    network = create_model(name, num_classes=num_classes, backbone="test_resnet", **options)
    network.labelling = LABELLING
    return network


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a model in it."""
    save_model(make_network(), tmp_path / "run" / "model")
    return tmp_path / "run"


def change_configuration(run: Path, **changes: Any) -> None:
    path = run / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class Touch:
    """Unpickled, it leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class TestSave:
    def test_writes_tensors_and_json(self, run: Path) -> None:
        assert {path.name for path in (run / "model").iterdir()} == {"model.safetensors", "config.json"}
        configuration = json.loads((run / "model" / "config.json").read_text())
        assert configuration["model"] == "pan"
        assert configuration["backbone"] == "test_resnet"
        assert configuration["num_classes"] == 3
        assert configuration["options"] == {"decoder_channels": 16, "kernel_sizes": [3, 3, 3]}
        assert configuration["classes"] == ["road", "sky", "tree"]
        assert configuration["palette"] == [[10, 20, 30], [0, 0, 255], [0, 255, 0]]
        assert configuration["short_edge"] == 48
        assert configuration["segweave"]
        weights = safetensors.torch.load_file(run / "model" / "model.safetensors")
        assert weights.keys() == make_network().state_dict().keys()

    def test_replaces_its_own_folder_only(self, run: Path) -> None:
        (run / "report.html").write_text("a report")
        other = run / "models" / "a.txt"
        other.parent.mkdir()
        other.write_text("another folder")
        network = make_network()
        save_model(network, run / "model")
        assert {path.name for path in run.iterdir()} == {"model", "models", "report.html"}
        assert other.read_text() == "another folder"
        assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in load(run).state_dict().items())

    def test_makes_the_folders_above(self, tmp_path: Path) -> None:
        save_model(make_network(), tmp_path / "a" / "b" / "model")
        assert load(tmp_path / "a" / "b").labelling == LABELLING

    def test_what_fails_leaves_the_model_that_was_there(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = {path.name: path.read_bytes() for path in (run / "model").iterdir()}

        def fail(*arguments: Any) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", fail)
        with pytest.raises(InputError, match="no space"):
            save_model(make_network(), run / "model")
        assert {path.name for path in run.iterdir()} == {"model"}
        assert {path.name: path.read_bytes() for path in (run / "model").iterdir()} == before

    def test_files_can_be_read_by_whoever_reads_the_folder(self, run: Path) -> None:
        modes = {path.stat().st_mode for path in (run / "model").iterdir()}
        assert len(modes) == 1

    def test_leaves_the_network_as_it_was(self, tmp_path: Path) -> None:
        network = make_network()
        save_model(network, tmp_path / "model")
        assert network.training
        assert network.fpa.down[0][0].weight.is_contiguous(memory_format=torch.channels_last)


class TestLoad:
    def test_files_without_a_long_edge_have_none(self, run: Path) -> None:
        path = run / "model" / "config.json"
        configuration = json.loads(path.read_text())
        assert configuration.pop("long_edge") is None
        path.write_text(json.dumps(configuration))
        assert load(run).labelling == LABELLING

    @torch.no_grad()
    def test_gives_the_network_back(self, run: Path) -> None:
        network = make_network().eval()
        save_model(network, run / "model")
        images = torch.randn(2, 3, 33, 47)
        for path in (run, str(run), run / "model"):
            loaded = load(path)
            assert not loaded.training
            assert loaded.labelling == LABELLING
            assert torch.equal(loaded(images), network(images))
        assert segweave.load is load

    @torch.no_grad()
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("pan", {"global_pooling": None, "attention_channels": None, "output_stride": 32}),
            ("pspnet", {"bins": (1, 3), "auxiliary_weight": 0.0}),
            ("deeplabv3", {"rates": (2, 5), "context_channels": 8}),
            ("fcn", {"head_channels": 12}),
        ],
    )
    def test_options_come_back(self, name: str, options: dict[str, Any], tmp_path: Path) -> None:
        network = make_network(name, **options).eval()
        save_model(network, tmp_path / "model")
        images = torch.randn(1, 3, 40, 40)
        assert torch.equal(load(tmp_path)(images), network(images))

    def test_can_be_saved_again(self, run: Path, tmp_path: Path) -> None:
        save_model(load(run), tmp_path / "again" / "model")
        first, again = ((path / "model" / "config.json").read_text() for path in (run, tmp_path / "again"))
        assert first == again

    def test_onto_a_device(self, run: Path) -> None:
        assert {p.device.type for p in load(run, device=torch.device("cpu")).parameters()} == {"cpu"}

    def test_without_short_edge(self, run: Path) -> None:
        network = make_network()
        network.labelling = Labelling(LABELLING.classes, LABELLING.palette)
        save_model(network, run / "model")
        assert load(run).labelling.short_edge is None


class TestRefusals:
    def assert_refused(self, run: Path, *parts: str) -> None:
        with pytest.raises(InputError) as caught:
            load(run)
        assert all(part in str(caught.value) for part in parts), str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_folder(self, tmp_path: Path) -> None:
        self.assert_refused(tmp_path / "nowhere", str(tmp_path / "nowhere"), "expected the folder of a run")

    def test_folder_without_a_model(self, tmp_path: Path) -> None:
        self.assert_refused(tmp_path, str(tmp_path), "expected the folder of a run")

    @pytest.mark.parametrize("text", ["{", "", "\x00"], ids=["cut", "empty", "binary"])
    def test_broken_json(self, run: Path, text: str) -> None:
        (run / "model" / "config.json").write_text(text)
        self.assert_refused(run, "config.json", "expected JSON")

    @pytest.mark.parametrize("text", ["[]", "3", "{}", '{"model": "pan"}'])
    def test_json_of_something_else(self, run: Path, text: str) -> None:
        (run / "model" / "config.json").write_text(text)
        self.assert_refused(run, "config.json", "expected the keys backbone, classes")

    def test_weights_of_another_class_count(self, run: Path) -> None:
        change_configuration(run, num_classes=4)
        self.assert_refused(run, "config.json", "3 classes and 3 colours: expected 4 of each")
        change_configuration(run, classes=["a", "b", "c", "d"], palette=[[0, 0, 0]] * 4)
        self.assert_refused(run, "model.safetensors", "size mismatch")

    @pytest.mark.parametrize(
        "change",
        [{"palette": [[1, 2]]}, {"num_classes": "3"}, {"options": [1]}, {"backbone": 3}, {"classes": ["a"]}],
        ids=str,
    )
    def test_values_of_another_kind(self, run: Path, change: dict[str, Any]) -> None:
        change_configuration(run, **change)
        self.assert_refused(run, "config.json")

    def test_other_files_are_left_alone(self, run: Path) -> None:
        (run / "model" / "notes.txt").write_text("mine")
        save_model(make_network(), run / "model")
        assert (run / "model" / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize("change", [{"model": "fcn", "options": {}}, {"options": {"decoder_channels": 8}}], ids=str)
    def test_weights_of_another_model(self, run: Path, change: dict[str, Any]) -> None:
        change_configuration(run, **change)
        self.assert_refused(run, "model.safetensors", f"expected the weights of a {change.get('model', 'pan')}")

    def test_unknown_model_or_option(self, run: Path) -> None:
        change_configuration(run, options={"width": 3})
        self.assert_refused(run, "unknown option 'width'")
        change_configuration(run, model="pam")
        self.assert_refused(run, "unknown model 'pam'")

    def test_no_weights(self, run: Path) -> None:
        (run / "model" / "model.safetensors").unlink()
        self.assert_refused(run, "model.safetensors", "No such file")

    @pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
    def test_truncated_weights(self, run: Path, part: float) -> None:
        path = run / "model" / "model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])
        self.assert_refused(run, "model.safetensors", "expected the weights of a pan")

    @pytest.mark.parametrize("form", ["pickle", "torch"])
    def test_a_pickle_is_not_read(self, run: Path, tmp_path: Path, form: str) -> None:
        path, trace = run / "model" / "model.safetensors", tmp_path / "trace"
        content = {"weights": Touch(trace)}
        if form == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path)
        self.assert_refused(run, "model.safetensors", "expected the weights of a pan")
        assert not trace.exists()


class TestInitialiseFrom:
    def test_takes_all_of_a_network_of_the_same_kind(self, run: Path) -> None:
        torch.manual_seed(7)
        network = make_network()
        assert initialise_from(network, run) == []
        theirs = load(run).state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in network.state_dict().items())

    def test_names_what_has_another_shape(self, run: Path) -> None:
        torch.manual_seed(7)
        network = make_network(num_classes=5, decoder_channels=16, kernel_sizes=(3, 3, 3))
        head = network.head.weight.clone()
        assert initialise_from(network, run / "model") == [
            "head.weight (5, 16, 1, 1) is (3, 16, 1, 1) there",
            "head.bias (5,) is (3,) there",
        ]
        assert torch.equal(network.head.weight, head)
        theirs = load(run).state_dict()
        ours = network.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith("head"))

    def test_names_what_the_other_network_does_not_have(self, run: Path) -> None:
        network = make_network("fcn")
        left = initialise_from(network, run)
        assert "head.0.0.weight isn't there" in left
        assert not any(line.startswith("backbone") for line in left)
        theirs = load(run).backbone.state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in network.backbone.state_dict().items())

    def test_a_network_without_anything_in_common_is_refused(self, run: Path) -> None:
        network = create_model("fcn", num_classes=3, backbone="mobilenetv3_small_050", output_stride=32)
        with pytest.raises(InputError, match="none of its weights fits a fcn on mobilenetv3_small_050"):
            initialise_from(network, run)

    def test_truncated_weights_are_refused(self, run: Path) -> None:
        path = run / "model" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match=r"model\.safetensors: expected the weights of a pan"):
            initialise_from(make_network(), run)
