"""The public names: all of them are there, and asking for one pulls in no more than it needs."""

import subprocess
import sys

import pytest

import segweave

HEAVY = (
    *("lightning", "pytorch_lightning", "matplotlib", "onnx", "tensorboard", "jinja2", "rich", "pydantic"),
    *("jsonargparse", "cyclopts"),
)


@pytest.mark.parametrize("name", segweave.__all__)
def test_each_public_name_is_there(name: str) -> None:
    public = getattr(segweave, name)
    assert callable(public)
    assert public.__name__ == name
    assert public.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = segweave.nonsense


@pytest.fixture(scope="module")
def modules() -> list[set[str]]:
    """The top-level modules that a fresh Python has loaded after importing segweave, and then after asking for networks
    and data."""
    statements = (
        "import sys, segweave",
        "print(*sys.modules)",
        "segweave.load; segweave.open_dataset; segweave.list_models()",
        "print(*sys.modules)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(statements)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [{module.partition(".")[0] for module in line.split()} for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_importing_segweave_pulls_in_nothing_heavy(modules: list[set[str]]) -> None:
    assert "segweave" in modules[0]
    assert not modules[0] & set(HEAVY)


@pytest.mark.slow
def test_networks_and_data_need_no_lightning(modules: list[set[str]]) -> None:
    assert modules[0] < modules[1]
    unneeded = {"lightning", "pytorch_lightning", "matplotlib", "onnx", "tensorboard", "jsonargparse", "cyclopts"}
    assert not modules[1] & unneeded
