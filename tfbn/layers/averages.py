"""`MovingAverages`: the statistics that a batch norm layer keeps between batches."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbn.layers import functional
from tfbn.layers.moments import Moments, average_over_ghosts, pool_over_replicas, unbiased_variance


class MovingAverages:
    """A layer's averages over batches: their initial values, their updates, and their use in inference.

    The layer owns the weights and the options; an option that is changed later takes effect.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def initializers(self) -> dict[str, Callable]:
        """Return the initializer of each weight, by name, in the order of the weights."""
        layer = self.layer
        mean, variance = layer.moving_mean_initializer, layer.moving_variance_initializer

        def stddev(shape, dtype=None):
            return tf.sqrt(variance(shape, dtype=dtype))

        initializers = {"moving_mean": mean, "moving_variance": variance}
        if layer.renorm:
            initializers |= {"moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
        if layer.momentum is None or layer.debias:
            initializers |= {"count": keras.initializers.Zeros()}
        return initializers

    def reset(self) -> None:
        """Assign the initial values."""
        for name, initializer in self.initializers().items():
            weight = getattr(self.layer, name)
            weight.assign(initializer(weight.shape, dtype=weight.dtype))

    def for_inference(self, broadcast: Callable) -> list[tf.Tensor]:
        """Return the mean and variance for inference; `broadcast` reshapes a weight for the input."""
        layer = self.layer
        averages = [broadcast(weight) for weight in (layer.moving_mean, layer.moving_variance)]
        if layer.debias:
            updates = broadcast(layer.count)
            averages = [functional.debiased(average, layer.momentum, updates) for average in averages]
        return averages

    def update(self, batch: Moments) -> None:
        """Move the averages towards the moments of the batch, in the channels whose moments are usable."""
        layer = self.layer
        mean, variance, count = (tf.cast(value, layer.moving_mean.dtype) for value in self._pooled(batch))
        usable = (count > 0) & tf.math.is_finite(mean + variance)

        def move(weight, value, momentum):
            average = weight.value
            if layer.debias:
                average = tf.where((layer.count > 0) | ~usable, average, 0)
            momentum = tf.where(usable, tf.convert_to_tensor(momentum, value.dtype), 1)
            weight.assign(functional.moving_average(average, value, momentum))

        momentum = layer.momentum
        if momentum is None:
            momentum = functional.cumulative_momentum(layer.count.value, count)
        move(layer.moving_mean, mean, momentum)
        if layer.renorm:
            stddev = tf.sqrt(variance + layer.epsilon)
            move(layer.renorm_mean, mean, layer.renorm_momentum)
            move(layer.renorm_stddev, stddev, layer.renorm_momentum)
            move(layer.moving_stddev, stddev, momentum)
            # It includes epsilon, and inference adds it again.
            variance = tf.nn.relu(tf.square(layer.moving_stddev) - layer.epsilon)
            layer.moving_variance.assign(tf.where(usable, variance, layer.moving_variance))
        else:
            move(layer.moving_variance, variance, momentum)
        if layer.momentum is None or layer.debias:
            increment = count if layer.momentum is None else 1.0
            layer.count.assign_add(tf.where(usable, increment, 0))

    def _pooled(self, batch: Moments) -> list[tf.Tensor]:
        """Mean, variance and count of the whole batch on all replicas, in the shape of the weights."""
        layer = self.layer
        bessel = unbiased_variance if layer.unbiased else lambda variance, count: variance
        if batch.variance.shape.rank > layer.input_spec.ndim:
            variance = bessel(batch.variance, batch.count)
            pooled = average_over_ghosts(batch.mean, variance, batch.count)
        elif layer.synchronized:
            pooled = batch.mean, bessel(batch.variance, batch.count), batch.count
        else:
            mean, variance, count = pool_over_replicas(batch)
            pooled = mean, bessel(variance, count), count
        # The count is one number for all channels where there is no mask.
        return [v if v.shape.rank == 0 else tf.reshape(v, layer.moving_mean.shape) for v in pooled]
