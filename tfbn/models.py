"""`Model`: a dense or convolutional network from a few knobs."""

from __future__ import annotations

import random

import keras
import numpy as np
import tensorflow as tf

from tfbn.layers.batch_normalization import BatchNormalization

NORM_POSITIONS = ("before_activation", "after_activation", "input")


@keras.saving.register_keras_serializable(package="tfbn")
class Model(keras.Model):
    """A classifier that gives logits, with or without batch normalization.

        x -> [convolution -> norm -> activation -> pooling] * len(conv_filters) -> flatten
          -> [dense -> norm -> activation -> dropout] * len(hidden_dims) -> dense -> logits

    It is a functional `keras.Model`: `summary`, `fit`, `save`, `export` and the rest work on it.

    Two models of the same `seed` start from the same kernels, whether or not they have batch norm:
    every kernel is drawn from `seed` and its place in the network alone.

    Args:
        input_dim: int, the length of a flat input, or a shape such as ``(28, 28, 1)``, channels last.
        output_dim: int, the number of classes.
        hidden_dims: ints, the width of each hidden dense layer. Default (32, 32).
        use_batchnorm: bool, whether there are `BatchNormalization` layers. Default True.
        activation: a Keras activation or its name. Default "relu".
        norm_position: where the norm stands: "before_activation" (default; section 3.2 of the
            paper), "after_activation", or "input", which is ahead of every dense or convolutional
            layer, the last included.
        batchnorm_options: dict of arguments for every `BatchNormalization`. Default None. In the scope of a
            `tf.distribute` strategy of several replicas ``synchronized=True`` is added where nothing was
            said of it, so that they train as one device does with the whole batch.
        kernel_initializer: a Keras initializer, its name, or a float: the standard deviation of a
            normal distribution. An initializer's own seed gives way to one for each layer. Default
            "glorot_uniform", as in Keras.
        use_bias: bool, whether hidden layers have a bias, which ahead of a norm has no effect.
            Default True, so that both arms of a comparison differ in the norm alone.
        dropout: float in [0, 1), the share of each hidden layer's units dropped in training.
            Default 0.
        weight_decay: float >= 0, the factor of an L2 penalty ``weight_decay * sum(kernel**2)`` on
            every kernel. Default 0.
        conv_filters: ints, one for each convolutional block ahead of the dense layers: a 3x3
            convolution to so many channels with "same" padding, and 2x2 max pooling. Needs an input
            ``(height, width, channels)``. Default ().
        dtype: a Keras dtype policy or its name, such as "mixed_bfloat16". Default None: the global
            policy.
        seed: int >= 0, or None (default) for one from Python's generator, which
            `keras.utils.set_random_seed` determines.
        name: str, the name of the model. Default None: one that Keras makes.

    Shapes:
        ``[N, input_dim] -> [N, output_dim]`` or ``[N, *input_dim] -> [N, output_dim]``.

    Raises:
        ValueError: a knob is outside its range.
        TypeError: a knob is of the wrong type.

    >>> model = Model(784, 10, hidden_dims=(32, 32), use_batchnorm=True, seed=0)
    >>> model(np.zeros([5, 784], "float32")).shape
    TensorShape([5, 10])
    >>> plain = Model(784, 10, hidden_dims=(32, 32), use_batchnorm=False, seed=0)
    >>> bool((model.layers[1].kernel == plain.layers[1].kernel).numpy().all())
    True

    Source: Ioffe and Szegedy 2015, section 3.2, for where the norm stands.
    """

    def __init__(
        self,
        input_dim,
        output_dim,
        hidden_dims=(32, 32),
        use_batchnorm=True,
        activation="relu",
        norm_position="before_activation",
        batchnorm_options=None,
        kernel_initializer="glorot_uniform",
        use_bias=True,
        dropout=0.0,
        weight_decay=0.0,
        conv_filters=(),
        dtype=None,
        seed=None,
        name=None,
    ):
        input_shape = _sizes("input_dim", input_dim)
        hidden_dims = _sizes("hidden_dims", hidden_dims)
        conv_filters = _sizes("conv_filters", conv_filters, at_least=0)
        (output_dim,) = _sizes("output_dim", output_dim, at_most=1)
        if norm_position not in NORM_POSITIONS:
            raise ValueError(
                f"`norm_position` must be one of {', '.join(NORM_POSITIONS)}. "
                f"Received: norm_position={norm_position!r}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be within [0, 1). Received: dropout={dropout!r}.")
        if not 0 <= weight_decay < float("inf"):
            raise ValueError(f"`weight_decay` must be 0 or more. Received: weight_decay={weight_decay!r}.")
        if conv_filters and len(input_shape) != 3:
            raise ValueError(
                "`conv_filters` needs images, an `input_dim` of (height, width, channels). "
                f"Received: input_dim={input_dim!r}."
            )
        if conv_filters and min(input_shape[:2]) < 2 ** len(conv_filters):
            raise ValueError(
                f"`conv_filters` has {len(conv_filters)} blocks, each of which halves the image, but "
                f"the image is {input_shape[0]}x{input_shape[1]}. Use fewer blocks."
            )
        if seed is None:
            seed = random.randrange(2**31)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"`seed` must be an integer, 0 or more, or None. Received: seed={seed!r}.")
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            options = batchnorm_options or {}
            if options.get("virtual_batch_size") is None:
                batchnorm_options = {"synchronized": True, **options}
        dtype = keras.dtype_policies.get(dtype)
        initializer = as_initializer(kernel_initializer)
        activation = keras.activations.get(activation)

        kernels = 0

        def kernel_options():
            # The index of the kernel, which a norm in between does not change, picks its seed.
            nonlocal kernels
            kernels += 1
            config = initializer.get_config()
            if "seed" in config:
                config["seed"] = _derive(seed, kernels)
            return dict(
                dtype=dtype,
                kernel_initializer=type(initializer).from_config(config),
                kernel_regularizer=keras.regularizers.L2(weight_decay) if weight_decay else None,
            )

        def norm(x, position):
            if not use_batchnorm or position != norm_position:
                return x
            return BatchNormalization(dtype=dtype, **(batchnorm_options or {}))(x)

        def block(x, affine):
            x = affine(norm(x, "input"))
            x = norm(x, "before_activation")
            x = keras.layers.Activation(activation, dtype=dtype)(x)
            return norm(x, "after_activation")

        inputs = x = keras.Input(input_shape)
        for filters in conv_filters:
            x = block(
                x,
                keras.layers.Conv2D(filters, 3, padding="same", use_bias=use_bias, **kernel_options()),
            )
            x = keras.layers.MaxPooling2D(dtype=dtype)(x)
        if len(x.shape) > 2:
            x = keras.layers.Flatten(dtype=dtype)(x)
        for width in hidden_dims:
            x = block(x, keras.layers.Dense(width, use_bias=use_bias, **kernel_options()))
            if dropout:
                x = keras.layers.Dropout(dropout, seed=_derive(seed, -kernels), dtype=dtype)(x)
        logits = keras.layers.Dense(output_dim, **kernel_options())(norm(x, "input"))

        super().__init__(inputs, logits, name=name)
        self.dtype_policy = dtype  # Keras asks the model itself whether the loss has to be scaled.
        self._knobs = dict(
            input_dim=input_shape if len(input_shape) > 1 else input_shape[0],
            output_dim=output_dim,
            hidden_dims=hidden_dims,
            use_batchnorm=use_batchnorm,
            activation=keras.activations.serialize(activation),
            norm_position=norm_position,
            batchnorm_options=batchnorm_options,
            kernel_initializer=keras.initializers.serialize(initializer),
            use_bias=use_bias,
            dropout=dropout,
            weight_decay=weight_decay,
            conv_filters=conv_filters,
            seed=seed,
        )

    def get_config(self):
        return {
            **self._knobs,
            # What may have changed since: layers frozen, and the precision of all.
            "dtype": keras.dtype_policies.serialize(self.layers[-1].dtype_policy),
            "trainable": [layer.trainable for layer in self.layers],
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        trainable = config.pop("trainable")
        model = cls(**config)
        for layer, value in zip(model.layers, trainable, strict=True):
            layer.trainable = value
        return model


def _sizes(name, value, at_least=1, at_most=None):
    """`value` as a tuple of positive ints: a single number stands for a tuple of one."""
    sizes = (value,) if np.ndim(value) == 0 else tuple(value)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            raise TypeError(f"`{name}` must be made of integers. Received: {name}={value!r}.")
        if size < 1:
            raise ValueError(f"`{name}` must be made of positive integers. Received: {name}={value!r}.")
    if len(sizes) < at_least:
        raise ValueError(
            f"`{name}` must not be empty. Received: {name}={value!r}. Give one number or more."
        )
    if at_most is not None and len(sizes) > at_most:
        raise ValueError(f"`{name}` must be a single integer. Received: {name}={value!r}.")
    return tuple(int(size) for size in sizes)


def as_initializer(value):
    """A Keras initializer, from its name, or from the standard deviation of a normal distribution.

    Raises:
        ValueError, TypeError: there is no such initializer.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value < float("inf"):
            raise ValueError(
                "`kernel_initializer` as a number is a standard deviation, 0 or more. "
                f"Received: kernel_initializer={value!r}."
            )
        return keras.initializers.RandomNormal(stddev=float(value))
    initializer = keras.initializers.get(value)
    if not isinstance(initializer, keras.initializers.Initializer):
        raise TypeError(
            "`kernel_initializer` must be a keras.initializers.Initializer, the name of one, or a standard "
            f"deviation. Received: kernel_initializer={value!r}."
        )
    return initializer


def _derive(seed, index):
    """A seed for the `index`th kernel of the network (or, negative, for the dropout after it)."""
    return int(np.random.SeedSequence([seed, index % 2**32]).generate_state(1)[0] >> 1)
