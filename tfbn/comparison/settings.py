"""`Settings`: the arguments of a comparison, checked."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.comparison.arms import Arm, check_arms
from tfbn.comparison.observers import OBSERVERS
from tfbn.data.arrays import Data, check_batch_size
from tfbn.foundation.arguments import integer, is_finite_number
from tfbn.runtime import strategies
from tfbn.runtime.devices import check_precision, find_device
from tfbn.training.optimizers import describe_loss, describe_optimizer, make_optimizer

VARY_TYPES = {"setting": str, "label": str, "log": bool}


class Settings:
    """The arguments of `compare` that its records depend on, and those of its figures.

    `arms` become `Arm`, `seeds` a list, `optimizer` a copy with its learning rate set, `device` its full
    name: of a strategy's replicas this worker's first.
    """

    def __init__(
        self,
        *,
        arms: Mapping[str, Any],
        data: Data,
        epochs: int,
        batch_size: int,
        steps_per_epoch: int | None,
        seeds: Any,
        optimizer: Any,
        learning_rate: Any,
        loss: Any,
        jit: bool | str,
        device: str,
        precision: str | None,
        vary: Mapping[str, Any] | None,
        observe: Sequence[str],
        reach: float | None,
        strategy: Any,
    ) -> None:
        if strategy is None:
            self.device = find_device(device)  # First of all: it decides how TensorFlow starts its GPUs.
        else:
            strategies.check_strategy(strategy, device, jit)
            self.device = strategies.device_of(strategy)
        self.arms = check_arms(arms)
        if not isinstance(data, Data):
            raise TypeError(
                "`data` must be tfbn.data.Data, in memory: tfbn.data.load(name), or Data(train=(x, y), "
                f"validation=(x, y), test=(x, y)). Received: {type(data).__name__}."
            )
        self.epochs = integer("epochs", epochs, at_least=1)
        if steps_per_epoch is not None:
            steps_per_epoch = integer("steps_per_epoch", steps_per_epoch, at_least=1)
        self.batch_size = check_batch_size(batch_size, len(data.train.y))
        self.seeds = _check_seeds(seeds)
        self.optimizer = _check_optimizer(optimizer, learning_rate, self.arms.values())
        check_precision(precision)
        if isinstance(observe, str) or not set(observe) <= set(OBSERVERS):
            names = ", ".join(OBSERVERS)
            raise ValueError(f"`observe` must be names out of {names}. Received: {observe!r}.")
        if reach is not None and not is_finite_number(reach):
            raise ValueError(f"`reach` must be a number, or None. Received: reach={reach!r}.")
        _check_vary(vary)
        self.reach = None if reach is None else float(reach)
        self.data, self.steps_per_epoch, self.loss, self.jit = data, steps_per_epoch, loss, jit
        self.precision, self.vary, self.observe, self.strategy = precision, vary, observe, strategy

    def scope(self) -> AbstractContextManager:
        """Return a context in which models and optimizers create the variables that are trained."""
        return tf.device(self.device) if self.strategy is None else strategies.scope(self.strategy)

    def to_dict(self) -> dict[str, Any]:
        """Return what all arms share, as results.json holds it."""
        return {
            **{name: getattr(self, name) for name in ("epochs", "batch_size", "steps_per_epoch", "seeds")},
            "optimizer": describe_optimizer(self.optimizer),
            "loss": self.loss if isinstance(self.loss, str | None) else type(self.loss).__name__,
            "precision": self.precision or "as built",
        }

    def identity(self) -> dict[str, Any]:
        """Return what the records depend on beside the networks, by which checkpoints are recognised."""
        return {
            "data": self.data.sha256,
            **self.to_dict(),
            "loss": describe_loss(self.loss),
            "jit": self.jit,
            "observe": list(self.observe),
            "arms": {name: [arm.series, arm.value, arm.learning_rate] for name, arm in self.arms.items()},
        }


def _check_seeds(seeds: Any) -> list[int]:
    try:
        values = np.asarray(seeds).tolist()  # Of ranges, arrays and NumPy's integers, too.
        values = values if isinstance(values, list) else range(integer("seeds", values))
        values = [integer("seeds", value, at_least=0, at_most=2**32 - 1) for value in values]
    except (TypeError, ValueError):
        values = []
    if not values or len(set(values)) < len(values):
        raise ValueError(
            "`seeds` must be a number, 1 or more, or different integers from 0 to 2**32 - 1. "
            f"Received: seeds={seeds!r}."
        )
    return values


def _check_vary(vary: Any) -> None:
    if vary is not None and (
        not isinstance(vary, dict)
        or vary.keys() != VARY_TYPES.keys()
        or not all(isinstance(vary[name], kind) for name, kind in VARY_TYPES.items())
    ):
        raise ValueError(
            "`vary` must be None, or a dict of setting and label, strings, and log, a bool. "
            f"Received: vary={vary!r}."
        )


def _check_optimizer(optimizer: Any, learning_rate: Any, arms: Collection[Arm]) -> Any:
    # A copy, because setting the learning rate must not change the caller's.
    own = isinstance(optimizer, keras.optimizers.Optimizer)
    optimizer = make_optimizer(copy_optimizer(optimizer) if own else optimizer, learning_rate)
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # That within Keras' LossScaleOptimizer.
    if isinstance(inner, getattr(keras.optimizers, "ScheduleFreeAdamW", ())):
        raise ValueError("ScheduleFreeAdamW starts from the weights of one model. Take another optimizer.")
    has_rates = any(arm.learning_rate is not None for arm in arms)
    if has_rates and not isinstance(inner.get_config()["learning_rate"], float):
        raise ValueError(
            "Arms with a `learning_rate` of their own need one that is a number in `compare`, too."
        )
    return optimizer


def copy_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the same arguments."""
    return type(optimizer).from_config(optimizer.get_config())
