"""`Model`: a dense or convolutional network from a few arguments."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.foundation.arguments import choice, integer
from tfbn.layers.batch_normalization import BatchNormalization

NORM_POSITIONS = ("before_activation", "after_activation", "input")


@keras.saving.register_keras_serializable(package="tfbn")
class Model(keras.Model):
    """A classifier that gives logits, with or without batch normalization.

        x -> [convolution -> norm -> activation -> pooling] * len(conv_filters) -> flatten
          -> [dense -> norm -> activation -> dropout] * len(hidden_dims) -> dense -> logits

    It is a functional `keras.Model`: `summary`, `fit`, `save`, `export` and the rest work on it.

    Two models with the same `seed` start from the same kernels, with or without batch norm: every kernel
    depends on `seed` and on its place in the network alone.

    Args:
        input_dim: the length of a flat input, or a shape such as ``(28, 28, 1)``, channels last.
        output_dim: the number of classes.
        hidden_dims: the width of each hidden dense layer. Default (32, 32).
        use_batchnorm: whether there are `BatchNormalization` layers. Default True.
        activation: a Keras activation or its name. Default "relu".
        norm_position: where the norm stands: "before_activation" (default; section 3.2 of the paper),
            "after_activation", or "input": ahead of every dense or convolutional layer.
        batchnorm_options: arguments for every `BatchNormalization`. Default None. In the scope of a
            `tf.distribute` strategy of several replicas ``synchronized=True`` is added unless the options
            set it, so that the replicas train as one device does with the whole batch.
        kernel_initializer: a Keras initializer, its name, or a number: the standard deviation of a normal
            distribution. Seeds for each layer replace its own. Default "glorot_uniform", as in Keras.
        use_bias: whether hidden layers have a bias, which ahead of a norm has no effect. Default True, so
            that both arms of a comparison differ in the norm alone.
        dropout: the share of each hidden layer's units dropped in training, in [0, 1). Default 0.
        weight_decay: the factor, 0 or more, of an L2 penalty, ``factor * sum(kernel**2)``. Default 0.
        conv_filters: the channels of each block ahead of the dense layers: a 3x3 convolution with "same"
            padding, and 2x2 max pooling. Needs an input ``(height, width, channels)``. Default ().
        dtype: a Keras dtype policy or its name, such as "mixed_bfloat16". Default None: the global policy.
        seed: integer, 0 or more. Default None: drawn from Python's generator, which
            `keras.utils.set_random_seed` determines.
        name: the name of the model. Default None: a name that Keras makes.

    Shapes:
        ``[N, input_dim] -> [N, output_dim]`` or ``[N, *input_dim] -> [N, output_dim]``.

    Raises:
        ValueError, TypeError: an argument is outside its range, or of the wrong type.

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
        input_dim: int | Sequence[int],
        output_dim: int,
        hidden_dims: int | Sequence[int] = (32, 32),
        use_batchnorm: bool = True,
        activation: str | Callable | None = "relu",
        norm_position: str = "before_activation",
        batchnorm_options: dict[str, Any] | None = None,
        kernel_initializer: str | float | keras.initializers.Initializer = "glorot_uniform",
        use_bias: bool = True,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        conv_filters: int | Sequence[int] = (),
        dtype: str | keras.DTypePolicy | None = None,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        input_shape = _sizes("input_dim", input_dim)
        hidden_dims = _sizes("hidden_dims", hidden_dims)
        conv_filters = _sizes("conv_filters", conv_filters, at_least=0)
        (output_dim,) = _sizes("output_dim", output_dim, at_most=1)
        choice("norm_position", norm_position, NORM_POSITIONS)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be within [0, 1). Received: dropout={dropout!r}.")
        if not 0 <= weight_decay < float("inf"):
            raise ValueError(f"`weight_decay` must be 0 or more. Received: weight_decay={weight_decay!r}.")
        _check_images(input_shape, conv_filters)
        seed = random.randrange(2**31) if seed is None else integer("seed", seed, at_least=0)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            options = batchnorm_options or {}
            if options.get("virtual_batch_size") is None:
                batchnorm_options = {"synchronized": True, **options}
        dtype = keras.dtype_policies.get(dtype)
        initializer = as_initializer(kernel_initializer)
        activation_function = keras.activations.get(activation)
        layers = _Layers(
            norm_position=norm_position if use_batchnorm else None,
            norm_options=batchnorm_options or {},
            activation=activation_function,
            initializer=initializer,
            use_bias=use_bias,
            dropout=dropout,
            weight_decay=weight_decay,
            dtype=dtype,
            seed=seed,
        )
        inputs = keras.Input(input_shape)
        logits = layers.logits(inputs, conv_filters, hidden_dims, output_dim)
        super().__init__(inputs, logits, name=name)
        self.dtype_policy = dtype  # Keras asks the model itself whether the loss has to be scaled.
        self._arguments = dict(
            input_dim=input_shape if len(input_shape) > 1 else input_shape[0],
            output_dim=output_dim,
            hidden_dims=hidden_dims,
            use_batchnorm=use_batchnorm,
            activation=keras.activations.serialize(activation_function),
            norm_position=norm_position,
            batchnorm_options=batchnorm_options,
            kernel_initializer=keras.initializers.serialize(initializer),
            use_bias=use_bias,
            dropout=dropout,
            weight_decay=weight_decay,
            conv_filters=conv_filters,
            seed=seed,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, and which layers are trainable."""
        return {
            **self._arguments,
            # What may have changed since: frozen layers, and the precision of all.
            "dtype": keras.dtype_policies.serialize(self.layers[-1].dtype_policy),
            "trainable": [layer.trainable for layer in self.layers],
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "Model":
        """Build the model of `get_config`, with new weights."""
        config = dict(config)
        trainable = config.pop("trainable")
        model = cls(**config)
        for layer, value in zip(model.layers, trainable, strict=True):
            layer.trainable = value
        return model


@dataclass
class _Layers:
    """The layers of a `Model`, which share their options."""

    norm_position: str | None  # None without batch norm
    norm_options: dict[str, Any]
    activation: Callable
    initializer: keras.initializers.Initializer
    use_bias: bool
    dropout: float
    weight_decay: float
    dtype: keras.DTypePolicy
    seed: int
    kernels: int = 0  # so far: with or without norms in between, a kernel has the same index, and so seed

    def logits(self, x, conv_filters, hidden_dims, output_dim):
        for filters in conv_filters:
            x = self._block(x, keras.layers.Conv2D, filters, kernel_size=3, padding="same")
            x = keras.layers.MaxPooling2D(dtype=self.dtype)(x)
        if len(x.shape) > 2:
            x = keras.layers.Flatten(dtype=self.dtype)(x)
        for width in hidden_dims:
            x = self._block(x, keras.layers.Dense, width)
            if self.dropout:
                seed = _derive(self.seed, -self.kernels)
                x = keras.layers.Dropout(self.dropout, seed=seed, dtype=self.dtype)(x)
        return self._affine(keras.layers.Dense, output_dim)(self._norm(x, "input"))

    def _block(self, x, kind, size, **options):
        affine = self._affine(kind, size, use_bias=self.use_bias, **options)
        x = affine(self._norm(x, "input"))
        x = self._norm(x, "before_activation")
        x = keras.layers.Activation(self.activation, dtype=self.dtype)(x)
        return self._norm(x, "after_activation")

    def _norm(self, x, position):
        if position == self.norm_position:
            x = BatchNormalization(dtype=self.dtype, **self.norm_options)(x)
        return x

    def _affine(self, kind, size, **options):
        self.kernels += 1
        config = self.initializer.get_config()
        if "seed" in config:
            config["seed"] = _derive(self.seed, self.kernels)
        initializer = type(self.initializer).from_config(config)
        regularizer = keras.regularizers.L2(self.weight_decay) if self.weight_decay else None
        options |= {"kernel_initializer": initializer, "kernel_regularizer": regularizer}
        return kind(size, dtype=self.dtype, **options)


def _derive(seed, index):
    """Return a seed for the `index`th kernel of the network (or, negative, for the dropout after it)."""
    return int(np.random.SeedSequence([seed, index % 2**32]).generate_state(1)[0] >> 1)


def _sizes(name, value, at_least=1, at_most=None):
    """Return a tuple of positive integers; a single number becomes a tuple of one."""
    if np.ndim(value) == 0:
        return (integer(name, value, at_least=1),)
    sizes = tuple(integer(f"{name}[{index}]", size, at_least=1) for index, size in enumerate(value))
    if len(sizes) < at_least:
        raise ValueError(
            f"`{name}` must not be empty. Received: {name}={value!r}. Give one number or more."
        )
    if at_most is not None and len(sizes) > at_most:
        raise ValueError(f"`{name}` must be a single integer. Received: {name}={value!r}.")
    return sizes


def _check_images(input_shape, conv_filters):
    if conv_filters and len(input_shape) != 3:
        raise ValueError(
            "`conv_filters` needs images, an `input_dim` of (height, width, channels). "
            f"Received: input_dim={input_shape}."
        )
    if conv_filters and min(input_shape[:2]) < 2 ** len(conv_filters):
        raise ValueError(
            f"`conv_filters` has {len(conv_filters)} blocks, each of which halves the image, but "
            f"the image is {input_shape[0]}x{input_shape[1]}. Use fewer blocks."
        )


def as_initializer(value: str | float | keras.initializers.Initializer) -> keras.initializers.Initializer:
    """Return a Keras initializer, from its name or from the standard deviation of a normal distribution."""
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
