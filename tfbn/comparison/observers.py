"""Observers: functions of a model that return a function of examples, to record a network's insides."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Observe = Callable[[tf.Tensor], Any]
BINS = 40
LARGEST = 1e30
PERCENTILES = (15, 50, 85)


def outputs(model: keras.Model) -> Observe:
    """Observe the outputs ``[N]`` of a network with one output."""
    return lambda x: tf.reshape(model(x, training=False), [-1])


def percentiles(model: keras.Model) -> Observe:
    """Observe PERCENTILES ``[units, 3]``, linear between the ranks, of the last hidden activation's inputs.

    Source: Ioffe and Szegedy 2015, section 4.1 and figure 1b, c.
    """
    inner = keras.Model(model.inputs[0], _activation_inputs(model)[-1])

    def observe(x: tf.Tensor) -> Any:
        values = tf.cast(inner(x, training=False), "float32")
        ranked = tf.sort(tf.reshape(values, [-1, values.shape[-1]]), axis=0)
        last = tf.shape(ranked)[0] - 1
        places = tf.constant(PERCENTILES, ranked.dtype) / 100 * tf.cast(last, ranked.dtype)
        below = tf.cast(places, "int32")
        share = (places - tf.cast(below, ranked.dtype))[:, None]
        lower = (1 - share) * tf.gather(ranked, below)
        return tf.transpose(lower + share * tf.gather(ranked, tf.minimum(below + 1, last)))

    return observe


def histograms(model: keras.Model) -> Observe:
    """Observe the inputs of each hidden activation: "low", "high" and the "counts" of BINS bins."""
    inner = keras.Model(model.inputs[0], _activation_inputs(model))

    def observe(x: tf.Tensor) -> Any:
        counted = []
        for values in tf.nest.flatten(inner(x, training=False)):
            # A value that is not finite, or near the largest, would stop the count and the training.
            values = tf.cast(values, "float32")
            values = tf.clip_by_value(tf.where(tf.math.is_finite(values), values, 0), -LARGEST, LARGEST)
            low, high = tf.reduce_min(values), tf.reduce_max(values)
            counts = tf.histogram_fixed_width(values, [low, tf.where(high > low, high, low + 1)], BINS)
            counted.append({"low": low, "high": high, "counts": counts})
        return counted

    return observe


OBSERVERS = {"outputs": outputs, "percentiles": percentiles, "histograms": histograms}


def _activation_inputs(model: keras.Model) -> list[Any]:
    """Return the symbolic inputs of the activations that are layers of their own."""
    inputs = [
        layer.input
        for layer in getattr(model, "layers", [])
        if isinstance(layer, (keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU))
    ]
    if not inputs:
        raise ValueError(
            f"Model {model.name!r} has no activation to observe. Its activations must be layers of their "
            "own, keras.layers.Activation or ReLU, in a functional or Sequential model."
        )
    return inputs
