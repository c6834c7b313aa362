"""Arms of a comparison, and which of them one compiled program can train."""

from __future__ import annotations

import concurrent.futures
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfbn.observers import OBSERVERS
from tfbn.solver import Solver

OBSERVED_EXAMPLES = 1000
# Where a configuration calls layers by their names, and what only a layer's configuration has.
REFERENCES = ("keras_history", "input_layers", "output_layers")
OF_LAYERS = {"trainable", "batch_shape", "inbound_nodes", "layers"}


@dataclass(frozen=True)
class Arm:
    """One network of a comparison.

    Args:
        build: function that takes nothing and returns a new `keras.Model`.
        series: str, the line of a figure that it belongs to, such as "batchnorm". Default None: the arm's
            own name.
        value: number or str, what a sweep varies, as it is in this arm. Default None.
        learning_rate: float. Default None: that of the comparison.
    """

    build: Callable
    series: str | None = None
    value: float | str | None = None
    learning_rate: float | None = None


def check_arms(arms):
    """`arms` as a dict of names to `Arm`, from functions or `Arm`.

    Raises:
        TypeError, ValueError: it is no such dict, or a name makes no file name.
    """
    example = "{'plain': lambda: tfbn.Model(784, 10, use_batchnorm=False)}"
    if not isinstance(arms, dict) or not arms:
        raise TypeError(
            "`arms` must be a dict of names to functions that build a model, one or more, such as "
            f"{example}. Received: {arms!r}."
        )
    checked = {}
    for name, arm in arms.items():
        arm = arm if isinstance(arm, Arm) else Arm(arm)
        if not callable(arm.build) or isinstance(arm.build, keras.Model):
            raise TypeError(
                f"`arms` must be made of functions that build a model, such as {example}. Received: "
                f"{name!r}: {arm.build!r}."
            )
        if (
            not isinstance(name, str)
            or not re.fullmatch(r"\w[\w.+=-]{,99}", name)
            or name.endswith(".keras")
        ):
            raise ValueError(
                "An arm's name becomes a file's name: up to 100 letters, digits and any of _ . + = - are "
                f"allowed, and no '.keras' at the end. Received: {name!r}."
            )
        checked[name] = arm
    return checked


def signature(model):
    """What a model's compiled program depends on, as text: its layers, but for names and initial values.

    Models of one signature can be trained by one program, to whose variables their values are assigned.
    None for a model that holds what its configuration may not tell all of: layers and functions of one's
    own, and layers that were adapted to data.

    >>> narrow, wide = (keras.Sequential([keras.Input([2]), keras.layers.Dense(n)]) for n in (3, 4))
    >>> signature(narrow) == signature(wide)
    False
    >>> other = keras.Sequential([keras.Input([2]), keras.layers.Dense(3, kernel_initializer="zeros")])
    >>> signature(narrow) == signature(other)
    True
    """
    if any(hasattr(layer, "adapt") for layer in model._flatten_layers()):
        return None
    try:
        return json.dumps(_bare(json.loads(model.to_json()), {}))
    except (
        NotImplementedError,
        TypeError,
        ValueError,
    ):  # Not all of it is Keras'.
        return None


def _bare(config, names):
    """`config` without initial values, and with layers numbered in the order of their appearance."""
    if isinstance(config, list):
        return [_bare(item, names) for item in config]
    if not isinstance(config, dict):
        return config
    if "module" in config and (config["module"] or "keras").split(".")[0] not in ("keras", "tfbn"):
        raise ValueError(f"{config['class_name']} is not Keras'.")
    if config.get("class_name") == "__lambda__":
        raise ValueError("The configuration of a function does not tell what it refers to.")
    called = ("name", *REFERENCES) if config.keys() & OF_LAYERS else REFERENCES
    return {
        key: _numbered(value, names) if key in called else _bare(value, names)
        for key, value in config.items()
        if key != "seed" and not key.endswith("_initializer")
    }


def _numbered(value, names):
    if isinstance(value, list):
        return [_numbered(item, names) for item in value]
    return names.setdefault(value, len(names)) if isinstance(value, str) else value


class Program:
    """A network that was compiled once, for the arms of one signature.

    Args:
        model: `keras.Model`, whose variables it takes; its values do not matter.
        optimizer: `keras.optimizers.Optimizer`, its own.
        data: `Data`.
        arrays: dict, empty or as another program on the device filled it: the splits as `Arrays`.
        observe: names of OBSERVERS.
        loss, jit, device, precision: as in `Solver`.
    """

    def __init__(self, model, optimizer, data, arrays, observe, *, loss, jit, device, precision):
        self.metrics = ("accuracy",) if data.classes else ()
        self.solver = Solver(model, optimizer, None, loss, self.metrics, jit, device, precision)
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


def _plain(tensor):
    values = tensor.numpy()
    if values.dtype.kind == "f":
        values = np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape)
    return values.tolist()


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
            stop.set()  # Leaving the pool waits for the epochs under way.
            with changed:
                changed.notify_all()
