"""The paired difference of two networks, and how often chance alone gives one as large.

Chance is that of the seeds: initial weights and the order of the batches, not the choice of the data.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.stats

from tfbn.foundation.arguments import is_finite_number

SIGNIFICANCE_LEVEL = 0.05  # how often chance alone may be called a difference
MOST_PAIRS_FOR_EXACT_TEST = 12  # up to here every flip of signs is tried
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """The difference of two networks over shared seeds. None is what too few runs leave undefined."""

    pairs: int  # the number of seeds that both networks have
    first_mean: float | None  # over the pairs, as all but `probability`
    other_mean: float | None
    mean: float | None  # first_mean - other_mean
    interval: tuple[float, float] | None  # the bootstrap 95 % interval of `mean`
    p: float | None  # how often flipped signs alone give a mean as far from 0
    wins: int  # pairs in which first is better
    losses: int
    ties: int
    probability: float | None  # that a run of first is better than a run of other, whatever their seeds
    outcome: str  # "better", "worse" or "no evidence", of first against other

    def to_dict(self) -> dict[str, Any]:
        """Return all but the outcome, as JSON holds it."""
        content = asdict(self) | {"interval": self.interval and list(self.interval)}
        del content["outcome"]
        return content


def compare_pairs(
    first: dict[int, Any],
    other: dict[int, Any],
    higher_is_better: bool = True,
    level: float = SIGNIFICANCE_LEVEL,
) -> Difference:
    """Compare two networks by the runs that share a seed.

    ::

        difference = first[seed] - other[seed], for each seed that both have
        interval = the 2.5 % and 97.5 % quantiles of mean(difference), resampled with replacement
        p = share of the 2**pairs flips of signs with abs(mean(flip * difference)) >= abs(mean(difference))
        probability = mean over every run of first with every run of other of (better) + (equal) / 2

    The outcome is a difference only if the interval excludes zero and ``p <= level``. The interval alone
    is too narrow for few seeds: with three seeds of pure chance it excludes zero one time in four.

    The sign-flip test is exact wherever the networks' names could be swapped in any seed without effect.
    It then errs at most 1 time in 20. It needs 6 seeds: where all agree, p is 2 / 2**6 = 0.031, with 5
    seeds 2 / 2**5 = 0.063. Above 12 pairs 10,000 random flips stand for all. The observed one is among
    them, which keeps the bound. The random numbers are fixed: the same runs give the same numbers.

    Args:
        first, other: results by seed. Those that are None or not finite are ignored. Two results nearer
            than float32 resolves are equal.
        higher_is_better: Default True, as for an accuracy.
        level: the largest p of a difference. Default 0.05, 1 time in 20.

    Raises:
        TypeError: `first` or `other` is not a dict.

    >>> difference = compare_pairs({0: 0.97, 1: 0.96, 2: 0.98}, {0: 0.95, 1: 0.95, 2: 0.95})
    >>> difference.wins, difference.p, difference.outcome
    (3, 0.25, 'no evidence')

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 (interval) and
    15 (flips); R. Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice,
    2021, section 4 (probability of improvement).
    """
    for name, runs in (("first", first), ("other", other)):
        if not isinstance(runs, dict):
            raise TypeError(f"`{name}` must be a dict of seed to result. Received: {name}={runs!r}.")
    first, other = finite_results(first), finite_results(other)
    seeds = sorted(first.keys() & other.keys())
    probability = _probability_of_improvement(first, other, higher_is_better)
    if not seeds:
        return Difference(0, None, None, None, None, None, 0, 0, 0, probability, "no evidence")
    of_first, of_other = (np.array([runs[seed] for seed in seeds]) for runs in (first, other))
    difference, resolution = resolved_difference(of_first, of_other)
    gain = difference if higher_is_better else -difference
    interval = _bootstrap_interval(difference) if len(seeds) > 1 else None
    p = _sign_flip_p(difference, 2 * resolution)
    outcome = "no evidence"
    if interval and not interval[0] <= 0 <= interval[1] and p <= level:
        outcome = "better" if gain.mean() > 0 else "worse"
    return Difference(
        pairs=len(seeds),
        first_mean=float(of_first.mean()),
        other_mean=float(of_other.mean()),
        mean=float(difference.mean()),
        interval=interval,
        p=p,
        wins=int((gain > 0).sum()),
        losses=int((gain < 0).sum()),
        ties=int((gain == 0).sum()),
        probability=probability,
        outcome=outcome,
    )


def finite_results(results: Mapping[Any, Any]) -> dict[Any, float]:
    """Return the results that are finite numbers, as floats."""
    return {key: float(value) for key, value in results.items() if is_finite_number(value)}


def resolved_difference(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Return ``a - b``, 0 where float32 does not resolve it, and the resolution."""
    resolution = np.finfo("float32").eps * max(np.abs(a).max(), np.abs(b).max())
    difference = a - b
    return np.where(np.abs(difference) <= resolution, 0, difference), resolution


def _bootstrap_interval(difference: np.ndarray) -> tuple[float, float]:
    # BCa, scipy's default, is not defined for equal differences, and narrower still for few.
    low, high = scipy.stats.bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(low), float(high)


def _sign_flip_p(difference: np.ndarray, tolerance: float) -> float:
    # scipy.stats.permutation_test distinguishes means that differ in rounding only, of which accuracies
    # have many, and then gives too small a p.
    if len(difference) <= MOST_PAIRS_FOR_EXACT_TEST:
        signs = 1 - 2 * (np.arange(2 ** len(difference))[:, None] >> np.arange(len(difference)) & 1)
    else:
        signs = np.random.default_rng(0).choice((1, -1), [RESAMPLES, len(difference)])
        signs[0] = 1  # The observed signs.
    means = np.abs(signs @ difference) / len(difference)
    return float(np.mean(means >= means[0] - tolerance))


def _probability_of_improvement(
    first: dict[int, float], other: dict[int, float], higher_is_better: bool
) -> float | None:
    if not first or not other:
        return None
    gain, _ = resolved_difference(np.array(list(first.values()))[:, None], np.array(list(other.values())))
    return float(np.mean((1 + np.sign(gain if higher_is_better else -gain)) / 2))
