"""`Experiment`: one run of `tfbn compare` or `tfbn run`. Importing this module loads TensorFlow."""

import functools
import os
import shlex
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from rich.console import Console

from tfbn.cli.console import live, stderr_silenced
from tfbn.cli.run_folder import RunFolder, find_run_folder
from tfbn.comparison.results import Comparison
from tfbn.data.arrays import Data
from tfbn.foundation.signals import exit_code, signals_ignored, signals_left_to_system
from tfbn.recipes import run as recipe_runner
from tfbn.recipes.recipe import Recipe
from tfbn.runtime import devices, strategies
from tfbn.training.checkpoints import holds_checkpoints


@dataclass
class Experiment:
    """A recipe and its settings, which the command trains, prints and saves.

    Everything but the results as JSON, if `as_json`, is printed on `console`.
    """

    name: str
    recipe: Recipe
    settings: dict[str, Any]
    resume: bool
    as_json: bool
    console: Console
    strategy: tf.distribute.Strategy | None = None

    def run(self, strategy: str, out: str | None) -> int:
        """Train, print and save; return the exit code."""
        self._start_strategy(strategy)
        changed = self.recipe.changed(self.settings)
        folder = RunFolder(
            *strategies.broadcast_from_chief(
                self.strategy, lambda: find_run_folder(self.name, out, self.resume, changed)
            )
        )
        if folder.finished and not strategies.is_chief(self.strategy):
            return 0
        if folder.finished:
            self.console.print(f"Nothing to resume: the run in {folder.results} is finished.")
            return self._conclude(Comparison.load(folder.results), folder)
        if self.resume and holds_checkpoints(folder.state):
            self.console.print(f"Resuming from {folder.state}")
        elif self.resume:
            self.console.print("Nothing to resume: the run starts from the beginning.")
        try:
            result = self._train(folder)
            # The other workers wait until all is written.
            return strategies.broadcast_from_chief(self.strategy, lambda: self._conclude(result, folder))
        except (KeyboardInterrupt, OSError) as error:
            if not holds_checkpoints(folder.state):
                raise
            self.console.print(f"The training state is in {folder.state}. To resume, add --resume.")
            if isinstance(error, OSError):
                raise
            return exit_code()

    def _start_strategy(self, name: str) -> None:
        if name == "multiworker":
            strategies.check_tf_config(os.environ.get("TF_CONFIG"))
            self.console.print("Waiting for the workers of TF_CONFIG")
        with stderr_silenced(), signals_left_to_system():
            self.strategy = strategies.make_strategy(name)
        self.console.quiet = not strategies.is_chief(self.strategy)  # Only the chief prints.

    def _train(self, folder: RunFolder) -> Comparison:
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
                checkpoint_dir=folder.state,
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

    def _conclude(self, result: Comparison, folder: RunFolder) -> int:
        """Print the result before it is saved, which may fail; return the exit code."""
        self.console.print(f"\n{result.table()}\n\n{result.verdict()}")
        if not folder.finished:
            self._save(result, folder)
        if self.as_json:
            print(result.to_json())
        if result.about["interrupted"]:
            self.console.print("To resume, add --resume to the same command.")
            return exit_code()
        folder.remove_state()
        return 0

    def _save(self, result: Comparison, folder: RunFolder) -> None:
        save = functools.partial(result.save, models=self.recipe.models)
        problem = None
        with self.console.status("Saving"), stderr_silenced(), signals_ignored():
            try:
                path = save(folder.results, replace=self.resume)
            except ValueError as error:
                # Something else came there during the training, whose results must not be lost.
                path, problem = save(f"{folder.results}{time.strftime('-%Y%m%d-%H%M%S')}"), error
        if problem is not None:
            warnings.warn(f"{problem} The results are in {path}.", stacklevel=1)
        files = ", ".join(sorted(file.name for file in path.iterdir()))
        self.console.print(f"\nSaved {files} in")
        self.console.print(str(path), soft_wrap=True)
