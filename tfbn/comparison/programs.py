"""A program: a network that was compiled once, and the runs that it trains."""

from __future__ import annotations

import concurrent.futures
import math
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfbn.comparison.observers import OBSERVERS
from tfbn.data.arrays import epoch_order
from tfbn.foundation.signals import signals_deferred
from tfbn.keras_internals import flatten_layers
from tfbn.layers.inspection import BATCHNORM_CLASSES
from tfbn.runtime.strategies import workers
from tfbn.training.checkpoints import Checkpoints, digest
from tfbn.training.signatures import signature
from tfbn.training.solver import Solver

OBSERVED_EXAMPLES = 1000
LAG = 0.05  # of their start, what moving averages may hold before it is told


class Plan(NamedTuple):
    """How each run trains: `epochs` of so many steps, a pass if None; `folder`, of checkpoints, or None."""

    epochs: int
    batch_size: int
    steps_per_epoch: int | None
    folder: Path | None


def new_run(arm, seed):
    """A run, an arm with a seed, that has not begun: plain data, of which results are made."""
    this = {"arm": arm, "seed": seed, "epoch": 0, "finished": False}
    return {**this, "records": [], "observations": [], "diverged": [], "test": []}


class Program:
    """A network that was compiled once, for the arms of one signature.

    Args:
        model: `keras.Model`, whose variables it takes; its values do not matter.
        optimizer: `keras.optimizers.Optimizer`, its own.
        data: `Data`.
        arrays: dict, empty or as another program on the device filled it: the splits as `Arrays`.
        observe: names of OBSERVERS.
        loss, jit, device, precision, strategy: as in `Solver`.
    """

    def __init__(self, model, optimizer, data, arrays, observe, *, loss, jit, device, precision, strategy):
        self.signature = signature(model)
        self.metrics = ("accuracy",) if data.classes else ()
        options = dict(jit=jit, device=device, precision=precision, strategy=strategy)
        self.solver = Solver(model, optimizer, None, loss, self.metrics, **options)
        # The first program puts the arrays on the device, the others share them.
        for name, split in data.splits().items():
            given = (arrays[name],) if name in arrays else split
            arrays[name] = self.solver.prepare(*given)
        self.arrays = dict(arrays)
        x = self.arrays["validation"].x[:OBSERVED_EXAMPLES]
        self._observers = {
            # A trace of its own, since TensorFlow warns where many functions trace again.
            name: tf.function(OBSERVERS[name](model), autograph=False).get_concrete_function(x)
            for name in observe
        }
        self._observed = x
        self._variables = [*model.variables, *model.optimizer.variables]
        self._checkpoints = Checkpoints(self._variables, strategy)

    def train(self, run, fresh, learning_rate, plan, stop, on_record):
        """Train a run to its end, or to `stop`; from its checkpoint if there is one.

        Args:
            run: dict, as `new_run` gives it, which is filled.
            fresh: `keras.Model`, from whose values the run begins.
            learning_rate: float. Default None: that of the optimizer.
            plan: `Plan`.
            stop: `threading.Event`.
            on_record: function that is called with each record.

        Returns:
            list of arrays, the values of all variables at the end; None if it diverged or did not begin, or
            one of several workers stops.
        """
        folder = plan.folder and plan.folder / f"{run['arm']}" / f"{run['seed']}"
        self.solver.restart(fresh, learning_rate)
        if folder is not None:
            begins = digest(self._variables)
            known = self._checkpoints.restore(folder, lambda record: record.get("begins") == begins)
            if known is not None:
                run.update(known["run"])
                for record in run["records"]:
                    on_record(record)

        def save(epoch_ends):
            if folder is not None and (not epoch_ends or self._checkpoints.due()):
                self._checkpoints.save(folder, {"begins": begins, "run": run})

        if run["epoch"] == 0 and not run["observations"]:
            self._observe(run)
        while not run["finished"]:
            if stop.is_set():
                if workers(self.solver.strategy) > 1:
                    return None  # It touches nothing that is shared: the others know of no stop.
                save(epoch_ends=False)
                return self._values() if run["epoch"] else None
            self._train_epoch(run, plan)
            on_record(run["records"][-1])
            if run["diverged"] or run["epoch"] == plan.epochs:
                self._finish(run)
            save(epoch_ends=not run["finished"])
        return None if run["diverged"] else self._values()

    def _train_epoch(self, run, plan):
        run["epoch"] += 1
        this = {"arm": run["arm"], "seed": run["seed"], "epoch": run["epoch"]}
        examples = len(self.arrays["train"].y)
        order = epoch_order(examples, plan.batch_size, run["seed"], run["epoch"], plan.steps_per_epoch)
        start = time.perf_counter()
        self.solver.train_epoch(self.arrays["train"], order, plan.batch_size)
        seconds = time.perf_counter() - start
        record = this.copy()
        for split in ("train", "validation"):
            record |= {f"{split}_{name}": value for name, value in self.evaluate(split).items()}
        run["records"].append({**record, "seconds": seconds})
        self._observe(run)
        if not (math.isfinite(record["train_loss"]) and math.isfinite(record["validation_loss"])):
            run["diverged"].append(this)

    def _finish(self, run):
        """The test, unless the run diverged."""
        run["finished"] = True
        if run["diverged"]:
            return
        self.solver.finish()
        this = {"arm": run["arm"], "seed": run["seed"]}
        result = self.evaluate("test")
        if math.isfinite(result["loss"]):
            run["test"].append({**this, **result})
        else:
            run["diverged"].append({**this, "epoch": run["epoch"]})

    def _observe(self, run):
        seen = self.observe()
        if seen is not None:
            this = {"arm": run["arm"], "seed": run["seed"], "epoch": run["epoch"]}
            run["observations"].append({**this, **seen})

    def model(self, values, fresh=None):
        """Its own model, or else `fresh`, with the values that `train` returned."""
        if fresh is None:
            self._assign(values)
            return self.solver.model
        for variable, value in zip(fresh.variables, values, strict=False):  # Without the optimizer's.
            variable.assign(value)
        return fresh

    def _assign(self, values):
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)

    def _values(self):
        return [variable.numpy() for variable in self._variables]

    def check(self, arm, model):
        """Raise if the program cannot train `model`."""
        if model is self.solver.model:
            return
        known = _weights(model)  # A model that waits for its input tells none yet.
        if signature(model) != self.signature or (known and known != _weights(self.solver.model)):
            raise ValueError(
                f"Arm {arm!r} differs from the first of its program, or from itself at another seed, in "
                "more than initial values and learning rate. Leave its `program` out, and build one "
                "network."
            )

    def evaluate(self, split):
        """Loss and, for classes, accuracy on a split, as a dict."""
        result = self.solver.evaluate(self.arrays[split])
        return {name: getattr(result, name) for name in ("loss", *self.metrics)}

    def observe(self):
        """What the observers see, as plain data of 6 significant digits; None without observers."""
        if not self._observers:
            return None
        with tf.device(self.solver.device):
            found = {name: observe(self._observed) for name, observe in self._observers.items()}
        return tf.nest.map_structure(_plain, found)


def _weights(model):
    """Shapes of a model's weights and which are trained; None before it is built."""
    return [(tuple(weight.shape), weight.trainable) for weight in model.weights] if model.built else None


def _plain(tensor):
    values = tensor.numpy()
    if values.dtype.kind == "f":
        values = np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape)
    return values.tolist()


def lag(model, steps):
    """A sentence on moving averages that so few steps leave near their start; None if there are none.

    ::

        share = momentum**steps

    is what they still hold of their start, and what keeps a network from its accuracy in inference.

    >>> import keras
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.BatchNormalization()])
    >>> lag(model, steps=100)[:80]
    'after 100 steps at a momentum of 0.99 moving averages still hold 37 % of their s'
    >>> lag(model, steps=1000)
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
    if share <= LAG:
        return None
    return (
        f"after {steps:,} steps at a momentum of {max(momenta):g} moving averages still hold {share:.0%} "
        "of their start, which costs accuracy. More steps, a lower momentum, tfbn's debias=True or "
        "tfbn.recalibrate help."
    ).replace("%", " %")


def work(jobs, train, workers, stop):
    """Do all jobs in turn on so many threads, those of a program one after the other.

    Args:
        jobs: list of pairs of a program and the arguments of `train`.
        train: function of these.
        workers: int.
        stop: `threading.Event`, that no more jobs are to begin; set at Ctrl-C and where a job fails.
    """
    jobs, busy, changed = list(jobs), set(), threading.Condition()

    def next_job():
        with changed:
            while jobs and not stop.is_set():
                for job in jobs:
                    if job[0] not in busy:
                        jobs.remove(job)
                        busy.add(job[0])
                        return job
                changed.wait()
        return None

    def begin():
        while job := next_job():
            program, arguments = job
            try:
                train(*arguments)
            except BaseException:
                stop.set()
                raise
            finally:
                with changed:
                    busy.discard(program)
                    changed.notify_all()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        working = [pool.submit(begin) for _ in range(workers)]
        try:
            for worker in working:
                worker.result()
        except KeyboardInterrupt:
            stop.set()
            with changed:
                changed.notify_all()
            with signals_deferred():  # A second Ctrl-C must not cut off the epochs under way.
                concurrent.futures.wait(working)
