"""`Program`: a network that was compiled once, and the runs that it trains."""

import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.comparison.observers import OBSERVERS
from tfbn.comparison.placement import Placement
from tfbn.comparison.records import Record, Run
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


class Program:
    """A network that was compiled once, for the arms of one signature.

    Args:
        model: the network, whose variables the program takes; their values do not matter.
        settings, placement: the comparison's.
        arrays: the splits as `Arrays` by name: empty, or as another program on the device filled it.
    """

    def __init__(
        self, model: keras.Model, settings: Settings, placement: Placement, arrays: dict[str, Any]
    ) -> None:
        self.settings, self.placement = settings, placement
        self.signature = signature(model)
        self.metrics = ("accuracy",) if settings.data.classes else ()
        with placement.scope():
            optimizer = copy_optimizer(settings.optimizer)
        options = dict(jit=settings.jit, precision=settings.precision, **placement.solver_options())
        self.solver = Solver(model, optimizer, None, settings.loss, self.metrics, **options)
        # The first program puts the arrays on the device, the others share them.
        for name, split in settings.data.splits().items():
            arrays[name] = self.solver.prepare(*((arrays[name],) if name in arrays else split))
        self.arrays = dict(arrays)
        x = self.arrays["validation"].x[:OBSERVED_EXAMPLES]
        # Each a trace of its own, since TensorFlow warns where many functions trace again.
        observers = {
            name: tf.function(OBSERVERS[name](model), autograph=False) for name in settings.observe
        }
        self._observers = {name: observe.get_concrete_function(x) for name, observe in observers.items()}
        self._observed = x
        self._variables = [*model.variables, *model.optimizer.variables]
        self._checkpoints = Checkpoints(self._variables, placement.strategy)

    def train(
        self,
        run: Run,
        start: keras.Model,
        folder: Path | None,
        stop: threading.Event,
        on_record: Callable[[Record], None],
    ) -> list[np.ndarray] | None:
        """Train a run to its end, or until `stop` is set; resume from its checkpoint if there is one.

        Args:
            run: a new run, to be filled.
            start: the arm's network, from whose values the run begins.
            folder: of the comparison's checkpoints. None: no checkpoints.
            on_record: called with each record.

        Returns:
            The values of all variables at the end. None if the run diverged or did not begin, or if one of
            several workers stops.
        """
        self.solver.restart(start, self.settings.arms[run.arm].learning_rate)
        folder = None if folder is None else folder / run.arm / f"{run.seed}"
        begins = None if folder is None else digest(self._variables)

        def save() -> None:
            if folder is not None:
                self._checkpoints.save(folder, {"begins": begins, "run": vars(run)})

        if folder is not None:
            saved = self._checkpoints.restore(folder, lambda record: record.get("begins") == begins)
            vars(run).update(saved["run"] if saved else {})
            for record in run.records:
                on_record(record)
        if run.epoch == 0 and not run.observations:
            self._observe(run)
        while not run.finished:
            if stop.is_set():
                if workers(self.placement.strategy) > 1:
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
        train, batch_size, steps = (
            self.arrays["train"],
            self.settings.batch_size,
            self.settings.steps_per_epoch,
        )
        run.epoch += 1
        order = epoch_order(len(train.y), batch_size, run.seed, run.epoch, steps)
        start = time.perf_counter()
        self.solver.train_epoch(train, order, batch_size)
        seconds = time.perf_counter() - start
        record = run.key()
        for split in ("train", "validation"):
            record |= {f"{split}_{name}": value for name, value in self.evaluate(split).items()}
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
        result = self.evaluate("test")
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

    def evaluate(self, split: str) -> dict[str, float]:
        """Return loss and, for classes, accuracy on a split."""
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

    ::

        share = momentum**steps

    is what they still hold of their start, which costs accuracy in inference.

    >>> model = keras.Sequential([keras.Input([2]), keras.layers.BatchNormalization()])
    >>> moving_average_note(model, steps=100)[:80]
    'after 100 steps at a momentum of 0.99 moving averages still hold 37 % of their s'
    >>> moving_average_note(model, steps=1000)
    """
    momenta = [
        layer.momentum
        for layer in flatten_layers(model)
        if isinstance(layer, BATCHNORM_CLASSES)
        and layer.momentum is not None
        # What these normalise by does not depend on the start.
        and not getattr(layer, "debias", False)
        and not getattr(layer, "test_local_stats", False)
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
