"""`Program`: a network that was compiled once, and the runs that it trains."""

import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.comparison.observers import OBSERVERS
from tfbn.comparison.settings import Settings, copy_optimizer
from tfbn.data.arrays import epoch_order
from tfbn.foundation.signals import signals_ignored
from tfbn.keras_internals import flatten_layers
from tfbn.layers.inspection import BATCHNORM_CLASSES
from tfbn.runtime.strategies import workers
from tfbn.training.checkpoints import Checkpoints, digest
from tfbn.training.signatures import signature
from tfbn.training.solver import Solver

OBSERVED_EXAMPLES = 1000
START_SHARE_LIMIT = 0.05  # Below, what moving averages hold of their start goes without a note.


@dataclass
class Run:
    """An arm's training with one seed, as checkpoints hold it. The lists hold dicts of plain data."""

    arm: str
    seed: int
    epoch: int = 0  # epochs trained
    finished: bool = False  # tested or diverged, not interrupted
    records: list[dict] = field(default_factory=list)
    observations: list[dict] = field(default_factory=list)
    diverged: list[dict] = field(default_factory=list)  # one if a loss was not finite
    test: list[dict] = field(default_factory=list)  # one if the run was tested

    def key(self) -> dict[str, Any]:
        """Return arm, seed and epoch, with which an item of the lists begins."""
        return {"arm": self.arm, "seed": self.seed, "epoch": self.epoch}


class Program:
    """A network that was compiled once, for the arms of one signature.

    The program takes the variables of `model`; their values do not matter. `arrays` are the splits on the
    device by name: the first program fills the dict, the others share it.
    """

    def __init__(self, model: keras.Model, settings: Settings, arrays: dict[str, Any]) -> None:
        self.settings, self.arrays = settings, arrays
        self.signature = signature(model)
        self.metrics = ("accuracy",) if settings.data.classes else ()
        with settings.scope():
            optimizer = copy_optimizer(settings.optimizer)
        options = dict(jit=settings.jit, precision=settings.precision, strategy=settings.strategy)
        options["device"] = settings.device if settings.strategy is None else "auto"
        self.solver = Solver(model, optimizer, None, settings.loss, self.metrics, **options)
        for name, split in settings.data.splits().items():
            arrays[name] = self.solver.prepare(*((arrays[name],) if name in arrays else split))
        self._observed = self.arrays["validation"].x[:OBSERVED_EXAMPLES]
        # Each a trace of its own, since TensorFlow warns where many functions trace again.
        self._observers = {
            name: tf.function(OBSERVERS[name](model), autograph=False).get_concrete_function(self._observed)
            for name in settings.observe
        }
        self._variables = [*model.variables, *model.optimizer.variables]
        self._checkpoints = Checkpoints(self._variables, settings.strategy)

    def train(
        self,
        run: Run,
        start: keras.Model,
        folder: Path | None,
        stop: threading.Event,
        on_record: Callable[[dict[str, Any]], None],
    ) -> list[np.ndarray] | None:
        """Fill a new run to its end, or until `stop` is set; resume from its checkpoint in `folder`.

        The run begins from the values of `start`, the arm's network.

        Returns:
            The values of all variables at the end. None if the run diverged or did not begin, or if one of
            several workers stops.
        """
        self.solver.restart(start, self.settings.arms[run.arm].learning_rate)
        if folder is not None:
            folder = folder / run.arm / f"{run.seed}"
            begins = digest(self._variables)
            saved = self._checkpoints.restore(folder, lambda record: record.get("begins") == begins)
            vars(run).update(saved["run"] if saved else {})
            for record in run.records:
                on_record(record)

        def save() -> None:
            if folder is not None:
                self._checkpoints.save(folder, {"begins": begins, "run": vars(run)})

        if run.epoch == 0 and not run.observations:
            self._observe(run)
        while not run.finished:
            if stop.is_set():
                if workers(self.settings.strategy) > 1:
                    return None  # Nothing that is shared may be touched: the other workers know of no stop.
                save()
                return self._values() if run.epoch else None
            self._train_epoch(run)
            on_record(run.records[-1])
            if run.diverged or run.epoch == self.settings.epochs:
                self._finish(run)
            if run.finished or self._checkpoints.due():
                save()
        return None if run.diverged else self._values()

    def _train_epoch(self, run: Run) -> None:
        train, settings = self.arrays["train"], self.settings
        batch_size, steps = settings.batch_size, settings.steps_per_epoch
        run.epoch += 1
        order = epoch_order(len(train.y), batch_size, run.seed, run.epoch, steps)
        start = time.perf_counter()
        self.solver.train_epoch(train, order, batch_size)
        seconds = time.perf_counter() - start
        record = run.key()
        for split in ("train", "validation"):
            record |= {f"{split}_{name}": value for name, value in self._evaluate(split).items()}
        run.records.append({**record, "seconds": seconds})
        self._observe(run)
        if not (math.isfinite(record["train_loss"]) and math.isfinite(record["validation_loss"])):
            run.diverged.append(run.key())

    def _finish(self, run: Run) -> None:
        """Test the network, unless the run diverged."""
        run.finished = True
        if run.diverged:
            return
        self.solver.finish()
        result = self._evaluate("test")
        if math.isfinite(result["loss"]):
            run.test.append({"arm": run.arm, "seed": run.seed, **result})
        else:
            run.diverged.append(run.key())

    def _observe(self, run: Run) -> None:
        """Append what the observers return, as plain data of 6 significant digits."""
        if self._observers:
            with tf.device(self.solver.device):
                values = {name: observe(self._observed) for name, observe in self._observers.items()}
            run.observations.append({**run.key(), **tf.nest.map_structure(_plain, values)})

    def model(self, values: list[np.ndarray], other: keras.Model | None = None) -> keras.Model:
        """Return a model with the values that `train` returned: the program's own, or else `other`."""
        variables = self._variables if other is None else other.variables
        for variable, value in zip(variables, values, strict=other is None):  # Without the optimizer's.
            variable.assign(value)
        return self.solver.model if other is None else other

    def _values(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self._variables]

    def check(self, arm: str, model: keras.Model) -> None:
        """Raise ValueError if the program cannot train `model`."""
        if model is self.solver.model:
            return
        weights = _weights(model)  # None for a model that waits for its input.
        if signature(model) != self.signature or (weights and weights != _weights(self.solver.model)):
            raise ValueError(
                f"Arm {arm!r} differs from the first of its program, or from itself at another seed, in "
                "more than initial values and learning rate. Leave its `program` out, and build one "
                "network."
            )

    def _evaluate(self, split: str) -> dict[str, float]:
        result = self.solver.evaluate(self.arrays[split])
        return {name: getattr(result, name) for name in ("loss", *self.metrics)}


def _weights(model: keras.Model) -> list[tuple] | None:
    """Return shapes of a model's weights and which are trained; None before it is built."""
    return [(tuple(weight.shape), weight.trainable) for weight in model.weights] if model.built else None


def _plain(tensor: tf.Tensor) -> Any:
    values = tensor.numpy()
    if values.dtype.kind == "f":
        values = np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape)
    return values.tolist()


def moving_average_note(model: keras.Model, steps: int) -> str | None:
    """Return a note on moving averages that are still near their start after `steps`; None if none is.

    They still hold ``momentum**steps`` of their start, which costs accuracy in inference.
    """
    momenta = [
        layer.momentum
        for layer in flatten_layers(model)
        if isinstance(layer, BATCHNORM_CLASSES)
        and layer.momentum is not None
        # What these normalise by does not depend on the start.
        and not (getattr(layer, "debias", False) or getattr(layer, "test_local_stats", False))
    ]
    share = max(momenta, default=0) ** steps
    if share <= START_SHARE_LIMIT:
        return None
    return (
        f"after {steps:,} steps at a momentum of {max(momenta):g} moving averages still hold "
        f"{100 * share:.0f} % of their start, which costs accuracy. More steps, a lower momentum, tfbn's "
        "debias=True or tfbn.recalibrate help."
    )


def run_jobs(
    queues: Iterable[list[tuple]], train: Callable[..., None], threads: int, stop: threading.Event
) -> None:
    """Call `train` with the arguments in `queues`, a list a program: in order within one program.

    At most `threads` programs train at the same time. `stop` is set at Ctrl-C and where `train` raises; no
    further call is made then.
    """

    def work(jobs: list[tuple]) -> None:
        try:
            for job in jobs:
                if not stop.is_set():
                    train(*job)
        except BaseException:
            stop.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for future in [pool.submit(work, jobs) for jobs in queues]:
                future.result()
        except KeyboardInterrupt:
            with signals_ignored():  # A second Ctrl-C must not cut off the epochs under way.
                stop.set()
                pool.shutdown()
