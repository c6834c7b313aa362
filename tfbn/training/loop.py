"""The loop over epochs: resume, run, record in a `History`, stop."""

import math
import os
import time
from dataclasses import dataclass, field
from typing import Any

import keras

from tfbn.foundation.errors import warn_caller
from tfbn.foundation.files import read_json, write_json
from tfbn.training.checkpoints import Checkpoints
from tfbn.training.feeds import Feed

BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


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


def run_epochs(
    model: keras.Model,
    train: Feed,
    validation: Feed | None,
    history: History,
    callbacks: keras.callbacks.CallbackList,
    initial_epoch: int,
    epochs: int,
    checkpoints: Checkpoints,
    folder: str | os.PathLike | None,
) -> None:
    """Train up to epoch number `epochs`, or to a loss that is not finite, a callback's stop or Ctrl-C.

    Training begins after the newest checkpoint in `folder`, or after `initial_epoch` without one.
    """
    done = initial_epoch if folder is None else _resume(history, initial_epoch, epochs, checkpoints, folder)
    model.stop_training = False
    callbacks.on_train_begin()
    try:
        for epoch in range(done + 1, epochs + 1):
            callbacks.on_epoch_begin(epoch - 1)
            start = time.perf_counter()
            logs = train.train_epoch(epoch)
            seconds = time.perf_counter() - start
            if validation is not None:
                logs.update({f"val_{name}": value for name, value in validation.evaluate().items()})
            callbacks.on_epoch_end(epoch - 1, logs)
            history.records.append({"epoch": epoch, **logs, "seconds": seconds})
            diverged = not math.isfinite(logs["loss"])
            stopped = model.stop_training or diverged
            if folder is not None and (stopped or epoch == epochs or checkpoints.due()):
                checkpoints.save(folder, {"records": history.records, "stopped": stopped})
            if diverged:
                warn_caller(
                    f"The loss of epoch {epoch} is {logs['loss']}: training ends there. A lower learning "
                    "rate may help."
                )
            if stopped:
                break
    except KeyboardInterrupt:
        warn_caller(f"Interrupted after {len(history)} epochs.")


def _resume(history, initial_epoch, epochs, checkpoints, folder):
    """Restore the newest checkpoint, if there is one, and return the number of epochs already done."""
    state = checkpoints.restore(folder)
    if state is None:
        return initial_epoch
    done = state["records"][-1]["epoch"]
    if done > epochs:
        holds = f"{folder} holds a training of {done} epochs"
        raise ValueError(f"{holds}. Ask for {done} or more. Received: epochs={epochs}.")
    history.records = state["records"]
    return epochs if state["stopped"] else done


def keras_callbacks(callbacks: Any, **options: Any) -> keras.callbacks.CallbackList:
    """Return Keras' own list of `callbacks`, with its `options`; warn of those that wait for batches."""
    callbacks = list(callbacks or ()) if isinstance(callbacks, (list, tuple, type(None))) else [callbacks]
    for callback in callbacks:
        # Keras' own classes have reasons of their own to look at batches; a LambdaCallback stores the
        # user's functions on the instance.
        users = not type(callback).__module__.startswith("keras.")
        waits = getattr(callback, "save_freq", "epoch") != "epoch" or any(
            hook in vars(callback)
            or (users and getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook))
            for hook in BATCH_HOOKS
        )
        if waits:
            warn_caller(
                f"{type(callback).__name__} waits for batches, but an epoch here is one compiled program: "
                "callbacks are called at epochs only."
            )
    return keras.callbacks.CallbackList(callbacks, add_history=False, **options)
