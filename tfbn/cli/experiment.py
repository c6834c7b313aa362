"""`Experiment`: one run of `tfbn compare` or `tfbn run`. Importing this module loads TensorFlow."""

import functools
import os
import shlex
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console

from tfbn.cli.console import live, stderr_silenced
from tfbn.comparison.results import Comparison
from tfbn.comparison.storage import check_destination
from tfbn.data.arrays import Data
from tfbn.foundation.signals import exit_code, signals_ignored, signals_left_to_system
from tfbn.recipes import run as recipe_runner
from tfbn.recipes.recipe import Recipe
from tfbn.runtime import devices, strategies
from tfbn.training.checkpoints import holds_checkpoints

# The training state lies beside the results, in a folder that goes when they are written.
UNFINISHED = ".unfinished"


def start_strategy(name: str, console: Console) -> tf.distribute.Strategy | None:
    """Start the strategy `name`, and let the chief alone print on `console`."""
    if name == "multiworker":
        strategies.check_tf_config(os.environ.get("TF_CONFIG"))
        console.print("Waiting for the workers of TF_CONFIG")
    with stderr_silenced(), signals_left_to_system():
        strategy = strategies.make_strategy(name)
    console.quiet = not strategies.is_chief(strategy)
    return strategy


def find_results(name: str, out: str | None, resume: bool, changed: str) -> tuple[str, bool]:
    """Return the folder for the results, and whether a finished run of these settings is there.

    Without `out`, `resume` takes the newest unfinished run of `name`. Raise ValueError if the folder holds
    something else or cannot be written.
    """
    unfinished = [path for path in Path("runs").glob(f"{name}-*{UNFINISHED}") if resume and not out]
    if unfinished:
        out = str(max(unfinished, key=_last_written)).removesuffix(UNFINISHED)
    results = Path(out or time.strftime(f"runs/{name}-%Y%m%d-%H%M%S"))
    results = results if results.name else results.resolve()  # "." has no name.
    if resume and results.is_dir() and any(results.iterdir()):
        about = Comparison.load(results).about
        recipe = about["recipe"] or {}
        if not about["interrupted"]:
            if (recipe.get("name"), recipe.get("changed")) != (name, changed):
                raise ValueError(f"{results} holds a finished run of another recipe or other settings.")
            return str(results), True
    state = f"{results}{UNFINISHED}"
    if Path(state).exists() and not resume:
        raise ValueError(
            f"{state} holds an unfinished run, which may still be going on. Add --resume, or choose "
            "another --out."
        )
    check_destination(results, replace=resume)
    return str(results), False


def _last_written(state: Path) -> float:
    return max(map(os.path.getmtime, [state, *state.rglob("ckpt-*.index")]))


@dataclass(frozen=True)
class Experiment:
    """A recipe and its settings. All but the results `as_json` is printed on `console`."""

    name: str
    recipe: Recipe
    settings: dict[str, Any]
    resume: bool
    as_json: bool
    console: Console
    strategy: tf.distribute.Strategy | None

    def run(self, out: str | None) -> int:
        """Train, print and save in the folder `out`; return the exit code."""
        on_chief = functools.partial(strategies.broadcast_from_chief, self.strategy)
        changed = self.recipe.changed(self.settings)
        results, finished = on_chief(lambda: find_results(self.name, out, self.resume, changed))
        state = Path(results + UNFINISHED)
        if finished:
            self.console.print(f"Nothing to resume: the run in {results} is finished.")
            is_chief = strategies.is_chief(self.strategy)
            return self._conclude(Comparison.load(results), state) if is_chief else 0
        if self.resume:
            beginning = "Nothing to resume: the run starts from the beginning."
            self.console.print(f"Resuming from {state}" if holds_checkpoints(state) else beginning)
        try:
            result = self._train(state)
            # The other workers wait until all is written.
            return on_chief(lambda: self._conclude(result, state, results))
        except (KeyboardInterrupt, OSError) as error:
            if not holds_checkpoints(state):
                raise
            self.console.print(f"The training state is in {state}. To resume, add --resume.")
            if isinstance(error, OSError):
                raise
            return exit_code()

    def _train(self, state: Path) -> Comparison:
        with stderr_silenced():
            device = self.settings["device"]
            device = strategies.device_of(self.strategy) if self.strategy else devices.find_device(device)
        self.console.print(self.recipe.question)
        varied = self.recipe.vary and (self.settings["values"] or self.recipe.vary.values)
        runs = self.settings["seeds"] * len(varied or [None])
        with live(self.console, runs, self.settings["epochs"], swept=bool(varied)) as on_epoch:
            return recipe_runner.run(
                self.name,
                on_data=functools.partial(self._describe, device),
                on_epoch=on_epoch,
                command=shlex.join(["tfbn", *sys.argv[1:]]),
                checkpoint_dir=state,
                strategy=self.strategy,
                **self.settings,
            )

    def _describe(self, device: str, data: Data) -> None:
        """Print where the data come from and where the networks are trained."""
        sizes = "/".join(f"{len(split.y):,}" for split in data.splits().values())
        self.console.print(f"{data.title} from {data.source}: {sizes} to train/validate/test")
        self.console.print(f"Running on {devices.describe_device(device)}")
        if (strategy := strategies.describe_strategy(self.strategy)) is not None:
            replicas, workers = (
                f"{strategy[key]} {key[:-1] if strategy[key] == 1 else key}"
                for key in ("replicas", "workers")
            )
            self.console.print(f"Each batch is split over {replicas} of {workers} ({strategy['name']})")

    def _conclude(self, result: Comparison, state: Path, save_as: str | None = None) -> int:
        """Print the result before it is saved, which may fail; return the exit code."""
        self.console.print(f"\n{result.table()}\n\n{result.verdict()}")
        if save_as is not None:
            self._save(result, save_as)
        if self.as_json:
            print(result.to_json())
        if result.about["interrupted"]:
            self.console.print("To resume, add --resume to the same command.")
            return exit_code()
        if (state / "about.json").exists():  # Else the folder holds something else.
            shutil.rmtree(state, ignore_errors=True)
        if not result.test:
            self.console.print("There are no models: all runs diverged. Choose a lower --learning-rate.")
            return 1
        return 0

    def _save(self, result: Comparison, folder: str) -> None:
        save = functools.partial(result.save, models=self.recipe.models)
        problem = None
        with self.console.status("Saving"), stderr_silenced(), signals_ignored():
            try:
                path = save(folder, replace=self.resume)
            except ValueError as error:
                # Something else came there during the training, whose results must not be lost.
                path, problem = save(f"{folder}{time.strftime('-%Y%m%d-%H%M%S')}"), error
        if problem is not None:
            warnings.warn(f"{problem} The results are in {path}.", stacklevel=1)
        files = ", ".join(sorted(file.name for file in path.iterdir()))
        self.console.print(f"\nSaved {files} in")
        self.console.print(str(path), soft_wrap=True)
