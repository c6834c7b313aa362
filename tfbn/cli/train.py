"""The commands that train: compare, run; and recipes and report, which tell of it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
import warnings
from pathlib import Path

import click
from click.core import ParameterSource

from tfbn.cli.console import live, loading, open_console, stderr_silenced
from tfbn.cli.options import list_of, number_or_name, settings
from tfbn.foundation.signals import exit_code, signals_deferred, signals_left_to_system
from tfbn.recipes import RECIPES, find

UNFINISHED = ".unfinished"


@click.command()
@settings()
def compare(**given):
    """Train a network with and one without batch norm side by side.

    Both take the same batches and start from the same weights; several seeds say how far chance goes.
    Writes OUT/results.json, history.csv, report.html, figures/ and, for both, models/NAME.keras and a
    SavedModel.
    """
    return _run("side-by-side", **given)


@click.command()
@click.argument("name")
@click.option(
    "--values",
    callback=list_of(number_or_name, "values such as 0.1,0.01"),
    help="What a sweep takes, such as 0.1,0.01,he_normal.",
    show_default="the recipe's",
)
@settings("the recipe's")
def run(name, **given):
    """Run one of the classic experiments, NAME; `tfbn recipes` lists them.

    Writes OUT/results.json, history.csv, report.html and figures/.
    """
    return _run(name, **given)


def _find(name):
    try:
        return find(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _run(name, out, resume, no_fallback, as_json, quick, strategy, **given):
    source = click.get_current_context().get_parameter_source
    given = {key: value for key, value in given.items() if source(key) is not ParameterSource.DEFAULT}
    given["fallback"] = not no_fallback
    recipe = _find(name)
    recipe.resolve(quick, **given)
    console = open_console(as_json)
    with loading(console):
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


def _end(console, result, state, as_json, save=None):
    """Say what came of it before it is saved, which may fail."""
    console.print(result.table())
    console.print()
    console.print(result.verdict())
    if save is not None:
        save()
    if as_json:
        print(result.to_json())
    if result.about["interrupted"]:
        console.print("The same command with --resume goes on from here.")
        return exit_code()
    if (state / "about.json").exists():  # Else it is none of ours.
        shutil.rmtree(state, ignore_errors=True)
    return 0


def _places(name, out, resume):
    """The folders for the results and for the state of the training until they are there."""
    unfinished = [path for path in Path("runs").glob(f"{name}-*{UNFINISHED}") if resume and not out]
    if unfinished:
        out = str(max(unfinished, key=_last_written)).removesuffix(UNFINISHED)
    out = Path(out or time.strftime(f"runs/{name}-%Y%m%d-%H%M%S"))
    out = out if out.name else out.resolve()  # "."
    return out, out.with_name(out.name + UNFINISHED)


def _last_written(state):
    return max(map(os.path.getmtime, [state, *state.rglob("ckpt-*.index")]))


def _train(console, recipe, name, quick, given, state, strategy):
    """The comparison, with what it says on the way."""
    from tfbn.recipes import run as experiment
    from tfbn.runtime.devices import describe_device, find_device
    from tfbn.runtime.strategies import describe_strategy, device_of

    resolved = recipe.resolve(quick, **given)
    with stderr_silenced():
        device = find_device(resolved["device"]) if strategy is None else device_of(strategy)
    console.print(recipe.question)

    def on_data(data):
        sizes = "/".join(f"{len(split.y):,}" for split in data.splits().values())
        console.print(f"{data.title} from {data.source}: {sizes} to train/validate/test")
        console.print(f"Running on {describe_device(device)}")
        if strategy is not None:
            spread = describe_strategy(strategy)
            replicas, workers = (
                f"{spread[key]} {key[:-1] if spread[key] == 1 else key}" for key in ("replicas", "workers")
            )
            console.print(f"Each batch is split over {replicas} of {workers} ({spread['name']})")

    runs = resolved["seeds"] * (len(resolved["values"] or recipe.vary.values) if recipe.vary else 1)
    with live(console, runs, resolved["epochs"], recipe.vary is not None) as on_epoch:
        return experiment.run(
            name,
            quick,
            on_data=on_data,
            on_epoch=on_epoch,
            command=shlex.join(["tfbn", *sys.argv[1:]]),
            checkpoint_dir=state,
            strategy=strategy,
            **given,
        )


def _save(console, result, out, models, replace):
    problem = None
    with console.status("Saving"), stderr_silenced(), signals_deferred():
        try:
            folder = result.save(out, models=models, replace=replace)
        except ValueError as error:
            # Something came there while the networks trained, which must not be for nothing.
            folder, problem = result.save(time.strftime(f"{out}-%Y%m%d-%H%M%S"), models=models), error
    if problem is not None:
        warnings.warn(f"{problem} The results are in {folder}.", stacklevel=1)
    written = ", ".join(sorted(path.name for path in folder.iterdir()))
    console.print(f"\nSaved {written} in")
    console.print(str(folder), soft_wrap=True)


@click.command()
@click.argument("name", required=False)
def recipes(name):
    """List the classic experiments, or show what there is to know of one."""
    console = open_console(stderr=False)
    if name is not None:
        recipe = _find(name)
        console.print(recipe.text.strip() + "\n")
        for setting, value in recipe.resolve().items():
            if value is not None:
                console.print(f"{setting:<18} {value}")
        if recipe.vary:
            console.print(f"{recipe.vary.setting} varies: {', '.join(map(str, recipe.vary.values))}")
        return
    width = max(map(len, RECIPES)) + 2
    for name, recipe in RECIPES.items():
        console.print(f"{name:<{width}}{recipe.question}")
        console.print(f"{'':<{width}}{recipe.cost}", style="dim")
    console.print("\ntfbn run NAME runs one, tfbn run NAME --quick takes a quick look at it, and")
    console.print("tfbn recipes NAME shows its settings.")


@click.command()
@click.argument("folder")
def report(folder):
    """Write FOLDER/report.html anew from FOLDER/results.json: one page with all of a run."""
    console = open_console(stderr=False)
    with loading(console):
        from tfbn.comparison.results import Comparison
    found = Comparison.load(folder)
    folder = Path(folder)
    page = found.report(folder if folder.is_dir() else folder.with_name("report.html"))
    console.print(str(page), soft_wrap=True)


COMMANDS = (compare, run, recipes, report)
