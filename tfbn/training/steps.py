"""The compiled functions of one model: an epoch, a step, an evaluation; on one device or over replicas."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.foundation.errors import first_line, warn_caller
from tfbn.keras_internals import symbolic_build
from tfbn.runtime import devices, strategies
from tfbn.runtime.selftest import choose_jit

Order = Sequence[int] | np.ndarray
_without_autograph = tf.autograph.experimental.do_not_convert


def make_steps(model: keras.Model, device: str, jit: bool | str, strategy: Any) -> "DeviceSteps":
    """Return the steps of `model` on one device, or over a strategy's replicas; see `Solver`."""
    if strategy is None:
        device = devices.find_device(device)
        return DeviceSteps(model, device, choose_jit(model, device, jit))
    strategies.check_strategy(strategy, device, jit)
    return ReplicaSteps(model, strategy)


class DeviceSteps:
    """Keras' own steps of one model on one device, many of them in one call.

    The model has to be built, and compiled by Keras, before a step is called. `jit` is whether XLA compiles
    epochs; it is False from then on where XLA fails.
    """

    def __init__(self, model: keras.Model, device: str, jit: bool) -> None:
        self.device, self.jit, self._model = device, jit, model
        # Partial functions, as TensorFlow counts the traces of a method over all Solvers, and warns.
        self._epoch = tf.function(functools.partial(self._run_epoch), jit_compile=jit)
        self._step = tf.function(functools.partial(self._run_step), reduce_retracing=True)
        self._evaluations: dict = {}

    def place(self) -> contextlib.AbstractContextManager:
        """Return the context in which variables are created and functions run."""
        return tf.device(self.device)

    def create_variables(self, x: tf.Tensor, y: tf.Tensor, y_pred: Any, loss: Any) -> None:
        """Create the variables of the optimizer and the metrics, by examples and the symbolic output.

        Keras creates those of metrics at their first update, which must not be in a compiled function, nor
        for real: the network may keep state of what it was called on.
        """
        with self.place():
            self._model.optimizer.build(self._model.trainable_variables)
            symbolic_build(self._model, (x, y))
            self._model.reset_metrics()

    def averaged(self, run: Callable, *arguments: Any) -> dict[str, Any]:
        """Return the loss and the metrics, averaged over the steps that ``run(*arguments)`` takes.

        A metric of several values, such as one for each class, gives a list.
        """
        with self.place():
            self._model.reset_metrics()
        run(*arguments)
        with self.place():
            return {name: np.asarray(v).tolist() for name, v in self._model.get_metrics_result().items()}

    def train(self, x: tf.Tensor, y: tf.Tensor) -> None:
        with self.place():
            self._step(x, y)

    def train_epoch(self, x: tf.Tensor, y: tf.Tensor, order: Order, batch_size: int) -> None:
        """Train on the rows in `order`, `batch_size` at a time; the last step may be smaller."""
        with self.place():
            order = tf.constant(order, "int32")
            try:
                self._epoch(x, y, order, batch_size)
            except tf.errors.OpError as error:
                if not self.jit or isinstance(error, tf.errors.ResourceExhaustedError):
                    raise
                # XLA compiles a program before it runs any of it: no step was lost.
                warn_caller(f"XLA failed, training goes on without: {first_line(error)}")
                self.jit = False
                self._epoch = tf.function(functools.partial(self._run_epoch))
                self._epoch(x, y, order, batch_size)

    def evaluate(self, x: tf.Tensor, y: tf.Tensor, batch_size: int) -> None:
        """Evaluate on all rows in inference mode, `batch_size` at a time."""
        with self.place():
            # Traced here for any number of examples: TensorFlow would warn where several solvers do.
            specs = tuple(tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in (x, y))
            if specs not in self._evaluations:
                trace = tf.function(self._run_evaluation).get_concrete_function
                self._evaluations[specs] = trace(*specs, tf.TensorSpec([], "int32"))
            self._evaluations[specs](x, y, tf.constant(batch_size, "int32"))

    def _run_step(self, x, y, rows=None):
        """Take Keras' own train_step on the `rows`; None: on all."""
        batch = (x, y) if rows is None else (tf.gather(x, rows), tf.gather(y, rows))
        _without_autograph(self._model.train_step)(batch)

    def _run_epoch(self, x, y, order, batch_size):
        steps, rest = divmod(order.shape[0], batch_size)
        batches = tf.reshape(order[: steps * batch_size], [steps, batch_size])
        for step in tf.range(steps):
            self._run_step(x, y, batches[step])
        if rest:
            self._run_step(x, y, order[-rest:])

    def _run_evaluation(self, x, y, batch_size):
        for start in tf.range(0, tf.shape(x)[0], batch_size):
            rows = slice(start, start + batch_size)
            _without_autograph(self._model.test_step)((x[rows], y[rows]))


class ReplicaSteps(DeviceSteps):
    """The same steps with each batch split over the replicas of a strategy, without XLA.

    A step is that of one device with the whole batch: replica `r` of `n` takes its share of the `B` rows,

        rows  = batch[r * B // n : (r + 1) * B // n]
        share = len(rows) / B

    and the gradient of ``sum(share * mean(losses of rows))`` is that of the mean over the batch, whether or
    not the shares are even. Keras assumes that each share is ``1 / n``.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy) -> None:
        super().__init__(model, strategies.device_of(strategy), jit=False)
        self._strategy = strategy
        self._evaluation = tf.function(functools.partial(self._run_shares), reduce_retracing=True)

    def place(self) -> contextlib.AbstractContextManager:
        return strategies.scope(self._strategy)

    def create_variables(self, x: tf.Tensor, y: tf.Tensor, y_pred: Any, loss: Any) -> None:
        specs = (tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in (y, y_pred))
        strategies.check_loss(loss, *specs)
        super().create_variables(x, y, y_pred, loss)

    def train(self, x: tf.Tensor, y: tf.Tensor) -> None:
        self._check_rows(len(x))
        super().train(x, y)

    def train_epoch(self, x: tf.Tensor, y: tf.Tensor, order: Order, batch_size: int) -> None:
        self._check_rows(min(batch_size, len(order) % batch_size or batch_size))
        with self.place():
            x, y = self._copies(x, y)
            super().train_epoch(x, y, order, batch_size)

    def evaluate(self, x: tf.Tensor, y: tf.Tensor, batch_size: int) -> None:
        self._check_rows(min(len(x), batch_size))
        with self.place():
            # Tensors, because every Python number would be traced anew.
            self._evaluation(*self._copies(x, y), *tf.constant([len(x), batch_size], "int64"))

    def _check_rows(self, rows):
        """Raise ValueError if a batch of `rows` leaves a replica empty and a layer cannot train on none."""
        count = self._strategy.num_replicas_in_sync
        if rows < count and not devices.supports_empty_batch(self._model, self.device):
            raise ValueError(
                f"A batch of {rows:,} leaves some of {count} replicas without a row, which TensorFlow's "
                "convolutions and poolings do not support on a CPU. Change the number of examples or the "
                "batch size, so that every batch has a row for each replica."
            )

    def _copies(self, *arrays):
        """Copy arrays to each replica's device; a replica takes its rows from its copy."""
        places = self._strategy.extended.worker_devices

        def copy(context):
            with tf.device(places[context.replica_id_in_sync_group % len(places)]):
                return tuple(tf.identity(array) for array in arrays)

        return self._strategy.experimental_distribute_values_from_function(copy)

    @_without_autograph
    def _run_step(self, x, y, rows=None):
        """Take a step as Keras' own train_step does, but for the share in the gradient."""
        model = self._model
        rows = tf.range(tf.shape(x)[0]) if rows is None else rows

        def step(x, y):
            x, y, share = _shard(x, y, rows)
            with tf.GradientTape() as tape:
                y_pred = model(x, training=True)
                # Keras divides by the number of replicas.
                mean = model.compute_loss(x, y, y_pred, training=True) * self._strategy.num_replicas_in_sync
                loss = model.optimizer.scale_loss(mean * tf.cast(share, mean.dtype))
            weights = model.trainable_weights
            gradients = tape.gradient(loss, weights)
            if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
                gradients = _all_or_none(gradients)
            model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            model.metrics[0].update_state(mean, sample_weight=tf.shape(y)[0])
            model.compute_metrics(x, y, y_pred)

        self._strategy.run(step, (x, y))

    def _run_shares(self, x, y, examples, batch_size):
        # Batches of nearly equal sizes, so that no small last batch leaves replicas without a row.
        batches = -(-examples // batch_size)
        for batch in tf.range(batches):
            self._test_rows(x, y, tf.range(batch * examples // batches, (batch + 1) * examples // batches))

    @_without_autograph
    def _test_rows(self, x, y, rows):
        """Take Keras' own test_step on the `rows`; its metrics weigh each replica by its rows."""

        def step(x, y):
            self._model.test_step(_shard(x, y, rows)[:2])

        self._strategy.run(step, (x, y))


def _all_or_none(gradients):
    """Make all gradients NaN if those of any replica are not finite: Keras asks the first replica alone."""
    tensors = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    zero_or_nan = tf.add_n([tf.reduce_sum(0 * gradient) for gradient in tensors])
    zero_or_nan = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, zero_or_nan)
    return [None if gradient is None else gradient + zero_or_nan for gradient in gradients]


def _shard(x, y, rows):
    """Return this replica's rows, and their share in the batch."""
    context = tf.distribute.get_replica_context()
    replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    size = tf.shape(rows)[0]
    own = rows[replica * size // replicas : (replica + 1) * size // replicas]
    # Hide the length from tracing: Keras' losses do not reduce a batch that is empty by its static shape.
    own = tf.compat.v1.placeholder_with_default(own, [None])
    return tf.gather(x, own), tf.gather(y, own), tf.shape(own)[0] / size
