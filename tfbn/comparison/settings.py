"""`Settings`: the arguments of a comparison, checked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any

import keras
import numpy as np

from tfbn.comparison.arms import Arm, check_arms
from tfbn.comparison.observers import OBSERVERS
from tfbn.data.arrays import Data, check_batch_size
from tfbn.foundation.arguments import integer, is_finite_number
from tfbn.runtime.devices import check_precision
from tfbn.training.optimizers import describe_loss, describe_optimizer, make_optimizer

VARY_TYPES = {"setting": str, "label": str, "log": bool}


@dataclass(frozen=True, eq=False, kw_only=True)
class Settings:
    """The arguments of `compare` that its records depend on, and those of its figures.

    `arms` become `Arm`, `seeds` a list, and `optimizer` a copy with its learning rate set.
    """

    arms: Mapping[str, Any]
    data: Data
    epochs: int
    batch_size: int
    steps_per_epoch: int | None
    seeds: Any
    optimizer: Any
    learning_rate: InitVar[Any]
    loss: Any
    jit: bool | str
    precision: str | None
    vary: Mapping[str, Any] | None
    observe: Sequence[str]
    reach: float | None

    def __post_init__(self, learning_rate: Any) -> None:
        arms, steps = check_arms(self.arms), self.steps_per_epoch
        if not isinstance(self.data, Data):
            raise TypeError(
                "`data` must be tfbn.data.Data, in memory: tfbn.data.load(name), or Data(train=(x, y), "
                f"validation=(x, y), test=(x, y)). Received: {type(self.data).__name__}."
            )
        checked = {
            "arms": arms,
            "epochs": integer("epochs", self.epochs, at_least=1),
            "steps_per_epoch": None if steps is None else integer("steps_per_epoch", steps, at_least=1),
            "batch_size": check_batch_size(self.batch_size, len(self.data.train.y)),
            "seeds": _check_seeds(self.seeds),
            "optimizer": _check_optimizer(self.optimizer, learning_rate, arms.values()),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        check_precision(self.precision)
        if isinstance(self.observe, str) or not set(self.observe) <= set(OBSERVERS):
            names = ", ".join(OBSERVERS)
            raise ValueError(f"`observe` must be names out of {names}. Received: {self.observe!r}.")
        if self.reach is not None and not is_finite_number(self.reach):
            raise ValueError(f"`reach` must be a number, or None. Received: reach={self.reach!r}.")
        _check_vary(self.vary)

    def program_of(self, arm: str) -> str:
        """Return the name of an arm's program."""
        return self.arms[arm].program or arm

    def to_dict(self) -> dict[str, Any]:
        """Return what all arms share, as results.json holds it."""
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "seeds": self.seeds,
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
