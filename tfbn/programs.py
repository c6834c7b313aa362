"""Arms of a comparison, and which of them one compiled program can train."""

from __future__ import annotations

import concurrent.futures
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from tfbn.chance import is_number
from tfbn.inference.batchnorms import KINDS
from tfbn.observers import OBSERVERS
from tfbn.solver import Solver

OBSERVED_EXAMPLES = 1000
LAG = 0.05  # of their start, what moving averages may hold before it is told
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
        program: str. Arms of one name are compiled once and must differ in initial values and learning
            rate alone: in nothing that Keras does not take for a variable's value. Where the models'
            configurations tell, this is checked. Default None: a program of its own.
    """

    build: Callable
    series: str | None = None
    value: float | str | None = None
    learning_rate: float | None = None
    program: str | None = None


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
        known = isinstance(name, str) and re.fullmatch(r"[^\W_][\w.+=-]*", name)
        if not known or len(name.encode()) > 100 or name.endswith(".keras"):
            raise ValueError(
                "An arm's name becomes a file's name: up to 100 bytes of letters, digits and any of _ . + "
                f"= - are allowed, a letter or digit first, and no '.keras' at the end. Received: {name!r}."
            )
        if isinstance(arm.value, np.generic):
            arm = replace(arm, value=arm.value.item())
        for key in ("series", "program"):
            if not isinstance(getattr(arm, key), str | None):
                raise TypeError(f"`{key}` of arm {name!r} must be a text. Received: {getattr(arm, key)!r}.")
        if not (isinstance(arm.value, str | None) or is_number(arm.value)):
            raise TypeError(
                f"`value` of arm {name!r} must be a finite number, a text or None. Received: {arm.value!r}."
            )
        rate = arm.learning_rate
        if rate is not None and not (is_number(rate) and not isinstance(rate, bool) and rate >= 0):
            raise ValueError(
                f"`learning_rate` of arm {name!r} must be a number, 0 or more. Received: {rate!r}."
            )
        checked[name] = arm
    places = [(arm.series or name, arm.value) for name, arm in checked.items()]
    if len(set(places)) < len(places):
        raise ValueError(
            "No two arms may have the same `series` and `value`. Received: "
            f"{max(places, key=places.count)} more than once."
        )
    return checked


def signature(model):
    """What a model's configuration says of its compiled program: its layers, less names and initial values.

    Models of different signatures cannot be trained by one program. None for a model whose configuration
    does not tell: layers and functions of one's own, and layers that were adapted to data.

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
        if key not in ("seed", "compile_config") and not key.endswith("_initializer")
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
        self.signature = signature(model)
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

    >>> model = keras.Sequential([keras.Input([2]), keras.layers.BatchNormalization()])
    >>> lag(model, steps=100)[:80]
    'after 100 steps at a momentum of 0.99 moving averages still hold 37 % of their s'
    >>> lag(model, steps=1000)
    """
    momenta = [
        layer.momentum
        for layer in model._flatten_layers()
        if isinstance(layer, KINDS)
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
            stop.set()  # Leaving the pool waits for the epochs under way.
            with changed:
                changed.notify_all()
