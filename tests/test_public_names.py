"""The public names: all of them are there, and asking for one pulls in no more than it needs."""

import subprocess
import sys

import pytest

import segweave

HEAVY = ("lightning", "pytorch_lightning", "matplotlib", "onnx", "jsonargparse", "tensorboard", "jinja2", "rich")


@pytest.mark.parametrize("name", segweave.__all__)
def test_each_public_name_is_there(name: str) -> None:
    public = getattr(segweave, name)
    assert callable(public)
    assert public.__name__ == name
    assert public.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = segweave.nonsense


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {module.partition(".")[0] for module in done.stdout.split()}


def test_importing_segweave_pulls_in_nothing_heavy() -> None:
    modules = modules_after("import segweave")
    assert "segweave" in modules
    assert not modules & set(HEAVY)


def test_networks_and_data_need_no_lightning() -> None:
    statement = "import segweave; segweave.load; segweave.open_dataset; segweave.list_models()"
    assert not modules_after(statement) & {"lightning", "pytorch_lightning", "matplotlib", "onnx", "jsonargparse"}
