"""Data for a network: checked against it, and read epoch by epoch from arrays, datasets and streams.

A feed has a `batch_size`, None where the data have their own, and `steps_per_epoch`, None where only the
end of an epoch shows it. Its `identity` is what a resumed training and its beginning must have in common.
`train_epoch` and `evaluate` return the averaged loss and metrics; epochs count from 1.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfbn.data.adapters import fits
from tfbn.data.arrays import Data, Labels, batch_order, check_batch_size, check_examples
from tfbn.data.streams import Stream, batched, grouped_batches, read_batches
from tfbn.training.checkpoints import digest
from tfbn.training.objectives import Objective
from tfbn.training.steps import DeviceSteps

EVALUATION_BATCH_SIZE = 1000
# How many steps over a dataset are one call, unless their batches take more bytes.
STEPS_PER_CALL = 100
BYTES_PER_CALL = 64 * 2**20


class Arrays(NamedTuple):
    """Examples and labels, checked and on a device, as `Solver.prepare` returns them."""

    x: tf.Tensor
    y: tf.Tensor


class Network:
    """A compiled model that checks its data and creates its variables at the first of them.

    `objective` has the solver's loss and metrics. The first data decide how they read outputs and labels.
    """

    def __init__(self, model: keras.Model, steps: DeviceSteps, objective: Objective) -> None:
        self.model, self.steps, self._objective = model, steps, objective
        self.labels: Labels | None = None  # The form of class labels; None for other targets.
        self._outputs: dict[tuple, Any] = {}  # The symbolic output for each shape of input that came.
        self._optimizer_start: list[tuple] | None = None  # The optimizer's variables, their first values.

    @property
    def fixed_batch_size(self) -> int | None:
        """The number of examples in each batch, if the model was built for one."""
        return self.model.inputs[0].shape[0] if getattr(self.model, "inputs", None) else None

    def prepare(self, x: ArrayLike | Arrays, y: Any = None) -> Arrays:
        """Check arrays against the model and move them to the device; see `Solver.prepare`."""
        if isinstance(x, Arrays):
            examples, targets = x.x, x.y.numpy()
            self._check_shape(tuple(examples.shape))
        else:
            _check_kind(x, y)
            self._check_shape(np.shape(x))
            examples, targets = check_examples(x, y, None)
        output = self._output(examples.shape)  # It creates the weights.
        is_first = self._optimizer_start is None
        if is_first:
            with self.steps.place():
                self.labels = self._objective.compile(self.model, examples, targets, output.shape)
        elif self.labels is None:
            self._objective.check_labels(targets, output.shape)
        if self.labels is not None:
            targets = self.labels.convert(targets)
        with self.steps.place():
            arrays = Arrays(
                examples if tf.is_tensor(examples) else tf.constant(examples), tf.constant(targets)
            )
        if is_first:
            x, y = (array[: self.fixed_batch_size or 1] for array in arrays)
            self.steps.create_variables(x, y, output, self._objective.loss)
            self._optimizer_start = [(each, each.numpy()) for each in self.model.optimizer.variables]
        return arrays

    def restart(self, fresh: keras.Model, learning_rate: float | None = None) -> None:
        """Copy the weights of `fresh` and restore the optimizer's first state; see `Solver.restart`."""
        for shape in self._outputs:
            if not fresh.built:
                self._build(fresh, shape)
        for variable, value in zip(self.model.variables, fresh.variables, strict=True):
            variable.assign(value)
        for variable, value in self._optimizer_start or ():
            variable.assign(value)
        if learning_rate is not None:
            self.model.optimizer.learning_rate = learning_rate

    def _check_shape(self, shape):
        if not getattr(self.model, "inputs", None):
            return  # A model that waits for its first input, or takes any.
        expected = self.model.input_shape
        if not shape or not fits(expected[1:], shape[1:]):
            hint = " Batch the examples, for example by dataset.batch(32)." if shape == expected[1:] else ""
            raise ValueError(
                f"x must have the shape {expected} that the model takes. Received: {shape}.{hint}"
            )

    def check_batches(self, examples: int, batch_size: int) -> None:
        """Raise ValueError if the model was built for batches of another size."""
        size = self.fixed_batch_size
        if size is not None and (batch_size != size or examples % size):
            raise ValueError(
                f"The model takes batches of {size} examples alone. Give that as `batch_size`, and a "
                f"multiple of it as examples. Received: batch_size={batch_size}, {examples:,} examples."
            )

    def _output(self, shape):
        shape = (self.fixed_batch_size, *shape[1:])
        if shape not in self._outputs:
            self._outputs[shape] = self._build(self.model, shape)
        return self._outputs[shape]

    def _build(self, model, shape):
        """Return the symbolic output, which computes nothing but creates the weights of a model without."""
        with self.steps.place():
            output = model(keras.KerasTensor(shape))
        if not isinstance(output, keras.KerasTensor):
            raise ValueError(
                "The model must return one tensor. Received: "
                f"{type(output).__name__} of {len(output)}. Choose one, or train the model by its fit."
            )
        return output


class ArrayFeed:
    """Arrays in memory: an epoch over them is one compiled program."""

    def __init__(
        self, steps: DeviceSteps, arrays: Arrays, batch_size: int, shuffle: bool = False, seed: int = 0
    ) -> None:
        self.batch_size = batch_size
        self.steps_per_epoch = -(-len(arrays.y) // batch_size)
        self._steps, self._arrays, self._shuffle, self._seed = steps, arrays, shuffle, seed

    @property
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
    Where each epoch has an order of its own, `shuffled` returns its batches. ValueError is raised for a
    dataset that is empty, never ends, or does not give pairs of tensors.
    """

    steps_per_epoch = None

    def __init__(
        self,
        network: Network,
        dataset: tf.data.Dataset,
        y: None = None,
        batch_size: int | None = None,
        shuffled: Callable[[int], tf.data.Dataset] | None = None,
        identity: str | None = None,
    ) -> None:
        if y is not None:
            raise ValueError("`y` comes from the dataset itself, which gives pairs (x, y). Leave it out.")
        arrays = network.prepare(*_first_batch(dataset))
        size = sum(array.shape.num_elements() * array.dtype.size for array in arrays)
        cardinality = int(dataset.cardinality())
        most = min(STEPS_PER_CALL, cardinality) if cardinality > 0 else STEPS_PER_CALL
        self._steps_per_call = max(1, min(most, BYTES_PER_CALL // (size or 1)))
        self._steps, self.batch_size, self._shuffled = network.steps, batch_size, shuffled
        self.identity = identity or _describe(dataset)
        shapes = [array.shape[1:] for array in arrays]
        self._grouped = functools.partial(grouped_batches, labels=network.labels, shapes=shapes)
        # A reader of the dataset by the number of steps in a group, made once.
        self._reader = functools.cache(functools.partial(self._grouped, dataset))

    def train_epoch(self, epoch: int) -> dict[str, float]:
        steps = self._steps_per_call
        read = self._grouped(self._shuffled(epoch), steps) if self._shuffled else self._reader(steps)
        return self._steps.averaged(self._train, read)

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


def _check_kind(x, y):
    """Raise TypeError for data that are not arrays."""
    for name, values in (("x", x), ("y", y)):
        if (
            values is None
            or isinstance(values, dict | keras.utils.PyDataset)
            or hasattr(values, "__next__")
        ):
            kind = type(values).__name__
            hint = "Join its batches to arrays, or make it a tf.data.Dataset of batches (x, y)."
            if isinstance(values, dict):
                hint = "A network here has one input and one output."
            raise TypeError(
                f"`{name}` must be an array, or `x` a tf.data.Dataset. Received: {kind}. {hint}"
            )


def _first_batch(dataset):
    """Return the first batch of a dataset, or raise ValueError for one that cannot be trained on."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset never ends. Cut it into epochs with `take(steps)`.")
    spec = dataset.element_spec
    kinds = [type(part) for part in spec] if isinstance(spec, tuple) else []
    if len(kinds) != 2 or not set(kinds) <= {tf.TensorSpec, tf.RaggedTensorSpec}:
        raise ValueError(f"The dataset must give pairs (x, y) of batches, as tensors. Received: {spec}.")
    with contextlib.closing(read_batches(dataset.take(1))) as batches:
        for batch in batches:
            return batch
    raise ValueError("The dataset is empty. Give it one batch or more.")


def _describe(dataset):
    """Return what describes a dataset without reading it."""
    return f"{dataset.element_spec}, {int(dataset.cardinality())} of them"


Feed = ArrayFeed | DatasetFeed


def fit_feeds(
    network: Network, x: Any, y: Any, validation_data: Any, batch_size: int, shuffle: bool, seed: int
) -> tuple[Feed, Feed | None]:
    """Return the feeds that train and validate `network`; arguments and errors as in `Solver.fit`."""
    if isinstance(x, Data | Stream) and not (y is validation_data is None):
        raise ValueError(
            f"`y` and `validation_data` come from the data itself when `x` is {type(x).__name__}. "
            "Leave them out, or pass arrays."
        )
    if isinstance(x, Data):
        x, y, validation_data = *x.train, tuple(x.validation)
    if isinstance(x, Stream):
        batch_size = check_batch_size(batch_size)
        shuffled = functools.partial(batched, x.train, batch_size, seed) if shuffle else None
        identity = f"{x.name}, {x.source}: {_describe(x.train)}"
        batches = batched(x.train, batch_size)
        train: Feed = DatasetFeed(network, batches, None, batch_size, shuffled, identity)
        validation_data = batched(x.validation, EVALUATION_BATCH_SIZE)
    elif isinstance(x, tf.data.Dataset):
        train = DatasetFeed(network, x, y)
    else:
        arrays = network.prepare(x, y)
        batch_size = check_batch_size(batch_size, len(arrays.y))
        network.check_batches(len(arrays.y), batch_size)
        train = ArrayFeed(network.steps, arrays, batch_size, shuffle, seed)
    if validation_data is None:
        return train, None
    if isinstance(validation_data, tf.data.Dataset):
        return train, DatasetFeed(network, validation_data)
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise ValueError(
            "`validation_data` must be a pair (x, y) or a tf.data.Dataset. Received: "
            f"{type(validation_data).__name__}."
        )
    return train, evaluation_feed(network, *validation_data)


def evaluation_feed(network: Network, x: Any, y: Any, batch_size: int | None = None) -> Feed:
    """Return the feed that evaluates `network`; arguments and errors as in `Solver.evaluate`."""
    if isinstance(x, tf.data.Dataset):
        return DatasetFeed(network, x, y)
    arrays = network.prepare(x, y)
    if batch_size is None:
        batch_size = network.fixed_batch_size or EVALUATION_BATCH_SIZE
    batch_size = min(check_batch_size(batch_size), len(arrays.y))
    network.check_batches(len(arrays.y), batch_size)
    return ArrayFeed(network.steps, arrays, batch_size)
