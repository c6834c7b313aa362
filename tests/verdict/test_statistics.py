"""The paired difference against every flip of signs, loops by hand and scipy."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from verdict_scores import by_seed

from tfbn.verdict import statistics
from tfbn.verdict.statistics import compare_pairs


@pytest.mark.parametrize("pairs", range(1, 13))
def test_p_equals_every_flip_by_loop_and_scipy(pairs):
    rng = np.random.default_rng(pairs)
    first, other = rng.normal(0.4, 1, pairs), rng.normal(0, 1, pairs)
    p = compare_pairs(by_seed(first), by_seed(other)).p
    if pairs < 9:
        flips = [
            abs(sum(s * d for s, d in zip(signs, first - other, strict=True)))
            for signs in itertools.product([1, -1], repeat=pairs)
        ]
        assert p == sum(flip >= abs(sum(first - other)) - 1e-9 for flip in flips) / 2**pairs
    if pairs > 1:
        test = scipy.stats.permutation_test(
            (first - other,), np.mean, permutation_type="samples", n_resamples=2**pairs
        )
        assert p == pytest.approx(test.pvalue)


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_p_of_accuracies_equals_p_of_whole_numbers(kind):
    """Of accuracies many sums are equal but for rounding, and must count as equal."""
    rng = np.random.default_rng(0)
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    for _ in range(100):
        first, other = rng.integers(9690, 9720, [2, 8])
        sums = abs(flips @ (first - other))
        difference = compare_pairs(*(by_seed((right / 10_000).astype(kind)) for right in (first, other)))
        assert difference.p == np.mean(sums >= abs((first - other).sum()))
        assert (difference.wins, difference.ties) == ((first > other).sum(), (first == other).sum())


def test_p_of_many_pairs_is_near_exact_reproducible_and_above_zero():
    rng = np.random.default_rng(0)
    first, other = by_seed(rng.normal(0.5, 1, 16)), by_seed(rng.normal(0, 1, 16))
    gaps = np.array([first[seed] - other[seed] for seed in range(16)])
    sums = np.abs(np.array(list(itertools.product([1, -1], repeat=16))) @ gaps)
    exact = np.mean(sums >= sums[0] - 1e-9)
    difference = compare_pairs(first, other)
    assert abs(difference.p - exact) < 4 * math.sqrt(exact / 10_000)
    assert compare_pairs(first, other) == difference
    assert compare_pairs(dict(reversed(first.items())), dict(reversed(other.items()))) == difference, (
        "whatever the order of the seeds"
    )
    assert compare_pairs(by_seed(range(1, 41)), by_seed([0] * 40)).p == 1 / 10_000


@pytest.mark.parametrize("pairs", [3, 6, 10])
def test_interval_is_near_resampling_by_loop(pairs):
    rng = np.random.default_rng(pairs)
    gaps = rng.normal(1, 1, pairs)
    difference = compare_pairs(by_seed(gaps), by_seed(np.zeros(pairs)))
    means = [gaps[rng.integers(0, pairs, pairs)].mean() for _ in range(20_000)]
    assert difference.interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.05)
    assert difference.mean == pytest.approx(gaps.mean())


@pytest.mark.parametrize("higher", [True, False])
def test_probability_equals_a_double_loop_and_scipy(higher):
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 5, 7) / 8, rng.integers(0, 5, 5) / 8
    expected = np.mean([0.5 * (a == b) + ((a > b) if higher else (a < b)) for a in first for b in other])
    difference = compare_pairs(by_seed(first), by_seed(other), higher)
    assert difference.probability == pytest.approx(expected)
    u = scipy.stats.mannwhitneyu(first, other).statistic / 35
    assert difference.probability == pytest.approx(u if higher else 1 - u)
    assert compare_pairs({0: 0.9}, {1: 0.8}).probability == 1, "over all runs, not the pairs"


def test_difference_ignores_missing_results_and_counts_wins_by_direction():
    first = {0: 0.9, 1: 0.8, 2: 0.4, 3: None, 4: math.nan, 5: 0.3, 6: 0.2}
    other = {2: 0.3, 1: 0.8, 0: 1.0, 3: 0.1, 4: 0.1, 5: math.inf, 7: 0.2}
    difference = compare_pairs(first, other)
    assert (difference.pairs, difference.wins, difference.losses, difference.ties) == (3, 1, 1, 1)
    assert (difference.first_mean, difference.other_mean) == (pytest.approx(0.7), pytest.approx(0.7))
    assert (difference.mean, difference.p) == (pytest.approx(0, abs=1e-12), 1)
    assert difference.interval == pytest.approx((-0.1, 0.1))
    lower = compare_pairs(first, other, higher_is_better=False)
    assert (lower.mean, lower.wins, lower.losses) == (difference.mean, 1, 1)


def test_difference_of_few_or_equal_results_is_defined():
    one = compare_pairs({3: 0.9}, {3: 0.8, 4: 0.7})
    assert (one.pairs, one.interval, one.p, one.outcome) == (1, None, 1, "no evidence")
    none = compare_pairs({}, {3: 0.8})
    assert (none.pairs, none.mean, none.interval, none.p, none.probability) == (0, None, None, None, None)
    steady = compare_pairs(by_seed([0.9] * 6), by_seed([0.8] * 6))
    assert steady.interval == (pytest.approx(0.1), pytest.approx(0.1))
    assert (steady.p, steady.outcome) == (2 / 64, "better")
    assert compare_pairs(by_seed([0.9] * 6), by_seed([0.8] * 6), higher_is_better=False).outcome == "worse"
    same = compare_pairs(by_seed([0.9] * 6), by_seed([0.9] * 6))
    assert (same.interval, same.p, same.ties, same.probability) == ((0, 0), 1, 6, 0.5)
    rounding = compare_pairs(by_seed([0.1 + 0.2] * 6), by_seed([0.3] * 6))
    assert (rounding.ties, rounding.mean, rounding.outcome) == (6, 0, "no evidence")


def test_outcome_needs_interval_and_p(monkeypatch):
    mixed = compare_pairs(by_seed([0.5, 0.5, 0.5, 0.5, 0.5, -0.2]), by_seed([0.0] * 6))
    assert mixed.interval[0] > 0
    assert mixed.p > 0.05
    assert mixed.outcome == "no evidence"
    # The other way round occurred in none of 30,000 draws.
    monkeypatch.setattr(statistics, "_bootstrap_interval", lambda difference: (-0.1, 1.0))
    wide = compare_pairs(by_seed([0.5] * 6), by_seed([0.0] * 6))
    assert wide.p < 0.05
    assert wide.outcome == "no evidence"


def test_interval_of_three_seeds_alone_errs_one_time_in_four():
    rng = np.random.default_rng(0)
    differences = [compare_pairs(by_seed(rng.normal(size=3)), by_seed([0, 0, 0])) for _ in range(400)]
    alone = np.mean([not d.interval[0] <= 0 <= d.interval[1] for d in differences])
    assert 0.2 < alone < 0.3
    assert {d.outcome for d in differences} == {"no evidence"}


def test_compare_pairs_rejects_results_without_seeds():
    with pytest.raises(TypeError, match="`other` must be a dict"):
        compare_pairs({}, [0.9])
