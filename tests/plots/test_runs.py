"""Runs in order, and drifts by hand."""

import numpy as np
import pytest

from tfbn import plots
from tfbn.plots.runs import by_seed, median_unit

NAN = float("nan")


def run_of(percentiles, first=1):
    return [{"epoch": epoch, "percentiles": units} for epoch, units in enumerate(percentiles, first)]


def test_drift_by_hand():
    # Unit 0 ends 3 wide; it is away by 0, 0, 2, then by 1, 1, 0. Unit 1 stays. Unit 2 has no width at the
    # end, and of unit 3 the end is not known.
    percentiles = [
        [[0, 1, 1], [-1, 0, 1], [5, 5, 6], [-1, 0, 1]],
        [[1, 2, 3], [-1, 0, 1], [6, 6, 7], [-1, 0, 1]],
        [[0, 1, 3], [-1, 0, 1], [7, 7, 7], [NAN, NAN, NAN]],
    ]
    expected = [np.mean([2 / 3, 2 / 3]) / 3, 0, NAN, NAN]
    np.testing.assert_allclose(plots.drift(run_of(percentiles)), expected)
    np.testing.assert_allclose(plots.drift(run_of(percentiles[:1])), [NAN] * 4)
    np.testing.assert_allclose(plots.drift(run_of(percentiles[:1], first=0)), [NAN] * 4)


def test_drift_ignores_missing_epochs_and_those_before_training():
    percentiles = [[[-9.0, 0.0, 9.0]], [[-1.0, 2.0, 1.0]], [[None] * 3], [[0.0, 3.0, 2.0]]]
    np.testing.assert_allclose(plots.drift(run_of(percentiles, first=0)), [1 / 2])


def test_drift_has_no_unit():
    percentiles = np.sort(np.random.default_rng(0).normal(size=[5, 4, 3]))
    np.testing.assert_allclose(
        plots.drift(run_of(1000 * percentiles + 7)), plots.drift(run_of(percentiles))
    )


@pytest.mark.parametrize(
    ("drifts", "unit"),
    [([3, 1, 2], 2), ([3, 1, 2, 4], 2), ([NAN, 5, NAN, 4, 6], 1), ([NAN, NAN], 0), ([0.5], 0)],
)
def test_median_unit_is_the_lower_middle_one(drifts, unit):
    assert median_unit(np.array(drifts, dtype=float)) == unit


def test_by_seed_sorts_epochs_and_ignores_items_without_the_key():
    items = [{"arm": "a", "seed": 1, "epoch": 1, "x": 0}, {"arm": "b", "seed": 0, "epoch": 1, "x": 1}]
    items += [{"arm": "a", "seed": 1, "epoch": 0, "x": 2}, {"arm": "a", "seed": 0, "epoch": 0, "x": None}]
    assert {seed: [item["x"] for item in run] for seed, run in by_seed(items, "a", "x").items()} == {
        1: [2, 0]
    }
