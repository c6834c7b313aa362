"""The passes over a tensor that batch normalization consists of, each in its fastest formulation.

Some of them do not use the obvious operation. On a CPU, TensorFlow spends its time on writing tensors, less
on reading them: of a tensor of 25 MB, adding one to it takes 3 ms, summing it 0.4 ms. So a sum of products
must not write the products, and scaling and shifting must be one pass. `tfbn bench layer` measures it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfbn.keras_internals import has_tangent, under_xla

SUM_BLOCKS = 64  # in which rows are summed
GRADIENT_BLOCK_ROWS = 32  # many batches have a multiple of it


def choose(
    x: tf.Tensor,
    axes: Sequence[int],
    fused: Callable[[], Any],
    plain: Callable[[], Any],
    least: int,
    whole_blocks: bool = False,
    others: Sequence[tf.Tensor] = (),
) -> Any:
    """Call `fused` where TensorFlow's own kernels apply to `x`, of `least` elements or more; else `plain`.

    They apply on a CPU, outside XLA, to float32 with the channels last. (On a GPU the gradient expects the
    inverse of the standard deviation in place of the variance.) Below `least` their overhead of 0.1 ms a
    call is not repaid. A batch of unknown size is assumed to have 32 to 2,000 examples; where that does not
    decide, its size does when it runs. With `whole_blocks`, `GRADIENT_BLOCK_ROWS` must divide the rows.
    Forward mode, of `x` or of `others` that the calls depend on, needs `plain`: the kernels have outputs
    and inputs without a derivative.
    """
    if x.dtype != tf.float32 or not _channels_last(x, axes) or not _on_cpu() or under_xla():
        return plain()
    if has_tangent([x, *others]):
        return plain()
    size, example = x.shape.num_elements(), x.shape[1:].num_elements()
    if size is not None:
        even = not whole_blocks or size // x.shape[-1] % GRADIENT_BLOCK_ROWS == 0
        return fused() if size >= least and even else plain()
    if example is not None and 2000 * example < least:
        return plain()
    even = not whole_blocks or (x.shape[1:-1].num_elements() or 1) % GRADIENT_BLOCK_ROWS == 0
    if example and 32 * example >= least and even:
        return fused()
    even = even or tf.equal(tf.size(x) // x.shape[-1] % GRADIENT_BLOCK_ROWS, 0)
    return tf.cond(tf.logical_and(tf.size(x) >= least, even), fused, plain)


def takes_images(x: tf.Tensor, mean: tf.Tensor, *others: tf.Tensor) -> bool:
    """Return whether `scale_and_shift` takes these tensors in place of the plain formula.

    It takes float32 images or volumes, with a `mean` a channel, outside XLA and forward mode.
    """
    images = x.dtype == tf.float32 and x.shape.rank in (4, 5) and mean.shape == _channel_shape(x)
    return images and not under_xla() and not has_tangent([x, mean, *others])


def channel_sum(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Sum `x` over `axes`, which are kept with length one: ``[N, ..., C] -> [1, ..., C]``."""
    few_rows = (x.shape[:-1].num_elements() or 512) < 512
    if x.shape.rank == 2 and not under_xla():
        # A dense batch of unknown size is assumed to have some thousand rows: one operation, not ten.
        few_rows = (x.shape[0] or 0) <= 4096
    if few_rows or not _channels_last(x, axes) or not _on_cpu():
        # The innermost axes first, those after the channels: else TensorFlow would transpose.
        inner = [a for a in axes if all(later in axes for later in range(a, x.shape.rank))]
        if inner and len(inner) < len(axes):
            x = tf.reduce_sum(x, axis=inner, keepdims=True)
        return tf.reduce_sum(x, axis=axes, keepdims=True)
    # In blocks a sum is more exact, and XLA spreads it over the cores. XLA would merge two sums, so the
    # second is a product, of few rows. (A GPU would round a product's factors to TensorFloat-32.)
    blocks = tf.where(tf.size(x) // x.shape[-1] < 512, 1, 8) if under_xla() else SUM_BLOCKS
    whole, rest = _split(x, blocks)
    partial = tf.reduce_sum(tf.reshape(whole, [blocks, -1, x.shape[-1]]), axis=1)
    total = tf.ones([1, blocks], x.dtype) @ partial
    return tf.reshape(total if rest is None else total + tf.reduce_sum(rest, axis=0), _channel_shape(x))


def channel_sum_of_squares(x: tf.Tensor) -> tf.Tensor:
    """Sum `x**2` over all axes but the last, kept with length one, within the fused path of `choose`."""
    # The gradient of a depthwise convolution by its filter of size 1 is a sum of products that writes
    # none. It adds one after the other in float32; spread over 64 times the channels it stays exact.
    channels = SUM_BLOCKS * x.shape[-1]
    whole, rest = _split(x, SUM_BLOCKS)
    rows = tf.reshape(whole, [1, -1, 1, channels])
    partial = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=rows,
        out_backprop=rows,
        filter_sizes=[1, 1, channels, 1],
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    total = tf.reduce_sum(tf.reshape(partial, [SUM_BLOCKS, x.shape[-1]]), axis=0)
    total = total if rest is None else total + tf.reduce_sum(tf.square(rest), axis=0)
    return tf.reshape(total, _channel_shape(x))


def pinned(x: tf.Tensor) -> tf.Tensor:
    """Drop the last bit of `x` under XLA, so that the value is the same wherever it is used.

    XLA computes a quotient anew in each loop that needs it. Where it is subtracted at once, product and
    difference are rounded as one, elsewhere each by itself. An operation on bits prevents that.
    """
    if not under_xla():
        return x
    bits = tf.bitcast(x, tf.int32 if x.dtype == tf.float32 else tf.int64)
    return tf.bitcast(tf.bitwise.bitwise_and(bits, -2), x.dtype)


def scale_and_shift(
    x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """Compute ``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` in one pass, channels last."""
    # As rows it is as fast as a copy; over images the kernel takes half as long again.
    y = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x, [-1, 1, 1, x.shape[-1]]),
        scale=tf.reshape(gamma, [-1]),
        offset=tf.reshape(beta, [-1]),
        mean=tf.reshape(mean, [-1]),
        variance=tf.reshape(variance, [-1]),
        epsilon=epsilon,
        is_training=False,
    ).y
    return tf.reshape(y, _shape(x))


def gradient(
    dy: tf.Tensor, x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, gamma: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute dx, dgamma and dbeta in two passes, within the fused path of `choose`, by oneDNN's kernel."""
    # It adds within an example, then over the examples: of 32 rows each, its sums stay exact.
    rows = [-1, GRADIENT_BLOCK_ROWS, 1, x.shape[-1]]
    dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=tf.reshape(dy, rows),
        x=tf.reshape(x, rows),
        scale=tf.reshape(gamma, [-1]),
        reserve_space_1=tf.reshape(mean, [-1]),
        reserve_space_2=tf.reshape(variance, [-1]),
        reserve_space_3=tf.zeros([0]),
        epsilon=epsilon,
        is_training=True,
    )
    channels = _channel_shape(x)
    return tf.reshape(dx, _shape(x)), tf.reshape(dgamma, channels), tf.reshape(dbeta, channels)


def _channels_last(x, axes):
    # Of none, the rows cannot be counted: a division by zero in a graph ends the process.
    return x.shape.rank > 1 and list(axes) == list(range(x.shape.rank - 1)) and x.shape[-1] != 0


def _on_cpu():
    return not tf.config.list_logical_devices("GPU")


def _shape(x):
    # Converters remove a reshape of known lengths.
    return [-1, *x.shape[1:]] if None not in x.shape[1:] and 0 not in x.shape[1:] else tf.shape(x)


def _channel_shape(x):
    return [1] * (x.shape.rank - 1) + [x.shape[-1]]


def _split(x, blocks):
    """Return the rows of `x` that `blocks` divides, and the rest; None if there is certainly no rest."""
    if (x.shape[:-1].num_elements() or x.shape[1:-1].num_elements() or 1) % SUM_BLOCKS == 0:
        return x, None
    rows = tf.reshape(x, [-1, x.shape[-1]])
    whole = tf.shape(rows)[0] // blocks * blocks
    return rows[:whole], rows[whole:]
