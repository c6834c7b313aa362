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


def drift(run):
    """How far the inputs of each unit are from where they end, on average over the training.

    ::

        drift = mean(abs(percentile[t] - percentile[T])) / (p85[T] - p15[T])

    where the mean goes over the 15th, 50th and 85th percentile and over the times t after which training
    went on: from the first epoch's end, since before training the averages of a batch norm hold nothing,
    to the last but one; T is the end. It has no unit: 1 says that the percentiles were as far from their
    end as 15th and 85th percentile then lie apart.

    Args:
        run: list of dicts with "epoch", in order, and "percentiles", [units, 3]. None and NaN count as
            missing.

    Returns:
        Array [units]. NaN for a unit of fewer than two times, without width, or without an end.

    >>> at = [[[5, 5, 5]], [[-3, -2, -1]], [[-1, 0, 1]]]  # a unit that goes up by two
    >>> drift([{"epoch": epoch, "percentiles": percentiles} for epoch, percentiles in enumerate(at)])
    array([1.])
    """
    times = np.array([item["percentiles"] for item in run if item["epoch"]], dtype=float)
    if not len(times):
        return np.full(len(run[0]["percentiles"]), np.nan)
    end = times[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        away, width = _mean(np.abs(times[:-1] - end).mean(-1)), end[:, 2] - end[:, 0]
        return np.where(width > 0, away / width, np.nan)


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
