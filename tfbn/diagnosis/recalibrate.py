"""`recalibrate`: replace moving averages by the statistics of the data."""

import collections
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tfbn.data.adapters import batch_reader
from tfbn.diagnosis.scores import right_predictions
from tfbn.layers import inspection

MUCH_WORSE = 0.1  # of the examples
NOISE = 3.0  # standard deviations of the changes by chance


def recalibrate(
    model: keras.Model,
    data: Any,
    batch_size: int = 256,
    unbiased: bool = False,
    one_pass: bool = False,
    on_batch: Callable[[str | None, int, int], Any] | None = None,
    force: bool = False,
) -> keras.Model:
    """Set each batch norm layer's statistics to the mean and variance of its inputs over all of `data`.

        mean     = sum(count * mean_of_batch) / sum(count)
        variance = sum(count * (variance_of_batch + (mean_of_batch - mean)**2)) / sum(count)

    Moving averages lag behind the weights, and averaged weights have none of their own. Here layers are set
    one after the other, so that each one's inputs are those of the final network. That reads the data once
    a layer, and twice more to compare accuracies where there are labels. With `one_pass` all layers
    normalise by their batches, so the statistics behind the first layer depend on `batch_size` (as in
    PyTorch's `update_bn`).

    A layer that is called several times gets the statistics of all its calls. Where a call comes behind a
    layer that is set later, such as itself, its inputs are by that layer's old averages. All other weights
    stay. Dropout is off.

    Args:
        model: a built `keras.Model` with tfbn's or Keras' batch norm layers. It is changed, and returned.
        data: inputs, an array or a dict or list of arrays; ``(inputs, labels)``, see `force`; a
            `tfbn.data.Data`, whose training split is used; or a `tf.data.Dataset` or list of batches.
        batch_size: examples a batch, where `data` is not in batches already. Default 256.
        unbiased: whether to apply Bessel's correction to the variance, as Algorithm 2 and PyTorch do.
            Default False, as in Keras; a layer with ``unbiased=True`` always has it.
        one_pass: whether to take the statistics of all layers in one pass. Default False.
        on_batch: function that is called with the layer's name (None in one pass), the number of layers
            that are done, and the number of the batch. Default None.
        force: whether to accept statistics by which far fewer predictions are right on these data, by a
            tenth of the examples and more than chance explains. Default False: raise ValueError. Without
            labels that are classes there is no such check.

    Raises:
        ValueError: no batch norm layer, one whose calls cannot be observed, a layer without a value, inputs
            that are not finite or of a wrong shape. The model is then unchanged.
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
    with restored(model, but=[variable for layer in layers for variable in layer.variables]):
        before = None if force else right_predictions(model, read)
        if one_pass:
            first = _Pass(layers, layers, inspection.normalize_by_batch).run(model, read, on_batch)
        else:
            first = _Pass(layers).run(model, read, on_batch)
        if unseen := [layer.name for layer in layers if layer not in first.calls]:
            raise ValueError(
                f"The inputs of {', '.join(map(repr, unseen))} cannot be observed: the model does not call "
                "them, or calls them in a concrete function. Call them, or remove them from the model."
            )
        order = [] if one_pass else first.order
        if one_pass or first.targets == order[:1]:  # Else one that some batches lack comes before it.
            first.set_averages(unbiased)
            order = order[1:]
        for done, layer in enumerate(order, len(first.order) - len(order)):
            again = _Pass(layers, [layer], stop_after=first.calls[layer])
            again.run(model, read, on_batch, done).set_averages(unbiased)
        if before is not None:
            _check_improvement(before, right_predictions(model, read))
    return model


@contextlib.contextmanager
def restored(model, but=()):
    """Restore all variables of `model` at the end; those in `but` at an error only."""
    saved = [(variable, variable.numpy()) for variable in model.variables]
    changed = {id(variable) for variable in but}
    try:
        yield
    except BaseException:
        changed = set()
        raise
    finally:
        for variable, value in saved:
            if id(variable) not in changed:
                variable.assign(value)


def _check_improvement(before, after):
    """Raise ValueError if far fewer predictions are right `after` than `before`, by example."""
    lost = (np.mean(before) - np.mean(after)) * len(before)
    # Data that are read in another order, or are others, each time, are not compared one by one.
    changed = np.sum(before != after) if len(before) == len(after) else len(before)
    if lost > MUCH_WORSE * len(before) and lost > NOISE * np.sqrt(changed):
        raise ValueError(
            f"Recalibrating would make the model much worse on these data: accuracy {np.mean(before):.4f} "
            f"before, {np.mean(after):.4f} after. Give data like those of training, all classes mixed, or "
            "force=True to recalibrate nevertheless. The model is unchanged."
        )


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


class _Pass:
    """One pass of a model over the data, for the statistics of the inputs of some of its `layers`.

    Those are `targets`; None: the one that is called first. The model stops at call number `stop_after` of
    a target; None: it runs to its end. `calls` holds the calls of each layer, at most in one batch.
    """

    def __init__(self, layers, targets=None, normalize=inspection.normalize_by_averages, stop_after=None):
        self.layers, self.targets, self.normalize, self.stop_after = layers, targets, normalize, stop_after
        self.populations: dict[Any, Population] = {}
        self.calls: collections.Counter = collections.Counter()
        self.order: list = []  # in which the layers are called
        self._calls_in_batch: collections.Counter = collections.Counter()

    def run(self, model, read, on_batch, done=0):
        for number, (x, _) in enumerate(read(), 1):
            self._calls_in_batch.clear()
            inspection.run_replaced(model, self.layers, x, self._call)
            self.calls |= self._calls_in_batch  # the larger number of each layer
            self._put_in_order(list(self._calls_in_batch))
            if on_batch:
                name = None if self.targets is self.layers else self.targets[0].name
                on_batch(name, done, number)
        return self

    def _put_in_order(self, called):
        """Add the layers that earlier batches lacked, each before those that follow it here."""
        for number, layer in enumerate(called):
            if layer not in self.order:
                later = [self.order.index(one) for one in called[number:] if one in self.order]
                self.order.insert(min(later, default=len(self.order)), layer)

    def _call(self, layer, x, mask):
        self._calls_in_batch[layer] += 1
        self.targets = self.targets or [layer]
        if layer in self.targets:
            moments = inspection.batch_moments(layer, x, mask)
            self.populations.setdefault(layer, Population()).add(moments)
            if self._calls_in_batch[layer] == self.stop_after:
                raise inspection.StopModel
        return self.normalize(layer, x, mask)

    def set_averages(self, unbiased):
        for layer, population in self.populations.items():
            population.check(layer)
            variance = population.variance(unbiased or getattr(layer, "unbiased", False))
            inspection.set_averages(layer, population.mean, variance, population.count)
