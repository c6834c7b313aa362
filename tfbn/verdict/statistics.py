"""What chance makes of its own: the paired difference of two networks, and how sure it is.

Chance is that of the seeds: initial weights and the order of the batches. What other data would say is
another question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats

from tfbn.foundation.arguments import is_finite_number

LEVEL = 0.05  # how often chance alone may be called a difference
EXACT = 12  # pairs up to which every flip of signs is tried
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """What `paired` found. None stands for what too few runs leave undefined.

    Attributes:
        pairs: int, the seeds that both have.
        first_mean, other_mean, mean: floats over the pairs; ``mean = first_mean - other_mean``.
        interval: tuple of two floats, the bootstrap 95 % interval of `mean`; None below two pairs.
        p: float, how often flipped signs alone give a mean as far from 0.
        wins, losses, ties: ints, the pairs in which first is better, worse, or equal.
        probability: float, that a run of first is better than a run of other, whatever their seeds.
        outcome: "better", "worse" or "no evidence", of first against other.
    """

    pairs: int
    first_mean: float | None
    other_mean: float | None
    mean: float | None
    interval: tuple | None
    p: float | None
    wins: int
    losses: int
    ties: int
    probability: float | None
    outcome: str


def paired(first, other, higher_is_better=True, level=LEVEL):
    """Compare two networks by runs that share their seeds.

    ::

        difference = first[seed] - other[seed], for each seed that both have
        interval = the 2.5 % and 97.5 % quantiles of mean(difference), resampled with replacement
        p = share of the 2**pairs flips of signs with abs(mean(flip * difference)) >= abs(mean(difference))
        probability = mean over every run of first with every run of other of (better) + (equal) / 2

    A difference is called only if the interval excludes zero and ``p <= level``. The interval alone is too
    narrow for few seeds: with three seeds of pure chance it excludes zero one time in four. The flips of
    signs are exact wherever the two networks' names could be swapped in any seed and nothing would change,
    and so err at most 1 time in 20. They need 6 seeds to call anything: where all agree, p is 2 / 2**6 =
    0.031, with 5 seeds 2 / 2**5 = 0.063. Above 12 pairs 10,000 random flips, the one found among them,
    stand for all, which keeps the bound. The random numbers are fixed: the same runs, the same figures.

    Args:
        first, other: dicts of seed to result; results that are None or not finite are left out. Two
            results nearer than float32 resolves are equal.
        higher_is_better: bool. Default True, as for an accuracy.
        level: float, the largest p that is called. Default 0.05, 1 time in 20.

    Returns:
        `Difference`.

    Raises:
        TypeError: `first` or `other` is no dict.

    >>> found = paired({0: 0.97, 1: 0.96, 2: 0.98}, {0: 0.95, 1: 0.95, 2: 0.95})
    >>> found.wins, found.p, found.outcome
    (3, 0.25, 'no evidence')

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 (interval) and
    15 (flips); R. Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice,
    2021, section 4 (probability of improvement).
    """
    for name, runs in (("first", first), ("other", other)):
        if not isinstance(runs, dict):
            raise TypeError(f"`{name}` must be a dict of seed to result. Received: {runs!r}.")
    first, other = finite(first), finite(other)
    seeds = sorted(first.keys() & other.keys())
    probability = _probability(first, other, higher_is_better)
    if not seeds:
        return Difference(0, None, None, None, None, None, 0, 0, 0, probability, "no evidence")
    of_first, of_other = (np.array([runs[seed] for seed in seeds]) for runs in (first, other))
    difference, slack = minus(of_first, of_other)
    gain = difference if higher_is_better else -difference
    interval = _interval(difference) if len(seeds) > 1 else None
    p = _sign_flip(difference, 2 * slack)
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


def minus(a, b):
    """The difference, 0 where float32 resolves none; and what it resolves."""
    slack = np.finfo("float32").eps * max(np.abs(a).max(), np.abs(b).max())
    difference = a - b
    return np.where(np.abs(difference) <= slack, 0, difference), slack


def _interval(difference):
    # BCa, scipy's default, is not defined for equal differences, and narrower still for few.
    found = scipy.stats.bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    )
    return tuple(map(float, found.confidence_interval))


def _sign_flip(difference, slack):
    # scipy.stats.permutation_test tells means apart that differ in rounding only, of which accuracies have
    # many, and then gives too small a p.
    if len(difference) <= EXACT:
        signs = 1 - 2 * (np.arange(2 ** len(difference))[:, None] >> np.arange(len(difference)) & 1)
    else:
        signs = np.random.default_rng(0).choice((1, -1), [RESAMPLES, len(difference)])
        signs[0] = 1  # The one found.
    means = np.abs(signs @ difference) / len(difference)
    return float(np.mean(means >= means[0] - slack))


def _probability(first, other, higher):
    if not first or not other:
        return None
    gain, _ = minus(np.array(list(first.values()))[:, None], np.array(list(other.values())))
    return float(np.mean((1 + np.sign(gain if higher else -gain)) / 2))


def finite(runs):
    return {seed: float(value) for seed, value in runs.items() if is_finite_number(value)}
