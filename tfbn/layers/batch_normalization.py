"""`BatchNormalization`: weights, configuration, and which statistics to use when.

The formulas are in `tfbn.functional`; this file keeps the state around them.
"""

from __future__ import annotations

import itertools
import sys
import warnings

import keras
import tensorflow as tf

from tfbn.foundation import arguments
from tfbn.keras_internals import under_xla
from tfbn.layers import arguments as own_arguments
from tfbn.layers import functional


@keras.saving.register_keras_serializable(package="tfbn")
class BatchNormalization(keras.layers.Layer):
    """Normalise each channel over the batch, then scale and shift it by two learned weights.

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    In training, ``layer(x, training=True)``, `mean` and `variance` (biased) are those of the batch, and
    the moving averages are updated:

        moving_mean     = moving_mean     * momentum + mean     * (1 - momentum)
        moving_variance = moving_variance * momentum + variance * (1 - momentum)

    In inference, `mean` and `variance` are the moving averages. So they are in a frozen layer
    (``layer.trainable = False``), even with ``training=True``.

    Arguments, names, defaults and weights (in order: gamma, beta, moving_mean, moving_variance) are
    those of `keras.layers.BatchNormalization`, so that the layer drops in and ``set_weights`` carries
    the weights of a trained one over. What goes beyond it comes after `synchronized`.

    A batch that says nothing of a channel (no value in it, or a NaN or an infinity) leaves that
    channel's averages as they were. Under a `tf.distribute` strategy all replicas keep the same
    averages: those of their batches put together.

    Args:
        axis: int, the axis of the channels, or a list of several, all others being reduced. Default
            -1, the last; 1 for channels-first images.
        momentum: float in [0, 1], the share of the moving averages that an update keeps. Default
            0.99: an average over about the last hundred batches. None: the mean over all batches so
            far, weighted by their number of values, as Algorithm 2 takes it:
            ``moving_mean = sum(count * mean) / sum(count)``, and so the variance. Adds the weight
            `count`, the values seen.
        epsilon: float > 0, added to the variance. Default 1e-3.
        center: bool, whether there is a `beta`. Default True.
        scale: bool, whether there is a `gamma`. Default True; the next layer's kernel can take its
            place where nothing nonlinear stands between.
        beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer:
            Keras initializers or their names. Default zeros, ones, zeros and ones.
        beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint: Keras regularizers and
            constraints. Default None.
        renorm: bool, whether to normalise in training by moving averages as well (Batch
            Renormalization): ``y = gamma * (x_hat * r + d) + beta`` with the corrections `r` and `d` of
            `tfbn.functional.renorm_corrections`. Adds the weights moving_stddev, renorm_mean and
            renorm_stddev. Default False.
        renorm_clipping: dict with any of "rmin", "rmax" and "dmax", the bounds of `r` and `d`.
            Default None: no bounds.
        renorm_momentum: float in [0, 1], the momentum of renorm_mean and renorm_stddev. Default 0.99.
        synchronized: bool, whether the moments are taken over all replicas of a `tf.distribute`
            strategy. Default False: each replica's own.
        unbiased: bool, whether `moving_variance` averages ``variance * count / (count - 1)`` (Bessel's
            correction), as Algorithm 2 and PyTorch do. Default False, as Keras.
        debias: bool, whether inference frees the moving averages of their initial values, as Adam
            does: they start from zero and are read as ``average / (1 - momentum**updates)``. The
            stored weights stay plain averages. Adds the weight `count`, the updates. Default False:
            after 100 updates at 0.99 the initial value still makes up 37 %.
        virtual_batch_size: int, the examples of a ghost batch: in training each is normalised by its
            own moments, the last one holding what remains. The averages move once a batch, towards
            the means of the ghost batches' moments, weighted by count (Hoffer et al. 2017; they take
            an update for each). Default None: the whole batch.
        test_local_stats: bool, whether inference, too, normalises by the moments of the batch, and the
            averages are only kept, as in Haiku and Sonnet. Default False.
        single_value: what to do with a batch of one value a channel, whose variance is 0 and whose
            output is `beta`, whatever the input. "normalize" (default): that, silently, as Keras.
            "warn": the same, with a warning. "moving": normalise by the moving averages and leave
            them as they are. "raise": an error. "warn" and "raise" need to know the size: under XLA
            they act only where it is known when the function is traced.
        **kwargs: `name`, `dtype`, `trainable` and the like, as for any Keras layer.

    Call arguments:
        inputs: tensor ``[N, ..., C]``, the channels at `axis`. float16 and bfloat16 are computed, and
            their statistics kept, in float32.
        training: bool, boolean tensor or None. Default None, which Keras resolves to that of the
            calling model. Within a `tf.distribute` strategy a tensor will not do: replicas cannot meet
            in a branch.
        mask: boolean tensor; where it is false, values do not count in the moments. Its axes are the
            first ones of `inputs`, each of the same length or 1; those left out are filled up. So
            ``[N, T]`` masks the steps of ``[N, T, C]``. Default None, or what a `Masking` layer before
            it gave.

    Shapes:
        ``[N, ..., C] -> [N, ..., C]``; all weights are ``[C]``, or have the lengths of several axes in
        their order in `inputs`.

    Raises:
        ValueError: an argument is outside its range, or does not go with another; the input has no
            axis `axis`, or its length there is unknown; the mask does not fit.
        TypeError: an argument is of the wrong type.

    With gradient accumulation (an optimizer's ``gradient_accumulation_steps=k``) the averages move with
    every batch, k times a step: ``momentum ** (1 / k)`` keeps as much a step as `momentum` did. With
    averaged weights (``use_ema=True``) the averages still are those of the weights that moved: call
    `reset_statistics` once the weights are final, then the model with ``training=True`` on batches of
    training data; with ``momentum=None`` or ``debias=True`` a few are enough.

    >>> layer = BatchNormalization(momentum=0.5)
    >>> x = tf.constant([[1.0], [3.0]])
    >>> [round(float(y), 3) for y in layer(x, training=True)[:, 0]]
    [-1.0, 1.0]
    >>> float(layer.moving_mean[0]), float(layer.moving_variance[0])
    (1.0, 1.0)
    >>> [round(float(y), 3) for y in layer(x, training=False)[:, 0]]
    [0.0, 1.999]

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, Algorithms 1 and 2; for renorm
    Ioffe 2017, https://arxiv.org/abs/1702.03275, Algorithm 1; for debias Kingma and Ba 2015,
    https://arxiv.org/abs/1412.6980, section 3; for virtual_batch_size Hoffer, Hubara and Soudry 2017,
    https://arxiv.org/abs/1705.08741, Algorithm 1.
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        renorm=False,
        renorm_clipping=None,
        renorm_momentum=0.99,
        synchronized=False,
        *,
        unbiased=False,
        debias=False,
        virtual_batch_size=None,
        test_local_stats=False,
        single_value="normalize",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.axis = own_arguments.axes("axis", axis)
        self.momentum = None if momentum is None else own_arguments.momentum("momentum", momentum)
        self.epsilon = own_arguments.positive("epsilon", epsilon)
        self.center = arguments.flag("center", center)
        self.scale = arguments.flag("scale", scale)
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.moving_mean_initializer = keras.initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = keras.initializers.get(moving_variance_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.renorm = arguments.flag("renorm", renorm)
        self.renorm_clipping = own_arguments.renorm_clipping(renorm, renorm_clipping)
        self.renorm_momentum = own_arguments.momentum("renorm_momentum", renorm_momentum)
        self.synchronized = arguments.flag("synchronized", synchronized)
        self.unbiased = arguments.flag("unbiased", unbiased)
        self.debias = arguments.flag("debias", debias)
        if virtual_batch_size is not None:
            arguments.integer("virtual_batch_size", virtual_batch_size, at_least=1)
        self.virtual_batch_size = virtual_batch_size
        self.test_local_stats = arguments.flag("test_local_stats", test_local_stats)
        self.single_value = arguments.choice("single_value", single_value, own_arguments.SINGLE_VALUE)
        own_arguments.refuse_contradictions(self)
        self.gamma = self.beta = self.moving_mean = self.moving_variance = None

    def build(self, input_shape):
        channels = self._channels(input_shape)
        # A moving average in half precision stalls: its updates are smaller than one rounding.
        dtype = keras.backend.result_type(self.variable_dtype, "float32")

        def add(name, initializer, **options):
            return self.add_weight(
                shape=tuple(channels.values()),
                name=name,
                initializer=initializer,
                dtype=dtype,
                autocast=False,
                **options,
            )

        if self.scale:
            self.gamma = add(
                "gamma",
                self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = add(
                "beta",
                self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )
        for name, initializer in self._initial_statistics().items():
            setattr(self, name, add(name, initializer, trainable=False))
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes=channels)

    def _initial_statistics(self):
        """The initializer of each statistic that the layer keeps."""
        mean, variance = self.moving_mean_initializer, self.moving_variance_initializer

        def stddev(shape, dtype=None):
            return tf.sqrt(variance(shape, dtype=dtype))

        statistics = {"moving_mean": mean, "moving_variance": variance}
        if self.renorm:
            statistics |= {"moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
        if self.momentum is None or self.debias:
            statistics |= {"count": keras.initializers.Zeros()}
        return statistics

    def reset_statistics(self):
        """Put the moving averages back to their initial values, for statistics of new data or weights.

        >>> layer = BatchNormalization(momentum=None)
        >>> _ = layer(tf.constant([[1.0], [5.0]]), training=True)
        >>> layer.reset_statistics()
        >>> _ = layer(tf.constant([[1.0], [3.0]]), training=True)
        >>> float(layer.moving_mean[0])
        2.0
        """
        if not self.built:
            raise ValueError(f"{self.name} has no statistics yet. Call it on data, or build it, first.")
        for name, initializer in self._initial_statistics().items():
            weight = getattr(self, name)
            weight.assign(initializer(weight.shape, dtype=weight.dtype))

    def call(self, inputs, training=None, mask=None):
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        if isinstance(training, keras.Variable):
            training = training.value
        if tf.is_tensor(training) and not tf.executing_eagerly():
            training = tf.logical_and(tf.cast(training, "bool"), self.trainable)
            y = tf.cond(training, lambda: self._train(x, mask), lambda: self._infer(x, mask))
        else:
            y = self._train(x, mask) if training and self.trainable else self._infer(x, mask)
        return tf.cast(y, self.compute_dtype)

    def _infer(self, x, mask):
        if self.test_local_stats:
            return self._by_batch(x, broadcast_mask(mask, x), update=False)
        return functional.normalize(x, *self._averages(x), *self._gamma_and_beta(x), self.epsilon)

    def _train(self, x, mask):
        mask, size = broadcast_mask(mask, x), self.virtual_batch_size
        if size is None:
            return self._by_batch(x, mask, update=True)
        size = min(size, x.shape[0] or size)
        if mask is None and (x.shape[0] is None or x.shape[0] % size):
            mask = tf.ones(tf.shape(x), "bool")  # False where the last ghost batch is filled up
        if mask is not None:
            mask = functional.ghost_batches(mask, size)
        y = self._by_batch(functional.ghost_batches(x, size), mask, update=True)
        return tf.reshape(y, tf.concat([[-1], tf.shape(x)[1:]], 0))[: tf.shape(x)[0]]

    def _by_batch(self, x, mask, update):
        """Normalise by the moments of the batch, or of each ghost batch; `update` moves the averages."""
        ghosts = x.shape.rank - self.input_spec.ndim  # axes put in front: 0 or 1
        axes = [a for a in range(ghosts, x.shape.rank) if a - ghosts not in self.input_spec.axes]
        batch = functional.moments(x, axes, mask, self.synchronized)
        gamma, beta = self._gamma_and_beta(x)
        if ghosts:
            gamma, beta = (weight + tf.zeros_like(batch.variance) for weight in (gamma, beta))
        if self.single_value != "normalize":
            batch, mask = self._single_value(batch, x, axes, mask)
        if self.renorm:
            r, d = self._renorm_corrections(batch, x)
            gamma, beta = gamma * r, gamma * d + beta
        if update:
            self._update(batch)
        return functional.batch_normalize(
            x, batch, gamma, beta, self.epsilon, axes, mask, self.synchronized
        )

    def _single_value(self, batch, x, axes, mask):
        """Warn of channels with one value, raise, or put the moving averages in place of their moments."""
        if self.single_value == "moving":
            several = batch.count > 1
            mean, variance = self._averages(x)
            batch = batch._replace(
                offset=tf.where(several, batch.offset, mean - batch.shift),
                variance=tf.where(several, batch.variance, variance),
                count=tf.where(several, batch.count, 0),
            )
            # Averages are constants to the gradient, as the moments are to a masked value.
            return batch, several if mask is None else tf.logical_and(mask, several)
        message = (
            f"{self.name}: one value a channel, so the variance is 0 and the output beta, whatever the "
            "input. Use a larger batch, drop the remainder of the data, or set single_value='moving'."
        )
        lengths = [x.shape[axis] for axis in axes]
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
        return batch, mask

    def _renorm_corrections(self, batch, x):
        return functional.renorm_corrections(
            batch.mean,
            tf.sqrt(batch.variance + self.epsilon),
            self._broadcast(self.renorm_mean, x),
            # Early in training, or for a constant channel, the average could be near zero.
            tf.maximum(self._broadcast(self.renorm_stddev, x), self.epsilon**0.5),
            self.renorm_clipping,
        )

    def _update(self, batch):
        """Move the averages towards the moments of the batch, where it says something of a channel."""
        mean, variance, count = (tf.cast(value, self.moving_mean.dtype) for value in self._pooled(batch))
        usable = (count > 0) & tf.math.is_finite(mean + variance)

        def move(weight, value, momentum):
            average = weight.value
            if self.debias:
                average = tf.where((self.count > 0) | ~usable, average, 0)
            kept = tf.where(usable, tf.convert_to_tensor(momentum, value.dtype), 1)
            weight.assign(functional.moving_average(average, value, kept))

        momentum = self.momentum
        if momentum is None:
            momentum = functional.cumulative_momentum(self.count.value, count)
        move(self.moving_mean, mean, momentum)
        if self.renorm:
            stddev = tf.sqrt(variance + self.epsilon)
            move(self.renorm_mean, mean, self.renorm_momentum)
            move(self.renorm_stddev, stddev, self.renorm_momentum)
            move(self.moving_stddev, stddev, momentum)
            # It includes epsilon, and inference adds it again.
            variance = tf.nn.relu(tf.square(self.moving_stddev) - self.epsilon)
            self.moving_variance.assign(tf.where(usable, variance, self.moving_variance))
        else:
            move(self.moving_variance, variance, momentum)
        if self.momentum is None or self.debias:
            joining = count if self.momentum is None else 1.0
            self.count.assign_add(tf.where(usable, joining, 0))

    def _pooled(self, batch):
        """Mean, variance and count of the whole batch on all replicas, in the shape of the weights."""
        bessel = functional.unbiased if self.unbiased else lambda variance, count: variance
        if batch.variance.shape.rank > self.input_spec.ndim:
            variance = bessel(batch.variance, batch.count)
            pooled = functional.average_over_ghosts(batch.mean, variance, batch.count)
        elif self.synchronized:
            pooled = batch.mean, bessel(batch.variance, batch.count), batch.count
        else:
            mean, variance, count = functional.pool_over_replicas(batch)
            pooled = mean, bessel(variance, count), count
        # The count is one number for all channels where there is no mask.
        return [v if v.shape.rank == 0 else tf.reshape(v, self.moving_mean.shape) for v in pooled]

    def _averages(self, x):
        """The mean and variance that inference uses."""
        averages = [self._broadcast(weight, x) for weight in (self.moving_mean, self.moving_variance)]
        if self.debias:
            updates = self._broadcast(self.count, x)
            averages = [functional.debiased(average, self.momentum, updates) for average in averages]
        return averages

    def _gamma_and_beta(self, x):
        gamma = self.gamma if self.scale else tf.ones_like(self.moving_mean)
        beta = self.beta if self.center else tf.zeros_like(self.moving_mean)
        return self._broadcast(gamma, x), self._broadcast(beta, x)

    def _broadcast(self, weight, x):
        """``[C] -> [1, ..., C, ..., 1]``, in the rank and dtype of `x`."""
        shape = [1] * x.shape.rank
        for axis, length in self.input_spec.axes.items():
            shape[axis - self.input_spec.ndim] = length
        return tf.reshape(tf.cast(weight, x.dtype), shape)

    def _channels(self, input_shape):
        """The axes of the channels, from the first on, and their lengths."""
        rank = len(input_shape)
        axes = self.axis if isinstance(self.axis, list) else [self.axis]
        for axis in axes:
            if not -rank <= axis < rank:
                raise ValueError(
                    f"`axis` must be within [{-rank}, {rank - 1}] for an input of shape "
                    f"{tuple(input_shape)}. Received: axis={self.axis}. Name the axis of the channels."
                )
            if input_shape[axis] is None:
                raise ValueError(
                    f"The length of `axis` {axis}, the channels, must be known, but the input has "
                    f"the shape {tuple(input_shape)}. Give the Input its full shape there, or another "
                    "`axis`."
                )
        channels = {axis: input_shape[axis] for axis in sorted(axis % rank for axis in axes)}
        if len(channels) < len(axes):
            raise ValueError(
                f"`axis` must name different axes. Received: axis={self.axis} for an input of rank {rank}."
            )
        if 0 in channels and self.virtual_batch_size is not None:
            raise ValueError(
                "`virtual_batch_size` parts the first axis, which therefore cannot be one of the "
                f"channels. Received: axis={self.axis} for an input of rank {rank}."
            )
        kept = [True] * bool(self.virtual_batch_size) + [axis in channels for axis in range(rank)]
        if len(list(itertools.groupby(kept))) > 5:
            raise ValueError(
                f"TensorFlow does not broadcast over so many axes apart: axis={self.axis}, rank {rank}"
                f"{' and virtual_batch_size' if self.virtual_batch_size else ''}. Put the channels side "
                "by side with a Permute layer."
            )
        return channels

    def compute_output_shape(self, input_shape):
        self._channels(input_shape)
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": keras.initializers.serialize(self.beta_initializer),
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "moving_mean_initializer": keras.initializers.serialize(self.moving_mean_initializer),
            "moving_variance_initializer": keras.initializers.serialize(self.moving_variance_initializer),
            "beta_regularizer": keras.regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": keras.regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": keras.constraints.serialize(self.beta_constraint),
            "gamma_constraint": keras.constraints.serialize(self.gamma_constraint),
            "renorm": self.renorm,
            "renorm_clipping": self.renorm_clipping,
            "renorm_momentum": self.renorm_momentum,
            "synchronized": self.synchronized,
            "unbiased": self.unbiased,
            "debias": self.debias,
            "virtual_batch_size": self.virtual_batch_size,
            "test_local_stats": self.test_local_stats,
            "single_value": self.single_value,
        }


def broadcast_mask(mask, x):
    """A mask of the first axes of `x` as booleans of the shape of `x`, or None."""
    if mask is None:
        return None
    mask = tf.cast(tf.convert_to_tensor(mask), "bool")
    rank = mask.shape.rank
    if (
        rank is None
        or rank > x.shape.rank
        or not all(
            length in (1, None) or wanted in (length, None)
            for length, wanted in zip(mask.shape, x.shape[:rank], strict=True)
        )
    ):
        raise ValueError(
            f"`mask` must have the first axes of the inputs, each of the same length or 1. Received: "
            f"mask.shape={mask.shape} for inputs of the shape {x.shape}."
        )
    mask = tf.reshape(mask, tf.concat([tf.shape(mask), [1] * (x.shape.rank - rank)], 0))
    return tf.broadcast_to(mask, tf.shape(x))
