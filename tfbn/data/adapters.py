"""Data for a finished model, in batches, as often as asked for."""

from __future__ import annotations

import operator

import numpy as np
import tensorflow as tf

from tfbn.data.arrays import Data, check_batch_size


def batch_reader(model, data, batch_size):
    """A function that gives an iterator over the batches ``(x, y)`` of `data`, y None where there is none.

    Args:
        model: the `keras.Model` that will take them.
        data: inputs, an array or a dict or list of arrays; a pair ``(inputs, labels)`` as a tuple; a
            `tfbn.data.Data`, of which the training split is taken; or batches of either, such as a
            `tf.data.Dataset`, whose sizes are then their own.
        batch_size: int, examples a batch. The last may be smaller.

    Raises:
        ValueError: there is no example, or it is not of the shape that the model takes.
        TypeError: `data` can be read but once, or `batch_size` is no integer.
    """
    batch_size = check_batch_size(batch_size)
    if isinstance(data, Data):
        data = data.train
    if _at_once(model, data):
        x, y = _unpacked(data)
        arrays = tf.nest.map_structure(np.asarray, (x, y) if y is not None else (x,))
        sizes = {len(array) if array.ndim else 0 for array in tf.nest.flatten(arrays)}
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(
                f"`data` must hold one or more examples, as many inputs as labels. Received arrays of "
                f"the lengths {sorted(sizes)}."
            )

        def read():
            for start in range(0, max(sizes), batch_size):
                part = operator.itemgetter(slice(start, start + batch_size))
                yield tf.nest.map_structure(part, arrays)

    elif not hasattr(data, "__iter__") or iter(data) is data:
        raise TypeError(
            "`data` must be arrays or batches that can be read more than once, such as a tf.data.Dataset. "
            f"Received: {type(data).__name__}. Make it a list of batches, or a Dataset.from_generator."
        )
    else:

        def read():
            yield from data

    def unpacked():
        return map(_unpacked, read())

    first = next(unpacked(), None)
    if first is None:
        raise ValueError("`data` must hold one or more batches. Received none.")
    _check_shapes(model, first[0])
    return unpacked


def _at_once(model, data):
    """Whether `data` holds all examples: arrays. A list may do so for a model of as many inputs."""
    if isinstance(data, list):
        inputs = getattr(model, "inputs", None) or []
        return len(inputs) == len(data) > 1 and not any(isinstance(part, tuple) for part in data)
    return isinstance(data, (tuple, dict, np.ndarray)) or tf.is_tensor(data)


def _unpacked(batch):
    """Inputs and labels: as Keras has it, a tuple holds both, and weights, which are not used."""
    if not isinstance(batch, tuple):
        return batch, None
    return batch[0], batch[1] if len(batch) > 1 else None


def _check_shapes(model, x):
    """A subclassed model knows no shapes, and a dict's go by name: there Keras has to find out."""
    if not isinstance(getattr(model, "inputs", None), (list, tuple)) or isinstance(x, dict):
        return
    wanted, came = ([tuple(t.shape[1:]) for t in tf.nest.flatten(part)] for part in (model.inputs, x))
    same = len(wanted) == len(came) and all(map(fits, wanted, came))
    if not same:
        raise ValueError(
            f"`data` must hold examples of the shape {_shown(wanted)} for model {model.name!r}. Received: "
            f"{_shown(came)}."
        )


def fits(wanted, shape):
    """Whether an example's `shape` is the one `wanted`, in which None stands for any length."""
    return len(wanted) == len(shape) and all(a in (None, b) for a, b in zip(wanted, shape, strict=True))


def _shown(shapes):
    return " and ".join(str(shape) for shape in shapes)
