"""The quantities of a comparison by hand."""

import math

import pytest
from verdict_scores import side_by_side

from tfbn.verdict import quantities
from tfbn.verdict.judge import judge

CURVES = {0: {1: 0.5, 2: 0.9, 3: 0.8}, 1: {1: 0.6, 2: math.nan, 3: 0.7}, 2: {3: None, 2: 0.4, 1: 0.45}}


def test_final_best_and_first_epoch_by_hand():
    assert quantities.final_values(CURVES) == {0: 0.8, 1: 0.7, 2: None}
    assert quantities.best_values(CURVES) == {0: 0.9, 1: 0.7, 2: 0.45}
    assert quantities.best_values(CURVES, higher_is_better=False) == {0: 0.5, 1: 0.6, 2: 0.4}
    assert quantities.best_values({0: {1: None}}) == {}
    assert quantities.epochs_to_reach(CURVES, 0.7) == {0: 2, 1: 3}
    assert quantities.epochs_to_reach(CURVES, 0.45, higher_is_better=False) == {2: 1}


@pytest.mark.parametrize(
    ("metric", "worst", "level"),
    [
        ("accuracy", 0.57, "0.57"),
        ("accuracy", 0.579, "0.57"),
        ("accuracy", 0.4, "0.4"),
        ("loss", 0.13, "0.13"),
        ("loss", 0.131, "0.14"),
        ("loss", 1234, "1300"),
        ("loss", 0.00123, "0.0013"),
    ],
)
def test_default_level_is_reached_by_all_runs(metric, worst, level):
    records, test, arms, diverged = side_by_side(batchnorm=[0.5, 0.5], plain=[0.5, 0.5])
    for run in [*records, *test]:
        run.pop("validation_accuracy" if "epoch" in run else "accuracy")
    better = worst + 0.2 if metric == "accuracy" else worst / 2
    for record, value in zip(records, [better, better, worst, better], strict=True):
        record[f"validation_{metric}"] = value
    rows = judge(records, test, arms, diverged).differences["plain"]
    assert list(rows)[:3] == [f"test {metric}", f"final validation {metric}", f"best validation {metric}"]
    assert list(rows)[3] == f"epochs to validation {metric} {level}"
    assert rows[list(rows)[3]].pairs == 2, "all reach it"
