"""`Session`: from networks to the result of their comparison."""

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbn.comparison.placement import Placement
from tfbn.comparison.programs import Program, moving_average_note, run_jobs
from tfbn.comparison.records import Metadata, Record, Run
from tfbn.comparison.results import Comparison
from tfbn.comparison.settings import Settings
from tfbn.foundation.errors import warn_caller
from tfbn.foundation.provenance import versions
from tfbn.runtime.devices import describe_device, set_precision
from tfbn.runtime.strategies import broadcast_from_chief, describe_strategy, workers
from tfbn.training.checkpoints import check_workers_agree, digest, open_folder
from tfbn.training.signatures import describe_network


class Trained(NamedTuple):
    """A run that ended well, the network that it began from, and the values of its variables."""

    run: Run
    model: keras.Model
    values: list[np.ndarray]


class Session:
    """One call of `compare`: builds arms, finds their programs, trains runs and makes the result."""

    def __init__(
        self,
        settings: Settings,
        placement: Placement,
        checkpoint_dir: str | os.PathLike | None = None,
        on_epoch: Callable[[Record], None] | None = None,
        command: str | None = None,
    ) -> None:
        self.settings, self.placement = settings, placement
        self._folder = None if checkpoint_dir is None else Path(checkpoint_dir)
        self._on_epoch, self._command = on_epoch, command
        device, strategy = describe_device(placement.device), describe_strategy(placement.strategy)
        self._where: Record = {"versions": versions(), "device": device, "strategy": strategy}
        self._programs: dict[str, Program] = {}
        self._arrays: dict[str, Any] = {}
        self._built: weakref.WeakSet = weakref.WeakSet()
        self._runs: dict[tuple[int, str], Run] = {}
        self._trained: dict[str, Trained] = {}
        self._stop, self._recording = threading.Event(), threading.Lock()

    def run(self) -> Comparison:
        """Train all arms with all seeds, or until Ctrl-C."""
        try:
            with contextlib.ExitStack() as lock:
                for seed in self.settings.seeds:
                    self._train_seed(seed, lock)
                    if self._stop.is_set():
                        break
        except KeyboardInterrupt:  # It came between two seeds.
            self._stop.set()
        return self._result()

    def _train_seed(self, seed: int, lock: contextlib.ExitStack) -> None:
        # Built here, in turn: the random state is the process's, and Keras' is the thread's.
        models = {arm: self._build(arm, seed, self.placement.scope()) for arm in self.settings.arms}
        if seed == self.settings.seeds[0]:
            self._open_checkpoints(models, lock)
        queues: dict[str, list[tuple]] = {}
        for arm, model in models.items():
            name = self.settings.program_of(arm)
            if name not in self._programs:
                # The values of the first arm, which trains first in it, are still there then.
                self._programs[name] = Program(model, self.settings, self.placement, self._arrays)
            self._programs[name].check(arm, model)
            queues.setdefault(name, []).append((arm, seed, model))
        run_jobs(queues.values(), self._train, self.placement.threads(len(queues)), self._stop)

    def _build(self, arm: str, seed: int, scope: contextlib.AbstractContextManager) -> keras.Model:
        keras.utils.set_random_seed(seed)
        with scope:  # Models create their variables here.
            model = self.settings.arms[arm].build()
        if not isinstance(model, keras.Model):
            raise TypeError(f"Arm {arm!r} must return a keras.Model. Received: {model!r}.")
        if model in self._built:
            raise ValueError(
                f"Arm {arm!r} returned a model that was used already. Build a new one at each call."
            )
        self._built.add(model)
        return model

    def _open_checkpoints(self, models: dict[str, keras.Model], lock: contextlib.ExitStack) -> None:
        """Make the folder this comparison's until `lock` ends, or raise if it is another's."""
        networks = {arm: digest(model.variables, describe_network(model)) for arm, model in models.items()}
        identity = {**self.settings.identity(), "network": networks}
        strategy, folder = self.placement.strategy, self._folder
        check_workers_agree(identity, strategy)
        if folder is not None:
            identity = {"command": self._command, **self._where, **identity}
            opened = broadcast_from_chief(strategy, lambda: open_folder(folder, identity, lock))
            self._command = opened["command"]

    def _train(self, arm: str, seed: int, model: keras.Model) -> None:
        run = self._runs[seed, arm] = Run(arm, seed)
        program = self._programs[self.settings.program_of(arm)]
        values = program.train(run, model, self._folder, self._stop, self._announce)
        # Of an interrupted run, too: better a model of some epochs than none.
        if values is not None and (run.finished or arm not in self._trained):
            self._trained[arm] = Trained(run, model, values)

    def _announce(self, record: Record) -> None:
        with self._recording:
            if self._on_epoch is not None:
                self._on_epoch(record)

    def _result(self) -> Comparison:
        # In the order of seeds and arms, whichever was trained first.
        places = itertools.product(self.settings.seeds, self.settings.arms)
        runs = [self._runs[place] for place in places if place in self._runs]
        records = _items(runs, "records")
        if self._stop.is_set():
            # The other workers know of no stop: they end when they miss this one, which has to go.
            if not records or workers(self.placement.strategy) > 1:
                raise KeyboardInterrupt
            warn_caller(f"Interrupted: kept {len(records)} epochs, all arms and seeds counted.")
        models = self._models()
        return Comparison(records, _items(runs, "test"), vars(self._metadata(runs, models)), models)

    def _models(self) -> dict[str, keras.Model]:
        """Return the trained models in the order of the arms, as ordinary models that share nothing."""
        names = [self.settings.program_of(arm) for arm in self.settings.arms]
        models = {}
        for arm, (run, model, values) in self._trained.items():
            name = self.settings.program_of(arm)
            is_shared = names.count(name) > 1
            if self.placement.strategy is not None:
                is_shared = True
                # An ordinary model needs no strategy to be saved or called.
                model = self._build(arm, run.seed, tf.device(self.placement.device))
                # One that waits for its input is built.
                model(keras.KerasTensor((None, *self.settings.data.input_shape)))
            models[arm] = self._programs[name].model(values, model if is_shared else None)
            if self.settings.precision is not None:
                set_precision(models[arm], self.settings.precision)
        return {arm: models[arm] for arm in self.settings.arms if arm in models}

    def _metadata(self, runs: list[Run], models: dict[str, keras.Model]) -> Metadata:
        settings = self.settings
        programs = {arm: self._programs[settings.program_of(arm)] for arm in settings.arms}
        reach = None if settings.reach is None else float(settings.reach)
        steps = settings.epochs * (
            settings.steps_per_epoch or len(settings.data.train.y) // settings.batch_size
        )
        arms, notes = {}, []
        for name, arm in settings.arms.items():
            network = programs[name].solver.model
            run = self._trained[name].run if name in self._trained else None
            saved = run and {"seed": run.seed, "epoch": run.epoch}
            arms[name] = arm.to_dict(name, models.get(name, network), saved)
            if note := moving_average_note(network, steps):
                notes.append(f"{arm.series or name}: {note}")
        return Metadata(
            **self._where,
            jit={arm: program.solver.jit for arm, program in programs.items()},
            command=self._command,
            dataset=settings.data.about(),
            settings={**settings.to_dict(), "reach": reach, "arms": arms},
            vary=settings.vary and dict(settings.vary),
            figures=["sweep" if settings.vary else "curves"],
            compiled_programs=len(self._programs),
            notes=list(dict.fromkeys(notes)),
            diverged=_items(runs, "diverged"),
            interrupted=self._stop.is_set(),
            observations=_items(runs, "observations"),
        )


def _items(runs: list[Run], name: str) -> list[Record]:
    """Return the items of all runs' lists `name`."""
    return [item for run in runs for item in getattr(run, name)]
