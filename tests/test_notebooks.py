"""Every notebook runs from top to bottom, in quick settings, and was committed with its outputs."""

import ast
import os
from pathlib import Path

import conftest
import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
QUICK = {"epochs": 1, "seeds": 1, "repeats": 3}
SAID = {
    "side_by_side": "One seed says nothing of chance",
    "the_layer": "the closed form is",
    "from_training_to_serving": "the moving averages are to blame",
}


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names = [node.targets[0].id for node in ast.parse(parameters.source).body]
    parameters.source = "\n".join(f"{name} = {QUICK[name]}" for name in names)
    if conftest.PREPARED.exists():
        monkeypatch.setitem(os.environ, "TFDS_DATA_DIR", str(conftest.PREPARED))
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    said = "".join(output.get("text", "") for cell in code_of(notebook) for output in cell.outputs)
    assert SAID[path.stem] in said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_as_it_ran(path):
    cells = code_of(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "in order, once"
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_defines_nothing(path):
    """Notebooks import, run, plot and discuss; what they would define belongs in the package."""
    for cell in code_of(nbformat.read(path, as_version=4)):
        defined = [
            node
            for node in ast.walk(ast.parse(cell.source.rstrip(";")))
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        ]
        assert not defined
