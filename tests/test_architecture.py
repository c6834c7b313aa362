"""The rules of the house that imports alone do not show; `lint-imports` checks those in setup.cfg."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfbn"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = 20  # files and folders directly under tfbn
FUNCTION_LINES, CLASS_LINES, FILE_LINES = 50, 250, 400
# What may be longer, with its own limit and the reason.
LONGER: dict[str, int] = {}


def name_of(path):
    """The module's name without "tfbn"; a package's is its folder's."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def lines_of(node):
    """The lines of a function or class without those of its head and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def definitions(node, prefix):
    """All functions and classes in a tree, with their full names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            name = f"{prefix}.{child.name}"
            yield name, child
            yield from definitions(child, name)
        else:
            yield from definitions(child, prefix)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_classes_and_files_are_short(path):
    text = path.read_text()
    long = {} if text.count("\n") <= LONGER.get(name_of(path), FILE_LINES) else {"file": text.count("\n")}
    for name, node in definitions(ast.parse(text), name_of(path)):
        limit = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
        if lines_of(node) > LONGER.get(name, limit):
            long[name] = lines_of(node)
    assert not long


def test_exceptions_are_needed():
    known = {name for path in FILES for name, _ in definitions(ast.parse(path.read_text()), name_of(path))}
    assert set(LONGER) <= known | set(map(name_of, FILES))


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


PRIVATE = r"\b(?!(?:self|cls)\b)\w+\)?\._[a-z]\w*|keras\.src|tensorflow\.python"
OWN = r"\b(?:os\._exit|\w+\._replace|\w+\._asdict)\b"


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "keras_internals"], ids=name_of)
def test_private_attributes_are_used_in_keras_internals_only(path):
    found = [match[0] for match in re.finditer(PRIVATE, path.read_text())]
    assert not [text for text in found if not re.fullmatch(OWN, text)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_are_absolute(path):
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
