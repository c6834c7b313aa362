"""The mathematics of batch normalization on tensors: no Keras, no variables.

Every statistic keeps the rank of its input (``[N, H, W, C] -> [1, 1, 1, C]``), so that the formulas
read as they stand in the paper and broadcasting does the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfbn.keras_internals import under_xla
from tfbn.layers import kernels


class Moments(NamedTuple):
    """What one batch says of each channel, as moments about a shift.

    `shifted` is ``x - shift`` and `offset` its mean; `variance` is biased; `count` is the number of
    values in a channel.
    """

    shifted: tf.Tensor
    shift: tf.Tensor
    offset: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


def sum_over_replicas(values, synchronized=True):
    """Each of `values` summed over the replicas of a `tf.distribute` strategy, in one collective."""
    if not synchronized or _replicas() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def _replicas():
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def moments(x, axes, mask=None, synchronized=False):
    """Mean and biased variance of each channel.

        shift    = sum(x) / count
        offset   = sum(x - shift) / count             (what rounding took from the first pass)
        mean     = shift + offset
        variance = sum((x - shift)**2) / count - offset**2

    With a shift of 0 this is the textbook form ``E[x**2] - E[x]**2``, which loses every digit once the
    mean is some thousand standard deviations away from zero. With a shift near the mean the error stays
    near the rounding of the input itself. So 0 is tried first where that is faster, and kept if no
    channel's mean is more than two standard deviations away from it.

    Args:
        x: floating point tensor.
        axes: list of int, the axes to reduce: all but the channels'.
        mask: boolean tensor of the shape of `x`, or None for all true. Where it is false, a value
            counts neither in the sums nor in `count`.
        synchronized: whether to take the sums over all replicas of the current strategy: one
            collective for the shift, one for the rest.

    Returns:
        `Moments`. Its `mean`, `variance` and `count` have the shape ``[1, ..., C, ..., 1]``, or one that
        broadcasts to it. A channel without a single value has mean and variance 0.

    >>> x = tf.constant([[1.0, 10.0], [3.0, 30.0]])
    >>> result = moments(x, axes=[0])
    >>> result.mean.numpy().tolist(), result.variance.numpy().tolist()
    ([[2.0, 20.0]], [[1.0, 100.0]])

    Source: Ioffe and Szegedy 2015, Algorithm 1, lines 1 and 2; the correction is that of Chan, Golub
    and LeVeque 1983, equation 1.7.
    """

    def kept(values):
        # A product with zero would let a masked NaN or infinity through.
        return values if mask is None else tf.where(mask, values, tf.zeros_like(values))

    def about(shift, count, sum_of_squares, mean=None):
        shifted = x if shift is None else x - shift
        second = sum_of_squares(kept(shifted))
        if mean is not None and not synchronized and under_xla():
            # XLA reads `x` for each sum. This one is what rounding took from the mean: of a mean near
            # zero nothing that matters. In a branch of its own it is read where it is needed alone.
            first = tf.cond(
                tf.reduce_all(tf.square(mean) * count <= 4 * second),
                lambda: (mean - shift) * count,
                lambda: kernels.channel_sum(kept(x - shift), axes),
            )
        else:
            first = kernels.channel_sum(kept(shifted), axes)
        first, second = sum_over_replicas([first, second], synchronized)
        offset = tf.math.divide_no_nan(first, count)
        variance = tf.nn.relu(tf.math.divide_no_nan(second, count) - tf.square(offset))
        shift = tf.zeros_like(offset) if shift is None else shift
        return Moments(shifted, shift, offset, shift + offset, variance, count)

    # What the shift is makes no difference but to rounding: no gradient goes through it.
    def about_the_mean():
        sums = [kernels.channel_sum(kept(x), axes), count]
        total, count_of_all = sum_over_replicas(sums, synchronized)
        mean = tf.math.divide_no_nan(total, count_of_all)
        batch = about(
            kernels.pinned(tf.stop_gradient(mean)),
            count_of_all,
            lambda values: kernels.channel_sum(tf.square(values), axes),
            mean,
        )
        # Differences from a mean near zero are rounded, all in one direction: there the sum is better.
        near = tf.square(mean) <= batch.variance
        return batch._replace(mean=tf.where(near, mean, batch.mean))

    def about_zero_if_near():
        sum_of_squares = kernels.channel_sum_of_squares
        plain = about(None, count, sum_of_squares)
        near = tf.reduce_all(tf.square(plain.offset) <= 4 * plain.variance)
        shift = tf.stop_gradient(plain.offset)
        return tf.cond(near, lambda: plain, lambda: about(shift, count, sum_of_squares))

    if mask is not None:
        count = kernels.channel_sum(tf.cast(mask, x.dtype), axes)
        return about_the_mean()
    count = tf.cast(tf.reduce_prod(tf.gather(tf.shape(x), tf.constant(axes, tf.int32))), x.dtype)
    if synchronized:
        return about_the_mean()
    return kernels.choose(x, axes, about_zero_if_near, about_the_mean, least=500_000)


def pool_over_replicas(batch):
    """Mean, variance and count of all replicas' batches put together, if there is a strategy.

        mean     = sum(count * mean) / sum(count)
        variance = sum(count * (variance + (mean_of_replica - mean)**2)) / sum(count)

    Args:
        batch: the `Moments` of this replica.

    Returns:
        Tensors `mean`, `variance` and `count`, the same on each replica.

    Source: Chan, Golub and LeVeque 1983, equation 2.1, about a common shift as in `moments`.
    """
    if _replicas() == 1:
        return batch.mean, batch.variance, batch.count
    total, count = sum_over_replicas([batch.count * batch.mean, batch.count])
    shift = tf.math.divide_no_nan(total, count)
    distance = (batch.shift - shift) + batch.offset
    first, second = sum_over_replicas(
        [batch.count * distance, batch.count * (batch.variance + tf.square(distance))]
    )
    offset = tf.math.divide_no_nan(first, count)
    variance = tf.nn.relu(tf.math.divide_no_nan(second, count) - tf.square(offset))
    return shift + offset, variance, count


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
        gamma, beta: tensors of the shape of ``batch.variance``.
        epsilon: float added to the variance.
        axes, mask, synchronized: as in `moments`.

    Returns:
        A tensor of the shape and dtype of `x`. Derivatives of second and third order are right, too.

    >>> x = tf.constant([[1.0], [3.0]])
    >>> y = batch_normalize(x, moments(x, [0]), tf.ones([1, 1]), tf.zeros([1, 1]), 0.0, [0])
    >>> y.numpy().tolist()
    [[-1.0], [1.0]]

    Source: Ioffe and Szegedy 2015, Algorithm 1 and the six gradients of section 3, with the chain
    through mean and variance contracted.
    """

    def closed_form(dy, gamma, shifted, offset, variance):
        inverse_stddev = tf.math.rsqrt(variance + epsilon)
        x_hat = (shifted - offset) * inverse_stddev
        dbeta = kernels.channel_sum(dy, axes)
        # sum(dy * x_hat), but XLA reorders the subtractions within a sum and would lose digits. And a
        # masked NaN has no say as long as its output has none.
        multiply = tf.multiply if mask is None else tf.math.multiply_no_nan
        dgamma = kernels.channel_sum(multiply(shifted, dy), axes) - offset * dbeta
        dgamma *= inverse_stddev
        # Every replica's outputs depend on this replica's x through the shared moments, whereas gamma
        # and beta are each replica's own: the strategy adds their gradients.
        sums = sum_over_replicas([dbeta, dgamma], synchronized)
        means = [tf.math.divide_no_nan(total, batch.count) for total in sums]
        through_moments = means[0] + x_hat * means[1]
        if mask is not None:
            through_moments = tf.where(mask, through_moments, tf.zeros_like(dy))
        return gamma * inverse_stddev * (dy - through_moments), dgamma, dbeta

    @tf.custom_gradient
    def in_one_kernel(*arguments):
        # Its own derivative is that of the closed form: through a branch, TensorFlow's third is zero.
        def derivative(*upstream):
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                results = closed_form(*arguments)
            return tape.gradient(results, arguments, upstream)

        dy, gamma, shifted, offset, variance = arguments
        chosen = kernels.choose(
            x,
            axes,
            lambda: kernels.gradient(dy, shifted, offset, variance, gamma, epsilon),
            lambda: closed_form(*arguments),
            least=260_000,
            whole_blocks=True,
        )
        return chosen, derivative

    @tf.custom_gradient
    def scaled_and_shifted(x, gamma, beta):
        def gradient(dy):
            compute = in_one_kernel if mask is None and not synchronized else closed_form
            return compute(dy, gamma, batch.shifted, batch.offset, batch.variance)

        # `x` enters by way of `batch`; as an argument it is what the gradient is asked for.
        return normalize(batch.shifted, batch.offset, batch.variance, gamma, beta, epsilon), gradient

    return scaled_and_shifted(x, gamma, beta)


def normalize(x, mean, variance, gamma, beta, epsilon):
    """Normalise `x` by given statistics, as one multiplication and one addition.

        scale = gamma / sqrt(variance + epsilon)
        y     = x * scale + (beta - mean * scale)

    In this form converters fold the layer into its neighbour. Images in float32, ``[N, H, W, C]``, take
    the same formula as ``(x - mean) * scale + beta`` in one pass outside XLA.

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
    if kernels.images(x, mean):
        return kernels.scale_and_shift(x, mean, variance, gamma, beta, epsilon)
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    return x * scale + (beta - mean * scale)


def moving_average(average, value, momentum):
    """One step of a moving average, `momentum` being the share that is kept.

        average = average * momentum + value * (1 - momentum)

    PyTorch calls the other share, ``1 - momentum``, momentum. With the momentum of
    `cumulative_momentum` it is the mean of all values. With a momentum of 1 the average stays, even
    where `value` is not finite.

    >>> float(moving_average(tf.constant(10.0), 20.0, momentum=0.75))
    12.5

    Source: Ioffe and Szegedy 2015, section 3.1.
    """
    # Rounded first, the two shares sum to exactly one; else a float32 average is off by 1e-5 at 0.999.
    momentum = tf.convert_to_tensor(momentum, average.dtype)
    return average * momentum + tf.math.multiply_no_nan(value, 1 - momentum)


def cumulative_momentum(seen, count):
    """The share of an average over `seen` values that is kept when `count` values join it.

        momentum = seen / (seen + count)

    >>> average = moving_average(tf.constant(2.0), 5.0, cumulative_momentum(tf.constant(6.0), 3.0))
    >>> float(average)
    3.0

    Source: the mean of the batches' statistics of Ioffe and Szegedy 2015, Algorithm 2, line 10, weighted
    by batch size and taken step by step.
    """
    return tf.math.divide_no_nan(seen, seen + count)


def debiased(average, momentum, updates):
    """A moving average that started from zero, free of that start.

        average / (1 - momentum**updates)

    Where there was no update yet, `average` is returned as it is.

    >>> average = moving_average(tf.constant(0.0), 3.0, momentum=0.99)
    >>> round(float(debiased(average, momentum=0.99, updates=tf.constant(1.0))), 5)
    3.0

    Source: Kingma and Ba 2015, "Adam", section 3.
    """
    momentum = tf.convert_to_tensor(momentum, average.dtype)
    weight = -tf.math.expm1(updates * tf.math.log(momentum))  # 1 - momentum**updates, to its last digit
    return tf.where(updates > 0, tf.math.divide_no_nan(average, weight), average)


def unbiased(variance, count):
    """The variance of the population from which a batch was drawn, by Bessel's correction.

        variance * count / (count - 1)

    A single value says nothing of it: the result is then 0, as is its biased variance.

    >>> float(unbiased(tf.constant(1.0), tf.constant(2.0)))
    2.0

    Source: Ioffe and Szegedy 2015, Algorithm 2, line 10.
    """
    return variance * count / tf.maximum(count - 1, 1)


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


def ghost_batches(x, size):
    """Cut a batch into ghost batches: ``[N, ...] -> [ceil(N / size), size, ...]``, filled up with zeros.

    >>> ghost_batches(tf.constant([1, 2, 3]), 2).numpy().tolist()
    [[1, 2], [3, 0]]

    Source: Hoffer, Hubara and Soudry 2017, "Train longer, generalize better", Algorithm 1.
    """
    shape = tf.shape(x)
    filled = tf.pad(x, [[0, -shape[0] % size]] + [[0, 0]] * (x.shape.rank - 1))
    ghosts = tf.reshape(filled, tf.concat([[-1, size], shape[1:]], 0))
    ghosts.set_shape([None, size, *x.shape[1:]])
    return ghosts


def average_over_ghosts(mean, variance, count):
    """Mean and variance over the ghost batches of all replicas, weighted by count.

        sum(count * mean) / sum(count), and so the variance, the sums over the first axis

    Args:
        mean, variance: tensors ``[G, 1, ..., C]``, one row a ghost batch.
        count: tensor that broadcasts to them.

    Returns:
        Tensors `mean`, `variance` and `count`, ``[1, ..., C]``.

    >>> mean, variance = tf.constant([[1.0], [4.0]]), tf.constant([[2.0], [2.0]])
    >>> averages = average_over_ghosts(mean, variance, count=tf.constant([[2.0], [1.0]]))
    >>> [average.numpy().tolist() for average in averages]
    [[2.0], [2.0], [3.0]]
    """
    count += tf.zeros_like(mean)
    sums = [tf.reduce_sum(count * value, axis=0) for value in (mean, variance, tf.ones_like(mean))]
    mean, variance, count = sum_over_replicas(sums)
    return tf.math.divide_no_nan(mean, count), tf.math.divide_no_nan(variance, count), count
