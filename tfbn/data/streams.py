"""Data that need not fit into memory: `tf.data` pipelines, checked as they are read."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from tfbn.data.arrays import KERAS_DTYPES, Labels, check_examples
from tfbn.foundation.errors import first_line

# A stream shuffles this many examples in a row, if they take no more bytes.
BUFFER = 10_000
BUFFER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Stream:
    """Three splits as a `tf.data.Dataset` of single examples ``(x, y)``, and where they came from.

    Args:
        train, validation, test: finite datasets. Any other type raises TypeError.
        name, source, title, classes: as in `tfbn.data.Data`.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    name: str
    source: str
    title: str
    classes: int

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            dataset = getattr(self, name)
            if not isinstance(dataset, tf.data.Dataset):
                raise TypeError(
                    f"`{name}` must be a tf.data.Dataset of examples (x, y). Received: "
                    f"{type(dataset).__name__}. Pass arrays to tfbn.data.Data instead."
                )


def batched(
    dataset: tf.data.Dataset, batch_size: int, seed: int | None = None, epoch: int = 0
) -> tf.data.Dataset:
    """Batch a dataset of examples; with a `seed`, shuffle them by seed and epoch alone.

    Each 10,000 examples in a row, or 64 MiB of them, are shuffled among themselves, so that memory stays
    flat.

    >>> batches = batched(tf.data.Dataset.range(5), 2, seed=0)
    >>> [len(batch) for batch in batches]
    [2, 2, 1]
    """
    if seed is None:
        return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def shuffle(block: tf.Tensor, values: Any) -> Any:
        # `Dataset.shuffle` would depend on TensorFlow's global seed, too.
        block_seed = tf.random.fold_in(tf.constant([seed, epoch], "int64"), block)
        size = tf.shape(tf.nest.flatten(values)[0])[:1]
        order = tf.argsort(tf.random.stateless_uniform(size, block_seed))
        return tf.nest.map_structure(lambda array: tf.gather(array, order), values)

    specs = tf.nest.flatten(dataset.element_spec)
    example_bytes = sum((spec.shape.num_elements() or 1) * spec.dtype.size for spec in specs)
    block_size = min(BUFFER, max(batch_size, BUFFER_BYTES // example_bytes))
    blocks = dataset.batch(block_size).enumerate().map(shuffle)
    return blocks.rebatch(batch_size).prefetch(tf.data.AUTOTUNE)


def grouped_batches(
    dataset: tf.data.Dataset, steps: int, labels: Labels | None, shapes: Sequence[Sequence[int | None]]
) -> Callable[[], Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
    """Return a function that reads batches ``(x, y)``, checked as arrays are, many joined to one group.

    The groups are fetched ahead of the training. Each call reads the dataset from its beginning and yields
    ``(x, y, sizes)``: the examples of all batches of a group, and how many each batch had. Reading raises
    ValueError for a batch that is rejected, or damaged on disk.

    Args:
        steps: the number of batches to join; the last group may have fewer. Batches may have any sizes.
        labels: the form of the labels, or None for targets that are not classes.
        shapes: those of an example, of its `x` and its checked `y`.

    >>> batches = tf.data.Dataset.range(5).map(lambda i: ([i], i)).batch(2)
    >>> [sizes.numpy().tolist() for _, _, sizes in grouped_batches(batches, 2, Labels(5), ([1], []))()]
    [[2, 2], [1]]
    """
    checks = _BatchChecks(steps, labels, shapes)
    if not all(spec.shape.rank and spec.shape[1:].is_fully_defined() for spec in dataset.element_spec):
        dataset = dataset.enumerate().map(checks.map_batch)
    groups = dataset.ragged_batch(steps).enumerate().map(checks.map_group).prefetch(tf.data.AUTOTUNE)

    def read() -> Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        empty = True
        try:
            for group in read_batches(groups):
                empty = False
                yield group
        except tf.errors.OpError:
            if checks.errors:  # TensorFlow checks groups in parallel, and its own error gives no reason.
                raise checks.errors[min(checks.errors)] from None
            raise
        if empty:
            raise ValueError("The dataset gave no batch. It has to begin anew each time it is read.")

    return read


@dataclass(frozen=True)
class _BatchChecks:
    """The checks of `grouped_batches` in its pipeline, and the errors, which TensorFlow would hide."""

    steps: int
    labels: Labels | None
    shapes: Sequence[Sequence[int | None]]
    errors: dict[int, ValueError] = field(default_factory=dict)  # by the batch's number

    def map_batch(self, number: tf.Tensor, batch: tuple) -> tuple:
        return tuple(self._checked(self._check_batch, number, *batch))

    def map_group(self, number: tf.Tensor, batches: tuple) -> tuple:
        # Batches of a static size are not ragged.
        x, y = (b if isinstance(b, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(b) for b in batches)
        rows, y_rows = x.row_lengths(), y.row_lengths()
        x, y = self._checked(self._check_group, number, x.flat_values, y.flat_values, rows, y_rows)
        return x, y, tf.cast(rows, "int32")

    def _checked(
        self, check: Callable, number: tf.Tensor, x: tf.Tensor, y: tf.Tensor, *sizes: tf.Tensor
    ) -> list:
        """Call `check` in NumPy when the pipeline runs."""
        dtypes = [KERAS_DTYPES.get(np.dtype(a.dtype.as_numpy_dtype).kind, a.dtype) for a in (x, y)]
        if self.labels is not None:
            dtypes[1] = self.labels.dtype
        arrays = tf.numpy_function(check, [number, x, y, *sizes], dtypes)
        for array, shape in zip(arrays, self.shapes, strict=True):
            array.set_shape([None, *shape])
        return arrays

    def _check_batch(self, number: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        what = f"Batch {number + 1:,}: "
        try:
            x, y = check_examples(x, y, self.labels, what)
            for name, array, shape in zip("xy", (x, y), self.shapes, strict=True):
                if array.shape[1:] != tuple(shape):
                    raise ValueError(
                        f"{what}{name} must have examples of the shape {tuple(shape)}, as the first batch "
                        f"has. Received: {array.shape[1:]}."
                    )
        except ValueError as error:
            self.errors[number] = error
            raise
        return x, y

    def _check_group(
        self, number: int, x: np.ndarray, y: np.ndarray, rows: np.ndarray, y_rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        # All batches at once take less time. One by one, the first that is rejected can be named.
        with contextlib.suppress(ValueError):
            if np.array_equal(rows, y_rows) and rows.all():
                return check_examples(x, y, self.labels)
        parts = (np.split(array, np.cumsum(sizes)[:-1]) for array, sizes in ((x, rows), (y, y_rows)))
        for index, batch in enumerate(zip(*parts, strict=True), number * self.steps):
            self._check_batch(index, *batch)
        return check_examples(x, y, self.labels)  # Raises, should each batch alone be right.


def read_batches(dataset: tf.data.Dataset) -> Iterator[Any]:
    """Yield the elements of a dataset, without a wait at its end.

    TensorFlow's thread that tunes an iterator can miss the end and sleep on, for about as long as the
    iterator has lived, a minute at most. Deleting the iterator waits for that thread. Data that are damaged
    on disk raise ValueError.
    """
    iterators = [iter(dataset)]
    try:
        yield from iterators[0]
    except tf.errors.DataLossError as error:
        reason = first_line(error)
        raise ValueError(f"The data on disk are damaged ({reason}). Prepare them again.") from None
    # At its end the pipeline has released the user's dataset. A caller that leaves before the end waits for
    # the deletion instead: the iterator may still read ahead, and must not meet the next reader.
    threading.Thread(target=iterators.clear).start()
