"""The loop over epochs: resume, run, record in a `History`, stop."""

import contextlib
import math
import os
import time
from dataclasses import dataclass, field
from typing import Any

import keras

from tfbn.foundation.errors import warn_caller
from tfbn.foundation.files import read_json, write_json
from tfbn.keras_internals import take_initial_epoch
from tfbn.training.callbacks import Hooks, decode, encoded_values
from tfbn.training.checkpoints import Checkpoints
from tfbn.training.feeds import Feed


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
        """Return the values of `name`, one per epoch that has it."""
        values = [record[name] for record in self.records if name in record]
        if self.records and not values:
            raise KeyError(name)
        return values

    def __len__(self) -> int:
        return len(self.records)

    @property
    def history(self) -> dict[str, list]:
        """Return the records as a dict of lists, as `keras.callbacks.History` has it."""
        names = dict.fromkeys(name for record in self.records for name in record)
        return {name: self[name] for name in names}

    def save(self, path: str | os.PathLike) -> None:
        """Write the history to the file `path` as JSON."""
        write_json(path, {**self.about, "records": self.records})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "History":
        """Read what `save` wrote."""
        about = read_json(path)
        return cls(about.pop("records"), about)


def run_epochs(
    model: keras.Model,
    train: Feed,
    validation: Feed | None,
    history: History,
    callbacks: Hooks,
    initial_epoch: int,
    epochs: int,
    checkpoints: Checkpoints,
    folder: str | os.PathLike | None,
) -> None:
    """Train up to epoch number `epochs`, or to a loss that is not finite, a callback's stop or Ctrl-C.

    Training begins after the newest checkpoint in `folder`. Without one, it begins after the epoch that a
    BackupAndRestore restores, or after `initial_epoch`.
    """
    state = None if folder is None else _restore(epochs, checkpoints, folder)
    done = _begin(model, callbacks, checkpoints, state) or initial_epoch
    if state is not None:
        history.records = [{name: decode(each[name]) for name in each} for each in state["records"]]
        done = epochs if state["stopped"] else history.records[-1]["epoch"]
    if folder is not None:
        callbacks.restore((state or {}).get("callbacks", []))  # Older folders have none.
    try:
        for epoch in range(done + 1, epochs + 1):
            history.records.append(_run_epoch(epoch, model, train, validation, callbacks))
            stopped = model.stop_training
            if folder is not None and (stopped or epoch == epochs or checkpoints.due()):
                records = [encoded_values(record) for record in history.records]
                record = {"records": records, "stopped": stopped, "callbacks": callbacks.states()}
                checkpoints.save(folder, record)
            if stopped:
                break
    except KeyboardInterrupt:
        callbacks.remove_backups()
        warn_caller(f"Interrupted after {len(history)} epochs.")


def _restore(epochs, checkpoints, folder):
    """Restore the newest checkpoint and return its record, or None without one."""
    state = checkpoints.restore(folder)
    done = state["records"][-1]["epoch"] if state else 0
    if done > epochs:
        holds = f"{folder} holds a training of {done} epochs"
        raise ValueError(f"{holds}. Ask for {done} or more. Received: epochs={epochs}.")
    return state


def _begin(model, callbacks, checkpoints, state):
    """Call `on_train_begin`, and return the number of epochs that a BackupAndRestore restored, else 0."""
    model.stop_training = False
    take_initial_epoch(model)  # An earlier training's.
    # The training that is resumed has begun: a learning rate, say, that is set here was set there.
    with contextlib.nullcontext() if state is None else checkpoints.preserved():
        callbacks.on_train_begin()
    return take_initial_epoch(model)


def _run_epoch(epoch, model, train, validation, callbacks):
    """Train and validate for one epoch as Keras' fit does, and return its record."""
    callbacks.on_epoch_begin(epoch - 1)
    start = time.perf_counter()
    logs = train.train_epoch(epoch)
    seconds = time.perf_counter() - start
    if not math.isfinite(logs["loss"]):
        callbacks.raise_at_nan(epoch, logs["loss"])
        model.stop_training = True
        warn_caller(
            f"The loss of epoch {epoch} is {logs['loss']}: training ends there. A lower learning "
            "rate may help."
        )
    if validation is not None:
        results: dict[str, Any] = {}
        try:
            callbacks.on_test_begin()
            results = validation.evaluate()
        finally:
            callbacks.on_test_end(results)  # Also after Ctrl-C: SwapEMAWeights has weights to swap back.
        logs.update({f"val_{name}": value for name, value in results.items()})
    return {"epoch": epoch, **callbacks.on_epoch_end(epoch - 1, logs), "seconds": seconds}


def last_logs(history: History) -> dict[str, Any] | None:
    """Return the logs of the last epoch, which Keras gives to `on_train_end`; None without any epoch."""
    if not history.records:
        return None
    return {name: value for name, value in history.records[-1].items() if name not in ("epoch", "seconds")}
