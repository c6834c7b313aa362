"""Loss, accuracy and changed predictions of a model whose batch norm layers use other statistics."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tfbn.data.arrays import as_classes
from tfbn.layers import inspection
from tfbn.layers.outputs import gives_probabilities

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
    loss: Callable | None,
) -> Scores:
    """Score a model in each of WAYS, in one pass over the batches ``(x, y)`` that `read` iterates over.

    `recalibrated` has arrays for the variables of `layers`. Without a `loss`, labels that are not classes
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
        number = outputs["moving"].shape[-1]
        # With a loss of the caller's, a single output may be a regression.
        has_classes = y is not None and (number > 1 or loss is None)
        classes = _classes(np.asarray(y), number) if has_classes else None
        found_classes.update([] if classes is None else np.unique(classes).tolist())
        for way, output in outputs.items():
            for key, value in _score(output, outputs["moving"], y, loss, is_logits).items():
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
        right.append(_predictions(output, is_logits) == classes)
    return np.concatenate(right)


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _score(output, usual, labels, loss, is_logits):
    """Return the SCORES that are defined for one batch; `usual` is the output under moving averages."""
    number = output.shape[-1]
    predictions, score = _predictions(output, is_logits), {}
    labels = None if labels is None else np.asarray(labels)
    classes = None if labels is None else _classes(labels, number)
    # A single output may be a number rather than a class: the labels decide.
    if number > 1 or classes is not None:
        score["flips"] = float(np.mean(predictions != _predictions(usual, is_logits)))
    if classes is not None:
        score["accuracy"] = float(np.mean(predictions == classes))
    if labels is not None and loss is not None:
        targets = labels[:, None] if number == labels.ndim == 1 else labels
        score["loss"] = float(np.mean(loss(targets, output)))
    elif classes is not None:
        losses = keras.losses
        kind = losses.BinaryCrossentropy if number == 1 else losses.SparseCategoricalCrossentropy
        score["loss"] = float(kind(from_logits=is_logits)(classes[:, None], output))
    elif labels is not None and number > 1:
        raise ValueError(
            f"The labels must be classes from 0 to {number - 1}, as integers or one-hot. Received: a batch "
            f"of shape {labels.shape}, from {labels.min()} to {labels.max()}. Give a `loss` for others."
        )
    return score


def _predictions(output, is_logits):
    if output.shape[-1] > 1:
        return output.argmax(-1)
    return (output > (0 if is_logits else 0.5)).ravel()


def _classes(labels, number):
    """Return labels as integers, or None if they are not classes."""
    if labels.shape[1:] not in ((), (1,), (number,)):
        return None
    try:
        return as_classes(labels, max(number, 2))
    except (TypeError, ValueError):
        return None
