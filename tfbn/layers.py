"""`BatchNormalization`: weights, configuration, and which statistics to use when.

The formulas are in `tfbn.functional`; this file keeps the state around them.
"""

from __future__ import annotations

import numbers

import keras
import tensorflow as tf

from tfbn import functional


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
    the weights of a trained one over.

    Args:
        axis: int, the axis of the channels. Default -1, the last; 1 for channels-first images.
        momentum: float in [0, 1], the share of the moving averages that an update keeps. Default
            0.99: an average over about the last hundred batches.
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
        **kwargs: `name`, `dtype`, `trainable` and the like, as for any Keras layer.

    Call arguments:
        inputs: tensor ``[N, ..., C]``, the channels at `axis`. float16 and bfloat16 are computed, and
            their statistics kept, in float32.
        training: bool or None. Default None, which Keras resolves to that of the calling model.
        mask: boolean tensor with the shape of `inputs` less the last axis; where it is false, values
            do not count in the moments. Default None, or what a `Masking` layer before it gave.

    Shapes:
        ``[N, ..., C] -> [N, ..., C]``; all weights are ``[C]``.

    Raises:
        ValueError: an argument is outside its range; the input has no axis `axis`, or its length
            there is unknown; the mask has the wrong rank.
        TypeError: an argument is of the wrong type.

    >>> layer = BatchNormalization(momentum=0.5)
    >>> x = tf.constant([[1.0], [3.0]])
    >>> [round(float(y), 3) for y in layer(x, training=True)[:, 0]]
    [-1.0, 1.0]
    >>> float(layer.moving_mean[0]), float(layer.moving_variance[0])
    (1.0, 1.0)
    >>> [round(float(y), 3) for y in layer(x, training=False)[:, 0]]
    [0.0, 1.999]

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, Algorithms 1 and 2; for renorm
    Ioffe 2017, https://arxiv.org/abs/1702.03275, Algorithm 1.
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.axis = _integer("axis", axis)
        self.momentum = _fraction("momentum", momentum)
        self.epsilon = _positive("epsilon", epsilon)
        self.center = center
        self.scale = scale
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.moving_mean_initializer = keras.initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = keras.initializers.get(moving_variance_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.renorm = renorm
        self.renorm_clipping = _renorm_clipping(renorm, renorm_clipping)
        self.renorm_momentum = _fraction("renorm_momentum", renorm_momentum)
        self.synchronized = synchronized
        self.gamma = self.beta = self.moving_mean = self.moving_variance = None

    def build(self, input_shape):
        channels = self._channels(input_shape)
        # A moving average in half precision stalls: its updates are smaller than one rounding.
        dtype = keras.backend.result_type(self.variable_dtype, "float32")

        def add(name, initializer, **options):
            return self.add_weight(
                shape=(channels,),
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
        mean, variance = self.moving_mean_initializer, self.moving_variance_initializer
        self.moving_mean = add("moving_mean", mean, trainable=False)
        self.moving_variance = add("moving_variance", variance, trainable=False)
        if self.renorm:

            def stddev(shape, dtype=None):
                return tf.sqrt(variance(shape, dtype=dtype))

            self.moving_stddev = add("moving_stddev", stddev, trainable=False)
            self.renorm_mean = add("renorm_mean", mean, trainable=False)
            self.renorm_stddev = add("renorm_stddev", stddev, trainable=False)
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes={self.axis: channels})

    def call(self, inputs, training=None, mask=None):
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        gamma = self._broadcast(self.gamma if self.scale else tf.ones_like(self.moving_mean), x)
        beta = self._broadcast(self.beta if self.center else tf.zeros_like(self.moving_mean), x)
        if not (training and self.trainable):
            mean = self._broadcast(self.moving_mean, x)
            variance = self._broadcast(self.moving_variance, x)
            y = functional.normalize(x, mean, variance, gamma, beta, self.epsilon)
            return tf.cast(y, self.compute_dtype)

        axes = [axis for axis in range(x.shape.rank) if axis != self.axis % x.shape.rank]
        where = dict(axes=axes, mask=_broadcast_mask(mask, x), synchronized=self.synchronized)
        batch = functional.moments(x, **where)
        if self.renorm:
            r, d = self._update_renorm(batch, x)
            gamma, beta = gamma * r, gamma * d + beta
        else:
            self._update(self.moving_mean, batch.mean, self.momentum, batch.count)
            self._update(self.moving_variance, batch.variance, self.momentum, batch.count)
        y = functional.batch_normalize(x, batch, gamma, beta, self.epsilon, **where)
        return tf.cast(y, self.compute_dtype)

    def _update_renorm(self, batch, x):
        """Move the averages towards `batch`; return its corrections by the averages before."""
        stddev = tf.sqrt(batch.variance + self.epsilon)
        r, d = functional.renorm_corrections(
            batch.mean,
            stddev,
            self._broadcast(self.renorm_mean, x),
            # Early in training, or for a constant channel, the average could be near zero.
            tf.maximum(self._broadcast(self.renorm_stddev, x), self.epsilon**0.5),
            self.renorm_clipping,
        )
        self._update(self.renorm_mean, batch.mean, self.renorm_momentum, batch.count)
        self._update(self.renorm_stddev, stddev, self.renorm_momentum, batch.count)
        self._update(self.moving_mean, batch.mean, self.momentum, batch.count)
        self._update(self.moving_stddev, stddev, self.momentum, batch.count)
        # `stddev` includes epsilon, and inference adds it again. It is an average already: no momentum.
        variance = tf.nn.relu(tf.square(self._broadcast(self.moving_stddev, x)) - self.epsilon)
        self._update(self.moving_variance, variance, 0.0, batch.count)
        return r, d

    def _update(self, average, value, momentum, count):
        """Move `average` towards `value`, but not towards that of a channel without a single value."""
        moved = functional.moving_average(self._broadcast(average, value), value, momentum)
        moved = tf.where(count > 0, moved, self._broadcast(average, value))
        average.assign(tf.cast(tf.reshape(moved, average.shape), average.dtype))

    def _broadcast(self, weight, x):
        """``[C] -> [1, ..., C, ..., 1]``, in the dtype of `x`."""
        shape = [1] * x.shape.rank
        shape[self.axis] = -1
        return tf.reshape(tf.cast(weight, x.dtype), shape)

    def _channels(self, input_shape):
        rank = len(input_shape)
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"`axis` must be within [{-rank}, {rank - 1}] for an input of shape "
                f"{tuple(input_shape)}. Received: axis={self.axis}. Name the axis of the channels."
            )
        if input_shape[self.axis] is None:
            raise ValueError(
                f"The length of `axis` {self.axis}, the channels, must be known, but the input has "
                f"the shape {tuple(input_shape)}. Give the Input its full shape there, or another "
                "`axis`."
            )
        return input_shape[self.axis]

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
        }


def _broadcast_mask(mask, x):
    """A mask ``[N, ...]`` as booleans ``[N, ..., 1]``, or None."""
    if mask is None:
        return None
    mask = tf.convert_to_tensor(mask)
    if mask.shape.rank != x.shape.rank - 1:
        raise ValueError(
            f"`mask` must have one dimension less than the inputs, which have the shape {x.shape}. "
            f"Received: mask.shape={mask.shape}. Leave the last axis out."
        )
    return tf.broadcast_to(tf.cast(mask, "bool")[..., None], tf.shape(x))


def _integer(name, value):
    # A bool passes for an int in Python; as an axis it is a mistake.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{name}` must be an integer. Received: {name}={value!r}.")
    return int(value)


def _number(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.")
    return float(value)


def _fraction(name, value):
    if not 0 <= _number(name, value) <= 1:
        raise ValueError(
            f"`{name}` must be within [0, 1]: the share of the average that an update keeps. "
            f"Received: {name}={value!r}. (PyTorch's momentum m is 1 - m here.)"
        )
    return float(value)


def _positive(name, value):
    if not 0 < _number(name, value) < float("inf"):
        raise ValueError(
            f"`{name}` must be a positive, finite number. Received: {name}={value!r}. The default is 0.001."
        )
    return float(value)


def _renorm_clipping(renorm, clipping):
    """The bounds given, checked; `clipping` as it came if there is no renorm to clip."""
    if not renorm:
        return clipping
    clipping = {name: bound for name, bound in (clipping or {}).items() if bound is not None}
    allowed = ["rmax", "rmin", "dmax"]
    if set(clipping) - set(allowed):
        raise ValueError(
            "Received invalid keys for `renorm_clipping`: "
            f"{sorted(set(clipping) - set(allowed))}. Allowed: {allowed}."
        )
    rmin, rmax = clipping.get("rmin", 0.0), clipping.get("rmax", float("inf"))
    if rmax < rmin:
        raise ValueError(
            f"rmax should be at least rmin in `renorm_clipping`. Received: rmax={rmax}, rmin={rmin}."
        )
    if clipping.get("dmax", 0.0) < 0:
        raise ValueError(
            f"dmax should be non-negative in `renorm_clipping`. Received: dmax={clipping['dmax']}."
        )
    return clipping
