"""The findings of `diagnose`: codes, and sentences that say what is wrong, why, and what to do."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfbn.diagnosis.scores import Scores

MEAN_ERROR_LIMIT = 0.25  # standard deviations
VARIANCE_FACTOR_LIMIT = 1.5  # either way
OTHER_SCALE_FACTOR = 25.0  # of the first layer's variance, either way: five times the standard deviation
OTHER_MEAN_DISTANCE = 10.0  # of the first layer's mean, in standard deviations
START_LEFT_LIMIT = 0.01  # the share of its initial value that an average may still hold
NOISE_LIMIT = 0.5  # standard deviations
ACCURACY_LIMIT = 0.01  # a difference below that is none
CHANNEL_FAULTS = {
    "dead": "are never positive ahead of a ReLU: dead. Lower the learning rate, or look at gamma and beta.",
    "saturated": "are beyond ±4 almost always: saturated. Look at gamma and beta.",
    "near_epsilon": "have a variance near epsilon, which then sets their scale. Remove constant inputs, or "
    "lower epsilon.",
}
Finding = tuple[str, str]  # code and sentence


def find(model: keras.Model, rows: list[dict[str, Any]], scores: Scores) -> list[Finding]:
    """Return what is wrong, the worst first, by the `layers` of a `Diagnosis` and its scores.

    Without a fault the one finding has the code "".
    """
    ways = scores.ways
    unlike = list(_other_data(rows, scores))
    change = _change_of_accuracy(ways)
    advise = not unlike and change != "worse"
    pairs = [pair for row in rows for pair in _layer_findings(row, advise)]
    faults = [finding for _, finding in sorted(pairs, key=lambda pair: -pair[0])]
    findings = [*_not_finite(model, scores), *unlike]
    if change in ("better", "worse"):
        findings += [(change, _accuracies(ways, change, bool(unlike))), *faults]
    elif faults and change == "equal":
        findings += [*faults, (change, _accuracies(ways, change, bool(unlike)))]
    else:
        findings += faults
    return findings or [("", "No fault found: the moving averages are those of the data.")]


def _not_finite(model: keras.Model, scores: Scores) -> Iterator[Finding]:
    names = [weight.path for weight in model.weights if not np.isfinite(weight.numpy()).all()]
    losses = [way["loss"] for way in scores.ways.values() if way["loss"] is not None]
    if names:
        yield "nan", f"Weights are NaN or infinite: {', '.join(names)}. Take an earlier checkpoint."
    elif not scores.finite:
        yield "nan", "Outputs are NaN or infinite. Look at the layers behind the last batch norm layer."
    elif not np.isfinite(losses).all():
        yield (
            "nan",
            "The loss is NaN or infinite. Look for such values in the labels, or take another loss.",
        )


def _other_data(rows: list[dict[str, Any]], scores: Scores) -> Iterator[Finding]:
    """Yield why the data do not look like those of the training."""
    if scores.ways["moving"]["accuracy"] is not None and len(scores.classes) == 1:
        yield (
            "data",
            f"All labels are class {min(scores.classes)}. The statistics of one class are not those of the "
            "training data: give data of all classes, mixed.",
        )
    first = rows[0]
    lags, distance = _lags(first), float(np.median(first["mean_error"]))
    ratio = np.median(first["variance_ratio"])  # With epsilon in both, the truth is no nearer to 1.
    # Averages that lag are too small by their start's share, however wide the data are.
    explained = 1 - first["start_left"] if lags else 1.0
    if ratio < explained / OTHER_SCALE_FACTOR or (ratio > OTHER_SCALE_FACTOR and not lags):
        wide = f"{ratio**0.5:.3g} times as wide" if ratio > 1 else f"{ratio**-0.5:.3g} times as narrow"
        difference = f"inputs at least {wide} as these"
    elif distance > OTHER_MEAN_DISTANCE and not lags:
        difference = f"inputs with a mean {distance:.1f} standard deviations away"
    else:
        return
    yield (
        "data",
        f"{first['name']}, the first layer, has averages of {difference}. Feed data on the scale of the "
        "training; or the averages are not from training at all.",
    )


def _change_of_accuracy(ways: dict) -> str | None:
    """Return the code for accuracy after recalibration against that in use; None without accuracies."""
    moving, recalibrated = (ways[name]["accuracy"] for name in ("moving", "recalibrated"))
    if moving is None:
        return None
    change = recalibrated - moving
    return "equal" if abs(change) <= ACCURACY_LIMIT else "better" if change > 0 else "worse"


def _accuracies(ways: dict, change: str, unlike: bool) -> str:
    moving, batch, recalibrated = (ways[name]["accuracy"] for name in ("moving", "batch", "recalibrated"))
    accuracies = f"Accuracy is {moving:.4f} in use and {recalibrated:.4f} with recalibrated statistics"
    if change == "worse":
        return (
            f"{accuracies}: recalibrating on these data would do harm. They are not like those of the "
            "training, or the network fits them less than it seems."
        )
    if change == "equal":
        return f"{accuracies}: it makes little difference on these data."
    if unlike:
        return f"{accuracies}: that makes up for other data, and holds for these alone."
    return f"{accuracies} ({batch:.4f} with those of batches): the moving averages are to blame."


def _layer_findings(row: dict[str, Any], advise: bool) -> Iterator[tuple[float, Finding]]:
    """Yield pairs of severity and finding; `advise` is whether to recalibrate can be the advice."""
    mean_error, factor, name = max(row["mean_error"]), _factor(row), row["name"]
    if mean_error > MEAN_ERROR_LIMIT or factor > VARIANCE_FACTOR_LIMIT:
        prevention = ", or train with a lower momentum, or tfbn's debias=True" if _lags(row) else ""
        advice = f" Recalibrate{prevention}." if advise else ""
        sentence = (
            f"{name}: the moving mean is up to {mean_error:.1f} standard deviations off, the variance "
            f"by up to a factor of {factor:.1f}. {_reason(row)}{advice}"
        )
        yield max(mean_error, factor), ("lag" if _lags(row) else "drift", sentence)
    else:  # The layer's outputs are by statistics that are right.
        for key, fault in CHANNEL_FAULTS.items():
            if row[key]:
                sentence = f"{name}: {row[key]} of {row['channels']} channels {fault}"
                yield 0, (key.removeprefix("near_"), sentence)
    if row["noise"] > NOISE_LIMIT:
        scatter = f"the means of batches scatter by {row['noise']:.1f} standard deviations"
        yield 0, ("noise", f"{name}: {scatter}. Train with larger or better mixed batches.")


def _factor(row: dict[str, Any]) -> float:
    """Return by which factor a layer's variances are off at most, either way."""
    return max(max(ratio, 1 / ratio) if ratio > 0 else np.inf for ratio in row["variance_ratio"])


def _reason(row: dict[str, Any]) -> str:
    momentum = row["momentum"]
    if _lags(row):
        return (
            f"The averages lag: after {row['steps']:,} steps at a momentum of {momentum:g} they "
            f"still hold {row['start_left']:.0%} of their start."
        )
    if row["start_left"] is not None or momentum is None or row["steps"] is not None:
        return "These are not the data, or not the weights, that the averages were taken with."
    if not 0 < momentum < 1:
        return "The averages do not follow the data."
    return (
        f"At a momentum of {momentum:g} an average forgets its start in some "
        f"{np.log(START_LEFT_LIMIT) / np.log(momentum):.0f} steps: after fewer it lags."
    )


def _lags(row: dict[str, Any]) -> bool:
    return row["start_left"] is not None and row["start_left"] > START_LEFT_LIMIT
