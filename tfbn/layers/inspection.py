"""The batch norm layers of a finished model, tfbn's and Keras' alike."""

from __future__ import annotations

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from tfbn.keras_internals import flatten_layers
from tfbn.layers import functional
from tfbn.layers.batch_normalization import BatchNormalization, broadcast_mask

BATCHNORM_CLASSES = (BatchNormalization, keras.layers.BatchNormalization)
MANY = 1e9  # updates


def find_batchnorms(model):
    """The batch norm layers of `model`, those of nested models and layers included.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: there is none, or it is not built yet.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: {model!r} of type {type(model).__name__}."
        )
    if not model.built:
        raise ValueError(f"Model {model.name!r} has no weights yet. Call it on data, or build it, first.")
    # The public `layers` leaves out what is inside wrappers and layers of one's own.
    layers = [
        layer for layer in flatten_layers(model, include_self=False) if isinstance(layer, BATCHNORM_CLASSES)
    ]
    if not layers:
        raise ValueError(f"Model {model.name!r} has no batch normalization layer.")
    return layers


def channel_axes(layer, rank):
    """The axes of the channels in an input of so many axes, in order."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return sorted(axis % rank for axis in axes)


def reduced_axes(layer, rank):
    """All axes but the channels'."""
    return [axis for axis in range(rank) if axis not in channel_axes(layer, rank)]


def averages(layer):
    """The mean and the variance by which `layer` normalises in inference, float64."""
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(weight), "float64")
        for weight in (layer.moving_mean, layer.moving_variance)
    )
    if getattr(layer, "debias", False):
        mean, variance = (
            functional.debiased(value, layer.momentum, layer.count.numpy().astype("float64")).numpy()
            for value in (mean, variance)
        )
    return mean, variance


def scale_and_shift(layer):
    """The layer in inference as ``x * scale + shift``: two arrays of the channels' shape, float64."""
    mean, variance = averages(layer)
    gamma = layer.gamma.numpy().astype("float64") if layer.scale else np.ones_like(mean)
    beta = layer.beta.numpy().astype("float64") if layer.center else np.zeros_like(mean)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale


def set_averages(layer, mean, variance, count):
    """Give `layer` the statistics by which it will normalise in inference, arrays of the channels' shape.

    `count`, the number of values that they were taken from, is kept where the layer averages over all of
    them (``momentum=None``).
    """
    stddev = np.sqrt(variance + layer.epsilon)
    values = {"moving_mean": mean, "moving_variance": variance}
    if layer.renorm:
        values |= {"moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
    if getattr(layer, "debias", False):
        # After so many updates nothing is left of a start that these averages do not have.
        values["count"] = np.full_like(mean, MANY)
    elif layer.momentum is None:
        values["count"] = np.broadcast_to(count, mean.shape)
    for name, value in values.items():
        weight = getattr(layer, name)
        with np.errstate(over="ignore"):
            held = np.isfinite(value.astype(weight.dtype)).all()
        if not held:
            raise ValueError(
                f"{name} of layer {layer.name!r} is up to {np.abs(value).max():.3g}, which {weight.dtype} "
                "does not hold. Scale the data, or keep the layer's weights in float32."
            )
        weight.assign(value)


class Intercepted:
    """While this context lasts, `call(layer, x, mask)` stands in for the call of each of `layers`.

    Dropout and the like are as the model is called. `call` may end the model's run by raising `Reached`.
    """

    def __init__(self, layers, call):
        self.layers, self.call = layers, call

    def __enter__(self):
        for layer in self.layers:
            # As an attribute of the object it goes before the method of its class.
            layer.call = functools.partial(_stand_in, self.call, layer)

    def __exit__(self, *_):
        for layer in self.layers:
            del layer.call


def _stand_in(call, layer, inputs, training=None, mask=None):
    x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    return tf.cast(call(layer, x, mask), layer.compute_dtype)


class Reached(BaseException):
    """Ends the run of a model at a layer. No Exception: Keras would rewrite its message."""


def observe(model, layers, read, call, stop_after=None):
    """Run `model` in inference over all batches, and yield of each what `call` says of `layers`.

    Args:
        model, layers: the model, and those of its layers to look at.
        read: function that gives an iterator over batches ``(x, y)``.
        call: function of layer, inputs and mask that returns what to observe, a nest of tensors, and the
            layer's output.
        stop_after: int, the number of calls after which the model need not run on. Default None: all.

    Yields:
        list of pairs of layer and observation, in the order of their calls.
    """
    order = []

    def observations(x):
        seen = []

        def stand_in(layer, x, mask):
            observation, y = call(layer, x, mask)
            seen.append((layer, observation))
            if len(seen) == stop_after:
                raise Reached
            return y

        with Intercepted(layers, stand_in), contextlib.suppress(Reached):
            model(x, training=False)
        order[:] = [layer for layer, _ in seen]
        return [observation for _, observation in seen]

    run = None
    for x, _ in read():
        run = run or compiled(model, observations, x)  # Its trace fills `order`.
        yield list(zip(order, run(x), strict=True))


def compiled(model, function, x):
    """`function` of a model's inputs, compiled for batches like `x` of any size."""
    known = getattr(model, "inputs", None) or []  # A subclassed model knows none.

    def spec(tensor):
        shape = known[0].shape if len(known) == 1 else tensor.shape
        return tf.TensorSpec([None, *shape[1:]], tensor.dtype)

    def tensors(x):
        return tf.nest.map_structure(tf.convert_to_tensor, x)

    # A trace of its own, since TensorFlow warns where many functions trace again.
    specs = tf.nest.map_structure(spec, tensors(x))
    concrete = tf.function(function, autograph=False).get_concrete_function(specs)
    return lambda x: concrete(*tf.nest.flatten(tensors(x)))


def by_averages(layer, x, mask):
    """The output of `layer` in inference."""
    return type(layer).call(layer, x, training=False, mask=mask)


def by_batch(layer, x, mask, examples=True):
    """Normalise by the moments of the batch, as in training; without `examples`, of each example alone."""
    axes = [axis for axis in reduced_axes(layer, x.shape.rank) if axis or examples]
    shape = [1] * x.shape.rank
    for axis in channel_axes(layer, x.shape.rank):
        shape[axis] = x.shape[axis]
    gamma = layer.gamma if layer.scale else tf.ones_like(layer.moving_mean)
    beta = layer.beta if layer.center else tf.zeros_like(layer.moving_mean)
    gamma, beta = (tf.reshape(tf.cast(weight, x.dtype), shape) for weight in (gamma, beta))
    batch = functional.moments(x, axes, broadcast_mask(mask, x))
    return functional.normalize(batch.shifted, batch.offset, batch.variance, gamma, beta, layer.epsilon)


def moments(layer, x, mask):
    """Count, shift, offset and variance of a batch, of the channels' shape; the mean is shift + offset."""
    batch = functional.moments(x, reduced_axes(layer, x.shape.rank), broadcast_mask(mask, x))
    shape = layer.moving_mean.shape
    values = batch.count, batch.shift, batch.offset, batch.variance
    return [tf.broadcast_to(v, shape) if v.shape.rank == 0 else tf.reshape(v, shape) for v in values]


def activation_behind(layer):
    """The name of the one activation that takes the output of `layer`, such as "relu"; else None."""
    # A layer of a subclassed model has no nodes.
    names = [_activation(node.operation) for node in layer._outbound_nodes]
    return names[0] if len(names) == 1 else None


def _activation(operation):
    if isinstance(operation, keras.layers.Activation):
        return operation.activation.__name__
    if isinstance(operation, keras.layers.ReLU) and (operation.negative_slope or operation.threshold):
        return None  # It is not flat below zero, or flat above it.
    return type(operation).__name__.lower()


def final_activation(model):
    """Return the name of the activation that a model ends in, such as "softmax", in lower case.

    Nested models are looked into, and a linear activation at the end, which mixed precision puts there for
    float32 outputs, is skipped.

    >>> inner = keras.Sequential([keras.Input([2]), keras.layers.Dense(3, "softmax")])
    >>> final_activation(keras.Sequential([keras.Input([2]), inner]))
    'softmax'
    """
    for layer in reversed(getattr(model, "operations", model.layers)):
        if isinstance(layer, keras.Model):
            return final_activation(layer)
        name = getattr(getattr(layer, "activation", None), "__name__", type(layer).__name__).lower()
        if not (isinstance(layer, keras.layers.Activation) and name == "linear"):
            return name
    return ""


def gives_probabilities(model, outputs):
    """Return whether a model gives probabilities, by its final activation and by an array of its outputs.

    Several outputs that sum to one are probabilities wherever the softmax is; a single output between 0 and
    1 may be a logit.
    """
    sums_to_one = (
        outputs.shape[-1] > 1 and (outputs >= 0).all() and np.allclose(outputs.sum(-1), 1, atol=1e-2)
    )
    return final_activation(model) in ("softmax", "sigmoid") or bool(sums_to_one)
