"""The commands that train, compare and run; and recipes and report, which describe runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tfbn.cli.console import loading, open_console
from tfbn.cli.options import example, list_of, number_or_name, settings
from tfbn.foundation.tables import text_table
from tfbn.recipes import RECIPES, find
from tfbn.recipes.recipe import Recipe


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
    callback=list_of(number_or_name, "values such as 0.1,0.01"),
    help="Values of the setting that the recipe varies, such as 0.1,0.01,he_normal.",
    show_default="the recipe's",
)
@settings("the recipe's")
def run(name: str, **options: Any) -> int:
    """Run the classic experiment NAME; see `tfbn recipes`.

    Writes OUT/results.json, history.csv, report.html and figures/.
    """
    return _run(name, **options)


def _find(name: str) -> Recipe:
    try:
        return find(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


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
    changes["fallback"] = not no_fallback
    recipe = _find(name)
    resolved = recipe.resolve(quick, **changes)
    console = open_console(as_json)
    with loading(console):
<<<<<<< HEAD
        import logging

        from absl import logging as absl_logging

        from tfbn.comparison.results import Comparison
        from tfbn.comparison.storage import check_destination
        from tfbn.runtime.strategies import broadcast_from_chief, check_tf_config, is_chief, make_strategy
        from tfbn.training.checkpoints import holds_checkpoints

        absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns of every set that is not prepared yet.
        # A program is traced for each network, of which TensorFlow warns.
        logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())
    if strategy == "multiworker":
        check_tf_config(os.environ.get("TF_CONFIG"))
        console.print("Waiting for the workers of TF_CONFIG")
    with stderr_silenced(), signals_left_to_system():
        strategy = make_strategy(strategy)
    console.quiet = not is_chief(strategy)  # What there is to say the chief says.

    def find_places():
        found, state = _places(name, out, resume)
        there = resume and found.is_dir() and any(found.iterdir())
        finished = there and not (about := Comparison.load(found).about)["interrupted"]
        if finished:
            known, given_ = about["recipe"] or {}, recipe.changed(recipe.resolve(quick, **given))
            if (known.get("name"), known.get("changed")) != (name, given_):
                raise ValueError(f"{found} holds a finished run of another recipe or other settings.")
        else:
            if state.exists() and not resume:
                raise ValueError(
                    f"{state} holds a run that was cut off, or goes on. Add --resume, or take another OUT."
                )
            check_destination(found, replace=resume)
        return str(found), str(state), finished

    *places, finished = broadcast_from_chief(strategy, find_places)
    out, state = map(Path, places)
    if resume and not finished:
        was_cut_off = holds_checkpoints(state)
        console.print(f"Going on from {state}" if was_cut_off else "Nothing was cut off: it begins anew.")
    if finished and is_chief(strategy):
        console.print(f"Nothing to go on with: the run in {out} was finished.\n")
        return _end(console, Comparison.load(out), state, as_json)
    if finished:
        return 0

    def end(result):
        console.print()
        return _end(
            console,
            result,
            state,
            as_json,
            lambda: _save(console, result, out, recipe.models, replace=resume),
        )

    try:
        result = _train(console, recipe, name, quick, given, state, strategy)
        return broadcast_from_chief(strategy, lambda: end(result))  # The others wait until all is written.
    except KeyboardInterrupt:
        if not holds_checkpoints(state):
            raise
        console.print(f"Interrupted. What was done is in {state}: --resume goes on from there.")
        return exit_code()
    except OSError:
        if holds_checkpoints(state):
            console.print(f"What was done is in {state}: --resume goes on from there.")
        raise
=======
        from tfbn.cli.experiment import Experiment
    return Experiment(name, recipe, resolved, resume, as_json, console).run(strategy, out)
>>>>>>> cli


@click.command(epilog=example("tfbn recipes depth"))
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the classic experiments, or show the recipe NAME."""
    console = open_console(stderr=False)
    if name is None:
        rows = [
            line
            for name, recipe in RECIPES.items()
            for line in ([name, recipe.question], ["", recipe.cost])
        ]
        console.print(text_table(["name", "question and cost"], rows, width=console.width))
        console.print("\ntfbn run NAME runs a recipe, and tfbn run NAME --quick takes a quick look.")
        console.print("tfbn recipes NAME shows its settings.")
        return
    recipe = _find(name)
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
    console = open_console(stderr=False)
    with loading(console):
        from tfbn.comparison.results import Comparison
    path = Path(folder)
    page = Comparison.load(path).report(path if path.is_dir() else path.with_name("report.html"))
    console.print(str(page), soft_wrap=True)


COMMANDS = (compare, run, recipes, report)
