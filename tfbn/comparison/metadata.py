"""`Metadata`: where a comparison comes from and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(kw_only=True)
class Metadata:
    """What a comparison holds beside records, test results and models: `Comparison.about` with names.

    Attributes:
        versions: of Python and the packages.
        device, strategy: where the networks ran.
        jit: dict of arm to whether XLA compiled it.
        command: the command that ran the comparison.
        dataset: what `Data.about` returned.
        settings: what all arms share, `reach`, and `arms`, a dict of names to what `Arm.to_dict` returned.
        vary: what the arms' values are: setting, label and log; None if nothing varies.
        figures: the names of the figures that a report shows.
        recipe: the recipe that was run.
        compiled_programs: how many programs the arms took.
        notes: sentences that go with the verdict.
        diverged: dicts of arm, seed and epoch of the runs in which a loss was not finite.
        interrupted: whether Ctrl-C ended the comparison.
        observations: dicts of arm, seed, epoch and what was observed.
    """

    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    strategy: dict[str, Any] | None = None
    jit: dict[str, bool] = field(default_factory=dict)
    command: str | None = None
    dataset: dict[str, Any]
    settings: dict[str, Any]
    vary: Mapping[str, Any] | None
    figures: list[str] = field(default_factory=list)
    recipe: dict[str, Any] | None = None
    compiled_programs: int | None = None
    notes: list[str]
    diverged: list[dict[str, Any]]
    interrupted: bool
    observations: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, about: dict[str, Any]) -> Metadata:
        """Read what `to_dict` returned, here or in another version."""
        return cls(**{item.name: about[item.name] for item in fields(cls) if item.name in about})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as results.json holds them."""
        return dict(vars(self))

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """The arms by name, as `Arm.to_dict` returned them."""
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
