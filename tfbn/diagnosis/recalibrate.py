"""`recalibrate`: replace moving averages by the statistics of the data."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.data.adapters import batch_reader
from tfbn.layers import inspection


def recalibrate(
    model: keras.Model,
    data: Any,
    batch_size: int = 256,
    unbiased: bool = False,
    one_pass: bool = False,
    on_batch: Callable[[str | None, int, int], Any] | None = None,
) -> keras.Model:
    """Set each batch norm layer's statistics to the mean and variance of its inputs over all of `data`.

        mean     = sum(count * mean_of_batch) / sum(count)
        variance = sum(count * (variance_of_batch + (mean_of_batch - mean)**2)) / sum(count)

    Moving averages lag behind the weights, and averaged weights have none of their own. Here layers are set
    one after the other, so that each one's inputs are those of the final network. That reads the data once
    a layer. `one_pass` reads the data once: all layers then normalise by their batches, so the statistics
    behind the first layer depend on `batch_size` (as in PyTorch's `update_bn`).

    A layer that is called several times gets the statistics of all its calls. If one call's inputs come
    from another's output, that output is by the old averages. All other weights stay. Dropout is off.

    Args:
        model: a built `keras.Model` with tfbn's or Keras' batch norm layers. It is changed, and returned.
        data: inputs, an array or a dict or list of arrays; ``(inputs, labels)``, the labels unused; a
            `tfbn.data.Data`, whose training split is used; or a `tf.data.Dataset` or list of batches.
        batch_size: examples a batch, where `data` is not in batches already. Default 256.
        unbiased: whether to apply Bessel's correction to the variance, as Algorithm 2 and PyTorch do.
            Default False, as in Keras; a layer with ``unbiased=True`` always has it.
        one_pass: whether to read the data only once. Default False.
        on_batch: function that is called with the layer's name (None in one pass), the number of layers
            that are done, and the number of the batch. Default None.

    Raises:
        ValueError: no batch norm layer, a layer without a value, inputs that are not finite or of a wrong
            shape. The statistics are then unchanged.
        TypeError: `data` can be read only once.

    >>> from tfbn import BatchNormalization
    >>> model = keras.Sequential([keras.Input([1]), BatchNormalization()])
    >>> _ = recalibrate(model, np.array([[1.0], [2.0], [6.0]], "float32"), batch_size=2)
    >>> model.layers[0].moving_mean.numpy().round(4).tolist()
    [3.0]

    Source: Ioffe and Szegedy 2015, Algorithm 2, lines 8 to 12; pooled as in Chan, Golub and LeVeque 1983.
    """
    layers = inspection.find_batchnorms(model)
    read = batch_reader(model, data, batch_size)
    saved = model.get_weights()
    try:
        calls = _numbers_of_calls(model, layers, next(read())[0])
        groups = [list(calls)] if one_pass else [[layer] for layer in calls]
        for done, group in enumerate(groups):
            name, stop_after = (None, None) if one_pass else (group[0].name, calls[group[0]])
            progress = functools.partial(on_batch, name, done) if on_batch else None
            for layer, population in _populations(model, group, read, stop_after, progress).items():
                population.check(layer)
                variance = population.variance(unbiased or getattr(layer, "unbiased", False))
                inspection.set_averages(layer, population.mean, variance, population.count)
    except BaseException:
        model.set_weights(saved)
        raise
    return model


class Population:
    """Mean and variance of each channel of a layer's inputs, from those of its batches, in float64."""

    def __init__(self) -> None:
        self.count = self.mean = self.squares = np.float64(0)

    def add(self, moments: Iterable) -> None:
        """Add a batch by its `inspection.batch_moments`."""
        count, shift, offset, variance = (value.numpy().astype("float64") for value in moments)
        mean = shift + offset
        total = self.count + count
        share = np.divide(count, total, out=np.zeros_like(total), where=total > 0)
        distance = mean - self.mean
        self.squares = self.squares + count * variance + distance**2 * self.count * share
        self.mean = self.mean + distance * share
        self.count = total

    def variance(self, unbiased: bool = False) -> np.ndarray:
        """Return the variance of each channel, by default the biased one."""
        return self.squares / np.maximum(self.count - bool(unbiased), 1)

    def check(self, layer: Any) -> None:
        """Raise ValueError if a channel of `layer` has no value, or one that is not finite."""
        if not np.all(self.count):
            raise ValueError(f"Layer {layer.name!r} saw no value in some channel: all are masked.")
        if not np.isfinite(self.mean + self.squares).all():
            raise ValueError(
                f"Layer {layer.name!r} got inputs that are not finite. Look for NaN or infinity in the "
                "data and in the weights before it."
            )


def _numbers_of_calls(model, layers, x):
    """Return how often each of `layers` is called in inference, in the order of the first calls."""
    calls = {}

    def count(layer, x, mask):
        calls[layer] = calls.get(layer, 0) + 1
        return x

    with inspection.calls_replaced(layers, count):
        # Tracing alone computes nothing.
        tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(x)
    return calls


def _populations(model, layers, read, stop_after, on_batch):
    """Return the populations of the inputs of `layers`, which all normalise by their batches.

    With `stop_after`, the model runs to that call of the single layer, which normalises by its averages.
    """
    normalize = inspection.normalize_by_averages if stop_after else inspection.normalize_by_batch

    def call(layer, x, mask):
        return inspection.batch_moments(layer, x, mask), normalize(layer, x, mask)

    populations = {layer: Population() for layer in layers}
    for number, batch in enumerate(inspection.observe(model, layers, read, call, stop_after), 1):
        for layer, moments in batch:
            populations[layer].add(moments)
        if on_batch:
            on_batch(number)
    return populations
