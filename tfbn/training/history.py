"""`History`: what a training recorded, an epoch a record."""

from __future__ import annotations

from dataclasses import dataclass, field

from tfbn.foundation.files import read_json, write_json


@dataclass
class History:
    """What a training run recorded, and where it came from.

    Args:
        records: list of dicts, one an epoch. Losses are in nats an example, accuracies fractions,
            `seconds` the time of the epoch's training.
        about: dict of what ran: device, jit, precision, versions and the like.

    >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> history["loss"]
    [0.5, 0.25]
    >>> history.history
    {'epoch': [1, 2], 'loss': [0.5, 0.25]}
    """

    records: list = field(default_factory=list)
    about: dict = field(default_factory=dict, repr=False)

    def __getitem__(self, name):
        """The values of `name`, one an epoch."""
        return [record[name] for record in self.records]

    def __len__(self):
        return len(self.records)

    @property
    def history(self):
        """The records as a dict of lists, as `keras.callbacks.History` has it."""
        return {name: self[name] for name in self.records[0]} if self.records else {}

    def save(self, path):
        """Write the history to `path` as JSON."""
        write_json(path, {**self.about, "records": self.records})

    @classmethod
    def load(cls, path):
        """Read what `save` wrote."""
        about = read_json(path)
        return cls(about.pop("records"), about)
