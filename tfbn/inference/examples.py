"""Data for a finished model, in batches, as often as asked for."""

from __future__ import annotations

import operator

import keras
import numpy as np
import tensorflow as tf

from tfbn.data import Data
from tfbn.solver import check_batch_size


def batches(model, data, batch_size):
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
    if isinstance(data, (tuple, list, dict, np.ndarray)) or tf.is_tensor(data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(tuple(data) if isinstance(data, tuple) else data)
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
            f"Received: {type(data).__name__}. Make it a list, or a tf.data.Dataset.from_generator."
        )
    else:

        def read():
            yield from data

    def unpacked():
        for batch in read():
            x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
            yield x, y

    first = next(unpacked(), None)
    if first is None:
        raise ValueError("`data` must hold one or more batches. Received none.")
    _check_shapes(model, first[0])
    return unpacked


def _check_shapes(model, x):
    """A subclassed model knows no shapes: there Keras has to find out."""
    if not isinstance(getattr(model, "inputs", None), (list, tuple)):
        return
    wanted, came = ([tuple(t.shape[1:]) for t in tf.nest.flatten(part)] for part in (model.inputs, x))
    fits = len(wanted) == len(came) and all(
        len(one) == len(other) and all(a in (None, b) for a, b in zip(one, other, strict=True))
        for one, other in zip(wanted, came, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`data` must hold examples of the shape {_shown(wanted)} for model {model.name!r}. Received: "
            f"{_shown(came)}."
        )


def _shown(shapes):
    return " and ".join(str(shape) for shape in shapes)
