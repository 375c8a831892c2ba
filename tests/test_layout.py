"""The house keeps its shape: who may import whom, who may ask which task it is, and how large its parts may get."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "segweave"
FILES = sorted(PACKAGE.rglob("*.py"))
WINGS = ("segmentation", "detection")
LONGEST_FILE, LONGEST_CLASS, MOST_PARAMETERS = 400, 200, 8

ASKING = re.compile(
    r"""(isinstance|issubclass)\([^()]*\b(Segmentation|Detection)\w*\)|\.detects\b|["'](mask|faster)_rcnn["']"""
    r"""|== ["']coco["']"""
)
"""Ways of asking whether a network or a data set is for pixels or for objects."""


def place(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def room(name: str) -> str:
    """The folder of the package, or the file in it, that an imported module lies in."""
    return name.split(".")[1] if "." in name else ""


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("segweave"):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("segweave")}
    return names


@pytest.mark.parametrize("file", FILES, ids=place)
def test_only_the_wings_ask_which_task_it_is(file: Path) -> None:
    inside = place(file).split("/")[0]
    if inside in (*WINGS, "tasks.py", "networks"):
        return
    # names of networks may stand in tables of what papers print, and in the list of networks
    text = file.read_text() if place(file) not in ("models.py", "cost/paper_tables.py") else ""
    assert [match[0] for match in ASKING.finditer(text)] == []


@pytest.mark.parametrize("file", FILES, ids=place)
def test_imports_run_one_way(file: Path) -> None:
    inside, rooms = place(file).split("/")[0], {room(name) for name in imported(file)}
    if inside in WINGS:
        assert not rooms & ({*WINGS, "commands", "tasks", "cli"} - {inside})
    elif inside in ("data", "training", "reports", "networks", "ops", "cost"):
        assert not rooms & {*WINGS, "commands", "tasks", "cli"}
    if inside in ("networks", "ops"):
        assert not rooms & {"data", "training", "reports", "task"}
    if inside != "cli" and inside != "__main__.py":
        assert "cli" not in rooms


@pytest.mark.parametrize("file", FILES, ids=place)
def test_parts_stay_small(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) < LONGEST_FILE
    tree = ast.parse(text)
    public_verbs = place(file).startswith("commands/")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_CLASS, node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
            count -= any(arg.arg in ("self", "cls") for arg in arguments.args[:1])
            makes_network = place(file).startswith("networks/") and node.name in ("__init__", "build")
            if not makes_network and not (public_verbs and not node.name.startswith("_")):
                assert count <= MOST_PARAMETERS, node.name
