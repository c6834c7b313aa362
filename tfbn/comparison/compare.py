"""`compare`: several networks, the same batches, several seeds."""

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.comparison.arms import Arm
from tfbn.comparison.programs import Program, Run, moving_average_note, run_jobs
from tfbn.comparison.results import Comparison
from tfbn.comparison.settings import Settings
from tfbn.comparison.storage import Metadata
from tfbn.data.arrays import Data
from tfbn.foundation.errors import warn_caller
from tfbn.foundation.provenance import versions
from tfbn.runtime.devices import describe_device, set_precision
from tfbn.runtime.strategies import broadcast_from_chief, describe_strategy, workers
from tfbn.training.checkpoints import check_workers_agree, digest, open_folder
from tfbn.training.signatures import describe_network


def compare(
    arms: Mapping[str, Arm | Callable[[], keras.Model]],
    data: Data,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    steps_per_epoch: int | None = None,
    seeds: int | Iterable[int] = 6,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule | None = None,
    loss: str | Callable | None = None,
    jit: bool | str = "auto",
    device: str = "auto",
    precision: str | None = None,
    vary: Mapping[str, Any] | None = None,
    observe: Sequence[str] = (),
    reach: float | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    command: str | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    strategy: Any = None,
) -> Comparison:
    """Train several networks side by side: the same batches in the same order, over several seeds.

    For each seed, every arm is built anew under `keras.utils.set_random_seed(seed)` and takes the same
    batches. Arms made by `Model` thus start from the same kernels. Arms of Keras' layers do so up to the
    first layer that draws a random number in one arm alone, such as a Dropout. From there on, give the
    initializers seeds of their own to pair the arms. The last incomplete batch of a pass is dropped.

    A network is compiled once. Further seeds assign their values to the same variables, so a seed can
    change variables only, not constants or arguments of a layer. Arms of one `Arm.program` share a
    compiled network, too. On a CPU the programs train at the same time, each on one core.

    Args:
        arms: dict of names to functions without arguments that return a new `keras.Model`, or to `Arm`,
            which has further fields. A name becomes a file's: letters, digits and any of _ . + = -.
        data: with its ``classes=0`` and a `loss` such as "mse", a regression.
        epochs: after how many epochs each run ends. Default 10.
        batch_size: examples a step. Default 32.
        steps_per_epoch: after how many steps to evaluate and record. Default None: a pass over the data.
        seeds: a number, for the seeds 0, 1, ..., or the seeds themselves. Default 6, the fewest that can
            separate an effect from noise.
        optimizer, learning_rate, loss, jit, device, precision: as in `Solver`. Each program gets an
            optimizer of its own, a copy by `get_config` of one that is passed.
        vary: dict that names what the arms' values are, for the figures: setting (its name), label (of the
            axis), log (whether the axis is logarithmic). Default None.
        observe: what to record of the networks' insides before the first and after each epoch, in
            inference over the first 1,000 validation examples: "outputs", "percentiles", "histograms"
            (see `tfbn.comparison.observers`). Default: nothing.
        reach: the validation accuracy (or loss) for "epochs to reach". Default None: one that all runs
            reached.
        on_epoch: called with each record when it is made. Default None.
        command: the command to note in the result. Default None.
        checkpoint_dir: folder for the state of the training. A comparison that finds its own state there
            resumes, and its result is the same to the last bit. A checkpoint is written after each epoch,
            but never for more than 10 % of the run time. State that a custom layer keeps outside of
            Keras' variables is not saved, and under a strategy the first replica's values stand for all.
            Default None: no checkpoints.
        strategy: as in `Solver`: each batch is split over its replicas, and arms are built in its scope.
            Several workers have to make the same call. All return the same records and models, which are
            ordinary ones; the chief alone writes checkpoints. Default None: one device.

    Returns:
        `Comparison`, with `table`, `verdict`, `plot`, `save` and the trained `models`. After Ctrl-C it
        holds the finished epochs, with a warning. A loss that is not finite ends that arm's seed, which
        then counts as diverged and in no mean.

    Raises:
        ValueError, TypeError: an argument is outside what is allowed, or `checkpoint_dir` holds the state
            of another comparison; before anything is trained.
        ConnectionError: another worker is gone.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=[200, 4])
    >>> split = (x, x[:, 0] > 0)
    >>> data = Data(train=split, validation=split, test=split, name="half-plane")
    >>> def build(*layers):
    ...     return keras.Sequential([keras.Input([4]), *layers, keras.layers.Dense(2)])
    >>> arms = {"hidden": lambda: build(keras.layers.Dense(8, "relu")), "linear": build}
    >>> result = compare(arms, data, epochs=2, seeds=2)
    >>> len(result.records), len(result.test)
    (8, 4)
    """
    settings = Settings(
        arms=arms,
        data=data,
        epochs=epochs,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        seeds=seeds,
        optimizer=optimizer,
        learning_rate=learning_rate,
        loss=loss,
        jit=jit,
        device=device,
        precision=precision,
        vary=vary,
        observe=observe,
        reach=reach,
        strategy=strategy,
    )
    return Session(settings, checkpoint_dir, on_epoch, command).run()


class Session:
    """One call of `compare`: builds arms, finds their programs, trains runs and makes the result."""

    def __init__(
        self,
        settings: Settings,
        checkpoint_dir: str | os.PathLike | None,
        on_epoch: Callable[[dict[str, Any]], None] | None,
        command: str | None,
    ) -> None:
        self.settings = settings
        self._folder = None if checkpoint_dir is None else Path(checkpoint_dir)
        self._on_epoch, self._command = on_epoch, command
        device, strategy = describe_device(settings.device), describe_strategy(settings.strategy)
        self._where: dict[str, Any] = {"versions": versions(), "device": device, "strategy": strategy}
        self._program_of = {name: arm.program or name for name, arm in settings.arms.items()}
        self._programs: dict[str, Program] = {}
        self._arrays: dict[str, Any] = {}
        self._built: weakref.WeakSet = weakref.WeakSet()
        self._runs: dict[tuple[int, str], Run] = {}
        # By arm a run that ended well, the network that it began from, and the values of its variables.
        self._trained: dict[str, tuple[Run, keras.Model, list[np.ndarray]]] = {}
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
        settings = self.settings
        models = {arm: self._build(arm, seed, settings.scope()) for arm in settings.arms}
        if seed == settings.seeds[0]:
            self._open_checkpoints(models, lock)
        queues: dict[str, list[tuple]] = {}
        for arm, model in models.items():
            name = self._program_of[arm]
            if name not in self._programs:
                # The values of the first arm, which trains first in it, are still there then.
                self._programs[name] = Program(model, settings, self._arrays)
            self._programs[name].check(arm, model)
            queues.setdefault(name, []).append((arm, seed, model))
        # On a CPU a program a core. Replicas have to meet in one order: one program at a time.
        parallel = settings.strategy is None and settings.device.startswith("cpu")
        threads = min(len(queues), os.cpu_count() or 1) if parallel else 1
        run_jobs(queues.values(), self._train, threads, self._stop)

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
        strategy, folder = self.settings.strategy, self._folder
        check_workers_agree(identity, strategy)
        if folder is not None:
            identity = {"command": self._command, **self._where, **identity}
            opened = broadcast_from_chief(strategy, lambda: open_folder(folder, identity, lock))
            self._command = opened["command"]

    def _train(self, arm: str, seed: int, model: keras.Model) -> None:
        run = self._runs[seed, arm] = Run(arm, seed)
        program = self._programs[self._program_of[arm]]
        values = program.train(run, model, self._folder, self._stop, self._announce)
        # Of an interrupted run, too: better a model of some epochs than none.
        if values is not None and (run.finished or arm not in self._trained):
            self._trained[arm] = run, model, values

    def _announce(self, record: dict[str, Any]) -> None:
        with self._recording:
            if self._on_epoch is not None:
                self._on_epoch(record)

    def _result(self) -> Comparison:
        # In the order of seeds and arms, whichever was trained first.
        places = itertools.product(self.settings.seeds, self.settings.arms)
        runs = [self._runs[place] for place in places if place in self._runs]
        records, test, diverged, observations = (
            [item for run in runs for item in getattr(run, name)]
            for name in ("records", "test", "diverged", "observations")
        )
        if self._stop.is_set():
            # The other workers know of no stop: they end when they miss this one, which has to go.
            if not records or workers(self.settings.strategy) > 1:
                raise KeyboardInterrupt
            warn_caller(f"Interrupted: kept {len(records)} epochs, all arms and seeds counted.")
        models = self._models()
        return Comparison(records, test, vars(self._metadata(models, diverged, observations)), models)

    def _models(self) -> dict[str, keras.Model]:
        """Return the trained models in the order of the arms, as ordinary models that share nothing."""
        names = list(self._program_of.values())
        models = {}
        for arm, (run, model, values) in self._trained.items():
            name = self._program_of[arm]
            is_shared = names.count(name) > 1
            if self.settings.strategy is not None:
                is_shared = True
                # An ordinary model needs no strategy to be saved or called.
                model = self._build(arm, run.seed, tf.device(self.settings.device))
                # One that waits for its input is built.
                model(keras.KerasTensor((None, *self.settings.data.input_shape)))
            models[arm] = self._programs[name].model(values, model if is_shared else None)
            if self.settings.precision is not None:
                set_precision(models[arm], self.settings.precision)
        return {arm: models[arm] for arm in self.settings.arms if arm in models}

    def _metadata(
        self, models: dict[str, keras.Model], diverged: list[dict], observations: list[dict]
    ) -> Metadata:
        settings = self.settings
        programs = {arm: self._programs[name] for arm, name in self._program_of.items()}
        steps_per_epoch = settings.steps_per_epoch or len(settings.data.train.y) // settings.batch_size
        saved = {arm: {"seed": run.seed, "epoch": run.epoch} for arm, (run, *_) in self._trained.items()}
        arms, notes = {}, []
        for name, arm in settings.arms.items():
            network = programs[name].solver.model
            arms[name] = arm.to_dict(name, models.get(name, network), saved.get(name))
            if note := moving_average_note(network, settings.epochs * steps_per_epoch):
                notes.append(f"{arm.series or name}: {note}")
        return Metadata(
            **self._where,
            jit={arm: program.solver.jit for arm, program in programs.items()},
            command=self._command,
            dataset=settings.data.about(),
            settings={**settings.to_dict(), "reach": settings.reach, "arms": arms},
            vary=settings.vary and dict(settings.vary),
            figures=["sweep" if settings.vary else "curves"],
            compiled_programs=len(self._programs),
            notes=list(dict.fromkeys(notes)),
            diverged=diverged,
            interrupted=self._stop.is_set(),
            observations=observations,
        )
