"""`compare`: several networks, the same batches, several seeds."""

from __future__ import annotations

import concurrent.futures
import json
import math
import operator
import os
import re
import threading
import time
import warnings

import keras
import tensorflow as tf

from tfbn.comparison import Comparison
from tfbn.data import Data, batch_order
from tfbn.devices import check_precision, describe_device, find_device
from tfbn.history import versions
from tfbn.solver import Solver, check_batch_size, make_optimizer


def compare(
    arms,
    data,
    *,
    epochs=10,
    batch_size=32,
    seeds=3,
    optimizer="adam",
    learning_rate=None,
    loss=None,
    jit="auto",
    device="auto",
    precision=None,
    on_epoch=None,
    command=None,
):
    """Train several networks side by side: the same batches in the same order, over several seeds.

    For each seed, every arm is built anew under `keras.utils.set_random_seed(seed)` and takes the same
    batches. Arms made by `Model` so start from the same kernels. Arms of Keras' layers do, up to the
    first layer that draws a random number in one arm alone, such as a Dropout; from there on, give the
    initializers seeds of their own to pair the arms. A rest of examples that fills no batch sits the
    epoch out; the next epoch draws anew. An arm is compiled once: further
    seeds assign their initial values to the same variables, so that a seed can vary what is a variable,
    and no constant or argument of a layer. On a CPU the arms train at the same
    time, a core each.

    Args:
        arms: dict of names to functions that take nothing and return a new `keras.Model`. A name becomes
            a file's: letters, digits and any of _ . + = -.
        data: `tfbn.data.Data`.
        epochs: int. Default 10.
        batch_size: int. Default 32.
        seeds: int, for the seeds 0, 1, ... (default 3), or the seeds themselves.
        optimizer, learning_rate, loss, jit, device, precision: as in `Solver`; each arm has an
            optimizer of its own, a copy by `get_config` if one is given.
        on_epoch: function that is called with each record as it comes. Default None.
        command: str, the command to note in the result. Default None.

    Returns:
        `Comparison`, with `table`, `verdict`, `plot`, `save` and the trained `models`. At Ctrl-C it holds
        the epochs that had finished, with a warning. A loss that is no number ends that arm's seed, which
        then counts as diverged and in no mean.

    Raises:
        ValueError, TypeError: an argument is outside what is allowed, before anything is trained.

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
    seeds, batch_size = _check(arms, data, epochs, batch_size, seeds, precision)
    device = find_device(device)
    # A copy, because setting the learning rate must not change the caller's.
    own = isinstance(optimizer, keras.optimizers.Optimizer)
    template = make_optimizer(_copy(optimizer) if own else optimizer, learning_rate)

    solvers, arrays = {}, {}
    records, test, diverged, kept = [], [], [], {}
    stop, lock = threading.Event(), threading.Lock()

    def set_up(arm, seed):
        keras.utils.set_random_seed(seed)
        with tf.device(device):  # Models and optimizers create their variables here.
            model = arms[arm]()
            if any(model is solver.model for solver in solvers.values()):
                raise ValueError(
                    f"Arm {arm!r} returned a model that was used already. Build a new one at each call."
                )
            if arm in solvers:
                solvers[arm].restart(model)
                return
            solver = solvers[arm] = Solver(
                model, _copy(template), loss=loss, jit=jit, device=device, precision=precision
            )
        # The first arm puts the arrays on the device, the others share them.
        for name, split in data.splits().items():
            arrays[name] = solver.prepare(arrays[name]) if name in arrays else solver.prepare(*split)

    def train(arm, seed):
        solver = solvers[arm]
        for epoch in range(1, epochs + 1):
            if stop.is_set():
                # Better a model of some epochs than none.
                if epoch > 1 and arm not in kept:
                    kept[arm] = seed, epoch - 1, solver.model.get_weights()
                return
            order = batch_order(len(data.train.y), seed, epoch)
            order = order[: len(order) - len(order) % batch_size]
            start = time.perf_counter()
            solver.train_epoch(arrays["train"], order, batch_size)
            seconds = time.perf_counter() - start
            record = {"arm": arm, "seed": seed, "epoch": epoch}
            for name in ("train", "validation"):
                result = solver.evaluate(arrays[name])
                record |= {f"{name}_loss": result.loss, f"{name}_accuracy": result.accuracy}
            record["seconds"] = seconds
            with lock:
                records.append(record)
                if on_epoch is not None:
                    on_epoch(record)
            if not (math.isfinite(record["train_loss"]) and math.isfinite(record["validation_loss"])):
                diverged.append({"arm": arm, "seed": seed, "epoch": epoch})
                return
        solver.finish()
        result = solver.evaluate(arrays["test"])
        if not math.isfinite(result.loss):
            diverged.append({"arm": arm, "seed": seed, "epoch": epochs})
            return
        test.append({"arm": arm, "seed": seed, "loss": result.loss, "accuracy": result.accuracy})
        kept[arm] = seed, epochs, solver.model.get_weights()

    workers = min(len(arms), os.cpu_count()) if device.startswith("cpu") else 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for seed in seeds:
                for arm in arms:
                    set_up(arm, seed)
                for job in [pool.submit(train, arm, seed) for arm in arms]:
                    job.result()
        except KeyboardInterrupt:
            stop.set()  # Leaving the pool waits for the epochs under way.
        except BaseException:
            stop.set()
            raise

    if stop.is_set():
        if not records:
            raise KeyboardInterrupt
        warnings.warn(f"Interrupted: kept {len(records)} epochs, all arms and seeds counted.", stacklevel=2)
    for arm, (_, _, weights) in kept.items():
        solvers[arm].model.set_weights(weights)  # A later seed may have diverged.
    place = {arm: index for index, arm in enumerate(arms)}

    def by_seed_and_arm(item):
        return item["seed"], place[item["arm"]]

    about = {
        "versions": versions(),
        "device": describe_device(device),
        "jit": {arm: solver.jit for arm, solver in solvers.items()},
        "command": command,
        "dataset": data.about(),
        "settings": {
            "epochs": epochs,
            "batch_size": batch_size,
            "seeds": seeds,
            "optimizer": _describe(template),
            "precision": precision or "as built",
            "arms": {
                arm: {
                    "parameters": solver.model.count_params(),
                    "architecture": _architecture(solver.model),
                    # Which weights the saved model has.
                    "model": dict(zip(("seed", "epoch"), kept[arm], strict=False)) if arm in kept else None,
                }
                for arm, solver in solvers.items()
            },
        },
        "diverged": sorted(diverged, key=by_seed_and_arm),
        "interrupted": stop.is_set(),
    }
    records.sort(key=lambda record: (*by_seed_and_arm(record), record["epoch"]))
    test.sort(key=by_seed_and_arm)
    return Comparison(records, test, about, {arm: solvers[arm].model for arm in arms if arm in kept})


def _check(arms, data, epochs, batch_size, seeds, precision):
    """Raise for what is not allowed; the seeds as a list."""
    built = isinstance(arms, dict) and any(isinstance(arm, keras.Model) for arm in arms.values())
    if not isinstance(arms, dict) or not arms or built or not all(map(callable, arms.values())):
        raise TypeError(
            "`arms` must be a dict of names to functions that build a model, one or more, such as "
            f"{{'plain': lambda: tfbn.Model(784, 10, use_batchnorm=False)}}. Received: {arms!r}."
        )
    for name in arms:
        if (
            not re.fullmatch(r"\w[\w.+=-]{,99}", str(name))
            or not isinstance(name, str)
            or name.endswith(".keras")
        ):
            raise ValueError(
                "An arm's name becomes a file's name: up to 100 letters, digits and any of _ . + = - are "
                f"allowed, and no '.keras' at the end. Received: {name!r}."
            )
    if not isinstance(data, Data):
        raise TypeError(
            "`data` must be tfbn.data.Data: tfbn.data.load(name), or Data(train=(x, y), "
            f"validation=(x, y), test=(x, y)). Received: {type(data).__name__}."
        )
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"`epochs` must be an integer, 1 or more. Received: epochs={epochs!r}.")
    batch_size = check_batch_size(batch_size, len(data.train.y))
    check_precision(precision)
    try:
        found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        found = [operator.index(seed) for seed in found]
    except TypeError:
        found = []
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) >= 2**32:
        raise ValueError(
            "`seeds` must be a number, 1 or more, or different integers from 0 to 2**32 - 1. "
            f"Received: seeds={seeds!r}."
        )
    return found, batch_size


def _copy(optimizer):
    return type(optimizer).from_config(optimizer.get_config())


def _architecture(model):
    """Class and arguments as Keras serializes them; None for a model that Keras cannot serialize."""
    try:
        return json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError):
        return None


def _describe(optimizer):
    """Name and arguments, as Keras serializes them."""
    config = optimizer.get_config()
    if isinstance(config.get("learning_rate"), float):
        config["learning_rate"] = float(f"{config['learning_rate']:.7g}")  # It was kept in float32.
    return {"class_name": type(optimizer).__name__, "config": config}
