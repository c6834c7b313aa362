"""Records and observations, run by run. A run is an arm with a seed. Draws nothing."""

from __future__ import annotations

import math

import numpy as np


def by_seed(items, arm, key="epoch"):
    """The records or observations of `arm` that hold `key`: a dict of seed to them, by epoch.

    >>> by_seed([{"arm": "a", "seed": 0, "epoch": 2}, {"arm": "a", "seed": 0, "epoch": 1}], "a")
    {0: [{'arm': 'a', 'seed': 0, 'epoch': 1}, {'arm': 'a', 'seed': 0, 'epoch': 2}]}
    """
    found = {}
    for item in sorted(items, key=lambda item: (item["seed"], item["epoch"])):
        if item["arm"] == arm and item.get(key) is not None:
            found.setdefault(item["seed"], []).append(item)
    return found


def first_seeds(observations, arms, key):
    """For each of `arms` that was observed: its lowest seed, and the observations of it that hold `key`."""
    runs = {arm: by_seed(observations, arm, key) for arm in arms}
    if not any(runs.values()):
        raise ValueError(
            f"`observations` must hold {key!r} of at least one arm of `arms`. Received: arms={list(arms)}, "
            f"{len(observations)} observations. Draw another figure, or observe {key!r}."
        )
    return {arm: next(iter(seeds.items())) for arm, seeds in runs.items() if seeds}


def is_diverged(records):
    """Whether a run came to a loss that is no number.

    >>> is_diverged([{"train_loss": 0.5}]), is_diverged([{"train_loss": 0.5}, {"train_loss": None}])
    (False, True)
    """
    losses = [r[key] for r in records for key in ("train_loss", "validation_loss") if key in r]
    # None is how JSON holds NaN.
    return not all(loss is not None and math.isfinite(loss) for loss in losses)


def drift(percentiles):
    """How far the inputs of each unit wander in training, in widths of their distribution.

    ::

        drift = mean(abs(median[t + 1] - median[t])) / mean(p85[t] - p15[t])

    where the means go over the times t. It has no unit: 1 says that from one time to the next the median
    moves by as much as lies between 15th and 85th percentile.

    Args:
        percentiles: [times, units, 3], 15th, 50th and 85th percentile of the inputs of each unit. None and
            NaN count as missing.

    Returns:
        Array [units]. NaN for a unit of a single time or without width.

    >>> drift([[[-1, 0, 1]], [[0, 1, 2]], [[-1, 0, 1]]])  # a unit that goes up by one and back
    array([0.5])
    """
    low, median, high = np.moveaxis(np.array(percentiles, dtype=float), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        moves, width = _mean(np.abs(np.diff(median, axis=0))), _mean(high - low)
        return np.where(width > 0, moves / width, np.nan)


def median_unit(drifts):
    """The unit whose drift is the median, of an even number of units the lower of the two in the middle.

    >>> median_unit([0.3, float("nan"), 0.1, 0.2])
    3
    """
    order = np.argsort(drifts)  # NaN comes last.
    return int(order[max(np.isfinite(drifts).sum() - 1, 0) // 2])


def _mean(values):
    """Mean over the first axis of what is finite."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(0) / known.sum(0)
