"""Data for a finished model: batches that can be read more than once."""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.data.arrays import Data, check_batch_size


def batch_reader(model: keras.Model, data: Any, batch_size: int) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """Return a function that gives an iterator over the batches ``(x, y)`` of `data`; y may be None.

    Args:
        data: inputs, an array or a dict or list of arrays; a pair ``(inputs, labels)`` as a tuple; a
            `tfbn.data.Data`, of which the training split is taken; or batches of either, such as a
            `tf.data.Dataset`, whose sizes are then their own.
        batch_size: examples a batch. The last may be smaller.

    Raises:
        ValueError: there is no example, or it does not have the shape that the model takes.
        TypeError: `data` can be read only once, or `batch_size` is not an integer.
    """
    batch_size = check_batch_size(batch_size)
    if isinstance(data, Data):
        data = data.train
    in_memory = _is_in_memory(model, data)
    if not in_memory and (not hasattr(data, "__iter__") or iter(data) is data):
        raise TypeError(
            "`data` must be arrays or batches that can be read more than once, such as a tf.data.Dataset. "
            f"Received: {type(data).__name__}. Make it a list of batches, or a Dataset.from_generator."
        )
    batches = _array_batches(data, batch_size) if in_memory else data

    def read() -> Iterator[tuple[Any, Any]]:
        return map(_inputs_and_labels, batches)

    first = next(read(), None)
    if first is None:
        raise ValueError("`data` must hold one or more batches. Received none.")
    _check_shapes(model, first[0])
    return read


def _array_batches(data: Any, batch_size: int) -> list[tuple]:
    """Return the batches of arrays in memory, as views."""
    x, y = _inputs_and_labels(data)
    arrays = tf.nest.map_structure(np.asarray, (x, y) if y is not None else (x,))
    sizes = {len(array) if array.ndim else 0 for array in tf.nest.flatten(arrays)}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            "`data` must hold one or more examples, as many inputs as labels. "
            f"Received arrays of the lengths {sorted(sizes)}."
        )
    rows = [slice(start, start + batch_size) for start in range(0, max(sizes), batch_size)]
    return [tf.nest.map_structure(operator.itemgetter(part), arrays) for part in rows]


def _is_in_memory(model: keras.Model, data: Any) -> bool:
    """Return whether `data` holds all examples: arrays. A list may do so for a model of as many inputs."""
    if isinstance(data, list):
        inputs = getattr(model, "inputs", None) or []
        return len(inputs) == len(data) > 1 and not any(isinstance(part, tuple) for part in data)
    return isinstance(data, (tuple, dict, np.ndarray)) or tf.is_tensor(data)


def _inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """Return inputs and labels. As in Keras, a tuple holds both, and weights, which are ignored."""
    if not isinstance(batch, tuple):
        return batch, None
    return batch[0], batch[1] if len(batch) > 1 else None


def _check_shapes(model: keras.Model, x: Any) -> None:
    """Raise ValueError for other shapes, if the model knows its own, and they do not go by name."""
    if not isinstance(getattr(model, "inputs", None), (list, tuple)) or isinstance(x, dict):
        return
    expected, shapes = ([tuple(t.shape[1:]) for t in tf.nest.flatten(part)] for part in (model.inputs, x))
    if len(expected) != len(shapes) or not all(map(fits, expected, shapes)):
        takes, received = (" and ".join(map(str, part)) for part in (expected, shapes))
        message = f"`data` must hold examples of the shape {takes} for model {model.name!r}. "
        raise ValueError(f"{message}Received: {received}.")


def fits(expected: Sequence[int | None], shape: Sequence[int]) -> bool:
    """Return whether an example's `shape` is the `expected` one, in which None stands for any length.

    As in Keras, a last axis of length 1 may be missing or too many; see `adjusted_rank`.

    >>> fits((None, 3), (5, 3)), fits((None, 3), (5, 4)), fits((3,), (5, 3)), fits((28, 28), (28, 28, 1))
    (True, False, False, True)
    """
    shape = adjusted_rank(shape, len(expected))
    return len(expected) == len(shape) and all(a in (None, b) for a, b in zip(expected, shape, strict=True))


def adjusted_rank(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return `shape` with a last axis of length 1 added or dropped, if it then has `rank` axes.

    Keras' functional and Sequential models do so with their inputs.

    >>> adjusted_rank((28, 28, 1), 2), adjusted_rank((28, 28), 3), adjusted_rank((28, 28, 3), 2)
    ((28, 28), (28, 28, 1), (28, 28, 3))
    """
    shape = tuple(shape)
    if len(shape) == rank + 1 and shape[-1] == 1:
        return shape[:-1]
    return (*shape, 1) if len(shape) == rank - 1 else shape
