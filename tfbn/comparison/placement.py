"""`Placement`: where the networks of a comparison are built and run."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfbn.runtime import strategies
from tfbn.runtime.devices import describe_device, find_device


@dataclass(frozen=True)
class Placement:
    """One device, or the replicas of a strategy.

    Attributes:
        device: the device's name, such as "cpu:0"; under a strategy, that of this worker's first replica.
        strategy: of `tf.distribute`. Default None: one device.
    """

    device: str
    strategy: Any = None

    @classmethod
    def find(cls, device: str, strategy: Any, jit: bool | str) -> Placement:
        """Return the placement for these arguments of `compare`.

        Raises:
            TypeError, ValueError: there is no such device, or the strategy does not support the arguments.
        """
        if strategy is None:
            return cls(find_device(device))
        strategies.check_strategy(strategy, device, jit)
        return cls(strategies.device_of(strategy), strategy)

    @property
    def workers(self) -> int:
        """The number of processes that train together."""
        return strategies.workers(self.strategy)

    def on_device(self) -> AbstractContextManager:
        """Return a context for models that need no strategy."""
        return tf.device(self.device)

    def scope(self) -> AbstractContextManager:
        """Return a context in which models and optimizers create the variables that are trained."""
        return self.on_device() if self.strategy is None else strategies.scope(self.strategy)

    def solver_options(self) -> dict[str, Any]:
        """Return the arguments `device` and `strategy` for `Solver`."""
        return {"device": self.device if self.strategy is None else "auto", "strategy": self.strategy}

    def threads(self, programs: int) -> int:
        """Return how many of `programs` train at the same time.

        On a CPU each program takes a core. Replicas have to meet in one order: one program at a time.
        """
        is_cpu = self.strategy is None and self.device.startswith("cpu")
        return min(programs, os.cpu_count() or 1) if is_cpu else 1

    def to_dict(self) -> dict[str, Any]:
        """Return device and strategy, as results.json holds them."""
        return {
            "device": describe_device(self.device),
            "strategy": strategies.describe_strategy(self.strategy),
        }
