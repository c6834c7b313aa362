"""Normalising tensors by statistics, which `tfbn.layers.moments` takes: no variables."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbn.keras_internals import runs_onednn
from tfbn.layers import kernels
from tfbn.layers.moments import Moments, sum_over_replicas

DEFAULT_CLIPPING = {"rmax": float("inf"), "rmin": 0.0, "dmax": float("inf")}


def batch_normalize(
    x: tf.Tensor,
    batch: Moments,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    axes: Sequence[int],
    mask: tf.Tensor | None = None,
    synchronized: bool = False,
) -> tf.Tensor:
    """Normalise `x` by its own moments, with the gradient in closed form.

        x_hat  = (x - mean) / sqrt(variance + epsilon)
        y      = gamma * x_hat + beta

        dgamma = sum(dy * x_hat)
        dbeta  = sum(dy)
        dx     = gamma / sqrt(variance + epsilon) * (dy - (dbeta + x_hat * dgamma) / count)

    Mean and variance depend on `x`, and `dx` accounts for it: `batch` has to be ``moments(x, ...)`` of the
    same `x`, `axes`, `mask` and `synchronized`. Where `mask` is false, `x` did not enter the moments: it is
    normalised like the rest, and the second term of `dx` vanishes.

    `gamma` and `beta` have the shape of ``batch.variance``, the output has shape and dtype of `x`.
    Derivatives of second and third order are right, too.

    >>> from tfbn.layers.moments import moments
    >>> x = tf.constant([[1.0], [3.0]])
    >>> y = batch_normalize(x, moments(x, [0]), tf.ones([1, 1]), tf.zeros([1, 1]), 0.0, [0])
    >>> y.numpy().tolist()
    [[-1.0], [1.0]]

    Source: Ioffe and Szegedy 2015, Algorithm 1 and the six gradients of section 3, put together.
    """
    options = dict(epsilon=epsilon, axes=axes)
    # Only oneDNN's kernel sums exactly; TensorFlow's own takes as long as the closed form.
    if mask is None and not synchronized and runs_onednn():
        backward = functools.partial(_in_one_kernel, **options)
    else:
        backward = functools.partial(_closed_form, **options, mask=mask, synchronized=synchronized)

    @tf.custom_gradient
    def scaled_and_shifted(x, gamma, beta):
        def gradient(dy):
            return backward(dy, gamma, batch.shifted, batch.offset, batch.variance, batch.count)

        # `x` enters by way of `batch`; it is an argument so that a gradient can be taken by it.
        return normalize(batch.shifted, batch.offset, batch.variance, gamma, beta, epsilon), gradient

    return scaled_and_shifted(x, gamma, beta)


def _closed_form(
    dy, gamma, shifted, offset, variance, count, *, epsilon, axes, mask=None, synchronized=False
):
    """Compute dx, dgamma and dbeta by the formulas of `batch_normalize`."""
    inverse_stddev = tf.math.rsqrt(variance + epsilon)
    x_hat = (shifted - offset) * inverse_stddev
    dbeta = kernels.channel_sum(dy, axes)
    # sum(dy * x_hat), but XLA reorders the subtractions within a sum and would lose digits. And a masked
    # NaN has no influence as long as the gradient of its output is zero.
    multiply = tf.multiply if mask is None else tf.math.multiply_no_nan
    dgamma = (kernels.channel_sum(multiply(shifted, dy), axes) - offset * dbeta) * inverse_stddev
    # Every replica's outputs depend on this replica's x through the shared moments, whereas gamma and beta
    # are each replica's own: the strategy adds their gradients.
    sums = sum_over_replicas([dbeta, dgamma], synchronized)
    means = [tf.math.divide_no_nan(total, count) for total in sums]
    through_moments = means[0] + x_hat * means[1]
    if mask is not None:
        through_moments = tf.where(mask, through_moments, tf.zeros_like(dy))
    return gamma * inverse_stddev * (dy - through_moments), dgamma, dbeta


def _in_one_kernel(*arguments, epsilon, axes):
    """Compute the results of `_closed_form`, by TensorFlow's kernel where that applies."""
    closed_form = functools.partial(_closed_form, epsilon=epsilon, axes=axes)

    @tf.custom_gradient
    def compute(*arguments):
        # Its own derivative is that of the closed form: through a branch, TensorFlow's third is zero.
        def derivative(*upstream):
            return _vector_jacobian_product(closed_form, arguments, upstream)

        dy, gamma, shifted, offset, variance, _ = arguments
        fused = functools.partial(kernels.gradient, dy, shifted, offset, variance, gamma, epsilon)
        plain = functools.partial(closed_form, *arguments)
        others = (dy, gamma, offset, variance)
        return kernels.choose(shifted, axes, fused, plain, 260_000, True, others), derivative

    # As tensors of this graph: those of an outer one are out of reach for the derivative's own derivative.
    return compute(*map(tf.identity, arguments))


def _vector_jacobian_product(function, arguments, upstream):
    """Return the gradient of ``sum(upstream * function(*arguments))`` by each of `arguments`."""
    arguments = [tf.identity(argument) for argument in arguments]
    if not tf.executing_eagerly():  # Where TensorFlow transposes a gradient, a tape records nothing.
        return tf.gradients(function(*arguments), arguments, upstream)
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        results = function(*arguments)
    return tape.gradient(results, arguments, upstream)


def normalize(
    x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """Normalise `x` by known statistics, as line 11 of Algorithm 2 does: one product and one sum.

        scale = gamma / sqrt(variance + epsilon)
        y     = x * scale + (beta - mean * scale)

    Converters can fold this form into the layer before or after. Images in float32 take it in one pass
    outside XLA, as ``(x - mean) * scale + beta``. The statistics, gamma and beta are ``[1, ..., C]``.

    >>> one = tf.ones([1, 1])
    >>> normalize(tf.constant([[7.0]]), 3 * one, 4 * one, one, one, epsilon=0.0).numpy().tolist()
    [[3.0]]
    """
    plain = functools.partial(_scale_and_shift, epsilon=epsilon)
    arguments = (x, mean, variance, gamma, beta)
    if not kernels.takes_images(*arguments):
        return plain(*arguments)

    @tf.custom_gradient
    def in_one_pass(*arguments):
        # The kernel has no derivative by mean and variance.
        def gradient(dy):
            return _vector_jacobian_product(plain, arguments, dy)

        return kernels.scale_and_shift(*arguments, epsilon), gradient

    return in_one_pass(*arguments)


def _scale_and_shift(x, mean, variance, gamma, beta, epsilon):
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    return x * scale + (beta - mean * scale)


def computed_dtype(inputs: tf.Tensor, layer: Any) -> str:
    """Return the dtype in which `layer` computes for `inputs`: their own, but float32 or wider."""
    # Integers as wide as float32 cannot hold are right in a layer of float64.
    dtype = inputs.dtype if inputs.dtype.is_floating else layer.compute_dtype
    return keras.backend.result_type(dtype, "float32")


def broadcast(weight: tf.Tensor, x: tf.Tensor, channels: Mapping[int, int]) -> tf.Tensor:
    """Return a weight as ``[1, ..., C, ..., 1]``, in the rank and dtype of `x`, by its axes' lengths."""
    shape = [1] * x.shape.rank
    for axis, length in channels.items():
        shape[axis] = length
    return tf.reshape(tf.cast(weight, x.dtype), shape)


def renorm_corrections(
    mean: tf.Tensor,
    stddev: tf.Tensor,
    renorm_mean: tf.Tensor,
    renorm_stddev: tf.Tensor,
    clipping: Mapping[str, float],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return how far a batch's moments are from their moving averages, as a scale and a shift.

        r = clip(stddev / renorm_stddev, rmin, rmax)
        d = clip((mean - renorm_mean) / renorm_stddev, -dmax, dmax)

    ``x_hat * r + d`` then is `x` normalised by the averages, up to the clipping. Both are constants to the
    gradient. Without a key in `clipping`, rmin is 0, rmax and dmax are infinite.

    >>> r, d = renorm_corrections(tf.constant(3.0), tf.constant(2.0), 1.0, 1.0, {"dmax": 1.5})
    >>> float(r), float(d)
    (2.0, 1.5)
    """
    # Finite, or `tf.debugging.enable_check_numerics` would raise.
    bounds = (clipping.get(name, default) for name, default in DEFAULT_CLIPPING.items())
    rmax, rmin, dmax = (min(bound, mean.dtype.max) for bound in bounds)
    r = tf.clip_by_value(stddev / renorm_stddev, rmin, rmax)
    d = tf.clip_by_value((mean - renorm_mean) / renorm_stddev, -dmax, dmax)
    return tf.stop_gradient(r), tf.stop_gradient(d)
