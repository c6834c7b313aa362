"""The mathematics of batch normalization on tensors: no Keras, no variables.

Every statistic keeps the rank of its input (``[N, H, W, C] -> [1, 1, 1, C]``), so that the formulas
read as they stand in the paper and broadcasting does the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Moments(NamedTuple):
    """What one batch says of each channel; `centred` is ``x - mean`` and has the shape of `x`."""

    centred: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


def channel_sum(x, axes):
    """Sum of `x` over `axes`, which are kept with length one: ``[N, ..., C] -> [1, ..., C]``."""
    return tf.reduce_sum(x, axis=axes, keepdims=True)


def sum_over_replicas(x, synchronized):
    """Sum of `x` over the replicas of a `tf.distribute` strategy; `x` itself if not `synchronized`."""
    replica = tf.distribute.get_replica_context() if synchronized else None
    if replica is None or replica.num_replicas_in_sync == 1:
        return x
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, x)


def moments(x, axes, mask=None, synchronized=False):
    """Mean and biased variance of each channel, by two compensated passes.

        mean     = sum(x) / count
        mean    += sum(x - mean) / count              (what rounding took from the first pass)
        variance = sum((x - mean)**2) / count

    The textbook form ``E[x**2] - E[x]**2`` loses every digit once the mean is some thousand standard
    deviations away from zero. Here the error stays near the rounding of the input itself.

    Args:
        x: floating point tensor.
        axes: list of int, the axes to reduce: all but the channels'.
        mask: boolean tensor that broadcasts to `x`, or None for all true. Where it is false, a
            value counts neither in the sums nor in `count`.
        synchronized: whether to take the sums over all replicas of the current strategy.

    Returns:
        `Moments`, where `mean` and `variance` have the shape ``[1, ..., C, ..., 1]`` and `count`, the
        values in a channel, broadcasts to it. A channel without a single value has mean and
        variance 0.

    >>> x = tf.constant([[1.0, 10.0], [3.0, 30.0]])
    >>> result = moments(x, axes=[0])
    >>> result.mean.numpy().tolist(), result.variance.numpy().tolist()
    ([[2.0, 20.0]], [[1.0, 100.0]])

    Source: Ioffe and Szegedy 2015, Algorithm 1, lines 1 and 2; the correction is that of Chan, Golub
    and LeVeque 1983, equation 1.7.
    """

    def total(values):
        if mask is not None:
            # A product with zero would let a masked NaN or infinity through.
            values = tf.where(mask, values, tf.zeros_like(values))
        return sum_over_replicas(channel_sum(values, axes), synchronized)

    if mask is None:
        values_per_channel = tf.reduce_prod(tf.gather(tf.shape(x), axes))
        count = sum_over_replicas(tf.cast(values_per_channel, x.dtype), synchronized)
    else:
        count = total(tf.ones_like(x))
    mean = tf.math.divide_no_nan(total(x), count)
    centred = x - mean
    correction = tf.math.divide_no_nan(total(centred), count)
    centred -= correction
    variance = tf.math.divide_no_nan(total(tf.square(centred)), count)
    return Moments(centred, mean + correction, variance, count)


def batch_normalize(x, batch, gamma, beta, epsilon, axes, mask=None, synchronized=False):
    """Normalise `x` by its own moments, with the gradient in closed form.

        x_hat  = (x - mean) / sqrt(variance + epsilon)
        y      = gamma * x_hat + beta

        dgamma = sum(dy * x_hat)
        dbeta  = sum(dy)
        dx     = gamma / sqrt(variance + epsilon) * (dy - (dbeta + x_hat * dgamma) / count)

    Mean and variance depend on `x`, and `dx` accounts for it: `batch` has to be ``moments(x, ...)`` of
    the same `x`, `axes`, `mask` and `synchronized`. Where `mask` is false, `x` did not enter the
    moments: it is normalised like the rest, and the second term of `dx` vanishes.

    Args:
        x: floating point tensor ``[N, ..., C]``, the channels anywhere.
        batch: `Moments` of `x`.
        gamma, beta: tensors ``[1, ..., C]``.
        epsilon: float added to the variance.
        axes, mask, synchronized: as in `moments`.

    Returns:
        A tensor of the shape and dtype of `x`. Derivatives of second order are right, too.

    >>> x = tf.constant([[1.0], [3.0]])
    >>> y = batch_normalize(x, moments(x, [0]), tf.ones([1, 1]), tf.zeros([1, 1]), 0.0, [0])
    >>> y.numpy().tolist()
    [[-1.0], [1.0]]

    Source: Ioffe and Szegedy 2015, Algorithm 1 and the six gradients of section 3, with the chain
    through mean and variance contracted.
    """
    inverse_stddev = tf.math.rsqrt(batch.variance + epsilon)
    x_hat = batch.centred * inverse_stddev

    @tf.custom_gradient
    def scale_and_shift(x, gamma, beta):
        del x  # It enters by way of x_hat; as an argument it is what the gradient is asked for.

        def gradient(dy):
            dbeta = channel_sum(dy, axes)
            dgamma = channel_sum(dy * x_hat, axes)
            # Every replica's outputs depend on this replica's x through the shared moments,
            # whereas gamma and beta are each replica's own: the strategy adds their gradients.
            through_moments = sum_over_replicas(dbeta, synchronized)
            through_moments += x_hat * sum_over_replicas(dgamma, synchronized)
            through_moments = tf.math.divide_no_nan(through_moments, batch.count)
            if mask is not None:
                through_moments = tf.where(mask, through_moments, tf.zeros_like(dy))
            return gamma * inverse_stddev * (dy - through_moments), dgamma, dbeta

        return gamma * x_hat + beta, gradient

    return scale_and_shift(x, gamma, beta)


def normalize(x, mean, variance, gamma, beta, epsilon):
    """Normalise `x` by given statistics, as one multiplication and one addition.

        scale = gamma / sqrt(variance + epsilon)
        y     = x * scale + (beta - mean * scale)

    In this form converters fold the layer into its neighbour.

    Args:
        x: floating point tensor ``[N, ..., C]``, the channels anywhere.
        mean, variance, gamma, beta: tensors ``[1, ..., C]``.
        epsilon: float added to the variance.

    Returns:
        A tensor of the shape and dtype of `x`.

    >>> one = tf.ones([1, 1])
    >>> normalize(tf.constant([[7.0]]), 3 * one, 4 * one, one, one, epsilon=0.0).numpy().tolist()
    [[3.0]]

    Source: Ioffe and Szegedy 2015, Algorithm 2, line 11.
    """
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    return x * scale + (beta - mean * scale)


def moving_average(average, value, momentum):
    """One step of an exponential moving average, `momentum` being the share that is kept.

        average = average * momentum + value * (1 - momentum)

    PyTorch calls the other share, ``1 - momentum``, momentum.

    >>> moving_average(10.0, 20.0, momentum=0.75)
    12.5

    Source: Ioffe and Szegedy 2015, section 3.1.
    """
    return average * momentum + value * (1.0 - momentum)


def renorm_corrections(mean, stddev, renorm_mean, renorm_stddev, clipping):
    """How far this batch's moments are from their moving averages, as a scale and a shift.

        r = clip(stddev / renorm_stddev, rmin, rmax)
        d = clip((mean - renorm_mean) / renorm_stddev, -dmax, dmax)

    ``x_hat * r + d`` then is `x` normalised by the averages, up to the clipping. Both are constants to
    the gradient.

    Args:
        mean, stddev: tensors, the moments of this batch.
        renorm_mean, renorm_stddev: tensors of the same shape, their moving averages.
        clipping: dict with any of "rmin" (default 0), "rmax" (infinity) and "dmax" (infinity).

    Returns:
        The tensors `r` and `d`.

    >>> r, d = renorm_corrections(tf.constant(3.0), tf.constant(2.0), 1.0, 1.0, {"dmax": 1.5})
    >>> float(r), float(d)
    (2.0, 1.5)

    Source: Ioffe 2017, "Batch Renormalization", Algorithm 1.
    """
    dmax = clipping.get("dmax", float("inf"))
    r = tf.clip_by_value(
        stddev / renorm_stddev, clipping.get("rmin", 0.0), clipping.get("rmax", float("inf"))
    )
    d = tf.clip_by_value((mean - renorm_mean) / renorm_stddev, -dmax, dmax)
    return tf.stop_gradient(r), tf.stop_gradient(d)
