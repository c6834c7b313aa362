"""Feeds: how one training reads its data, for arrays, datasets and streams.

A feed has a `batch_size`, None where the data have their own, and `steps_per_epoch`, None where only the
end of an epoch shows it. `identity` returns what a resumed training and its beginning must have in common.
`train_epoch` and `evaluate` return the averaged loss and metrics; epochs count from 1.
"""

import contextlib
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tfbn.data.arrays import Data, batch_order, check_batch_size
from tfbn.data.streams import Stream, batched, grouped_batches, read_batches
from tfbn.training.checkpoints import digest
from tfbn.training.network import Arrays, Network
from tfbn.training.steps import DeviceSteps

EVALUATION_BATCH_SIZE = 1000
# How many steps over a dataset are one call, unless their batches take more bytes.
STEPS_PER_CALL = 100
BYTES_PER_CALL = 64 * 2**20


def split_data(x: Any, y: Any, validation_data: Any) -> tuple:
    """Return `x`, `y` and `validation_data` of `Solver.fit`, taken from `x` where it has splits."""
    if not isinstance(x, Data | Stream):
        return x, y, validation_data
    if not (y is validation_data is None):
        raise ValueError(
            f"`y` and `validation_data` come from the data itself when `x` is {type(x).__name__}. "
            "Leave them out, or pass arrays."
        )
    if isinstance(x, Stream):
        return x, None, batched(x.validation, EVALUATION_BATCH_SIZE)
    return *x.train, tuple(x.validation)


def training_feed(network: Network, x: Any, y: Any, batch_size: int, shuffle: bool, seed: int) -> "Feed":
    """Return the feed that trains `network`; arguments and errors as in `Solver.fit`."""
    if isinstance(x, Stream):
        return StreamFeed(network, x, check_batch_size(batch_size), shuffle, seed)
    if isinstance(x, tf.data.Dataset):
        return DatasetFeed(network, x, y)
    arrays = network.prepare(x, y)
    return ArrayFeed(network.steps, arrays, check_batch_size(batch_size, len(arrays.y)), shuffle, seed)


def evaluation_feed(
    network: Network, x: Any, y: Any = None, batch_size: int = EVALUATION_BATCH_SIZE
) -> "Feed":
    """Return the feed that evaluates `network`; arguments and errors as in `Solver.evaluate`."""
    if isinstance(x, tf.data.Dataset):
        return DatasetFeed(network, x, y)
    arrays = network.prepare(x, y)
    return ArrayFeed(network.steps, arrays, min(check_batch_size(batch_size), len(arrays.y)))


def validation_feed(network: Network, data: Any) -> "Feed | None":
    """Return the feed for `validation_data` of `Solver.fit`; None for None."""
    if data is None:
        return None
    if isinstance(data, tf.data.Dataset):
        return evaluation_feed(network, data)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError("`validation_data` must be a pair (x, y) or a tf.data.Dataset.")
    return evaluation_feed(network, *data)


class ArrayFeed:
    """Arrays in memory: an epoch over them is one compiled program."""

    def __init__(
        self, steps: DeviceSteps, arrays: Arrays, batch_size: int, shuffle: bool = False, seed: int = 0
    ) -> None:
        self.batch_size = batch_size
        self.steps_per_epoch = -(-len(arrays.y) // batch_size)
        self._steps, self._arrays, self._shuffle, self._seed = steps, arrays, shuffle, seed

    def identity(self) -> str:
        return digest(self._arrays)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        examples = len(self._arrays.y)
        order = batch_order(examples, self._seed, epoch) if self._shuffle else np.arange(examples)
        return self._steps.averaged(self._steps.train_epoch, *self._arrays, order, self.batch_size)

    def evaluate(self) -> dict[str, float]:
        return self._steps.averaged(self._steps.evaluate, *self._arrays, self.batch_size)


class DatasetFeed:
    """A dataset of batches ``(x, y)``: a group of its steps is one call, and memory stays flat.

    The first batch is read at once: it creates the network's variables, and all others must fit to it.

    Raises:
        ValueError: the dataset is empty, never ends, or does not give pairs of tensors; or `y` is given.
    """

    batch_size: int | None = None
    steps_per_epoch: int | None = None

    def __init__(self, network: Network, dataset: tf.data.Dataset, y: None = None) -> None:
        if y is not None:
            raise ValueError("`y` comes from the dataset itself, which gives pairs (x, y). Leave it out.")
        _check_dataset(dataset)
        self._steps, self._dataset = network.steps, dataset
        arrays = network.prepare(*_first_batch(dataset))
        self._steps_per_call = _steps_per_call(arrays, int(dataset.cardinality()))
        shapes = [array.shape[1:] for array in arrays]
        self._grouped = functools.partial(
            grouped_batches, classes=network.classes(arrays.x.shape), shapes=shapes
        )
        # A reader of the dataset by the number of steps in a group, made once.
        self._reader = functools.cache(functools.partial(self._grouped, dataset))

    def identity(self) -> str:
        return _dataset_form(self._dataset)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        return self._steps.averaged(self._train, self._reader(self._steps_per_call))

    def evaluate(self) -> dict[str, float]:
        return self._steps.averaged(self._evaluate, self._reader(1))

    def _train(self, read):
        """Train on each full group of equal batches in one call, and on other groups step by step."""
        with contextlib.closing(read()) as groups:
            for x, y, sizes in groups:
                sizes = sizes.numpy()
                if len(sizes) == self._steps_per_call and (sizes == sizes[0]).all():
                    self._steps.train_epoch(x, y, range(len(x)), int(sizes[0]))
                else:
                    for batch in zip(tf.split(x, sizes), tf.split(y, sizes), strict=True):
                        self._steps.train(*batch)

    def _evaluate(self, read):
        with contextlib.closing(read()) as groups:
            for x, y, sizes in groups:
                self._steps.evaluate(x, y, int(sizes[0]))


class StreamFeed(DatasetFeed):
    """The training split of a `Stream` in batches, shuffled anew each epoch if `shuffle` is True."""

    def __init__(self, network: Network, stream: Stream, batch_size: int, shuffle: bool, seed: int) -> None:
        super().__init__(network, batched(stream.train, batch_size))
        self.batch_size = batch_size
        self._stream, self._shuffle = stream, shuffle
        self._shuffled = functools.partial(batched, stream.train, batch_size, seed)

    def identity(self) -> str:
        return f"{self._stream.name}, {self._stream.source}: {_dataset_form(self._stream.train)}"

    def train_epoch(self, epoch: int) -> dict[str, float]:
        if not self._shuffle:
            return super().train_epoch(epoch)
        return self._steps.averaged(self._train, self._grouped(self._shuffled(epoch), self._steps_per_call))


Feed = ArrayFeed | DatasetFeed


def _check_dataset(dataset):
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset never ends. Cut it into epochs with `take(steps)`.")
    spec = dataset.element_spec
    kinds = [type(part) for part in spec] if isinstance(spec, tuple) else []
    if len(kinds) != 2 or not set(kinds) <= {tf.TensorSpec, tf.RaggedTensorSpec}:
        raise ValueError(f"The dataset must give pairs (x, y) of batches, as tensors. Received: {spec}.")


def _first_batch(dataset):
    with contextlib.closing(read_batches(dataset.take(1))) as batches:
        for batch in batches:
            return batch
    raise ValueError("The dataset is empty. Give it one batch or more.")


def _steps_per_call(arrays, cardinality):
    """Return how many steps are one call, from the first batch and the number of batches, if known."""
    size = sum(array.shape.num_elements() * array.dtype.size for array in arrays)
    most = min(STEPS_PER_CALL, cardinality) if cardinality > 0 else STEPS_PER_CALL
    return max(1, min(most, BYTES_PER_CALL // (size or 1)))


def _dataset_form(dataset):
    """Return what describes a dataset without reading it."""
    return f"{dataset.element_spec}, {int(dataset.cardinality())} of them"
