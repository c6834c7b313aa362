"""How well a model does where its batch norm layers normalise by one statistic or another."""

from __future__ import annotations

import contextlib
import functools

import keras
import numpy as np

from tfbn.data.arrays import as_classes
from tfbn.layers import inspection

# In place of the layers; None as they are.
WAYS = {
    "moving": None,
    "batch": inspection.by_batch,
    "recalibrated": None,
    "single": functools.partial(inspection.by_batch, examples=False),
}
KEYS = ("loss", "accuracy", "flips")


def scores(model, layers, read, renewed, loss):
    """Loss, accuracy and changed predictions in each of WAYS, from one pass over the data.

    Args:
        model, layers: the model, and its batch norm layers.
        read: function that gives an iterator over batches ``(x, y)``.
        renewed: arrays for the variables of `layers` that are the recalibrated ones. In the end the
            variables are as they were.
        loss: a Keras loss of labels as they are, or None for cross-entropy of classes.

    Returns:
        dict of way to a dict of loss, accuracy and flips, None where there is none; the number of examples;
        and that of the largest batch.

    Raises:
        ValueError: there is no `loss`, and the labels are no classes.
    """
    variables = [variable for layer in layers for variable in layer.variables]
    usual = [variable.numpy() for variable in variables]

    def outputs(ways, x):
        found = {}
        for way in ways:
            stand_in = inspection.Intercepted(layers, WAYS[way]) if WAYS[way] else contextlib.nullcontext()
            with stand_in:
                found[way] = model(x, training=False)
        return found

    run, logits, sums, sizes = None, None, {way: {} for way in WAYS}, []
    for x, y in read():
        if run is None:
            ways = ["moving", "batch", "single"], ["recalibrated"]
            run = [inspection.compiled(model, functools.partial(outputs, part), x) for part in ways]
        found = run[0](x)
        _assign(variables, renewed)
        try:
            found |= run[1](x)
        finally:
            _assign(variables, usual)
        sizes.append(len(keras.tree.flatten(x)[0]))
        if all(getattr(output, "ndim", 0) == 2 for output in found.values()):
            found = {way: np.asarray(output, "float32") for way, output in found.items()}
            logits = (
                not inspection.gives_probabilities(model, found["moving"]) if logits is None else logits
            )
            for way, output in found.items():
                for key, value in _score(output, found["moving"], y, loss, logits).items():
                    sums[way][key] = sums[way].get(key, 0.0) + value * sizes[-1]
    total = sum(sizes)
    shares = {
        way: {key: sums[way][key] / total if key in sums[way] else None for key in KEYS} for way in WAYS
    }
    return shares, total, max(sizes)


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _score(output, usual, labels, loss, logits):
    """Those of KEYS that there are, for one batch."""
    number = output.shape[-1]
    votes, score = _votes(output, logits), {}
    classes = None
    if labels is not None:
        labels = np.asarray(labels)
        classes = _classes(labels, number)
    # A single output may be a number rather than a vote: then labels tell.
    if number > 1 or classes is not None:
        score["flips"] = float(np.mean(votes != _votes(usual, logits)))
    if classes is not None:
        score["accuracy"] = float(np.mean(votes == classes))
    if labels is not None and loss is not None:
        score["loss"] = float(
            np.mean(loss(labels[:, None] if number == labels.ndim == 1 else labels, output))
        )
    elif classes is not None:
        score["loss"] = float(_cross_entropy(number, logits)(classes[:, None], output))
    elif labels is not None and number > 1:
        raise ValueError(
            f"The labels must be classes from 0 to {number - 1}, as integers or one-hot. Received a batch "
            f"of shape {labels.shape}, from {labels.min()} to {labels.max()}. Give a `loss` for others."
        )
    return score


def _votes(output, logits):
    if output.shape[-1] > 1:
        return output.argmax(-1)
    return (output > (0 if logits else 0.5)).ravel()


def _classes(labels, number):
    """Return labels as integers, or None if they are not classes."""
    if labels.shape[1:] not in ((), (1,), (number,)):
        return None
    try:
        return as_classes(labels, max(number, 2))
    except ValueError:
        return None


def _cross_entropy(number, logits):
    losses = keras.losses
    kind = losses.BinaryCrossentropy if number == 1 else losses.SparseCategoricalCrossentropy
    return kind(from_logits=logits)
