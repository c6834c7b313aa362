"""The statistics that a batch norm layer keeps between batches: initial values, updates, use in inference.

The layer owns the weights and the options; an option that is changed later takes effect.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbn.layers.moments import Moments, average_over_ghosts, pool_over_replicas


def initializers(layer: Any) -> dict[str, Callable]:
    """Return the initializer of each average, by the weight's name, in the order of the weights."""
    mean, variance = layer.moving_mean_initializer, layer.moving_variance_initializer

    def stddev(shape, dtype=None):
        return tf.sqrt(variance(shape, dtype=dtype))

    by_name = {"moving_mean": mean, "moving_variance": variance}
    if layer.renorm:
        by_name |= {"moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
    if layer.momentum is None or layer.debias:
        by_name |= {"count": keras.initializers.Zeros()}
    return by_name


def for_inference(layer: Any, broadcast: Callable) -> list[tf.Tensor]:
    """Return the mean and variance for inference; `broadcast` reshapes a weight for the input."""
    averages = [broadcast(weight) for weight in (layer.moving_mean, layer.moving_variance)]
    if getattr(layer, "debias", False):  # Keras' layers have no such option.
        updates = broadcast(layer.count)
        averages = [debiased(average, layer.momentum, updates) for average in averages]
    return averages


def update(layer: Any, batch: Moments) -> None:
    """Move the averages towards the moments of the batch, in the channels whose moments are usable."""
    batch = Moments(*map(tf.stop_gradient, batch))  # No derivative goes through a weight that is assigned.
    mean, variance, count = (tf.cast(value, layer.moving_mean.dtype) for value in _pooled(layer, batch))
    usable = (count > 0) & tf.math.is_finite(mean + variance)

    def move(weight, value, momentum):
        average = weight.value
        if layer.debias:
            average = tf.where((layer.count > 0) | ~usable, average, 0)
        momentum = tf.where(usable, tf.convert_to_tensor(momentum, value.dtype), 1)
        weight.assign(moving_average(average, value, momentum))

    momentum = layer.momentum
    if momentum is None:  # The mean over all values: of those so far, this is their share.
        so_far = layer.count.value
        momentum = tf.math.divide_no_nan(so_far, so_far + count)
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
        layer.count.assign_add(tf.where(usable, count if layer.momentum is None else 1.0, 0))


def _pooled(layer, batch):
    """Return mean, variance and count of the whole batch on all replicas, in the shape of the weights."""

    def estimate(variance, count):
        # Bessel's correction; a single value allows none, and its variance is 0 either way.
        return variance * count / tf.maximum(count - 1, 1) if layer.unbiased else variance

    if batch.variance.shape.rank > layer.input_spec.ndim:
        variance = estimate(batch.variance, batch.count)
        pooled = average_over_ghosts(batch.mean, variance, batch.count)
    else:
        own = batch.mean, batch.variance, batch.count
        mean, variance, count = own if layer.synchronized else pool_over_replicas(batch)
        pooled = mean, estimate(variance, count), count
    # The count is one number for all channels where there is no mask.
    return [v if v.shape.rank == 0 else tf.reshape(v, layer.moving_mean.shape) for v in pooled]


def moving_average(average: tf.Tensor, value: tf.Tensor, momentum: tf.Tensor | float) -> tf.Tensor:
    """Return ``average * momentum + value * (1 - momentum)``; `value` may be NaN if `momentum` is 1.

    >>> float(moving_average(tf.constant(10.0), 20.0, momentum=0.75))
    12.5
    """
    # Rounded first, the two shares sum to exactly one; else a float32 average is off by 1e-5 at 0.999.
    momentum = tf.convert_to_tensor(momentum, average.dtype)
    return average * momentum + tf.math.multiply_no_nan(value, 1 - momentum)


def debiased(average: tf.Tensor, momentum: float, updates: tf.Tensor) -> tf.Tensor:
    """Return ``average / (1 - momentum**updates)``: free of its start from zero, once there is an update.

    >>> average = moving_average(tf.constant(0.0), 3.0, momentum=0.99)
    >>> round(float(debiased(average, momentum=0.99, updates=tf.constant(1.0))), 5)
    3.0
    """
    momentum = tf.convert_to_tensor(momentum, average.dtype)
    weight = -tf.math.expm1(updates * tf.math.log(momentum))  # 1 - momentum**updates, to its last digit
    return tf.where(updates > 0, tf.math.divide_no_nan(average, weight), average)
