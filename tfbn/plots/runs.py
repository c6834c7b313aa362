"""Records and observations, run by run. A run is an arm with a seed. Draws nothing."""

import math
from collections.abc import Iterable, Sequence

import numpy as np


def by_seed(items: Iterable[dict], arm: str, key: str = "epoch") -> dict[int, list[dict]]:
    """Return the records or observations of `arm` that have `key`, by seed and in order of epochs.

    >>> by_seed([{"arm": "a", "seed": 0, "epoch": 2}, {"arm": "a", "seed": 0, "epoch": 1}], "a")
    {0: [{'arm': 'a', 'seed': 0, 'epoch': 1}, {'arm': 'a', 'seed': 0, 'epoch': 2}]}
    """
    runs: dict[int, list[dict]] = {}
    for item in sorted(items, key=lambda item: (item["seed"], item["epoch"])):
        if item["arm"] == arm and item.get(key) is not None:
            runs.setdefault(item["seed"], []).append(item)
    return runs


def first_seeds(observations: list[dict], arms: dict[str, dict], key: str) -> dict[str, tuple]:
    """Return the lowest seed of each observed arm, and its observations that have `key`.

    Raises:
        ValueError: no arm was observed.
    """
    runs = {arm: by_seed(observations, arm, key) for arm in arms}
    if not any(runs.values()):
        raise ValueError(
            f"`observations` must hold {key!r} of at least one arm of `arms`. Received: arms={list(arms)}, "
            f"{len(observations)} observations. Draw another figure, or observe {key!r}."
        )
    return {arm: next(iter(seeds.items())) for arm, seeds in runs.items() if seeds}


def is_diverged(records: Iterable[dict]) -> bool:
    """Return whether a run reached a loss that is not a finite number.

    >>> is_diverged([{"train_loss": 0.5}]), is_diverged([{"train_loss": 0.5}, {"train_loss": None}])
    (False, True)
    """
    losses = [r[key] for r in records for key in ("train_loss", "validation_loss") if key in r]
    # None is how JSON holds NaN.
    return not all(loss is not None and math.isfinite(loss) for loss in losses)


def drift(run: list[dict]) -> np.ndarray:
    """Return how far the inputs of each unit are from where they end, on average over the training.

    ::

        drift = mean(abs(percentile[t] - percentile[T])) / (p85[T] - p15[T])

    The mean is over the 15th, 50th and 85th percentile and over the times t after which training went
    on. They begin at the end of the first epoch, since before training the averages of a batch norm are
    empty. T is the end. The drift has no unit: 1 says that the percentiles were as far from their end as
    the 15th and 85th percentile then lie apart. A unit of fewer than two times, without width, or without
    an end has NaN.

    The observations of the `run` are in order and have "percentiles", [units, 3]; None and NaN count as
    missing.

    >>> at = [[[5, 5, 5]], [[-3, -2, -1]], [[-1, 0, 1]]]  # a unit that goes up by two
    >>> drift([{"epoch": epoch, "percentiles": percentiles} for epoch, percentiles in enumerate(at)])
    array([1.])
    """
    times = np.array([item["percentiles"] for item in run if item["epoch"]], dtype=float)
    if not len(times):
        return np.full(len(run[0]["percentiles"]), np.nan)
    end = times[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        distances = np.abs(times[:-1] - end).mean(-1)
        finite = np.isfinite(distances)
        mean = np.where(finite, distances, 0).sum(0) / finite.sum(0)
        width = end[:, 2] - end[:, 0]
        return np.where(width > 0, mean / width, np.nan)


def median_unit(drifts: Sequence[float] | np.ndarray) -> int:
    """Return the unit whose drift is the median, of an even number of units the lower middle one.

    >>> median_unit([0.3, float("nan"), 0.1, 0.2])
    3
    """
    order = np.argsort(drifts)  # NaN comes last.
    return int(order[max(np.isfinite(drifts).sum() - 1, 0) // 2])
