"""`diagnose`: whether a model's batch norm layers normalise by the statistics of their inputs."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn import plots
from tfbn.data.adapters import batch_reader
from tfbn.diagnosis import findings
from tfbn.diagnosis.recalibrate import Population, recalibrate, restored
from tfbn.diagnosis.scores import scores
from tfbn.foundation.arguments import integer
from tfbn.foundation.files import to_json
from tfbn.foundation.provenance import versions
from tfbn.foundation.tables import text_table
from tfbn.layers import inspection
from tfbn.training.objectives import Objective

SATURATED_OUTPUT = 4.0  # sigmoid and tanh are flat beyond
SATURATED_SHARE = 0.95  # of the outputs of a saturated channel that are beyond
NEAR_EPSILON = 10  # times epsilon: a variance below that is near it
LONGEST_NAME = 21  # characters of a layer's name, so that the table keeps to 80
WAY_TITLES = {
    "moving": "moving averages, as in use",
    "batch": "statistics of batches of {batch_size}",
    "recalibrated": "recalibrated statistics",
    "single": "statistics of each example alone",
}
LAYER_HEADER = ("layer", "channels", "mean off by", "variance x", "eps", "dead", "sat.", "noise")
LAYER_NOTES = (
    "mean off by: distance of the means in standard deviations, median (largest)",
    "variance x: moving variance over the data's, smallest to largest channel",
    "eps, dead, sat.: channels with a variance near epsilon, dead, saturated",
    "noise: scatter of the means of batches, in standard deviations",
)


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`.

    Attributes:
        layers: a dict for each batch norm layer, in the order of calls: name, channels, momentum, steps
            (None if unknown) and start_left (the share of its initial value that an average still holds,
            None if unknown); lists with a number for each channel, mean_error (distance of the moving mean
            from the population's, in standard deviations of the population) and variance_ratio (moving over
            population, epsilon added to both); near_epsilon, dead and saturated (numbers of channels);
            noise (scatter of the means of batches, in standard deviations of the population).
        ways: for each of "moving", "batch", "recalibrated" and "single" a dict of loss, accuracy (a
            fraction) and flips (the share of predictions that differ from those under moving averages);
            None where there are no labels, or they are not classes.
        findings: sentences: what is wrong and what to do, the worst first.
        about: examples, batch_size and versions.
        codes: the code of each finding, none without a fault: "nan" (weights or the loss are not finite),
            "data" (the data do not look like those of the training), "lag", "drift" (the averages are not
            those of the data), "better", "worse" or "equal" (accuracy after recalibration), "dead",
            "saturated", "epsilon" and "noise".
    """

    layers: list[dict[str, Any]] = field(repr=False)
    ways: dict[str, dict[str, float | None]]
    findings: list[str]
    about: dict[str, Any] = field(repr=False)
    codes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the layers, the scores and the findings as text."""
        return "\n\n".join([_layer_table(self), _way_table(self), "\n".join(self.findings)])

    def plot(self, axes: Any = None) -> Any:
        """Draw moving against population statistics on two matplotlib Axes, and return them."""
        return plots.statistics(self.layers, self.title(), axes)

    def save_figure(self, path: str | os.PathLike) -> None:
        """Write the figure of `plot` to the file `path`."""
        plots.save_statistics(path, self.layers, self.title())

    def title(self) -> str:
        """Return the figure's title."""
        return f"Moving averages against the statistics of {self.about['examples']:,} examples"

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as a dict of lists and numbers."""
        content = {"findings": self.findings, "codes": self.codes, "ways": self.ways, "layers": self.layers}
        return {**self.about, **content}

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return to_json(self.to_dict())


def diagnose(
    model: keras.Model,
    data: Any,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    loss: str | keras.losses.Loss | Callable | None = None,
) -> Diagnosis:
    """Compare the statistics by which batch norm normalises in use with those of the data.

    For each layer: its moving averages against mean and variance of its inputs over all of `data`. For the
    model: loss, accuracy and changed predictions under moving averages, under the statistics of batches, as
    in training, under recalibrated statistics, and under those of each example alone. `model` is unchanged.

    Args:
        model: a built `keras.Model` with tfbn's or Keras' batch norm layers.
        data: ``(inputs, labels)``, or any data that `recalibrate` takes. Labels are integers, one-hot, or
            what `loss` takes; weights of examples are not used. Without labels there are no losses and
            accuracies, and no changed predictions either unless the model gives ``[N, outputs]``.
        batch_size: that of training, where `data` is not in batches already. Default 32, as in Keras.
        steps: the steps that the model was trained for. Default None: by its optimizer or a layer's count.
        loss: a Keras loss or its name. Default None: cross-entropy of logits or probabilities.

    Raises:
        ValueError, TypeError: as in `recalibrate`; also for labels that `loss` does not take.

    >>> from tfbn import BatchNormalization
    >>> x = np.random.default_rng(0).normal(5, 1, [200, 3]).astype("float32")
    >>> model = keras.Sequential([keras.Input([3]), BatchNormalization(name="norm"), keras.layers.Dense(2)])
    >>> diagnosis = diagnose(model, x)
    >>> print(diagnosis.findings[0].split(". ")[0])
    norm: the moving mean is up to 5.1 standard deviations off, the variance by up to a factor of 1.1
    """
    layers = inspection.find_batchnorms(model)
    if steps is not None:
        steps = integer("steps", steps, at_least=0)
    objective = Objective(loss, ())
    read = batch_reader(model, data, batch_size)
    with restored(model):
        rows = _layer_rows(model, layers, read, steps)
        usual = model.get_weights()
        recalibrate(model, data, batch_size, force=True)
        recalibrated = [variable.numpy() for layer in layers for variable in layer.variables]
        model.set_weights(usual)
        result = scores(model, layers, read, recalibrated, objective)
    found = findings.find(model, rows, result)
    about = {"examples": result.examples, "batch_size": result.largest_batch, "versions": versions()}
    texts, codes = [text for _, text in found], [code for code, _ in found if code]
    return Diagnosis(rows, result.ways, texts, about, codes)


def _layer_rows(model, layers, read, steps):
    """Return a row for each layer that runs."""

    channels: dict[Any, _Channels] = {}

    def call(layer, x, mask):
        y = inspection.normalize_by_averages(layer, x, mask)
        channels.setdefault(layer, _Channels()).add(inspection.batch_moments(layer, x, mask), layer, y)
        return y

    for x, _ in read():
        inspection.run_replaced(model, layers, x, call)
    return [
        observed.row(layer, _steps(model, layer) if steps is None else steps)
        for layer, observed in channels.items()
    ]


class _Channels:
    """The inputs and outputs of a layer's channels over all batches."""

    def __init__(self):
        self.inputs, self.batch_means = Population(), Population()
        self.highest, self.saturated = -np.inf, []

    def add(self, moments, layer, y):
        """Add a call, by the moments of its inputs and its outputs."""
        outputs = tf.cast(y, "float32")
        axes = inspection.reduced_axes(layer, outputs.shape.rank)
        saturated = tf.reduce_mean(tf.cast(tf.abs(outputs) > SATURATED_OUTPUT, "float32"), axes)
        self.inputs.add(moments)
        _, shift, offset, variance = moments
        self.batch_means.add((tf.ones_like(shift), shift, offset, 0 * variance))  # Each batch counts one.
        self.highest = np.maximum(self.highest, tf.reduce_max(outputs, axes).numpy())
        self.saturated.append(saturated.numpy())

    def row(self, layer, steps):
        """Compare the averages of `layer` with its inputs; `Diagnosis` explains the keys."""
        self.inputs.check(layer)
        mean, variance = inspection.averages(layer)
        spread = self.inputs.variance() + layer.epsilon
        activation = inspection.activation_after(layer)
        lags = steps is not None and layer.momentum is not None and not getattr(layer, "debias", False)
        saturated = np.mean(self.saturated, 0) > SATURATED_SHARE
        return {
            "name": layer.name,
            "channels": int(mean.size),
            "momentum": layer.momentum,
            "steps": steps,
            "start_left": float(layer.momentum**steps) if lags else None,
            "mean_error": (np.abs(mean - self.inputs.mean) / np.sqrt(spread)).ravel().tolist(),
            "variance_ratio": ((variance + layer.epsilon) / spread).ravel().tolist(),
            "near_epsilon": int((self.inputs.variance() < NEAR_EPSILON * layer.epsilon).sum()),
            "dead": int((self.highest <= 0).sum()) if activation == "relu" else 0,
            "saturated": int(saturated.sum()) if activation in ("sigmoid", "tanh") else 0,
            "noise": float(np.median(np.sqrt(self.batch_means.variance() / spread))),
        }


def _steps(model, layer):
    if getattr(layer, "debias", False):
        return int(layer.count.numpy().max())
    optimizer = getattr(model, "optimizer", None)
    return int(optimizer.iterations) or None if optimizer is not None else None


def _layer_table(diagnosis):
    rows = [
        (
            row["name"][-LONGEST_NAME:],
            str(row["channels"]),
            f"{np.median(row['mean_error']):.2f} ({max(row['mean_error']):.2f})",
            f"{min(row['variance_ratio']):.2f}-{max(row['variance_ratio']):.2f}",
            *(str(row[key]) for key in ("near_epsilon", "dead", "saturated")),
            f"{row['noise']:.2f}",
        )
        for row in diagnosis.layers
    ]
    return "\n".join([text_table(LAYER_HEADER, rows, numeric=range(1, len(LAYER_HEADER))), *LAYER_NOTES])


def _way_table(diagnosis):
    rows, formats = [], {"accuracy": ".4f", "loss": ".4f", "flips": ".1%"}
    for name, way in diagnosis.ways.items():
        title = WAY_TITLES[name].format(batch_size=diagnosis.about["batch_size"])
        numbers = ("-" if way[key] is None else format(way[key], form) for key, form in formats.items())
        rows.append((title, *numbers))
    return text_table(("normalised by", "accuracy", "loss", "predictions changed"), rows, numeric=(1, 2, 3))
