"""The findings of `diagnose` in sentences: what is wrong, why, and what to do."""

from typing import Any

import numpy as np

MEAN_ERROR_LIMIT = 0.25  # standard deviations
VARIANCE_FACTOR_LIMIT = 1.5  # either way
START_LEFT_LIMIT = 0.01  # the share of its initial value that an average may still hold
NOISE_LIMIT = 0.5  # standard deviations
ACCURACY_LOSS_LIMIT = 0.01
CHANNEL_FAULTS = {
    "dead": "are never positive ahead of a ReLU: dead. Lower the learning rate, or look at gamma and beta.",
    "saturated": "are beyond ±4 almost always: saturated. Look at gamma and beta.",
    "near_epsilon": "have a variance near epsilon, which then sets their scale. Remove constant inputs, or "
    "lower epsilon.",
}


def describe(rows: list[dict[str, Any]], ways: dict[str, dict[str, float | None]]) -> list[str]:
    """Return what is wrong, the worst first, by the `layers` and `ways` of a `Diagnosis`."""
    pairs = [pair for row in rows for pair in _layer_findings(row)]
    findings = [sentence for _, sentence in sorted(pairs, key=lambda pair: -pair[0])]
    moving, batch, recalibrated = (ways[name]["accuracy"] for name in ("moving", "batch", "recalibrated"))
    if moving is not None and recalibrated is not None and recalibrated - moving > ACCURACY_LOSS_LIMIT:
        findings.insert(
            0,
            f"Accuracy is {moving:.4f} in use and {recalibrated:.4f} with recalibrated statistics "
            f"({batch:.4f} with those of batches): the moving averages are to blame.",
        )
    elif moving is not None and findings:
        findings.append(
            f"Accuracy is {moving:.4f} in use and {recalibrated:.4f} with recalibrated statistics: it "
            "makes little difference on these data."
        )
    return findings or ["No fault found: the moving averages are those of the data."]


def _layer_findings(row):
    """Yield pairs of severity and sentence."""
    mean_error = max(row["mean_error"])
    factor = max(max(ratio, 1 / ratio) if ratio > 0 else np.inf for ratio in row["variance_ratio"])
    if mean_error > MEAN_ERROR_LIMIT or factor > VARIANCE_FACTOR_LIMIT:
        yield (
            max(mean_error, factor),
            f"{row['name']}: the moving mean is up to {mean_error:.1f} standard deviations off, the "
            f"variance by up to a factor of {factor:.1f}. {_reason(row)} Recalibrate{_prevention(row)}",
        )
    else:  # The layer's outputs are by statistics that are right.
        for key, fault in CHANNEL_FAULTS.items():
            if row[key]:
                yield 0, f"{row['name']}: {row[key]} of {row['channels']} channels {fault}"
    if row["noise"] > NOISE_LIMIT:
        yield (
            0,
            f"{row['name']}: the means of batches scatter by {row['noise']:.1f} standard deviations. "
            "Train with larger or better mixed batches.",
        )


def _reason(row):
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


def _prevention(row):
    return ", or train with a lower momentum, or tfbn's debias=True." if _lags(row) else "."


def _lags(row):
    return row["start_left"] is not None and row["start_left"] > START_LEFT_LIMIT
