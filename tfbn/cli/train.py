"""The commands that train, compare and run; and recipes and report, which describe runs."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tfbn.cli.console import loading, open_console
from tfbn.cli.options import ListOf, example, number_or_name, settings
from tfbn.foundation.tables import text_table
from tfbn.recipes import RECIPES, find


@click.command(epilog=example("tfbn compare --dataset cifar10 --seeds 6"))
@settings()
def compare(**options: Any) -> int:
    """Train a network with and without batch norm, side by side.

    Both networks read the same batches and start from the same weights. Several seeds show how much the
    results vary by chance. Writes OUT/results.json, history.csv, report.html, figures/ and, for both
    networks, models/NAME.keras and a SavedModel.
    """
    return _run("side-by-side", **options)


@click.command(epilog=example("tfbn run mnist-init-scale --quick --values 0.1,0.01,he_normal"))
@click.argument("name")
@click.option(
    "--values",
    type=ListOf(number_or_name, "values such as 0.1,0.01"),
    help="Values of the setting that the recipe varies, such as 0.1,0.01,he_normal.",
    show_default="the recipe's",
)
@settings("the recipe's")
def run(name: str, **options: Any) -> int:
    """Run the classic experiment NAME; see `tfbn recipes`.

    Writes OUT/results.json, history.csv, report.html and figures/.
    """
    return _run(name, **options)


def _run(
    name: str,
    out: str | None,
    resume: bool,
    no_fallback: bool,
    as_json: bool,
    quick: bool,
    strategy: str,
    **options: Any,
) -> int:
    """Run a recipe with the options that differ from their defaults; return the exit code."""
    source = click.get_current_context().get_parameter_source
    changes = {key: value for key, value in options.items() if source(key) is not ParameterSource.DEFAULT}
    recipe = find(name)
    resolved = recipe.resolve(quick, **changes, fallback=not no_fallback)
    with loading(as_json) as console:
        from tfbn.cli.experiment import Experiment, start_strategy
    distributed = start_strategy(strategy, console)
    return Experiment(name, recipe, resolved, resume, as_json, console, distributed).run(out)


@click.command(epilog=example("tfbn recipes depth"))
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the classic experiments, or show the recipe NAME."""
    console = open_console(stderr=False)
    if name is None:
        rows = []
        for name, recipe in RECIPES.items():
            rows += [[name, recipe.question], ["", recipe.cost]]
        console.print(text_table(["name", "question and cost"], rows, width=console.width))
        console.print("\ntfbn run NAME runs a recipe, and tfbn run NAME --quick takes a quick look.")
        console.print("tfbn recipes NAME shows its settings.")
        return
    recipe = find(name)
    console.print(recipe.text.strip() + "\n")
    rows = [[setting, str(value)] for setting, value in recipe.resolve().items() if value is not None]
    if recipe.vary:
        rows.append([f"{recipe.vary.setting} varies", ", ".join(map(str, recipe.vary.values))])
    console.print(text_table(["setting", "value"], rows, width=console.width))


@click.command(epilog=example("tfbn report runs/mine"))
@click.argument("folder")
def report(folder: str) -> None:
    """Write FOLDER/report.html again from FOLDER/results.json.

    The report is one page that holds all of a run.
    """
    with loading() as console:
        from tfbn.comparison.results import Comparison
    path = Path(folder)
    page = Comparison.load(path).report(path if path.is_dir() else path.with_name("report.html"))
    console.print(str(page), soft_wrap=True)
