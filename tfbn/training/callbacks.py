"""Keras' callbacks around epochs that are one compiled program each: warnings, logs and states."""

import base64
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfbn.foundation.errors import warn_caller
from tfbn.keras_internals import profiles_batches

BATCH_HOOKS = (
    *("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"),
    *("on_test_batch_begin", "on_test_batch_end"),
)
COLLECTIONS = {"/dict": dict, "/set": set, "/tuple": tuple}  # By the names that they have in JSON.


class Hooks(keras.callbacks.CallbackList):
    """Keras' own list of `callbacks`, with its `options`; their states can be saved and restored.

    A callback's state is those of its attributes that changed since `on_train_begin` and are plain data:
    None, strings, numbers, NumPy arrays, and lists, tuples, sets and dicts of them. So a resumed training
    has its own settings. Callbacks that wait for batches give a warning.
    """

    def __init__(self, callbacks: Any, **options: Any) -> None:
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = callbacks.callbacks
        callbacks = keras.tree.flatten(callbacks or ())
        for callback in callbacks:
            missing = ", ".join(_missing(callback))
            if missing:
                warn_caller(
                    f"{type(callback).__name__} waits for batches, but an epoch here is one compiled "
                    f"program, and callbacks are called at epochs only: {missing}."
                )
        super().__init__(callbacks, add_history=True, **options)
        self.callbacks: list[keras.callbacks.Callback]
        self._starts: list[dict] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> dict[str, Any]:
        """Call the callbacks, and return the logs with what they added; tensors and arrays as numbers."""
        seen = _keras_logs(logs)
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, seen)
        return {
            name: np.asarray(value).tolist() if hasattr(value, "__array__") else value
            for name, value in {**(logs or {}), **seen}.items()
        }

    def on_test_end(self, logs: dict | None = None) -> None:
        super().on_test_end(_keras_logs(logs))

    def on_train_end(self, logs: dict | None = None) -> None:
        super().on_train_end(_keras_logs(logs))

    def raise_at_nan(self, epoch: int, loss: float) -> None:
        """Raise RuntimeError if there is a ``TerminateOnNaN(raise_error=True)``."""
        kind = keras.callbacks.TerminateOnNaN
        if any(isinstance(each, kind) and getattr(each, "raise_error", False) for each in self.callbacks):
            raise RuntimeError(
                f"NaN or Inf loss encountered in epoch {epoch}: {loss}. A lower learning rate may help."
            )

    def remove_backups(self) -> None:
        """Remove each BackupAndRestore, which deletes its backup when training ends."""
        kind = keras.callbacks.BackupAndRestore
        self.callbacks = [callback for callback in self.callbacks if not isinstance(callback, kind)]

    def restore(self, states: list) -> None:
        """Restore what `states` returned in the training that is resumed; empty for a new one.

        States belong to callbacks by class and order. Those without a callback are ignored.
        """
        self._starts = [_attributes(callback) for callback in self.callbacks]
        for callback, start in zip(self.callbacks, self._starts, strict=True):
            index = next((i for i, (name, _) in enumerate(states) if name == type(callback).__name__), None)
            if index is None:
                continue
            for name, value in states[index][1].items():
                start.pop(name, None)  # Part of the state from now on, changed or not.
                _assign(callback, name, decode(value))
            states = states[:index] + states[index + 1 :]

    def states(self) -> list[tuple[str, dict]]:
        """Return the class and the state of each callback, encoded, as they are after `restore`."""
        return [
            (type(callback).__name__, _changed(start, _attributes(callback)))
            for callback, start in zip(self.callbacks, self._starts, strict=True)
        ]


def _keras_logs(logs: dict | None) -> dict[str, Any]:
    """Return logs as Keras gives them to callbacks: sorted, and a metric of several values as an array."""
    values = sorted((logs or {}).items())
    return {name: np.asarray(value) if isinstance(value, list) else value for name, value in values}


def _missing(callback: Any) -> Iterator[str]:
    """Yield what a callback does at batches, and so cannot do here."""
    if getattr(callback, "save_freq", "epoch") != "epoch":
        yield f"save_freq={callback.save_freq} never saves, use 'epoch'"
    if isinstance(callback, keras.callbacks.TensorBoard):
        if callback.update_freq != "epoch":
            yield f"update_freq={callback.update_freq} writes no summaries of batches"
        if profiles_batches(callback):
            yield "profile_batch does not profile"
    if isinstance(callback, keras.callbacks.ProgbarLogger):
        yield "the bar does not move within an epoch"
    for hook in BATCH_HOOKS:
        # Keras' own classes have reasons of their own to look at batches; a LambdaCallback stores the
        # user's functions on the instance.
        owner = next(kind for kind in type(callback).__mro__ if hook in vars(kind))
        if hook in vars(callback) or not owner.__module__.startswith("keras."):
            yield f"{hook} is not called"


def _attributes(callback: Any) -> dict[str, Any]:
    """Return the attributes of a callback that are plain data, encoded."""
    attributes = encoded_values(vars(callback))
    if "monitor_op" in vars(callback):
        # Keras gives it its sign when it chooses the function `monitor_op`, which it will do again.
        attributes.pop("min_delta", None)
    return attributes


def _changed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in now.items() if name not in before or before[name] != value}


def _assign(callback: Any, name: str, value: Any) -> None:
    """Assign to an attribute; a list, set or dict is filled, as others may refer to it."""
    current = getattr(callback, name, None)
    if isinstance(current, list) and isinstance(value, list):
        current[:] = value
    elif isinstance(current, (dict, set)) and isinstance(value, (dict, set)):
        current.clear()
        current.update(value)
    else:
        setattr(callback, name, value)


def encoded_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `values` that are plain data, encoded, and drop the others."""
    encoded = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, RecursionError):
            encoded[name] = encode(value)
    return encoded


def encode(value: Any) -> Any:
    """Return plain data as what JSON has, and bytes of arrays; raise TypeError for other data.

    >>> encode({1: (2.0, "three")})
    {'/dict': [[1, {'/tuple': [2.0, 'three']}]]}
    >>> decode(encode({1: (2.0, "three")}))
    {1: (2.0, 'three')}
    """
    if isinstance(value, (np.ndarray, np.generic)):
        dtype = value.dtype
        if dtype.hasobject or dtype.names:
            raise TypeError(f"An array of {dtype} is not plain data.")
        name = dtype.name if dtype.kind == "V" else dtype.str  # Of bfloat16, `str` is not its own.
        return {"/array": [name, list(value.shape), value.tobytes()]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"/dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for name, kind in COLLECTIONS.items():
        if type(value) is kind:
            return {name: [encode(item) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data.")


def decode(value: Any) -> Any:
    """Return what `encode` received, from its result after JSON, where bytes are base64."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(name, content)] = value.items()
    if name == "/array":
        dtype, shape, text = content
        array = np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape).copy()
        return array[()] if not shape else array
    return COLLECTIONS[name](map(decode, content))
