"""`Run`: an arm with a seed, and what it recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Run:
    """An arm's training with one seed: plain data, from which results are made.

    Attributes:
        arm, seed: which run.
        epoch: the epochs that were trained.
        finished: whether the run ended by itself, tested or diverged.
        records, observations: dicts, one for each epoch; observations begin with epoch 0.
        diverged: empty, or a dict of the epoch in which a loss was not finite.
        test: empty, or a dict of the test's result.
    """

    arm: str
    seed: int
    epoch: int = 0
    finished: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)
    observations: list[dict[str, Any]] = field(default_factory=list)
    diverged: list[dict[str, Any]] = field(default_factory=list)
    test: list[dict[str, Any]] = field(default_factory=list)

    def key(self, epoch: bool = True) -> dict[str, Any]:
        """Return arm, seed and, by default, epoch: what an item of the lists begins with."""
        return {"arm": self.arm, "seed": self.seed, **({"epoch": self.epoch} if epoch else {})}

    def to_dict(self) -> dict[str, Any]:
        """Return the run as a checkpoint holds it."""
        return vars(self)

    def update(self, content: dict[str, Any]) -> None:
        """Take over what `to_dict` of an earlier process returned."""
        vars(self).update(content)
