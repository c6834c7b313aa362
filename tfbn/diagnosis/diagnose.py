"""`diagnose`: whether a model's batch norm layers normalise by the statistics of their inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from tfbn import plots
from tfbn.data.adapters import batch_reader
from tfbn.diagnosis.recalibrate import Population, recalibrate
from tfbn.diagnosis.scores import scores
from tfbn.foundation import arguments
from tfbn.foundation.files import to_json
from tfbn.foundation.provenance import versions
from tfbn.layers import inspection

MEAN_OFF = 0.25  # standard deviations
VARIANCE_OFF = 1.5  # a factor, either way
FORGOTTEN = 0.01  # the share of its start that an average may still hold
SATURATED = 4.0  # sigmoid and tanh are flat beyond
MOST = 0.95
NOISY = 0.5  # standard deviations
WORSE = 0.01  # accuracy
SPOILED = {
    "dead": "are never positive ahead of a ReLU: dead. Lower the learning rate, or look at gamma and beta.",
    "saturated": "are beyond ±4 almost always: saturated. Look at gamma and beta.",
    "near_epsilon": "have a variance near epsilon, which then sets their scale. Remove constant inputs, or "
    "lower epsilon.",
}
WAYS = {
    "moving": "moving averages, as in use",
    "batch": "statistics of batches of {batch_size}",
    "recalibrated": "recalibrated statistics",
    "single": "statistics of each example alone",
}
NOTES = (
    "mean off by: the moving mean from the data's, median and largest, in standard deviations;",
    "variance x: moving over the data's, least to most; then channels near epsilon, dead,",
    "saturated; noise: how far the means of batches scatter, in standard deviations",
)


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        layers: list of dicts, one a batch norm layer in the order of calls: name, channels, momentum,
            steps (None if unknown), start_left (the share of its initial value that an average still
            holds, None if unknown); a list with a number for each channel of mean_error (how far the
            moving mean is from the population's, in standard deviations of the population) and
            variance_ratio (moving over population, epsilon added to both); near_epsilon, dead and
            saturated (numbers of channels), and noise (how far the means of batches scatter, in
            standard deviations of the population).
        ways: dict of "moving", "batch", "recalibrated" and "single" to a dict of loss, accuracy (a
            fraction) and flips (the share of predictions that differ from those under moving averages);
            None where there are no labels, or they are no classes.
        findings: list of str, what is wrong and what to do.
        about: dict of examples, batch_size and versions.
    """

    layers: list = field(repr=False)
    ways: dict
    findings: list
    about: dict = field(repr=False)

    def table(self):
        """All of it as text."""
        return "\n\n".join([_layer_table(self), _way_table(self), "\n".join(self.findings)])

    def plot(self, axes=None):
        """Draw moving against population statistics on two matplotlib Axes, and return them."""
        return plots.statistics(self.layers, self.title(), axes)

    def save_figure(self, path):
        """Write what `plot` draws to the file `path`."""
        plots.save_statistics(path, self.layers, self.title())

    def title(self):
        """The figure's."""
        return f"Moving averages against the statistics of {self.about['examples']:,} examples"

    def to_dict(self):
        """All of it as a dict of lists and numbers."""
        return {**self.about, "findings": self.findings, "ways": self.ways, "layers": self.layers}

    def to_json(self):
        """`to_dict` as JSON text."""
        return to_json(self.to_dict())


def diagnose(model, data, *, batch_size=32, steps=None, loss=None):
    """Compare the statistics by which batch norm normalises in use with those of the data.

    For each layer: its moving averages against mean and variance of its inputs over all of `data`; for the
    model: loss, accuracy and changed predictions under moving averages, under the statistics of batches,
    as in training, under recalibrated statistics, and under those of each example alone. The model is as
    before in the end.

    Args:
        model: a built `keras.Model` with tfbn's or Keras' batch norm layers.
        data: ``(inputs, labels)``, or whatever `recalibrate` takes. Labels are integers, or one-hot, or
            what `loss` takes; weights of examples are not used. Without labels, losses and accuracies
            are left out, and for a model that does not give ``[N, outputs]`` changed predictions, too.
        batch_size: int, that of training, where `data` is not in batches already. Default 32, as in Keras.
        steps: int, the steps that the model was trained for. Default None: from the model's optimizer, if
            it has one, or from the layer's count.
        loss: a Keras loss or its name. Default None: cross-entropy of classes, of logits or probabilities,
            whichever the model gives.

    Returns:
        `Diagnosis`, with `table`, `plot`, `findings` and `to_json`.

    Raises:
        ValueError, TypeError: as in `recalibrate`.

    >>> from tfbn.layers import BatchNormalization
    >>> x = np.random.default_rng(0).normal(5, 1, [200, 3]).astype("float32")
    >>> model = keras.Sequential([keras.Input([3]), BatchNormalization(name="norm"), keras.layers.Dense(2)])
    >>> diagnosis = diagnose(model, x)
    >>> print(diagnosis.findings[0].split(". ")[0])
    norm: the moving mean is up to 5.1 standard deviations off, the variance by up to a factor of 1.1
    """
    layers = inspection.find_batchnorms(model)
    if steps is not None:
        steps = arguments.integer("steps", steps)
        if steps < 0:
            raise ValueError(f"`steps` must be 0 or more. Received: steps={steps}.")
    loss = None if loss is None else keras.losses.get(loss)
    read = batch_reader(model, data, batch_size)
    saved = model.get_weights()
    try:
        rows = _layers(model, layers, read, steps)
        recalibrate(model, data, batch_size)
        renewed = [variable.numpy() for layer in layers for variable in layer.variables]
        model.set_weights(saved)
        ways, examples, largest = scores(model, layers, read, renewed, loss)
    finally:
        model.set_weights(saved)
    about = {"examples": examples, "batch_size": largest, "versions": versions()}
    return Diagnosis(rows, ways, _findings(rows, ways), about)


def _layers(model, layers, read, steps):
    """A row for each layer that runs."""

    def call(layer, x, mask):
        y = inspection.normalize_by_averages(layer, x, mask)
        seen = tf.cast(y, "float32")
        axes = inspection.reduced_axes(layer, y.shape.rank)
        beyond = tf.reduce_mean(tf.cast(tf.abs(seen) > SATURATED, "float32"), axes)
        return (inspection.batch_moments(layer, x, mask), tf.reduce_max(seen, axes), beyond), y

    populations, means, highest, beyond = {}, {}, {}, {}
    for batch in inspection.observe(model, layers, read, call):
        for layer, (moments, top, share) in batch:
            populations.setdefault(layer, Population()).add(moments)
            # Of the means of batches, each counting one, the scatter.
            _, shift, offset, variance = moments
            means.setdefault(layer, Population()).add((tf.ones_like(shift), shift, offset, 0 * variance))
            highest[layer] = np.maximum(highest.get(layer, -np.inf), top.numpy())
            beyond.setdefault(layer, []).append(share.numpy())
    rows = []
    for layer, population in populations.items():
        population.check(layer)
        mean, variance = inspection.averages(layer)
        spread = population.variance() + layer.epsilon
        activation = inspection.activation_after(layer)
        taken = steps if steps is not None else _steps(model, layer)
        known = taken is not None and layer.momentum is not None and not getattr(layer, "debias", False)
        saturates = activation in ("sigmoid", "tanh")
        rows.append(
            {
                "name": layer.name,
                "channels": int(mean.size),
                "momentum": layer.momentum,
                "steps": taken,
                "start_left": float(layer.momentum**taken) if known else None,
                "mean_error": (np.abs(mean - population.mean) / np.sqrt(spread)).ravel().tolist(),
                "variance_ratio": ((variance + layer.epsilon) / spread).ravel().tolist(),
                "near_epsilon": int((population.variance() < 10 * layer.epsilon).sum()),
                "dead": int((highest[layer] <= 0).sum()) if activation == "relu" else 0,
                "saturated": int((np.mean(beyond[layer], 0) > MOST).sum()) if saturates else 0,
                "noise": float(np.median(np.sqrt(means[layer].variance() / spread))),
            }
        )
    return rows


def _steps(model, layer):
    if getattr(layer, "debias", False):
        return int(layer.count.numpy().max())
    optimizer = getattr(model, "optimizer", None)
    return int(optimizer.iterations) or None if optimizer is not None else None


def _findings(rows, ways):
    """Plain sentences, the worst first; one that all is well if it is."""
    found = []
    for row in rows:
        off, factor = max(row["mean_error"]), _factor(row["variance_ratio"])
        if off > MEAN_OFF or factor > VARIANCE_OFF:
            said = (
                f"{row['name']}: the moving mean is up to {off:.1f} standard deviations off, the variance "
                f"by up to a factor of {factor:.1f}. {_why(row)} Recalibrate"
            )
            found.append((max(off, factor), said + _prevention(row)))
        else:  # What comes out is by statistics that are right.
            for key, what in SPOILED.items():
                if row[key]:
                    found.append((0, f"{row['name']}: {row[key]} of {row['channels']} channels {what}"))
        if row["noise"] > NOISY:
            said = (
                f"{row['name']}: the means of batches scatter by {row['noise']:.1f} standard deviations. "
            )
            found.append((0, said + "Train with larger or better mixed batches."))
    found = [said for _, said in sorted(found, key=lambda pair: -pair[0])]
    moving, batch, renewed = (ways[name]["accuracy"] for name in ("moving", "batch", "recalibrated"))
    if moving is not None and renewed - moving > WORSE:
        found.insert(
            0,
            f"Accuracy is {moving:.4f} in use and {renewed:.4f} with recalibrated statistics ({batch:.4f} "
            "with those of batches): the moving averages are to blame.",
        )
    elif moving is not None and found:
        found.append(
            f"Accuracy is {moving:.4f} in use and {renewed:.4f} with recalibrated statistics: it makes "
            "little difference on these data."
        )
    return found or ["No fault found: the moving averages are those of the data."]


def _why(row):
    if row["start_left"] is None and row["momentum"] is not None and row["steps"] is None:
        return (
            f"At a momentum of {row['momentum']:g} an average forgets its start in some "
            f"{np.log(FORGOTTEN) / np.log(row['momentum']):.0f} steps: after fewer it lags."
            if 0 < row["momentum"] < 1
            else "The averages do not follow the data."
        )
    if row["start_left"] is not None and row["start_left"] > FORGOTTEN:
        return (
            f"The averages lag: after {row['steps']:,} steps at a momentum of {row['momentum']:g} they "
            f"still hold {row['start_left']:.0%} of their start."
        )
    return "These are not the data, or not the weights, that the averages were taken with."


def _prevention(row):
    if row["momentum"] is None or row["start_left"] is None or row["start_left"] <= FORGOTTEN:
        return "."
    return ", or train with a lower momentum, or tfbn's debias=True."


def _factor(ratios):
    return max(max(ratio, 1 / ratio) if ratio > 0 else np.inf for ratio in ratios)


def _layer_table(diagnosis):
    rows = [("layer", "channels", "mean off by", "variance x", "near eps", "dead", "satur.", "noise")]
    for row in diagnosis.layers:
        rows.append(
            (
                row["name"][-24:],
                str(row["channels"]),
                f"{np.median(row['mean_error']):.2f} ({max(row['mean_error']):.2f})",
                f"{min(row['variance_ratio']):.2f}-{max(row['variance_ratio']):.2f}",
                *(str(row[key]) for key in ("near_epsilon", "dead", "saturated")),
                f"{row['noise']:.2f}",
            )
        )
    return "\n".join([*_columns(rows), *NOTES])


def _way_table(diagnosis):
    rows = [("normalised by", "accuracy", "loss", "predictions changed")]
    for name, way in diagnosis.ways.items():
        shown = [f"{way[key]:.4f}" if way[key] is not None else "-" for key in ("accuracy", "loss")]
        words = WAYS[name].format(batch_size=diagnosis.about["batch_size"])
        rows.append((words, *shown, f"{way['flips']:.1%}" if way["flips"] is not None else "-"))
    return "\n".join(_columns(rows))


def _columns(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
