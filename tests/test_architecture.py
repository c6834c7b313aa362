"""The rules of the house that imports alone do not show; `lint-imports` checks those in setup.cfg."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfbn"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = 20  # files and folders directly under tfbn


def name_of(path):
    """The module's name without "tfbn"; a package's is its folder's."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def test_few_rooms_under_the_package():
    rooms = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(rooms) <= ROOMS, sorted(path.name for path in rooms)


def test_no_room_bears_a_public_name():
    public = set(re.findall(r"as (\w+)", (PACKAGE / "__init__.pyi").read_text())) - {"data"}
    assert not public & {path.stem for path in PACKAGE.iterdir()}


def test_no_utils():
    assert not {"utils", "common", "helpers"} & {
        part for path in FILES for part in (path.stem, path.parent.name)
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_command_prints(path):
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in calls or path.parent.name == "cli"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_are_absolute(path):
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
