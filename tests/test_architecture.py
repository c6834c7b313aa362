"""What ../README.md says of the house, held against the syntax trees."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfbn"
FLOORS = {
    "kernels": 0,
    "arguments": 0,
    "history": 0,
    "functional": 1,
    "devices": 0,
    "selftest": 1,
    "replicas": 0,
    "checkpoints": 1,
    "optimizers": 0,
    "streams": 1,
    "arms": 1,
    "layers": 2,
    "arrays": 0,
    "data": 2,
    "recipes.recipe": 0,
    **dict.fromkeys(
        (
            f"recipes.{name}"
            for name in [
                "side_by_side",
                "depth",
                "cifar_depth",
                "cifar_init_scale",
                "mnist_init_scale",
                "wave",
                "ioffe_figure_1",
                "convnet",
                "learning_rate",
            ]
        ),
        1,
    ),
    "recipes": 2,
    "observers": 3,
    "plots.runs": 0,
    "plots.style": 0,
    "plots.activations": 1,
    "plots.channels": 1,
    "plots.epochs": 1,
    "plots.knobs": 1,
    "plots.regressions": 1,
    "plots": 2,
    "chance": 0,
    "verdict": 1,
    "report": 1,
    "models": 3,
    "steps": 2,
    "solver": 3,
    "comparison": 3,
    "programs": 4,
    "compare": 5,
    "experiment": 6,
    "bench": 3,
    "bench_layer": 4,
    "bench_solver": 4,
    "inference.batchnorms": 3,
    "inference.files": 3,
    "inference.graphs": 3,
    "inference.examples": 4,
    "inference.scores": 4,
    "inference.recalibrate": 5,
    "inference.diagnose": 6,
    "inference.fold": 5,
    "inference.convert": 5,
    "inference.runtimes": 0,
    "inference.export": 6,
    "inference.from_torch": 4,
    "console": 1,
    "signals": 0,
    "signatures": 0,
    "cli_settings": 1,
    "cli_inference": 7,
    "cli_experiments": 7,
    "cli": 8,
    "__main__": 9,
    "inference": 0,
    "__init__": 9,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """As one imports it, less "tfbn": a package goes by its own name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_file_has_a_floor():
    assert {name_of(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_only(path):
    for name in imports(path):
        below = name.removeprefix("tfbn.")
        if name != below and below in FLOORS and below != name_of(path):
            assert FLOORS[below] < FLOORS[name_of(path)], f"{name_of(path)} imports {below}"


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("matplotlib", {name for name in FLOORS if name.split(".")[0] == "plots"}),
        ("tensorflow_datasets", {"data"}),
        ("mlxtend", {"data"}),
        ("rich", {"cli_inference", "console"}),
        ("click", {"cli", "cli_experiments", "cli_inference", "cli_settings"}),
        ("keras.src", set()),
        ("pickle", set()),
        ("torch", {"bench", "bench_layer", "bench_solver"}),
        ("jax", {"bench_solver"}),
    ],
)
def test_libraries_keep_to_their_files(library, allowed):
    users = {
        name_of(path)
        for path in FILES
        for name in imports(path)
        if name == library or name.startswith(f"{library}.")
    }
    assert users <= allowed


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_commands_print(path):
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in calls or name_of(path) in ("cli", "cli_experiments", "cli_inference")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("kernels", {"tensorflow"}),
        ("functional", {"tensorflow", "tfbn"}),
        ("arguments", set()),
        ("history", set()),
        ("arrays", {"numpy"}),
        ("recipes.recipe", set()),
    ],
)
def test_the_lowest_floors_know_no_keras(name, allowed):
    outside = {module.split(".")[0] for module in imports(PACKAGE / f"{name.replace('.', '/')}.py")}
    assert outside - set(sys.stdlib_module_names) <= allowed


def test_no_rest_room():
    assert not {"utils", "common", "helpers"} & {path.stem for path in FILES}
