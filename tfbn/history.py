"""Records of training: in as dicts, out as JSON and CSV. Standard library only."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import platform
from dataclasses import dataclass, field
from pathlib import Path


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


def versions():
    """The versions of Python and of the packages that a result depends on, as a dict.

    >>> sorted(versions())[:3]
    ['keras', 'matplotlib', 'numpy']
    """
    packages = ("tfbn", "tensorflow", "keras", "tensorflow-datasets", "numpy", "matplotlib")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def to_json(content):
    """`content` as strict JSON text; a loss that is no number becomes null.

    >>> print(to_json({"loss": float("nan")}))
    {
      "loss": null
    }
    """
    return json.dumps(_without_nan(content), indent=2, allow_nan=False)


def write_json(path, content):
    """Write `content` to the file `path` as strict JSON."""
    Path(path).write_text(to_json(content) + "\n", encoding="utf-8")


def read_json(path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path, records):
    """Write `records`, dicts of the same keys, to the file `path`: a header and a row each."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]) if records else [])
        writer.writeheader()
        writer.writerows(records)


def _without_nan(content):
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
