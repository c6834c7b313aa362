"""Data that need not fit into memory: `tf.data` pipelines, checked on the way."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfbn.data.arrays import check_examples

# Examples in a row that a stream shuffles, if they take no more bytes.
BUFFER = 10_000
BYTES = 64 * 2**20


@dataclass(frozen=True)
class Stream:
    """Three splits as a `tf.data.Dataset` of single examples ``(x, y)``, and where they came from.

    Args:
        train, validation, test: `tf.data.Dataset`, each finite.
        name, source, title, classes: as in `tfbn.data.Data`.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    name: str
    source: str
    title: str
    classes: int


def batched(dataset, batch_size, seed=None, epoch=0):
    """Batches of a dataset of examples; with a `seed` shuffled, by seed and epoch alone.

    Each 10,000 examples in a row, or 64 MiB of them, are shuffled among themselves, so that memory stays
    flat.

    >>> batches = batched(tf.data.Dataset.range(5), 2, seed=0)
    >>> [len(batch) for batch in batches]
    [2, 2, 1]
    """
    if seed is None:
        return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def shuffle(block, values):
        # `Dataset.shuffle` would depend on TensorFlow's global seed, too.
        own = tf.random.fold_in(tf.constant([seed, epoch], "int64"), block)
        size = tf.shape(tf.nest.flatten(values)[0])[:1]
        order = tf.argsort(tf.random.stateless_uniform(size, own))
        return tf.nest.map_structure(lambda array: tf.gather(array, order), values)

    def taken_apart(block, *values):
        return shuffle(block, values if len(values) > 1 else values[0])

    sizes = [
        (spec.shape.num_elements() or 1) * spec.dtype.size for spec in tf.nest.flatten(dataset.element_spec)
    ]
    blocks = dataset.batch(min(BUFFER, max(batch_size, BYTES // sum(sizes)))).enumerate().map(taken_apart)
    return blocks.rebatch(batch_size).prefetch(tf.data.AUTOTUNE)


def grouped_batches(dataset, steps, classes, shapes):
    """Batches ``(x, y)``, checked as arrays are, so many joined to one, and fetched ahead of the training.

    Args:
        dataset: `tf.data.Dataset` of batches, of whatever sizes.
        steps: int, how many to join; the last group may have fewer.
        classes: int, or None for targets that are no classes.
        shapes: those of an example, of its `x` and its checked `y`.

    Returns:
        A function that reads the dataset from its beginning, once a call. It yields ``(x, y, sizes)``: the
        examples of all batches of a group, and how many each had. It raises ValueError where a batch is
        refused, or damaged on disk.

    >>> batches = tf.data.Dataset.range(5).map(lambda i: ([i], i)).batch(2)
    >>> [sizes.numpy().tolist() for _, _, sizes in grouped_batches(batches, 2, 5, ([1], []))()]
    [[2, 2], [1]]
    """
    problems = {}

    def check(number, x, y):
        try:
            x, y = check_examples(x, y, classes, f"Batch {number + 1:,}: ")
            for name, array, shape in zip("xy", (x, y), shapes, strict=True):
                if array.shape[1:] != tuple(shape):
                    raise ValueError(
                        f"Batch {number + 1:,}: {name} must have examples of the shape {tuple(shape)}, as "
                        f"the first batch has. Received: {array.shape[1:]}."
                    )
            return x, y
        except ValueError as error:
            problems[number] = error
            raise

    def check_group(number, x, y, rows, labels):
        # All batches at once take less time. One by one they tell what is refused.
        with contextlib.suppress(ValueError):
            if np.array_equal(rows, labels) and rows.all():
                return check_examples(x, y, classes)
        parts = (np.split(array, np.cumsum(sizes)[:-1]) for array, sizes in ((x, rows), (y, labels)))
        for at, batch in enumerate(zip(*parts, strict=True), number * steps):
            check(at, *batch)

    def checked(check, number, x, y, *sizes):
        types = [_standard(x.dtype), tf.int32 if classes is not None else _standard(y.dtype)]
        found = tf.numpy_function(check, [number, x, y, *sizes], types)
        for array, shape in zip(found, shapes, strict=True):
            array.set_shape([None, *shape])
        return found

    def join(number, batches):
        # Batches that tell their size are not ragged.
        x, y = (b if isinstance(b, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(b) for b in batches)
        rows, labels = x.row_lengths(), y.row_lengths()
        x, y = checked(check_group, number, x.flat_values, y.flat_values, rows, labels)
        return x, y, tf.cast(rows, "int32")

    if not all(spec.shape.rank and spec.shape[1:].is_fully_defined() for spec in dataset.element_spec):
        dataset = dataset.enumerate().map(lambda number, batch: tuple(checked(check, number, *batch)))
    groups = dataset.ragged_batch(steps).enumerate().map(join).prefetch(tf.data.AUTOTUNE)

    def read():
        empty = True
        try:
            for group in read_batches(groups):
                empty = False
                yield group
        except tf.errors.OpError:
            if problems:  # TensorFlow's own error does not tell. Groups are checked in parallel.
                raise problems[min(problems)] from None
            raise
        if empty:
            raise ValueError("The dataset gave no batch. It has to begin anew each time it is read.")

    return read


def read_batches(dataset):
    """The elements of a dataset, without a wait at its end.

    TensorFlow's thread that tunes an iterator can miss the end and sleep on, for about as long as the
    iterator has lived, a minute at most; who deletes the iterator waits for it.

    Raises:
        ValueError: the data are damaged on disk.
    """
    held = [iter(dataset)]
    try:
        yield from held[0]
    except tf.errors.DataLossError as error:
        reason = error.message.split(" [Op:")[0].rpartition("}} ")[2]
        raise ValueError(f"The data on disk are damaged ({reason}). Prepare them again.") from None
    # At its end the joining of batches has let go of the user's dataset. Before, that may still read ahead,
    # and who reads it anew must not meet it.
    threading.Thread(target=held.clear).start()


def _standard(dtype):
    """The dtype that `check_examples` gives."""
    return tf.float32 if dtype.is_floating else tf.int32 if dtype.is_integer else dtype
