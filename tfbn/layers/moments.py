"""Mean and variance of each channel: of a batch, of what a mask leaves, of ghost batches, of all replicas.

Every statistic keeps the rank of its input (``[N, H, W, C] -> [1, 1, 1, C]``), so that the formulas read as
they stand in the paper and broadcasting does the rest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfbn.keras_internals import under_xla
from tfbn.layers import kernels


class Moments(NamedTuple):
    """The moments of each channel in one batch, taken about a shift.

    `shifted` is ``x - shift``, `offset` its mean, `variance` biased, and `count` the number of values.
    """

    shifted: tf.Tensor
    shift: tf.Tensor
    offset: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


def moments(
    x: tf.Tensor, axes: Sequence[int], mask: tf.Tensor | None = None, synchronized: bool = False
) -> Moments:
    """Take the mean and biased variance of each channel.

        shift    = sum(x) / count
        offset   = sum(x - shift) / count             (what rounding took from the first pass)
        mean     = shift + offset
        variance = sum((x - shift)**2) / count - offset**2

    With a shift of 0 this is the textbook form ``E[x**2] - E[x]**2``. That form loses every digit once the
    mean is some thousand standard deviations away from zero. With a shift near the mean the error stays
    near the rounding of the input itself. So 0 is tried first where that is faster. It is kept if no
    channel's mean is more than two standard deviations away from 0.

    Args:
        x: floating point tensor.
        axes: the axes to reduce: all but the channels'.
        mask: boolean tensor of the shape of `x`; only values where it is true count. Default None: all.
        synchronized: whether to take the sums over all replicas of the current strategy, with one
            collective for the shift and one for the rest. Default False.

    `mean`, `variance` and `count` have the shape ``[1, ..., C, ..., 1]``, or one that broadcasts to it. A
    channel without a single value has mean and variance 0.

    >>> x = tf.constant([[1.0, 10.0], [3.0, 30.0]])
    >>> result = moments(x, axes=[0])
    >>> result.mean.numpy().tolist(), result.variance.numpy().tolist()
    ([[2.0, 20.0]], [[1.0, 100.0]])

    Source: Ioffe and Szegedy 2015, Algorithm 1, lines 1 and 2, corrected as Chan, Golub and LeVeque 1983,
    (1.7).
    """
    if mask is not None:
        count = kernels.channel_sum(tf.cast(mask, x.dtype), axes)
        return _about_mean(x, axes, count, mask, synchronized)
    count = tf.cast(tf.reduce_prod(tf.gather(tf.shape(x), tf.constant(axes, tf.int32))), x.dtype)
    if synchronized:
        return _about_mean(x, axes, count, synchronized=True)
    fused, plain = (lambda: _about_zero_or_mean(x, axes, count)), (lambda: _about_mean(x, axes, count))
    return kernels.choose(x, axes, fused, plain, least=500_000)


def _about_mean(x, axes, count, mask=None, synchronized=False):
    """Take the mean first, then the moments about it."""

    def masked(values):
        # A product with zero would let a masked NaN or infinity through.
        return values if mask is None else tf.where(mask, values, tf.zeros_like(values))

    total, count = sum_over_replicas([kernels.channel_sum(masked(x), axes), count], synchronized)
    mean = tf.math.divide_no_nan(total, count)
    shift = kernels.pinned(tf.stop_gradient(mean))  # The shift only changes rounding: no gradient.
    shifted = x - shift
    second = kernels.channel_sum(tf.square(masked(shifted)), axes)
    if synchronized or not under_xla():
        first = kernels.channel_sum(masked(shifted), axes)
    else:
        # XLA reads `x` for each sum. This one is what rounding took from the mean; of a mean near zero
        # it is negligible. In a branch of its own it is only read where it is needed. XLA cannot compile
        # higher derivatives of a branch: its derivative is that of `total`, since the shift has none.
        constant_x, constant_mean, constant_second = map(tf.stop_gradient, (x, mean, second))
        first = tf.cond(
            tf.reduce_all(tf.square(constant_mean) * count <= 4 * constant_second),
            lambda: (constant_mean - shift) * count,
            lambda: kernels.channel_sum(masked(constant_x - shift), axes),
        )
        first = tf.stop_gradient(first) + (total - tf.stop_gradient(total))
    batch = _from_sums(shifted, shift, *sum_over_replicas([first, second], synchronized), count)
    # Differences from a mean near zero are rounded, all in one direction: there the sum is better.
    # (TensorFlow cannot push forward twice through a comparison of what has a derivative.)
    near_zero = tf.square(tf.stop_gradient(mean)) <= tf.stop_gradient(batch.variance)
    return batch._replace(mean=tf.where(near_zero, mean, batch.mean))


def _about_zero_or_mean(x, axes, count):
    """Take the moments about 0, and about the mean where that is too far from 0."""

    def about(shift):
        shifted = x if shift is None else x - shift
        second = kernels.channel_sum_of_squares(shifted)
        return _from_sums(shifted, shift, kernels.channel_sum(shifted, axes), second, count)

    plain = about(None)
    near_zero = tf.reduce_all(tf.square(plain.offset) <= 4 * plain.variance)
    shift = tf.stop_gradient(plain.offset)
    return tf.cond(near_zero, lambda: plain, lambda: about(shift))


def _from_sums(shifted, shift, first, second, count):
    offset, variance = _mean_and_variance(first, second, count)
    shift = tf.zeros_like(offset) if shift is None else shift
    return Moments(shifted, shift, offset, shift + offset, variance, count)


def _mean_and_variance(first, second, count):
    """Return both about a shift, from the sum and the sum of squares about that shift."""
    mean = tf.math.divide_no_nan(first, count)
    return mean, tf.nn.relu(tf.math.divide_no_nan(second, count) - tf.square(mean))


def sum_over_replicas(values: list, synchronized: bool = True) -> list:
    """Sum each of `values` over the replicas of a `tf.distribute` strategy, in one collective."""
    if not synchronized or _number_of_replicas() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def _number_of_replicas() -> int:
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def pool_over_replicas(batch: Moments) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return mean, variance and count of all replicas' batches put together, where there are several.

        mean     = sum(count * mean) / sum(count)
        variance = sum(count * (variance + (mean_of_replica - mean)**2)) / sum(count)

    Source: Chan, Golub and LeVeque 1983, equation 2.1, about a common shift as in `moments`.
    """
    if _number_of_replicas() == 1:
        return batch.mean, batch.variance, batch.count
    total, count = sum_over_replicas([batch.count * batch.mean, batch.count])
    shift = tf.math.divide_no_nan(total, count)
    distance = (batch.shift - shift) + batch.offset
    sums = [batch.count * distance, batch.count * (batch.variance + tf.square(distance))]
    first, second = sum_over_replicas(sums)
    offset, variance = _mean_and_variance(first, second, count)
    return shift + offset, variance, count


def broadcast_mask(mask: tf.Tensor | None, x: tf.Tensor) -> tf.Tensor | None:
    """Return a mask of the first axes of `x` as booleans of the shape of `x`, or None for None."""
    if mask is None:
        return None
    mask = tf.cast(tf.convert_to_tensor(mask), "bool")
    rank = mask.shape.rank
    fits = rank is not None and rank <= x.shape.rank
    if fits:
        lengths = zip(mask.shape, x.shape[:rank], strict=True)
        fits = all(length in (1, None) or wanted in (length, None) for length, wanted in lengths)
    if not fits:
        raise ValueError(
            f"`mask` must have the first axes of the inputs, each of the same length or 1. Received: "
            f"mask.shape={mask.shape} for inputs of the shape {x.shape}."
        )
    mask = tf.reshape(mask, tf.concat([tf.shape(mask), [1] * (x.shape.rank - rank)], 0))
    return tf.broadcast_to(mask, tf.shape(x))


def ghost_batches(x: tf.Tensor, size: int) -> tf.Tensor:
    """Cut a batch into ghost batches: ``[N, ...] -> [ceil(N / size), size, ...]``, filled up with zeros.

    >>> ghost_batches(tf.constant([1, 2, 3]), 2).numpy().tolist()
    [[1, 2], [3, 0]]
    """
    shape, examples = tf.shape(x), tf.shape(x)[0]
    if x.shape[0] is None or x.shape[0] % size:
        # `tf.pad`, as the gradient of a slice: its own derivatives exist under XLA, too.
        filled = tf.concat([[examples + -examples % size], shape[1:]], 0)
        x = tf.raw_ops.StridedSliceGrad(shape=filled, begin=[0], end=[examples], strides=[1], dy=x)
    ghosts = tf.reshape(x, tf.concat([[-1, size], shape[1:]], 0))
    ghosts.set_shape([None, size, *x.shape[1:]])
    return ghosts


def average_over_ghosts(
    mean: tf.Tensor, variance: tf.Tensor, count: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Average mean and variance over the ghost batches of all replicas, weighted by count.

    `mean` and `variance` are ``[G, 1, ..., C]``, one row a ghost batch; `count` broadcasts to them. The
    results, with the sum of `count`, are ``[1, ..., C]``.

    >>> mean, variance = tf.constant([[1.0], [4.0]]), tf.constant([[2.0], [2.0]])
    >>> averages = average_over_ghosts(mean, variance, count=tf.constant([[2.0], [1.0]]))
    >>> [average.numpy().tolist() for average in averages]
    [[2.0], [2.0], [3.0]]
    """
    count += tf.zeros_like(mean)
    sums = [tf.reduce_sum(count * value, axis=0) for value in (mean, variance, tf.ones_like(mean))]
    mean, variance, count = sum_over_replicas(sums)
    return tf.math.divide_no_nan(mean, count), tf.math.divide_no_nan(variance, count), count
