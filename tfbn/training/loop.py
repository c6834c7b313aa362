"""The loop over epochs: resume, run, record, stop."""

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import keras

from tfbn.foundation.errors import warn_caller
from tfbn.training.checkpoints import Checkpoints
from tfbn.training.feeds import Feed
from tfbn.training.history import History

BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


@dataclass
class EpochLoop:
    """The epochs of one training.

    Args:
        model: the model that is trained, whose `stop_training` callbacks may set.
        train, validation: what it is trained on, and evaluated on after each epoch, if not None.
        history: receives a record of each epoch.
        callbacks: as `keras_callbacks` returns them.
        epochs: the number of the last epoch.
        checkpoints: of all variables that training changes.
        folder: where the checkpoints are. Default None: none are read or written.
    """

    model: keras.Model
    train: Feed
    validation: Feed | None
    history: History
    callbacks: keras.callbacks.CallbackList
    epochs: int
    checkpoints: Checkpoints
    folder: str | os.PathLike | None = None

    def run(self, initial_epoch: int) -> None:
        """Train up to the last epoch, or to a loss that is not finite, a callback's stop or Ctrl-C.

        Training begins after the newest checkpoint, or after `initial_epoch` if there is none.
        """
        done = self._resume(initial_epoch)
        self.model.stop_training = False
        self.callbacks.on_train_begin()
        try:
            for epoch in range(done + 1, self.epochs + 1):
                loss = self._run_epoch(epoch)
                stopped = self.model.stop_training or not math.isfinite(loss)
                self._save(stopped)
                if not math.isfinite(loss):
                    warn_caller(
                        f"The loss of epoch {epoch} is {loss}: training ends there. A lower learning rate "
                        "may help."
                    )
                if stopped:
                    break
        except KeyboardInterrupt:
            warn_caller(f"Interrupted after {len(self.history)} epochs.")

    def _resume(self, initial_epoch):
        """Restore the newest checkpoint, if there is one, and return the number of epochs already done."""
        state = None if self.folder is None else self.checkpoints.restore(self.folder)
        if state is None:
            return initial_epoch
        done = state["records"][-1]["epoch"]
        if done > self.epochs:
            raise ValueError(
                f"{self.folder} holds a training of {done} epochs. Ask for {done} or more. Received: "
                f"epochs={self.epochs}."
            )
        self.history.records = state["records"]
        return self.epochs if state["stopped"] else done

    def _save(self, stopped):
        """Write a checkpoint where training ends, else as often as `Checkpoints.due` allows."""
        records = self.history.records
        ends = stopped or records[-1]["epoch"] == self.epochs
        if self.folder is not None and (ends or self.checkpoints.due()):
            self.checkpoints.save(self.folder, {"records": records, "stopped": stopped})

    def _run_epoch(self, epoch):
        """Train, validate and record one epoch; return its loss."""
        self.callbacks.on_epoch_begin(epoch - 1)
        start = time.perf_counter()
        logs = self.train.train_epoch(epoch)
        seconds = time.perf_counter() - start
        if self.validation is not None:
            logs.update({f"val_{name}": value for name, value in self.validation.evaluate().items()})
        self.callbacks.on_epoch_end(epoch - 1, logs)
        self.history.records.append({"epoch": epoch, **logs, "seconds": seconds})
        return logs["loss"]


def keras_callbacks(callbacks: Any, **options: Any) -> keras.callbacks.CallbackList:
    """Return Keras' own list of `callbacks`, which resolves logs and adds the progress line.

    A callback that waits for batches gives a warning. `options` are those of Keras' list.
    """
    callbacks = list(callbacks or ()) if isinstance(callbacks, (list, tuple, type(None))) else [callbacks]
    for callback in filter(_waits_for_batches, callbacks):
        warn_caller(
            f"{type(callback).__name__} waits for batches, but an epoch here is one compiled program: "
            "callbacks are called at epochs only."
        )
    return keras.callbacks.CallbackList(callbacks, add_history=False, **options)


def _waits_for_batches(callback):
    # Keras' own classes have reasons of their own to look at batches; a LambdaCallback stores the
    # user's functions on the instance.
    users = not type(callback).__module__.startswith("keras.")
    return getattr(callback, "save_freq", "epoch") != "epoch" or any(
        hook in vars(callback)
        or (users and getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook))
        for hook in BATCH_HOOKS
    )
