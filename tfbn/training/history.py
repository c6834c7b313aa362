"""`History`: the record of one training, epoch by epoch."""

import os
from dataclasses import dataclass, field
from typing import Any

from tfbn.foundation.files import read_json, write_json


@dataclass
class History:
    """The records of a training run, and where they come from.

    Args:
        records: one per epoch. Losses are in nats per example, accuracies fractions, and `seconds` is the
            time of the epoch's training.
        about: what ran: device, jit, precision, versions and the like.

    >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> history["loss"]
    [0.5, 0.25]
    >>> history.history
    {'epoch': [1, 2], 'loss': [0.5, 0.25]}
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> list:
        """Return the values of `name`, one per epoch."""
        return [record[name] for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def history(self) -> dict[str, list]:
        """Return the records as a dict of lists, as `keras.callbacks.History` has it."""
        return {name: self[name] for name in self.records[0]} if self.records else {}

    def save(self, path: str | os.PathLike) -> None:
        """Write the history to the file `path` as JSON."""
        write_json(path, {**self.about, "records": self.records})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "History":
        """Read what `save` wrote."""
        about = read_json(path)
        return cls(about.pop("records"), about)
