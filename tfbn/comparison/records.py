"""What a comparison records: `Run`, an arm with a seed, and `Metadata`, where the comparison comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Record = dict[str, Any]  # plain data, as JSON holds it


@dataclass
class Run:
    """An arm's training with one seed, as checkpoints hold it."""

    arm: str
    seed: int
    epoch: int = 0  # epochs trained
    finished: bool = False  # tested or diverged, not interrupted
    records: list[Record] = field(default_factory=list)
    observations: list[Record] = field(default_factory=list)
    diverged: list[Record] = field(default_factory=list)  # one if a loss was not finite
    test: list[Record] = field(default_factory=list)  # one if the run was tested

    def key(self) -> Record:
        """Return arm, seed and epoch, with which an item of the lists begins."""
        return {"arm": self.arm, "seed": self.seed, "epoch": self.epoch}


@dataclass(kw_only=True)
class Metadata:
    """`Comparison.about` with names: where a comparison comes from and how it ended."""

    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    strategy: Record | None = None
    jit: dict[str, bool] = field(default_factory=dict)  # by arm
    command: str | None = None
    dataset: Record  # of `Data.about`
    settings: Record  # of `Settings.to_dict`, with reach, and arms by name, of `Arm.to_dict`
    vary: Mapping[str, Any] | None
    figures: list[str] = field(default_factory=list)  # those that a report shows
    recipe: Record | None = None
    compiled_programs: int | None = None
    notes: list[str]  # sentences that go with the verdict
    diverged: list[Record]
    interrupted: bool
    observations: list[Record] = field(default_factory=list)

    @classmethod
    def from_dict(cls, about: Record) -> "Metadata":
        """Return the metadata in `about`, of this version or another."""
        return cls(**{item.name: about[item.name] for item in fields(cls) if item.name in about})

    @property
    def arms(self) -> dict[str, Record]:
        """The arms by name."""
        return self.settings["arms"]

    @property
    def steps_per_epoch(self) -> int | None:
        """The steps between two records; None for a pass over the data."""
        return self.settings["steps_per_epoch"]

    @property
    def title(self) -> str:
        """The data set's name for people."""
        return self.dataset["title"]

    @property
    def source(self) -> str:
        """Where the data came from, as a line of a figure's title."""
        return f"Data: {self.dataset['source']}"
