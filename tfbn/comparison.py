"""`Comparison`: what came out of a comparison, as text, figures and files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfbn import plots
from tfbn.history import read_json, to_json, write_csv, write_json


@dataclass
class Comparison:
    """What a comparison recorded, and what it says.

    Attributes:
        records: list of dicts, one for each arm, seed and epoch: arm, seed, epoch (from 1), train_loss,
            train_accuracy, validation_loss, validation_accuracy (all in inference mode after the
            epoch; nats an example and fractions), seconds (of the epoch's training; an arm's first
            epoch includes compiling).
        test: list of dicts, one for each arm and seed that finished: arm, seed, loss, accuracy.
        about: dict of where the result comes from: versions, device, jit, command, dataset, settings;
            also `diverged`, the arms and seeds that ended at a loss that is no number, and
            `interrupted`.
        models: dict of arm to its trained `keras.Model`, of the last seed that did not diverge; empty in a
            comparison that was loaded.
    """

    records: list = field(repr=False)
    test: list
    about: dict = field(repr=False)
    models: dict = field(default_factory=dict, repr=False)

    @property
    def arms(self):
        """The names of the arms, in order."""
        return list(self.about["settings"]["arms"])

    def scores(self, arm, metric="accuracy"):
        """Test results of an arm: a dict of seed to `metric`, "accuracy" or "loss"."""
        return {result["seed"]: result[metric] for result in self.test if result["arm"] == arm}

    def table(self):
        """Test results as text, a line for each arm: mean, and in brackets lowest and highest seed."""
        rows = [("arm", "test accuracy", "test loss", "seeds", "ms/epoch")]
        for arm in self.arms:
            finished = self.scores(arm)
            diverged = sum(item["arm"] == arm for item in self.about["diverged"])
            seconds = [record["seconds"] for record in self.records if record["arm"] == arm]
            rows.append(
                (
                    arm,
                    _mean_and_range(finished.values()),
                    _mean_and_range(self.scores(arm, "loss").values()),
                    f"{len(finished)} of {len(finished) + diverged}" if diverged else f"{len(finished)}",
                    # Without an arm's first epoch, in which it is compiled.
                    f"{1000 * np.median(seconds[1:]):.0f}" if len(seconds) > 1 else "-",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])

    def verdict(self):
        """What the test accuracies say, in plain sentences: mean, range and paired difference by seed."""
        first, *others = self.arms
        said = [f"{self.about['dataset']['title']}, test accuracy:"]
        said += [
            ", ".join(f"{arm} {_mean_and_range(self.scores(arm).values())}" for arm in self.arms) + "."
        ]
        for other in others:
            pairs = self.scores(first).keys() & self.scores(other).keys()
            differences = [self.scores(first)[seed] - self.scores(other)[seed] for seed in pairs]
            if not differences:
                said.append(f"No seed finished with both {first} and {other}: nothing to compare.")
                continue
            wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
            spread = f" ({min(differences):+.4f} to {max(differences):+.4f})" if len(pairs) > 1 else ""
            said.append(f"{first} minus {other}, seed by seed: {np.mean(differences):+.4f}{spread};")
            said.append(f"higher in {wins} of {len(pairs)}, lower in {losses}.")
            if len(pairs) == 1:
                said.append("One seed says nothing of chance: run more.")
            elif len(pairs) in (wins, losses):
                chance = 2 ** (len(pairs) - 1)
                said.append(f"All agree, as they would by chance alone 1 time in {chance}.")
            else:
                said.append("They do not agree: no evidence of a difference.")
        for item in self.about["diverged"]:
            said.append(f"{item['arm']} diverged with seed {item['seed']} in epoch {item['epoch']}.")
        if self.about["interrupted"]:
            said.append("The run was interrupted: it holds the epochs that had finished.")
        return " ".join(said)

    def title(self):
        """Data set and seeds, for figures."""
        seeds = len({record["seed"] for record in self.records})
        shown = "1 seed" if seeds == 1 else f"mean and range of {seeds} seeds"
        return f"{self.about['dataset']['title']}: {shown}"

    def plot(self, axes=None):
        """Draw training and validation loss and accuracy on four matplotlib Axes, and return them."""
        return plots.overview(self.records, self.title(), axes)

    def to_dict(self):
        """All of it but the models, as results.json holds it."""
        return {**self.about, "records": self.records, "test": self.test}

    def to_json(self):
        """`to_dict` as JSON text."""
        return to_json(self.to_dict())

    def save(self, path):
        """Write the comparison to the folder `path`: all of it, or nothing.

        ::

            results.json  history.csv  figures/*.png  models/ARM.keras  models/ARM/ (SavedModel)

        Raises:
            ValueError: `path` cannot be written, or holds something already.
        """
        path = check_destination(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tfbn-", dir=path.parent) as staging:
            staging = Path(staging, "run")
            (staging / "figures").mkdir(parents=True)
            write_json(staging / "results.json", self.to_dict())
            write_csv(staging / "history.csv", self.records)
            plots.save_curves(staging / "figures", self.records, self.title())
            for arm, model in self.models.items():
                (staging / "models").mkdir(exist_ok=True)
                model.save(staging / "models" / f"{arm}.keras")
                with _quiet():
                    model.export(staging / "models" / arm, verbose=False)
            os.replace(staging, path)
        return path

    @classmethod
    def load(cls, path):
        """Read what `save` wrote, from its folder or its results.json, less the models.

        Raises:
            ValueError: `path` holds no comparison.
        """
        path = Path(path)
        try:
            content = read_json(path / "results.json" if path.is_dir() else path)
            return cls(content.pop("records"), content.pop("test"), content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no results.json of a comparison: {error}") from error


def check_destination(path):
    """`path` as a Path, if results can be written there.

    Raises:
        ValueError: something is there already, or nothing can be written there.
    """
    try:
        # As the file system sees it: "a/.." and links would else lead the staging folder astray.
        path = Path(path).resolve()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(
                f"{path} is there already. Choose another folder for the results, or remove it."
            )
        parent = path.parent
        while not parent.exists():
            parent = parent.parent
        with tempfile.TemporaryDirectory(dir=parent):
            return path
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}. Choose another folder.") from None


@contextlib.contextmanager
def _quiet():
    """TensorFlow logs each export's path, which here is that of the staging folder."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


def _mean_and_range(values):
    values = list(values)
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ({min(values):.4f}–{max(values):.4f})"
