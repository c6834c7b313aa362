"""`compare`: several networks, the same batches, several seeds."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import os
import threading
import warnings
import weakref
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfbn.comparison.arms import check_arms
from tfbn.comparison.observers import OBSERVERS
from tfbn.comparison.programs import Plan, Program, lag, new_run, work
from tfbn.comparison.results import Comparison
from tfbn.data.arrays import Data, check_batch_size
from tfbn.foundation.arguments import is_finite_number
from tfbn.foundation.provenance import versions
from tfbn.runtime.devices import check_precision, describe_device, find_device, set_precision
from tfbn.runtime.strategies import (
    broadcast_from_chief,
    check_strategy,
    describe_strategy,
    device_of,
    scope,
    workers,
)
from tfbn.training.checkpoints import check_workers_agree, digest, open_folder
from tfbn.training.optimizers import describe_loss, describe_optimizer, make_optimizer
from tfbn.training.signatures import describe_network


def compare(
    arms,
    data,
    *,
    epochs=10,
    batch_size=32,
    steps_per_epoch=None,
    seeds=6,
    optimizer="adam",
    learning_rate=None,
    loss=None,
    jit="auto",
    device="auto",
    precision=None,
    vary=None,
    observe=(),
    reach=None,
    on_epoch=None,
    command=None,
    checkpoint_dir=None,
    strategy=None,
):
    """Train several networks side by side: the same batches in the same order, over several seeds.

    For each seed, every arm is built anew under `keras.utils.set_random_seed(seed)` and takes the same
    batches. Arms made by `Model` so start from the same kernels. Arms of Keras' layers do, up to the
    first layer that draws a random number in one arm alone, such as a Dropout; from there on, give the
    initializers seeds of their own to pair the arms. A rest of examples that fills no batch sits the
    pass out; the next pass draws anew.

    A network is compiled once: further seeds assign their values to the same variables, so that a seed
    can vary what is a variable, and no constant or argument of a layer. Arms of one `Arm.program`, which
    differ in initial values or learning rate alone, do the same. On a CPU the programs train at the same
    time, a core each.

    Args:
        arms: dict of names to functions that take nothing and return a new `keras.Model`, or to
            `Arm`, which says more. A name becomes a file's: letters, digits and any of _ . + = -.
        data: `tfbn.data.Data`; with its ``classes=0`` and a `loss` such as "mse", a regression.
        epochs: int. Default 10.
        batch_size: int. Default 32.
        steps_per_epoch: int, after how many steps to evaluate and record. Default None: a pass.
        seeds: int, for the seeds 0, 1, ... (default 6, the fewest that can tell a difference from
            chance), or the seeds themselves.
        optimizer, learning_rate, loss, jit, device, precision: as in `Solver`; each program has an
            optimizer of its own, a copy by `get_config` if one is given.
        vary: dict of what the arms' values are, for the figures: setting (its name), label (of the axis),
            log (whether the axis is logarithmic). Default None.
        observe: names of what to look at inside of the networks before the first and after each epoch,
            in inference over the first 1,000 validation examples: "outputs", "percentiles",
            "histograms" (see `tfbn.observers`). Default: nothing.
        reach: float, the validation accuracy (or loss) for "epochs to reach". Default None: one that all
            runs reached.
        on_epoch: function that is called with each record as it comes. Default None.
        command: str, the command to note in the result. Default None.
        checkpoint_dir: path of a folder for the state of the training. A comparison that finds its own
            there goes on from it, to the result that it would have had, to the last bit. A checkpoint
            is written after each epoch, or as often as takes a tenth of the time. What a layer of one's own
            keeps or draws outside of Keras' variables is not in it, and under a strategy the first
            replica's values stand for all. Default None: none.
        strategy: as in `Solver`, over whose replicas each batch is split; arms are built in its scope.
            Several workers have to make the same call. All come to the same records and models, which
            are ordinary ones; the chief alone writes checkpoints. Default None: one device.

    Returns:
        `Comparison`, with `table`, `verdict`, `plot`, `save` and the trained `models`. At Ctrl-C it holds
        the epochs that had finished, with a warning. A loss that is no number ends that arm's seed, which
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
    arms = check_arms(arms)
    seeds, batch_size = _check(data, epochs, batch_size, steps_per_epoch, seeds, precision, observe)
    _check_drawn(vary, reach)
    if strategy is None:
        place_of = device = find_device(device)
        place = functools.partial(tf.device, device)
    else:
        check_strategy(strategy, device, jit)
        place_of, place = device_of(strategy), functools.partial(scope, strategy)
    # A copy, because setting the learning rate must not change the caller's.
    own = isinstance(optimizer, keras.optimizers.Optimizer)
    template = make_optimizer(_copy(optimizer) if own else optimizer, learning_rate)
    inner = getattr(template, "inner_optimizer", template)  # That within Keras' LossScaleOptimizer.
    if isinstance(inner, getattr(keras.optimizers, "ScheduleFreeAdamW", ())):
        raise ValueError("ScheduleFreeAdamW starts from the weights of one model. Take another optimizer.")
    rates = [arm.learning_rate for arm in arms.values() if arm.learning_rate is not None]
    if rates and not isinstance(inner.get_config()["learning_rate"], float):
        raise ValueError(
            "Arms with a `learning_rate` of their own need one that is a number in `compare`, too."
        )

    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "steps_per_epoch": steps_per_epoch,
        "seeds": seeds,
        "optimizer": describe_optimizer(template),
        "loss": loss if isinstance(loss, str | None) else type(loss).__name__,
        "precision": precision or "as built",
    }
    where = {
        "versions": versions(),
        "device": describe_device(place_of),
        "strategy": describe_strategy(strategy),
    }
    held = contextlib.ExitStack()
    if checkpoint_dir is not None:
        checkpoint_dir = Path(checkpoint_dir)
    runs, kept = {}, {}
    programs, arrays, built = {}, {}, weakref.WeakSet()
    stop, recording = threading.Event(), threading.Lock()
    plan = Plan(epochs, batch_size, steps_per_epoch, checkpoint_dir)

    def build(arm, seed, place=place):
        keras.utils.set_random_seed(seed)
        with place():  # Models create their variables here.
            model = arms[arm].build()
        if not isinstance(model, keras.Model):
            raise TypeError(f"Arm {arm!r} must return a keras.Model. Received: {model!r}.")
        if model in built:
            raise ValueError(
                f"Arm {arm!r} returned a model that was used already. Build a new one at each call."
            )
        built.add(model)
        return model

    def begin(fresh):
        about = {
            "data": data.sha256,
            **settings,
            "loss": describe_loss(loss),
            "jit": jit,
            "observe": list(observe),
            "arms": {name: [arm.series, arm.value, arm.learning_rate] for name, arm in arms.items()},
            "network": {
                arm: digest(model.variables, describe_network(model)) for arm, model in fresh.items()
            },
        }
        check_workers_agree(about, strategy)
        if checkpoint_dir is None:
            return command
        about = {"command": command, **where, **about}
        return broadcast_from_chief(strategy, lambda: open_folder(checkpoint_dir, about, held))["command"]

    def on_record(record):
        with recording:
            if on_epoch is not None:
                on_epoch(record)

    def train(arm, seed, fresh):
        run = runs[seed, arm] = new_run(arm, seed)
        program = programs[arms[arm].program or arm]
        values = program.train(run, fresh, arms[arm].learning_rate, plan, stop, on_record)
        # Of an interrupted run, too: better a model of some epochs than none.
        if values is not None and (run["finished"] or arm not in kept):
            kept[arm] = run, fresh, values

    try:
        with held:
            for seed in seeds:
                # Built here, in turn: the random state is the process's, and Keras' is the thread's.
                fresh = {arm: build(arm, seed) for arm in arms}
                if seed == seeds[0]:
                    command = begin(fresh)
                for arm, model in fresh.items():
                    key = arms[arm].program or arm
                    if key not in programs:
                        with place():
                            own = _copy(template)
                        options = dict(
                            loss=loss, jit=jit, device=device, precision=precision, strategy=strategy
                        )
                        # The values of the first arm, which trains first in it, are still there then.
                        programs[key] = Program(model, own, data, arrays, observe, **options)
                    programs[key].check(arm, model)
                jobs = [(programs[arms[arm].program or arm], (arm, seed, fresh[arm])) for arm in arms]
                # Replicas meet in one order: one program at a time.
                together = strategy is None and device.startswith("cpu")
                work(jobs, train, min(len(programs), os.cpu_count()) if together else 1, stop)
                if stop.is_set():
                    break
    except KeyboardInterrupt:  # It came between two seeds.
        stop.set()

    # In the order of seeds and arms, whichever was done first.
    done = [runs[seed, arm] for seed in seeds for arm in arms if (seed, arm) in runs]
    records, test, observations, diverged = (
        [item for run in done for item in run[key]]
        for key in ("records", "test", "observations", "diverged")
    )
    if stop.is_set():
        # The other workers know of no stop: they end when they miss this one, which therefore has to go.
        if not records or workers(strategy) > 1:
            raise KeyboardInterrupt
        warnings.warn(f"Interrupted: kept {len(records)} epochs, all arms and seeds counted.", stacklevel=2)
    program_of = {arm: programs[arms[arm].program or arm] for arm in arms}
    models = {}
    for arm, (run, fresh, values) in kept.items():
        if strategy is not None:  # An ordinary model, which needs no strategy to be saved or called.
            fresh = build(arm, run["seed"], functools.partial(tf.device, place_of))
            fresh(keras.KerasTensor((None, *data.input_shape)))  # One that waits for its input is built.
        shared = list(program_of.values()).count(program_of[arm]) > 1
        models[arm] = program_of[arm].model(values, fresh if shared or strategy is not None else None)
        if precision is not None:
            set_precision(models[arm], precision)

    def describe(arm):
        model = models.get(arm, program_of[arm].solver.model)
        return {
            "series": arms[arm].series or arm,
            "value": arms[arm].value,
            "learning_rate": arms[arm].learning_rate,
            "parameters": model.count_params(),
            "architecture": _architecture(model),
            # Which weights the saved model has.
            "model": {key: kept[arm][0][key] for key in ("seed", "epoch")} if arm in kept else None,
        }

    steps = epochs * (steps_per_epoch or len(data.train.y) // batch_size)
    notes = [(arms[arm].series or arm, lag(program_of[arm].solver.model, steps)) for arm in arms]

    about = {
        **where,
        "jit": {arm: program.solver.jit for arm, program in program_of.items()},
        "command": command,
        "dataset": data.about(),
        "settings": {
            **settings,
            "reach": None if reach is None else float(reach),
            "arms": {name: describe(name) for name in arms},
        },
        "vary": vary,
        "figures": ["sweep" if vary else "curves"],
        "recipe": None,
        "compiled_programs": len(programs),
        "notes": list(dict.fromkeys(f"{series}: {note}" for series, note in notes if note)),
        "diverged": diverged,
        "interrupted": stop.is_set(),
        "observations": observations,
    }
    models = {arm: models[arm] for arm in arms if arm in models}
    return Comparison(records, test, about, models)


def _check(data, epochs, batch_size, steps_per_epoch, seeds, precision, observe):
    """Raise for what is not allowed; the seeds as a list."""
    if not isinstance(data, Data):
        raise TypeError(
            "`data` must be tfbn.data.Data, in memory: tfbn.data.load(name), or Data(train=(x, y), "
            f"validation=(x, y), test=(x, y)). Received: {type(data).__name__}."
        )
    for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if value is None and name == "steps_per_epoch":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer, 1 or more. Received: {name}={value!r}.")
    batch_size = check_batch_size(batch_size, len(data.train.y))
    check_precision(precision)
    if isinstance(observe, str) or not set(observe) <= set(OBSERVERS):
        raise ValueError(f"`observe` must be names out of {', '.join(OBSERVERS)}. Received: {observe!r}.")
    try:
        found = list(range(operator.index(seeds)) if np.ndim(seeds) == 0 else seeds)
        found = [] if isinstance(seeds, bool) else [operator.index(seed) for seed in found]
    except TypeError:
        found = []
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) >= 2**32:
        raise ValueError(
            "`seeds` must be a number, 1 or more, or different integers from 0 to 2**32 - 1. "
            f"Received: seeds={seeds!r}."
        )
    return found, batch_size


def _check_drawn(vary, reach):
    """Raise for what would be found wrong only after the training."""
    kinds = {"setting": str, "label": str, "log": bool}
    if vary is not None and (
        not isinstance(vary, dict)
        or vary.keys() != kinds.keys()
        or not all(isinstance(vary[name], kind) for name, kind in kinds.items())
    ):
        raise ValueError(
            "`vary` must be a dict of setting and label, texts, and log, a bool, or None. "
            f"Received: vary={vary!r}."
        )
    if reach is not None and not is_finite_number(reach):
        raise ValueError(f"`reach` must be a number, or None. Received: reach={reach!r}.")


def _copy(optimizer):
    return type(optimizer).from_config(optimizer.get_config())


def _architecture(model):
    """Class and arguments as Keras serializes them; None for a model that Keras cannot serialize."""
    try:
        return json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError):
        return None
