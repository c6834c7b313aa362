"""The batch norm layers of a finished model, tfbn's and Keras' alike: find, read, set and observe them."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.keras_internals import cells_called_once, consumers, flatten_layers, map_calls_once
from tfbn.layers import functional
from tfbn.layers.averages import for_inference
from tfbn.layers.batch_normalization import BatchNormalization
from tfbn.layers.moments import broadcast_mask, moments

BATCHNORM_CLASSES = (BatchNormalization, keras.layers.BatchNormalization)
CALLS = {kind: kind.call for kind in BATCHNORM_CLASSES}
IN_A_GRAPH = (
    "is called in a graph, such as tf.vectorized_map makes, where its inputs cannot be observed. Use "
    "tf.map_fn or a Python loop there."
)
ON_A_THREAD = (
    "is called on another thread than the model, where its inputs cannot be observed. Call it on the "
    "model's, and use the model on one thread at a time."
)
IN_TRAINING = (
    "is called with training=True while the model is in inference: it normalises by its batches, whatever "
    "its averages are. Pass on the `training` of the model's call."
)
_REPLACING = threading.Lock()
MANY_UPDATES = 1e9  # after which an average holds nothing of its initial value


def find_batchnorms(model: keras.Model) -> list:
    """Return the batch norm layers of `model`, including those of nested models and layers, or raise."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: {model!r} of type {type(model).__name__}."
        )
    if not model.built:
        raise ValueError(f"Model {model.name!r} has no weights yet. Call it on data, or build it, first.")
    layers = [layer for layer in flatten_layers(model) if isinstance(layer, BATCHNORM_CLASSES)]
    if not layers:
        raise ValueError(f"Model {model.name!r} has no batch normalization layer.")
    return layers


def channel_axes(layer: Any, rank: int) -> list[int]:
    """Return the axes of the channels in an input of `rank` axes, in order."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return sorted(axis % rank for axis in axes)


def reduced_axes(layer: Any, rank: int) -> list[int]:
    """Return all axes but the channels'."""
    return [axis for axis in range(rank) if axis not in channel_axes(layer, rank)]


def averages(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and variance by which `layer` normalises in inference, float64."""

    def float64(weight):
        return np.asarray(keras.ops.convert_to_numpy(weight), "float64")

    mean, variance = for_inference(layer, float64)
    return np.asarray(mean), np.asarray(variance)


def scale_and_shift(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale and shift that `layer` applies in inference, in the channels' shape, float64."""
    mean, variance = averages(layer)
    gamma = layer.gamma.numpy().astype("float64") if layer.scale else np.ones_like(mean)
    beta = layer.beta.numpy().astype("float64") if layer.center else np.zeros_like(mean)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale


def set_averages(layer: Any, mean: np.ndarray, variance: np.ndarray, count: Any) -> None:
    """Set the statistics by which `layer` normalises in inference, arrays of the channels' shape.

    A layer with ``momentum=None`` also stores `count`, the number of values behind the statistics. A value
    too large for the weight's dtype is a ValueError.
    """
    stddev = np.sqrt(variance + layer.epsilon)
    values = {"moving_mean": mean, "moving_variance": variance}
    if layer.renorm:
        values |= {"moving_stddev": stddev, "renorm_mean": mean, "renorm_stddev": stddev}
    if getattr(layer, "debias", False):
        values["count"] = np.full_like(mean, MANY_UPDATES)
    elif layer.momentum is None:
        values["count"] = np.broadcast_to(count, mean.shape)
    for name, value in values.items():
        weight = getattr(layer, name)
        with np.errstate(over="ignore"):
            is_finite = np.isfinite(value.astype(weight.dtype)).all()
        if not is_finite:
            raise ValueError(
                f"{name} of layer {layer.name!r} is up to {np.abs(value).max():.3g}, which {weight.dtype} "
                "does not hold. Scale the data, or keep the layer's weights in float32."
            )
        weight.assign(value)


class StopModel(BaseException):
    """Ends the run of a model at a layer; not an Exception, whose message Keras would rewrite."""


def run_replaced(model: keras.Model, layers: Sequence, x: Any, call: Callable) -> Any:
    """Run `model` in inference on a batch, with `call(layer, x, mask)` for the normalisation of `layers`.

    A subclass of a batch norm layer keeps what it does besides. Functions that TensorFlow would compile run
    as Python, or a call within one that was traced before would go unseen. A call in a graph that
    TensorFlow builds nevertheless, on another thread, or with training=True, is a ValueError that names the
    layer. Return the model's output; None if `call` ended the run by raising `StopModel`.
    """
    refused, thread = [], threading.get_ident()

    def replacement(original):
        def run(layer, inputs, training=None, mask=None):
            is_ragged = isinstance(inputs, tf.RaggedTensor)  # tfbn's layer calls itself on its values.
            elsewhere = layer in layers and threading.get_ident() != thread
            if elsewhere:
                refused.append(f"Layer {layer.name!r} {ON_A_THREAD}")
            if layer not in layers or is_ragged or elsewhere:
                return original(layer, inputs, training=training, mask=mask)
            if not tf.executing_eagerly() or (training and layer.trainable):
                reason = IN_TRAINING if tf.executing_eagerly() else IN_A_GRAPH
                refused.append(f"Layer {layer.name!r} {reason}")
                raise StopModel
            x = tf.cast(inputs, functional.computed_dtype(inputs, layer))
            return tf.cast(call(layer, x, mask), layer.compute_dtype)

        return run

    recurrent = [layer for layer in flatten_layers(model) if isinstance(layer, keras.layers.RNN)]
    with _REPLACING, contextlib.ExitStack() as restored:
        for kind, original in CALLS.items():
            restored.callback(setattr, kind, "call", original)
            setattr(kind, "call", replacement(original))  # noqa: B010
        restored.callback(tf.config.run_functions_eagerly, tf.config.functions_run_eagerly())
        tf.config.run_functions_eagerly(True)
        restored.enter_context(map_calls_once())
        for layer in recurrent:
            if any(one in layers for one in flatten_layers(layer)):
                restored.enter_context(cells_called_once(layer))
        try:
            output = model(x, training=False)
        except StopModel:
            output = None
    if refused:
        raise ValueError(refused[0])
    return output


def normalize_by_averages(layer: Any, x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Normalise by the averages, as in inference."""
    original = next(call for kind, call in CALLS.items() if isinstance(layer, kind))
    return original(layer, x, training=False, mask=mask)


def normalize_by_batch(
    layer: Any, x: tf.Tensor, mask: tf.Tensor | None, per_example: bool = False
) -> tf.Tensor:
    """Normalise by the moments of the batch, as in training, or by those of each example alone."""
    axes = [axis for axis in reduced_axes(layer, x.shape.rank) if axis or not per_example]
    gamma = layer.gamma if layer.scale else tf.ones_like(layer.moving_mean)
    beta = layer.beta if layer.center else tf.zeros_like(layer.moving_mean)
    channels = {axis: x.shape[axis] for axis in channel_axes(layer, x.shape.rank)}
    gamma, beta = (functional.broadcast(weight, x, channels) for weight in (gamma, beta))
    batch = moments(x, axes, broadcast_mask(mask, x))
    return functional.normalize(batch.shifted, batch.offset, batch.variance, gamma, beta, layer.epsilon)


def batch_moments(layer: Any, x: tf.Tensor, mask: tf.Tensor | None) -> list[tf.Tensor]:
    """Return a batch's count, shift, offset and variance, of the channels' shape; mean = shift + offset."""
    batch = moments(x, reduced_axes(layer, x.shape.rank), broadcast_mask(mask, x))
    shape = layer.moving_mean.shape
    values = batch.count, batch.shift, batch.offset, batch.variance
    return [tf.broadcast_to(v, shape) if v.shape.rank == 0 else tf.reshape(v, shape) for v in values]


def activation_after(layer: Any) -> str | None:
    """Return the name of the activation that alone takes the output of `layer`, such as "relu", or None."""
    operations = consumers(layer)
    if len(operations) != 1:
        return None
    (operation,) = operations
    if isinstance(operation, keras.layers.Activation):
        return operation.activation.__name__
    if isinstance(operation, keras.layers.ReLU) and (operation.negative_slope or operation.threshold):
        return None  # It is not flat below zero, or flat above it.
    return type(operation).__name__.lower()
