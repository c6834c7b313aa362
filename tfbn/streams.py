"""Data that need not fit into memory: `tf.data` pipelines, checked on the way."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import tensorflow as tf

from tfbn.arrays import check_examples

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


def joined(dataset, steps, classes, shape=None):
    """Batches ``(x, y)``, checked as arrays are, so many joined to one, and fetched ahead of the training.

    Args:
        dataset: `tf.data.Dataset` of batches, of whatever sizes.
        steps: int, how many to join; the last group may have fewer.
        classes: int, or None for targets that are no classes.
        shape: that of an example of `x`, where the dataset does not tell. Default None.

    Yields:
        ``(x, y, sizes)``: the examples of all batches of a group, and how many each had.

    Raises:
        ValueError: a batch is refused, or damaged on disk.

    >>> batches = tf.data.Dataset.range(5).map(lambda i: ([[i]], [i])).unbatch().batch(2)
    >>> [sizes.numpy().tolist() for _, _, sizes in joined(batches, 2, classes=5)]
    [[2, 2], [1]]
    """
    problems = []

    def check(x, y):
        try:
            return check_examples(x, y, classes)
        except ValueError as error:
            problems.append(error)
            raise

    def checked(x, y):
        types = [_standard(x.dtype), tf.int32 if classes is not None else _standard(y.dtype)]
        found_x, found_y = tf.numpy_function(check, [x, y], types)
        known = x.shape.rank is not None and x.shape[1:].is_fully_defined()
        found_x.set_shape([None, *(x.shape[1:] if known else shape)])
        found_y.set_shape([None] if classes is not None else [None, *y.shape[1:]])
        return found_x, found_y

    def join(x, y):
        return x.flat_values, y.flat_values, tf.cast(x.row_lengths(), "int32")

    groups = dataset.map(checked).ragged_batch(steps).map(join).prefetch(tf.data.AUTOTUNE)
    try:
        with readable():
            yield from groups
    except tf.errors.OpError:
        if problems:  # TensorFlow's own error does not tell.
            raise problems[0] from None
        raise


@contextlib.contextmanager
def readable():
    """Say in a line that data which are read within are damaged on disk, if they are.

    Raises:
        ValueError: as said.
    """
    try:
        yield
    except tf.errors.DataLossError as error:
        reason = error.message.split(" [Op:")[0].rpartition("}} ")[2]
        raise ValueError(f"The data on disk are damaged ({reason}). Prepare them again.") from None


def _standard(dtype):
    """The dtype that `check_examples` gives."""
    return tf.float32 if dtype.is_floating else tf.int32 if dtype.is_integer else dtype
