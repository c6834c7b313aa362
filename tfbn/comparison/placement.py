"""`Placement`: where the networks of a comparison are built and run."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfbn.runtime import strategies
from tfbn.runtime.devices import find_device


@dataclass(frozen=True)
class Placement:
    """One device, or the replicas of a strategy, of which `device` then is this worker's first."""

    device: str
    strategy: Any = None

    @classmethod
    def find(cls, device: str, strategy: Any, jit: bool | str) -> "Placement":
        """Return the placement for these arguments of `compare`, or raise for arguments not allowed."""
        if strategy is None:
            return cls(find_device(device))
        strategies.check_strategy(strategy, device, jit)
        return cls(strategies.device_of(strategy), strategy)

    def scope(self) -> AbstractContextManager:
        """Return a context in which models and optimizers create the variables that are trained."""
        return tf.device(self.device) if self.strategy is None else strategies.scope(self.strategy)

    def solver_options(self) -> dict[str, Any]:
        """Return the arguments of `Solver`."""
        return {"device": self.device if self.strategy is None else "auto", "strategy": self.strategy}

    def threads(self, programs: int) -> int:
        """Return how many of `programs` train at the same time: on a CPU one a core."""
        # Replicas have to meet in one order: one program at a time.
        is_cpu = self.strategy is None and self.device.startswith("cpu")
        return min(programs, os.cpu_count() or 1) if is_cpu else 1
