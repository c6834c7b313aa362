"""Loss, accuracy and changed predictions of a model whose batch norm layers use other statistics."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tfbn.data.arrays import as_classes
from tfbn.layers import inspection
from tfbn.layers.outputs import gives_probabilities
from tfbn.training.objectives import Objective

WAYS = ("moving", "batch", "recalibrated", "single")
REPLACEMENTS = {  # of the calls of the layers
    "batch": inspection.normalize_by_batch,
    "single": functools.partial(inspection.normalize_by_batch, per_example=True),
}
SCORES = ("loss", "accuracy", "flips")


class Scores(NamedTuple):
    """What `scores` returns."""

    ways: dict[str, dict[str, float | None]]  # by way of WAYS and score of SCORES; None where not defined
    classes: set[int]  # among the labels
    finite: bool  # whether all outputs under the moving averages are
    examples: int
    largest_batch: int


def scores(
    model: keras.Model,
    layers: Sequence,
    read: Callable[[], Iterator],
    recalibrated: Sequence[np.ndarray],
    objective: Objective,
) -> Scores:
    """Score a model in each of WAYS, in one pass over the batches ``(x, y)`` that `read` iterates over.

    `recalibrated` has arrays for the variables of `layers`. Labels that the objective's loss does not take
    are a ValueError.
    """
    is_logits, found_classes, finite = None, set[int](), True
    sums: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    sizes = []
    for x, outputs, y in _batch_outputs(model, layers, read, recalibrated):
        size = len(keras.tree.flatten(x)[0])
        sizes.append(size)
        finite &= all(np.isfinite(output).all() for output in keras.tree.flatten(outputs["moving"]))
        if not all(getattr(output, "ndim", 0) == 2 for output in outputs.values()):
            continue
        outputs = {way: np.asarray(output, "float32") for way, output in outputs.items()}
        if is_logits is None:
            is_logits = not gives_probabilities(model, x, outputs["moving"])
        labels, shape = None if y is None else np.asarray(y), outputs["moving"].shape
        classes, threshold = _read_labels(labels, shape, objective, is_logits)
        loss = _loss_of(labels, classes, shape[-1], objective, is_logits)
        found_classes.update([] if classes is None else np.unique(classes).tolist())
        for way, output in outputs.items():
            for key, value in _score(output, outputs["moving"], classes, threshold, loss).items():
                sums[way][key] = sums[way].get(key, 0.0) + value * size
    total = sum(sizes)
    means = {
        way: {key: way_sums[key] / total if key in way_sums else None for key in SCORES}
        for way, way_sums in sums.items()
    }
    return Scores(means, found_classes, finite, total, max(sizes))


def _batch_outputs(model, layers, read, recalibrated):
    """Yield for each batch the inputs, the outputs in each way, and the labels."""
    variables = [variable for layer in layers for variable in layer.variables]
    usual = [variable.numpy() for variable in variables]

    for x, y in read():
        outputs = {"moving": model.predict_on_batch(x)}
        for way, call in REPLACEMENTS.items():
            outputs[way] = inspection.run_replaced(model, layers, x, call)
        _assign(variables, recalibrated)
        outputs["recalibrated"] = model.predict_on_batch(x)
        _assign(variables, usual)
        yield x, outputs, y


def right_predictions(model: keras.Model, read: Callable[[], Iterator]) -> np.ndarray | None:
    """Return for each example whether the predicted class is the label; None if labels are not classes."""
    is_logits, right = None, []
    for x, y in read():
        if y is None:
            return None
        output: Any = model.predict_on_batch(x)
        if getattr(output, "ndim", 0) != 2:
            return None
        if is_logits is None:
            is_logits = not gives_probabilities(model, x, output)
        classes = _classes(np.asarray(y), output.shape[-1])
        if classes is None:
            return None
        threshold = None if output.shape[-1] > 1 else (0 if is_logits else 0.5)
        right.append(_predictions(output, threshold) == classes)
    return np.concatenate(right)


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _read_labels(labels, shape, objective, is_logits):
    """Return labels as classes, None if they are not, and the threshold of outputs that decide for 1.

    Without a threshold, the largest output decides. `shape` is that of the outputs.
    """
    number, threshold = shape[-1], objective.binary_threshold
    if labels is not None:
        objective.check_labels(labels, shape)
    is_regression = number == 1 and objective.loss is not None and threshold is None
    classes = None if labels is None or is_regression else _classes(labels, number)
    if number == 1:
        return classes, (0 if is_logits else 0.5) if threshold is None else threshold
    if classes is None and labels is not None and threshold is not None and labels.shape == shape:
        return labels, threshold  # Several labels an example: each output decides for itself.
    return classes, None


def _loss_of(labels, classes, number, objective, is_logits):
    """Return a function of outputs that gives their mean loss, or None without labels for it."""
    if labels is not None and objective.loss is not None:
        loss = keras.losses.get(objective.loss)
        targets = labels[:, None] if number == labels.ndim == 1 else labels
        return lambda output: float(np.mean(loss(targets, output)))
    if classes is not None:
        losses = keras.losses
        kind = losses.BinaryCrossentropy if number == 1 else losses.SparseCategoricalCrossentropy
        return lambda output: float(kind(from_logits=is_logits)(classes[:, None], output))
    if labels is not None and number > 1:
        raise ValueError(
            f"The labels must be classes from 0 to {number - 1}, as integers or one-hot. Received: a batch "
            f"of shape {labels.shape}, from {labels.min()} to {labels.max()}. Give a `loss` for others."
        )
    return None


def _score(output, usual, classes, threshold, loss):
    """Return the SCORES that are defined for one batch; `usual` is the output under moving averages."""
    predictions, score = _predictions(output, threshold), {}
    # A single output may be a number rather than a class: the labels decide.
    if output.shape[-1] > 1 or classes is not None:
        score["flips"] = float(np.mean(predictions != _predictions(usual, threshold)))
    if classes is not None:
        score["accuracy"] = float(np.mean(predictions == classes))
    if loss is not None:
        score["loss"] = loss(output)
    return score


def _predictions(output, threshold):
    if threshold is None:
        return output.argmax(-1)
    return (output > threshold).reshape(-1 if output.shape[-1] == 1 else output.shape)


def _classes(labels, number):
    """Return labels as integers, or None if they are not classes."""
    if labels.shape[1:] not in ((), (1,), (number,)):
        return None
    try:
        return as_classes(labels, max(number, 2))
    except (TypeError, ValueError):
        return None
