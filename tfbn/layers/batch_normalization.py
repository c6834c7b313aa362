"""`BatchNormalization`: weights, configuration, and which statistics normalise when."""

import functools
import inspect
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbn.foundation.arguments import choice, flag, integer, positive_number
from tfbn.keras_internals import under_xla
from tfbn.layers import arguments, averages, functional
from tfbn.layers.moments import broadcast_mask, ghost_batches, moments


@keras.saving.register_keras_serializable(package="tfbn")
class BatchNormalization(keras.layers.Layer):
    """Normalise each channel over the batch, then scale and shift it by two learned weights.

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    In training, ``layer(x, training=True)``, `mean` and `variance` (biased) are the batch's. They move the
    averages:

        moving_mean     = moving_mean     * momentum + mean     * (1 - momentum)
        moving_variance = moving_variance * momentum + variance * (1 - momentum)

    In inference, `mean` and `variance` are the moving averages. A frozen layer, with
    ``layer.trainable = False``, uses the moving averages even with ``training=True``.

    Arguments, names, defaults and weights (in order: gamma, beta, moving_mean, moving_variance) are those
    of `keras.layers.BatchNormalization`. So the layer drops in, and ``set_weights`` takes the weights of a
    trained Keras layer. Options that Keras lacks come after `synchronized`.

    A channel without a value in the batch, or with a NaN or an infinity, leaves its averages unchanged.
    Under a `tf.distribute` strategy all replicas keep the same averages: those of their joint batch.

    Args:
        axis: the axis of the channels, or a list of several; all others are reduced. Default -1, the last;
            1 for channels-first images.
        momentum: the share of the moving averages, in [0, 1], that an update keeps. Default 0.99: an
            average over about the last hundred batches. None: the mean over all batches so far, weighted by
            their number of values, as in Algorithm 2: ``moving_mean = sum(count * mean) / sum(count)``, and
            so the variance. None adds the weight `count`, the number of values so far.
        epsilon: positive number added to the variance. Default 1e-3.
        center: whether there is a `beta`. Default True.
        scale: whether there is a `gamma`. Default True. The kernel of a layer right behind can replace it.
        beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer: Keras
            initializers or their names. Default zeros, ones, zeros and ones.
        beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint: Keras regularizers and
            constraints. Default None.
        renorm: whether training normalises by moving averages as well (Batch Renormalization):
            ``y = gamma * (x_hat * r + d) + beta`` with `r` and `d` of
            `tfbn.layers.functional.renorm_corrections`. Adds the weights moving_stddev, renorm_mean and
            renorm_stddev. Default False.
        renorm_clipping: the bounds of `r` and `d`, any of "rmin", "rmax", "dmax". Default None: no bounds.
        renorm_momentum: the momentum of renorm_mean and renorm_stddev, in [0, 1]. Default 0.99.
        synchronized: whether to take the moments over all replicas of the one strategy in a process.
            Default False: each replica's own.
        unbiased: whether `moving_variance` averages ``variance * count / (count - 1)`` (Bessel's
            correction), as Algorithm 2 and PyTorch do. Default False, as Keras.
        debias: whether inference frees the moving averages of their initial values, as Adam does: they
            start from zero and are read as ``average / (1 - momentum**updates)``. The stored weights stay
            plain averages. Adds the weight `count`, the updates. Default False: after 100 updates at 0.99
            the initial value still makes up 37 %.
        virtual_batch_size: the examples of a ghost batch: consecutive ones (Keras 2 took every n-th). In
            training each ghost batch is normalised by its own moments; the last one has the remaining
            examples. The averages move once a batch, towards the means of the ghost batches' moments,
            weighted by count. (Hoffer et al. 2017 update them once a ghost batch.) Default None: the whole
            batch.
        test_local_stats: whether inference, too, normalises by the moments of the batch, as in Haiku and
            Sonnet. The averages are still updated in training. Default False.
        single_value: what to do with a batch of one value a channel. Its variance is 0 and its output
            `beta`, whatever the input. "normalize" (default): return that, silently, as Keras. "warn": the
            same, with a warning. "moving": normalise by the moving averages and do not update them.
            "raise": raise an error. "warn" and "raise" need to know the size: under XLA they act only if it
            is known when the function is traced.
        **kwargs: `name`, `dtype`, `trainable` and the like, as for any Keras layer.

    Call arguments:
        inputs: tensor ``[N, ..., C]``, the channels at `axis`. float16 and bfloat16 are computed, and their
            statistics kept, in float32. A ragged tensor counts by its values, without a mask.
        training: bool, boolean tensor or None. Default None: that of the calling model. A tensor does not
            work within a `tf.distribute` strategy, since replicas cannot meet in a branch.
        mask: boolean tensor; where it is false, values do not count in the moments. Its axes are the first
            ones of `inputs`, each of the same length or 1; missing axes are filled up. So ``[N, T]`` masks
            the steps of ``[N, T, C]``. Default None, or the mask of a `Masking` layer before this one.

    Shapes:
        ``[N, ..., C] -> [N, ..., C]``; all weights are ``[C]``, or have the lengths of several axes in
        their order in `inputs`: ``[4, 3]``, where Keras 2 had ``[1, 4, 3]``.

    Raises:
        ValueError: an argument is outside its range, or contradicts another; the input has no axis `axis`,
            or its length there is unknown; the mask does not fit.
        TypeError: an argument is of the wrong type.

    With gradient accumulation (an optimizer's ``gradient_accumulation_steps=k``) the averages move with
    every batch, k times a step: ``momentum ** (1 / k)`` keeps as much a step as `momentum` without it. With
    averaged weights (``use_ema=True``) the averages are those of the weights before averaging. Call
    `reset_statistics` once the weights are final, then the model with ``training=True`` on batches of
    training data; with ``momentum=None`` or ``debias=True`` a few are enough. Where a block is computed
    again for its gradient (`keras.remat`), the averages move twice, as those of Keras' layer do.

    Derivatives up to third order are right, in reverse and forward mode and combined. TensorFlow itself
    gives None, or leaves terms out, for reverse over forward mode through a `tf.function`: put both in it.

    >>> layer = BatchNormalization(momentum=0.5)
    >>> x = tf.constant([[1.0], [3.0]])
    >>> [round(float(y), 3) for y in layer(x, training=True)[:, 0]]
    [-1.0, 1.0]
    >>> float(layer.moving_mean[0]), float(layer.moving_variance[0])
    (1.0, 1.0)
    >>> [round(float(y), 3) for y in layer(x, training=False)[:, 0]]
    [0.0, 1.999]

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, Algorithms 1 and 2, section 3.1; for
    renorm Ioffe 2017, https://arxiv.org/abs/1702.03275, Algorithm 1; for debias Kingma and Ba 2015,
    https://arxiv.org/abs/1412.6980, section 3; for virtual_batch_size Hoffer, Hubara and Soudry 2017,
    https://arxiv.org/abs/1705.08741, Algorithm 1.
    """

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: str | keras.initializers.Initializer = "zeros",
        gamma_initializer: str | keras.initializers.Initializer = "ones",
        moving_mean_initializer: str | keras.initializers.Initializer = "zeros",
        moving_variance_initializer: str | keras.initializers.Initializer = "ones",
        beta_regularizer: str | keras.regularizers.Regularizer | None = None,
        gamma_regularizer: str | keras.regularizers.Regularizer | None = None,
        beta_constraint: str | keras.constraints.Constraint | None = None,
        gamma_constraint: str | keras.constraints.Constraint | None = None,
        renorm: bool = False,
        renorm_clipping: dict[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        *,
        unbiased: bool = False,
        debias: bool = False,
        virtual_batch_size: int | None = None,
        test_local_stats: bool = False,
        single_value: str = "normalize",
        **kwargs: Any,
    ) -> None:
        axis = kwargs.pop("axes", axis)  # See `get_config`.
        super().__init__(**kwargs)
        self.supports_masking = True
        self.axis = arguments.check_axis(axis)
        self.momentum = None if momentum is None else arguments.check_momentum("momentum", momentum)
        self.epsilon = positive_number("epsilon", epsilon)
        self.center = flag("center", center)
        self.scale = flag("scale", scale)
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.moving_mean_initializer = keras.initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = keras.initializers.get(moving_variance_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.renorm = flag("renorm", renorm)
        self.renorm_clipping = arguments.check_renorm_clipping(renorm, renorm_clipping)
        self.renorm_momentum = arguments.check_momentum("renorm_momentum", renorm_momentum)
        self.synchronized = flag("synchronized", synchronized)
        self.unbiased = flag("unbiased", unbiased)
        self.debias = flag("debias", debias)
        if virtual_batch_size is not None:
            virtual_batch_size = integer("virtual_batch_size", virtual_batch_size, at_least=1)
        self.virtual_batch_size = virtual_batch_size
        self.test_local_stats = flag("test_local_stats", test_local_stats)
        self.single_value = choice("single_value", single_value, arguments.SINGLE_VALUE_CHOICES)
        arguments.check_combination(self)
        self.gamma = self.beta = self.moving_mean = self.moving_variance = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights for inputs of this shape."""
        channels = arguments.channel_lengths(self, input_shape)
        # A moving average in half precision stalls: its updates are smaller than one rounding.
        dtype = keras.backend.result_type(self.variable_dtype, "float32")
        add = functools.partial(self.add_weight, tuple(channels.values()), dtype=dtype, autocast=False)
        for name, is_used in (("gamma", self.scale), ("beta", self.center)):
            if is_used:
                kinds = ("initializer", "regularizer", "constraint")
                options = {kind: getattr(self, f"{name}_{kind}") for kind in kinds}
                setattr(self, name, add(name=name, **options))
        for name, initializer in averages.initializers(self).items():
            setattr(self, name, add(name=name, initializer=initializer, trainable=False))
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes=channels)

    def reset_statistics(self) -> None:
        """Reset the moving averages to their initial values, for statistics of new data or weights.

        >>> layer = BatchNormalization(momentum=None)
        >>> _ = layer(tf.constant([[1.0], [5.0]]), training=True)
        >>> layer.reset_statistics()
        >>> _ = layer(tf.constant([[1.0], [3.0]]), training=True)
        >>> float(layer.moving_mean[0])
        2.0
        """
        if not self.built:
            raise ValueError(f"{self.name} has no statistics yet. Call it on data, or build it, first.")
        for name, initializer in averages.initializers(self).items():
            weight = getattr(self, name)
            weight.assign(initializer(weight.shape, dtype=weight.dtype))

    def call(
        self, inputs: tf.Tensor, training: bool | tf.Tensor | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalise `inputs`; the class explains the arguments."""
        if isinstance(inputs, tf.RaggedTensor):
            return self._call_on_values(inputs, training, mask)
        x = self._known_channels(tf.cast(inputs, functional.computed_dtype(inputs, self)))
        if isinstance(training, keras.Variable):
            training = training.value
        if tf.is_tensor(training) and not tf.executing_eagerly():
            training = tf.logical_and(tf.cast(training, "bool"), self.trainable)
            y = tf.cond(training, lambda: self._train(x, mask), lambda: self._infer(x, mask))
        else:
            y = self._train(x, mask) if training and self.trainable else self._infer(x, mask)
        return tf.cast(y, self.compute_dtype)

    def _call_on_values(self, ragged, training, mask):
        """Normalise the values of a ragged tensor, whose rows all count alike in the moments."""
        axes = self.input_spec.axes
        if mask is not None or self.virtual_batch_size or min(axes) <= ragged.ragged_rank:
            raise ValueError(
                f"{self.name} takes a ragged tensor without mask and virtual_batch_size, and with a fixed "
                f"number of channels. Received: shape={ragged.shape}, axis={self.axis}, mask={mask}, "
                f"virtual_batch_size={self.virtual_batch_size}. Use its `to_tensor()` and a mask."
            )
        values = ragged.flat_values
        shape = tf.shape(values)
        row = tf.concat([shape[:1], [1] * ragged.ragged_rank, shape[1:]], 0)
        y = self.call(tf.reshape(values, row), training)
        return ragged.with_flat_values(tf.reshape(y, shape))

    def _known_channels(self, x):
        """Give `x` the layer's own numbers of channels where tracing does not know them."""
        spec = self.input_spec
        if x.shape.rank is not None and all(x.shape[axis] is not None for axis in spec.axes):
            return x
        return tf.ensure_shape(x, [spec.axes.get(axis) for axis in range(spec.ndim)])

    def _infer(self, x, mask):
        if self.test_local_stats:
            return self._normalize_by_batch(x, broadcast_mask(mask, x), update=False)
        return functional.normalize(x, *self._moving_moments(x), *self._gamma_and_beta(x), self.epsilon)

    def _train(self, x, mask):
        mask, size = broadcast_mask(mask, x), self.virtual_batch_size
        if size is None:
            return self._normalize_by_batch(x, mask, update=True)
        size = min(size, x.shape[0] or size)
        is_even = x.shape[0] is not None and x.shape[0] % size == 0
        if mask is None and not is_even:
            mask = tf.ones(tf.shape(x), "bool")  # False where the last ghost batch is filled up
        if mask is not None:
            mask = ghost_batches(mask, size)
        y = self._normalize_by_batch(ghost_batches(x, size), mask, update=True)
        y = tf.reshape(y, tf.concat([[-1], tf.shape(x)[1:]], 0))
        return y if is_even else y[: tf.shape(x)[0]]

    def _normalize_by_batch(self, x, mask, update):
        """Normalise by the moments of the batch, or of each ghost batch; `update` moves the averages."""
        ghosts = x.shape.rank - self.input_spec.ndim  # axes put in front: 0 or 1
        axes = [a for a in range(ghosts, x.shape.rank) if a - ghosts not in self.input_spec.axes]
        batch = moments(x, axes, mask, self.synchronized)
        gamma, beta = self._gamma_and_beta(x)
        if ghosts:
            gamma, beta = (weight + tf.zeros_like(batch.variance) for weight in (gamma, beta))
        if self.single_value == "moving":
            batch, mask = self._replace_single_values(batch, x, mask)
        elif self.single_value != "normalize":
            self._report_single_values(batch, [x.shape[axis] for axis in axes], mask)
        if self.renorm:
            stddev = tf.sqrt(batch.variance + self.epsilon)
            renorm_mean = self._broadcast(self.renorm_mean, x)
            # Early in training, or for a constant channel, the average could be near zero.
            renorm_stddev = tf.maximum(self._broadcast(self.renorm_stddev, x), self.epsilon**0.5)
            r, d = functional.renorm_corrections(
                batch.mean, stddev, renorm_mean, renorm_stddev, self.renorm_clipping
            )
            gamma, beta = gamma * r, gamma * d + beta
        if update:
            averages.update(self, batch)
        return functional.batch_normalize(
            x, batch, gamma, beta, self.epsilon, axes, mask, self.synchronized
        )

    def _replace_single_values(self, batch, x, mask):
        """Put the moving averages in place of the moments of channels with one value or none."""
        several = tf.stop_gradient(batch.count) > 1
        mean, variance = self._moving_moments(x)
        batch = batch._replace(
            offset=tf.where(several, batch.offset, mean - batch.shift),
            variance=tf.where(several, batch.variance, variance),
            count=tf.where(several, batch.count, 0),
        )
        # Averages are constants to the gradient, as the moments are to a masked value.
        return batch, several if mask is None else tf.logical_and(mask, several)

    def _report_single_values(self, batch, lengths, mask):
        """Warn of channels with one value, or raise; `lengths` are those of the reduced axes."""
        message = (
            f"{self.name}: one value a channel, so the variance is 0 and the output beta, whatever the "
            "input. Use a larger batch, drop the remainder of the data, or set single_value='moving'."
        )
        if (mask is not None or self.synchronized or None in lengths) and not under_xla():
            single = tf.reduce_any(tf.equal(batch.count, 1))
            if self.single_value == "raise":
                tf.debugging.assert_equal(single, False, message)
            else:
                tf.cond(single, lambda: tf.print(message, output_stream=sys.stderr), tf.no_op)
        elif mask is None and all(length == 1 for length in lengths):
            if self.single_value == "raise":
                raise ValueError(message)
            warnings.warn(message, stacklevel=2)

    def _moving_moments(self, x):
        return averages.for_inference(self, lambda weight: self._broadcast(weight, x))

    def _gamma_and_beta(self, x):
        gamma = self.gamma if self.scale else tf.ones_like(self.moving_mean)
        beta = self.beta if self.center else tf.zeros_like(self.moving_mean)
        return self._broadcast(gamma, x), self._broadcast(beta, x)

    def _broadcast(self, weight, x):
        # Counted from the last, the channels' axes are the same in ghost batches.
        ndim, axes = self.input_spec.ndim, self.input_spec.axes
        return functional.broadcast(weight, x, {axis - ndim: length for axis, length in axes.items()})

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        """Return `input_shape`, once it fits `axis`."""
        arguments.channel_lengths(self, input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return all arguments, for `from_config` and .keras files."""
        parameters = inspect.signature(BatchNormalization.__init__).parameters
        values = {name: getattr(self, name) for name in parameters if name not in ("self", "kwargs")}
        config = {**super().get_config(), **keras.saving.serialize_keras_object(values)}
        # Several once more: Keras drops an `axis` that is a list where it loads an .h5 file.
        return config | ({"axes": self.axis} if isinstance(self.axis, list) else {})
