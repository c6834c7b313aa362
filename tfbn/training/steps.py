"""The compiled functions of a model: an epoch, a step, an evaluation; on one device or over replicas."""

from __future__ import annotations

import warnings

import tensorflow as tf

from tfbn.foundation.errors import first_line
from tfbn.keras_internals import symbolic_build
from tfbn.runtime import strategies
from tfbn.runtime.devices import supports_empty_batch

_as_it_is = tf.autograph.experimental.do_not_convert


class Steps:
    """Keras' own steps of one compiled model, many of them a call.

    Args:
        model: `keras.Model`, which has to be built and compiled by Keras before anything is called.
        device: str, as `tfbn.devices.find_device` gives it.
        jit: bool, whether XLA compiles epochs; False from then on where that fails.
        strategy: of `tf.distribute`, over whose replicas each batch is split. Default None.
    """

    def __init__(self, model, device, jit, strategy=None):
        self.jit = jit
        self._model, self._device, self._strategy = model, device, strategy
        self._epoch = tf.function(self._epoch_steps, jit_compile=jit)
        self._step = tf.function(self._single_step, reduce_retracing=True)
        self._evaluation_by_shards = tf.function(self._evaluation_on_replicas, reduce_retracing=True)
        self._evaluations = {}

    def place(self):
        """Where variables are created and functions run, a context."""
        return tf.device(self._device) if self._strategy is None else strategies.scope(self._strategy)

    def create_variables(self, x, y):
        """Create those of the optimizer and the metrics, by an example of the data."""
        with self.place():
            self._model.optimizer.build(self._model.trainable_variables)
            # Keras creates the metrics' variables at their first update, which must not happen
            # inside of a compiled function.
            if self._strategy is None:
                self._model.test_step((x[:1], y[:1]))
            else:  # A step would have to run on all replicas; Keras' fit calls this.
                symbolic_build(self._model, (x[:1], y[:1]))
        self.reset_metrics()

    def reset_metrics(self):
        """Begin to average anew."""
        with self.place():
            self._model.reset_metrics()

    def metrics(self):
        """The loss and the metrics averaged since `reset_metrics`, a dict of floats."""
        with self.place():
            return {name: float(value) for name, value in self._model.get_metrics_result().items()}

    def train(self, x, y):
        """One step on one batch."""
        with self.place():
            if self._strategy is not None:
                self._check_shards(len(x))
            self._step(x, y)

    def train_epoch(self, x, y, order, batch_size):
        """Steps on the rows `order`, ints ``[M]``, so many at a time; a rest of fewer makes a last step."""
        with self.place():
            order = tf.constant(order, "int32")
            if self._strategy is not None:
                self._check_shards(min(batch_size, len(order) % batch_size or batch_size))
                return self._epoch(*strategies.copies(self._strategy, (x, y)), order, batch_size)
            try:
                return self._epoch(x, y, order, batch_size)
            except tf.errors.OpError as error:
                if not self.jit or isinstance(error, tf.errors.ResourceExhaustedError):
                    raise
                # XLA compiles a program before it runs any of it: no step was lost.
                reason = first_line(error)
                warnings.warn(f"XLA failed, training goes on without: {reason}", stacklevel=2)
                self.jit = False
                self._epoch = tf.function(self._epoch_steps)
                return self._epoch(x, y, order, batch_size)

    def evaluate(self, x, y, batch_size):
        """Steps of inference over all rows, so many at a time."""
        with self.place():
            if self._strategy is not None:
                self._check_shards(min(len(x), batch_size))
                spread = strategies.copies(self._strategy, (x, y))
                # Tensors, because every Python number would be traced anew.
                return self._evaluation_by_shards(*spread, *tf.constant([len(x), batch_size], "int64"))
            # Traced here for any number of examples: TensorFlow would warn where several solvers do.
            specs = tuple(tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in (x, y))
            if specs not in self._evaluations:
                trace = tf.function(self._evaluation_steps).get_concrete_function
                self._evaluations[specs] = trace(*specs, tf.TensorSpec([], "int32"))
            return self._evaluations[specs](x, y, tf.constant(batch_size, "int32"))

    def _check_shards(self, rows):
        """Raise if a replica gets none of so many rows, and a layer cannot do with none."""
        count = self._strategy.num_replicas_in_sync
        if rows < count and not supports_empty_batch(self._model, self._device):
            raise ValueError(
                f"A batch of {rows:,} leaves some of {count} replicas without a row, and TensorFlow's "
                "convolutions and poolings cannot do with none on a CPU. Take another number of examples "
                "or another batch size, so that every batch has a row for each."
            )

    def _single_step(self, x, y):
        if self._strategy is None:
            _as_it_is(self._model.train_step)((x, y))
        else:
            strategies.train_step(self._strategy, self._model, x, y, tf.range(tf.shape(x)[0]))

    def _train_rows(self, x, y, rows):
        if self._strategy is None:
            _as_it_is(self._model.train_step)((tf.gather(x, rows), tf.gather(y, rows)))
        else:
            strategies.train_step(self._strategy, self._model, x, y, rows)

    def _epoch_steps(self, x, y, order, batch_size):
        steps, rest = divmod(order.shape[0], batch_size)
        batches = tf.reshape(order[: steps * batch_size], [steps, batch_size])
        for step in tf.range(steps):
            self._train_rows(x, y, batches[step])
        if rest:
            self._train_rows(x, y, order[-rest:])

    def _evaluation_steps(self, x, y, batch_size):
        for start in tf.range(0, tf.shape(x)[0], batch_size):
            _as_it_is(self._model.test_step)((x[start : start + batch_size], y[start : start + batch_size]))

    def _evaluation_on_replicas(self, x, y, examples, batch_size):
        # Batches of about one size, for no small rest to leave replicas without a row.
        batches = -(-examples // batch_size)
        for batch in tf.range(batches):
            rows = tf.range(batch * examples // batches, (batch + 1) * examples // batches)
            strategies.evaluation_step(self._strategy, self._model, x, y, rows)
