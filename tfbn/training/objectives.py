"""The loss and the metrics of a training, made to fit what the model gives and what its labels are."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfbn.data.arrays import Labels
from tfbn.foundation.errors import warn_caller
from tfbn.layers.outputs import SCORES, SOFTMAX, output_kind

# Losses and metrics of Keras go by the key of their name: in lower case, without underscores.
CROSS_ENTROPIES = {
    "binarycrossentropy": keras.metrics.BinaryCrossentropy,
    "categoricalcrossentropy": keras.metrics.CategoricalCrossentropy,
    "sparsecategoricalcrossentropy": keras.metrics.SparseCategoricalCrossentropy,
}
BINARY_LOSSES = ("binarycrossentropy", "binaryfocalcrossentropy")
HINGE_LOSSES = ("hinge", "squaredhinge")
ACCURACY, CROSS_ENTROPY = ("accuracy", "acc"), ("crossentropy", "ce")
ANY_FORM = (*ACCURACY, *CROSS_ENTROPY, "mean", "sum")
# The forms of labels that a loss or metric needs; one of the caller's own takes them as they come.
ONE_HOT, INTEGER, AS_THEY_COME = "one-hot", "integer", "as they come"


@keras.saving.register_keras_serializable("tfbn")
def sign_accuracy(y_true: Any, y_pred: Any) -> Any:
    """Return how often a score is above zero where the label is, for labels of 0 or -1, and 1.

    >>> float(np.mean(sign_accuracy(np.array([[-1], [1], [0], [1]]), np.array([[-2], [3], [1], [1]]))))
    0.75
    """
    y_true, y_pred = keras.ops.convert_to_tensor(y_true), keras.ops.convert_to_tensor(y_pred)
    if len(y_true.shape) < len(y_pred.shape):
        y_true = keras.ops.expand_dims(y_true, -1)
    return keras.ops.mean(keras.ops.cast(keras.ops.equal(y_true > 0, y_pred > 0), "float32"), -1)


@dataclass(frozen=True)
class _Term:
    """A loss or a metric: as the caller gave it, its key ("" if it is not Keras'), and its arguments."""

    given: Any
    key: str
    options: dict[str, Any]

    @property
    def from_logits(self) -> bool:
        return bool(self.options.get("from_logits", False))

    @property
    def form(self) -> str | None:
        """The form of labels that the term needs; None for any."""
        if self.key in ANY_FORM:
            return None
        if not self.key or self.key == "ctc":
            return AS_THEY_COME
        takes_integers = self.key.startswith("sparse") or self.key == "circle"
        return INTEGER if self.options.get("sparse_y_true", takes_integers) else ONE_HOT

    @property
    def reads_probabilities(self) -> bool:
        """Whether the term takes outputs for probabilities, by a threshold or a logarithm."""
        if self.key in (*CROSS_ENTROPIES, "auc", "kldivergence", "poisson"):
            return not self.from_logits
        thresholds = self.options.get("thresholds", self.options.get("threshold") or 0)
        return bool(np.any(0.5 if thresholds is None else thresholds))

    def __str__(self) -> str:
        if isinstance(self.given, str):
            return repr(self.given)
        return getattr(self.given, "__name__", type(self.given).__name__)


class Objective:
    """The loss and the metrics that the caller asked for.

    Args:
        loss: a Keras loss, its name, or a function; None for cross-entropy.
        metrics: a list of Keras metrics, their names, or functions; or None.
    """

    def __init__(self, loss: Any, metrics: Any) -> None:
        if not isinstance(metrics, list | tuple | None):
            raise TypeError(
                "`metrics` must be a list of Keras metrics or their names, such as ['accuracy'], or None. "
                f"Received: metrics={metrics!r}."
            )
        self.loss = loss
        self._loss = None if loss is None else _read_term("loss", keras.losses.get, loss)
        self._metrics = [_read_term("metrics", keras.metrics.get, metric) for metric in metrics or ()]

    def compile(self, model: keras.Model, x: Any, y: np.ndarray, shape: tuple) -> Labels | None:
        """Compile `model`, with its optimizer, for data such as `x` and `y` and outputs of this shape.

        Return the form in which the loss and the metrics take class labels; None if they take any targets.
        """
        if self._loss is None:
            labels = self._label_form(y, shape[-1])
            loss = _read_term("loss", keras.losses.get, _cross_entropy(output_kind(model, x), labels))
        else:
            self.check_labels(y, shape)
            labels, loss = None, self._loss
        is_binary = loss.key in BINARY_LOSSES + HINGE_LOSSES
        if loss.key in BINARY_LOSSES and shape[-1] != 1:
            is_binary = output_kind(model, x) != SOFTMAX  # Of a softmax, one class is right.
        metrics = [_fit_metric(metric, loss, is_binary) for metric in self._metrics]
        model.compile(model.optimizer, loss.given, metrics=metrics)
        return labels

    def _label_form(self, y, classes):
        forms = {metric.form: metric for metric in self._metrics}
        if ONE_HOT in forms and INTEGER in forms:
            raise ValueError(
                "`metrics` must all take labels in one form. Received: "
                f"{forms[ONE_HOT]}, which needs one-hot labels, and {forms[INTEGER]}, which needs integers."
            )
        came_one_hot = y.ndim == 2 and y.shape[1] == classes > 1
        return Labels(classes, ONE_HOT in forms or (AS_THEY_COME in forms and came_one_hot))

    @property
    def binary_threshold(self) -> float | None:
        """The output from which on a binary cross-entropy decides for class 1; None for other losses."""
        if self._loss is None or self._loss.key not in BINARY_LOSSES:
            return None
        return 0.0 if self._loss.from_logits else 0.5

    def check_labels(self, y: np.ndarray, shape: tuple) -> None:
        """Raise ValueError for class labels in a form that the loss or a metric does not take.

        `shape` is that of the outputs.
        """
        classes = shape[-1]
        if classes == 1 and y.ndim == len(shape) and y.shape[-1] != 1 and self._loss and self._loss.key:
            raise ValueError(
                f"y must have one value for the one output. Received: y of the shape {y.shape}, for "
                f"outputs of the shape {shape}."
            )
        if classes is None or classes == 1:
            return
        forms = {len(shape): ONE_HOT if y.shape[-1] == classes else INTEGER, len(shape) - 1: INTEGER}
        received = forms.get(y.ndim)
        contrary = {ONE_HOT: INTEGER, INTEGER: ONE_HOT}.get(received or "")
        for term in filter(None, (self._loss, *self._metrics)):
            if contrary is not None and term.form == contrary:
                raise ValueError(
                    f"{term} needs {term.form} labels. Received: y of the shape {y.shape}, for outputs of "
                    f"the shape {shape}. Convert y, by keras.utils.to_categorical or argmax, or take "
                    f"Keras' {'sparse' if received == INTEGER else 'categorical'} loss or metric."
                )


def _read_term(argument: str, get: Callable, given: Any) -> _Term:
    """Return the term of a Keras object, its name, or a function; raise ValueError for anything else."""
    if argument == "metrics" and isinstance(given, str) and given in ANY_FORM:
        return _Term(given, given, {})
    try:
        term = get(given)
    except (TypeError, ValueError):
        known = "a loss" if argument == "loss" else "metrics"
        raise ValueError(f"`{argument}` must be {known} that Keras has. Received: {given!r}.") from None
    options: dict[str, Any] = {}
    if isinstance(given, functools.partial):
        term, options = given.func, dict(given.keywords)
    elif hasattr(term, "get_config"):
        options = term.get_config()
    named = term if hasattr(term, "__name__") else type(term)
    if named.__module__.partition(".")[0] != "keras" or named is keras.metrics.MeanMetricWrapper:
        return _Term(given, "", options)
    return _Term(given, named.__name__.replace("_", "").lower(), options)


def _cross_entropy(kind: str | None, labels: Labels) -> keras.losses.Loss:
    """Return the cross-entropy of labels in their form and of what the model gives; see `output_kind`."""
    if labels.classes == 1:
        raise ValueError(
            "The model has one output, and the cross-entropy over one class is always 0. Give the solver a "
            f"`loss`, such as 'mse' or keras.losses.BinaryCrossentropy(from_logits={kind == SCORES})."
        )
    if kind not in (SOFTMAX, SCORES):
        reason = "ends in a sigmoid" if kind else "does not show whether it gives logits or probabilities"
        example = "BinaryCrossentropy()" if kind else "SparseCategoricalCrossentropy(from_logits=True)"
        raise ValueError(
            f"The model {reason}. Give the solver a `loss`, such as keras.losses.{example}. "
            "Received: loss=None."
        )
    if labels.one_hot:
        return keras.losses.CategoricalCrossentropy(from_logits=kind == SCORES)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=kind == SCORES)


def _fit_metric(metric: _Term, loss: _Term, is_binary: bool) -> Any:
    """Return the metric that reads outputs and labels as `loss` does, if it goes by its name.

    Keras cuts a single output at 0.5 for "accuracy", also a logit, and takes several for a choice of one
    class. Under a binary loss each output is cut by itself instead: probabilities at 0.5, logits at 0. A
    metric that is an object stays as it is; one that reads logits as probabilities is warned of.
    """
    takes_scores = loss.from_logits or loss.key in HINGE_LOSSES
    if isinstance(metric.given, str):
        if is_binary and metric.key in (*ACCURACY, "binaryaccuracy"):
            if loss.key in HINGE_LOSSES:
                return keras.metrics.MeanMetricWrapper(sign_accuracy, name=metric.given)
            function = keras.metrics.binary_accuracy  # The class allows no threshold of 0.
            return keras.metrics.MeanMetricWrapper(
                function, name=metric.given, threshold=0.0 if takes_scores else 0.5
            )
        key = loss.key.replace("focal", "") if metric.key in CROSS_ENTROPY else metric.key
        if key in CROSS_ENTROPIES:
            return CROSS_ENTROPIES[key](name=metric.given, from_logits=takes_scores)
        if takes_scores and is_binary and (key == "auc" or "thresholds" in metric.options):
            for_scores = {"from_logits": True} if key == "auc" else {"thresholds": 0}
            return type(keras.metrics.get(metric.given))(name=metric.given, **for_scores)
    if takes_scores and metric.reads_probabilities:
        warn_caller(
            f"{metric} reads outputs as probabilities, but the loss takes them as logits. Give {metric} "
            "from_logits=True or thresholds of logits, such as 0, or end the model in probabilities."
        )
    return metric.given
