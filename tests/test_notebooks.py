"""Every notebook runs from top to bottom, in quick settings, and was committed with its outputs."""

import ast
import re
from pathlib import Path

import conftest
import nbclient
import nbformat
import pytest
from parameters import thorough

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
QUICK = {"epochs": 1, "seeds": 1, "repeats": 3, "quick": True}
RECIPES = ("2_depth", "3_few_images", "4_initial_scale")  # which have tests of their own
SAID = {
    "1_side_by_side": "One seed cannot separate an effect from noise",
    "2_depth": "One seed cannot separate an effect from noise",
    "3_few_images": "mean validation accuracy over the sweep",
    "4_initial_scale": "mean validation accuracy over the sweep",
    "5_wave": "One seed cannot separate an effect from noise",
    "6_the_layer": "the closed form is",
    "7_from_training_to_serving": "the moving averages are to blame",
}
# Decimals in the text that no cell prints: what sources report, and constants.
QUOTED = {
    "1_side_by_side": {"0.9713", "0.9449", "0.1055", "0.2367", "0.0264"},
    "3_few_images": {"0.00001"},
    "4_initial_scale": {"0.000001"},
    "5_wave": {"0.495"},
    "6_the_layer": {"0.001", "0.0005"},
}


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    "path", thorough(([path] for path in NOTEBOOKS), lambda path: path.stem not in RECIPES)
)
def test_runs(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names = [node.targets[0].id for node in ast.parse(parameters.source).body]
    parameters.source = "\n".join(f"{name} = {QUICK[name]}" for name in names)
    cifar = "cifar" in str(notebook.cells)
    if cifar and not (conftest.PREPARED / "cifar10").exists():
        pytest.skip("CIFAR-10 is not prepared")
    # Without its folder the sample stands in for MNIST.
    monkeypatch.setenv("TFDS_DATA_DIR", str(conftest.PREPARED if cifar else tmp_path / "nothing"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
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
def test_figures_in_the_text_are_those_that_it_prints(path):
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    printed = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs
    )
    told = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    figures = set(re.findall(r"(?<![\d.])\d*\.\d{3,}(?!\d)", told))
    assert not {figure for figure in figures if figure not in printed} - QUOTED.get(path.stem, set())


def test_the_index_names_each_in_order():
    index = (Path(__file__).parents[1] / "notebooks" / "README.md").read_text()
    assert re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\)", index, re.MULTILINE) == list(SAID)
    assert [path.stem for path in NOTEBOOKS] == list(SAID)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_defines_nothing(path):
    """Notebooks import, run, plot and discuss; what they would define belongs in the package."""
    for cell in code_of(nbformat.read(path, as_version=4)):
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        defined = [
            node
            for node in ast.walk(ast.parse(source.rstrip(";")))
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        ]
        assert not defined
