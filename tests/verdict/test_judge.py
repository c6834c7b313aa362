"""What is called a difference: against every flip of signs, loops by hand, and chance itself."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats

from tfbn.verdict import judge as verdict
from tfbn.verdict import statistics
from tfbn.verdict.judge import judge
from tfbn.verdict.statistics import paired

NOISES = {
    "normal": lambda rng, shape: 0.95 + 0.005 * rng.normal(size=shape),
    "heavy tails": lambda rng, shape: 0.95 + 0.005 * rng.standard_t(1.5, size=shape),
    "skewed": lambda rng, shape: 1 - 0.05 * rng.lognormal(0, 1, size=shape),
    "of 500 images": lambda rng, shape: rng.binomial(500, 0.95, size=shape) / 500,
    "one of 16 fails": lambda rng, shape: np.where(
        rng.random(shape) < 1 / 16, 0.1, 0.95 + 0.005 * rng.normal(size=shape)
    ),
}


def by_seed(values):
    return dict(enumerate(map(float, values)))


def side_by_side(**scores):
    """Records of one epoch and tests that agree with them, for `judge`: an arm for each array of scores."""
    runs = [(arm, seed, x) for arm, xs in scores.items() for seed, x in enumerate(xs)]
    records = [
        {"arm": arm, "seed": seed, "epoch": 1, "validation_loss": 1 - x, "validation_accuracy": x}
        for arm, seed, x in runs
    ]
    test = [{"arm": arm, "seed": seed, "loss": 1 - x, "accuracy": x} for arm, seed, x in runs]
    return records, test, {arm: {"series": arm, "value": None} for arm in scores}, []


def sweep(**scores):
    """As `side_by_side`, for arrays [values, seeds]: series of an arm for each value."""
    flat = {f"{name} {i}": row for name, rows in scores.items() for i, row in enumerate(rows)}
    records, test, _, _ = side_by_side(**flat)
    arms = {arm: {"series": arm.split()[0], "value": 10.0 ** -int(arm.split()[1])} for arm in flat}
    return records, test, arms, []


def headline(found, other="plain"):
    return next(iter(found.differences[other].items()))


# Chance


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seeds", [3, 6, 10])
@pytest.mark.parametrize("kind", ["side by side", "sweep", "three arms"])
def test_chance_is_called_at_most_one_time_in_twenty(kind, seeds, noise, monkeypatch):
    """The same network under each name. Called 1 time in 20, it is called 32 times of 400 or fewer with a
    probability of 0.996, and 11 times of 100; the draws are fixed."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)  # Of the interval, which is not what keeps the bound.
    repetitions, most = (400, 32) if kind == "side by side" and seeds > 3 else (100, 11)
    rng = np.random.default_rng([seeds, *map(ord, noise)])
    called = 0
    for _ in range(repetitions):
        # Without what only describes, to be quick.
        if kind == "sweep":
            scores = NOISES[noise](rng, [2, 3, seeds])
            records, _, *rest = sweep(batchnorm=scores[0], plain=scores[1])
            found = judge(records, [], *rest)
        else:
            names = ("batchnorm", "plain", "third")[: 3 if kind == "three arms" else 2]
            _, *rest = side_by_side(**{name: NOISES[noise](rng, seeds) for name in names})
            found = judge([], *rest)
        called += any(headline(found, other)[1].outcome != "no evidence" for other in found.differences)
    assert called <= (0 if seeds == 3 else most)


@pytest.mark.parametrize("kind", [side_by_side, sweep])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_of_two_deviations_is_called(kind, sign, monkeypatch):
    rng = np.random.default_rng(0)
    shape = [10] if kind is side_by_side else [3, 10]
    outcomes = []
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    for _ in range(60):
        plain = 0.9 + 0.01 * rng.normal(size=shape)
        batchnorm = 0.9 + sign * 0.02 + 0.01 * rng.normal(size=shape)
        outcomes.append(headline(judge(*kind(batchnorm=batchnorm, plain=plain)))[1].outcome)
    assert outcomes.count("better" if sign > 0 else "worse") >= 55
    assert outcomes.count("worse" if sign > 0 else "better") == 0


def test_an_interval_of_three_seeds_alone_would_err_one_time_in_four():
    rng = np.random.default_rng(0)
    found = [paired(by_seed(rng.normal(size=3)), by_seed([0, 0, 0])) for _ in range(400)]
    alone = np.mean([not d.interval[0] <= 0 <= d.interval[1] for d in found])
    assert 0.2 < alone < 0.3
    assert {d.outcome for d in found} == {"no evidence"}


@pytest.mark.parametrize(("others", "needed"), [(1, 6), (2, 7), (3, 7), (4, 8)])
def test_how_many_seeds_it_takes(others, needed):
    names = [f"other{i}" for i in range(others)]
    for seeds in (needed - 1, needed):
        scores = {"first": 0.9 + 0.01 * np.arange(seeds), **{name: np.full(seeds, 0.8) for name in names}}
        found = judge(*side_by_side(**scores))
        assert found.level == 0.05 / others
        outcomes = {headline(found, name)[1].outcome for name in names}
        assert outcomes == {"better" if seeds == needed else "no evidence"}
        assert (f"it takes {needed} seeds" in found.sentence()) == (seeds < needed)
    assert ("held to p <=" in found.sentence()) == (others > 1)


# One difference


@pytest.mark.parametrize("pairs", range(1, 13))
def test_p_against_every_flip_and_scipy(pairs):
    rng = np.random.default_rng(pairs)
    first, other = rng.normal(0.4, 1, pairs), rng.normal(0, 1, pairs)
    p = paired(by_seed(first), by_seed(other)).p
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
def test_p_of_accuracies_against_whole_numbers(kind):
    """Of accuracies many sums are equal but for rounding, and must count as equal."""
    rng = np.random.default_rng(0)
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    for _ in range(100):
        first, other = rng.integers(9690, 9720, [2, 8])
        sums = abs(flips @ (first - other))
        found = paired(*(by_seed((right / 10_000).astype(kind)) for right in (first, other)))
        assert found.p == np.mean(sums >= abs((first - other).sum()))
        assert (found.wins, found.ties) == ((first > other).sum(), (first == other).sum())


def test_p_of_many_pairs_is_random_but_fixed_and_never_zero():
    rng = np.random.default_rng(0)
    first, other = by_seed(rng.normal(0.5, 1, 16)), by_seed(rng.normal(0, 1, 16))
    difference = np.array([first[seed] - other[seed] for seed in range(16)])
    sums = np.abs(np.array(list(itertools.product([1, -1], repeat=16))) @ difference)
    exact = np.mean(sums >= sums[0] - 1e-9)
    found = paired(first, other)
    assert abs(found.p - exact) < 4 * math.sqrt(exact / 10_000)
    assert paired(first, other) == found
    assert paired(dict(reversed(first.items())), dict(reversed(other.items()))) == found, (
        "whatever the order of the seeds"
    )
    assert paired(by_seed(range(1, 41)), by_seed([0] * 40)).p == 1 / 10_000


@pytest.mark.parametrize("pairs", [3, 6, 10])
def test_interval_against_resampling_by_hand(pairs):
    rng = np.random.default_rng(pairs)
    difference = rng.normal(1, 1, pairs)
    found = paired(by_seed(difference), by_seed(np.zeros(pairs)))
    means = [difference[rng.integers(0, pairs, pairs)].mean() for _ in range(20_000)]
    assert found.interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.05)
    assert found.mean == pytest.approx(difference.mean())


@pytest.mark.parametrize("higher", [True, False])
def test_probability_against_a_double_loop_and_scipy(higher):
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 5, 7) / 8, rng.integers(0, 5, 5) / 8
    expected = np.mean([0.5 * (a == b) + ((a > b) if higher else (a < b)) for a in first for b in other])
    found = paired(by_seed(first), by_seed(other), higher)
    assert found.probability == pytest.approx(expected)
    u = scipy.stats.mannwhitneyu(first, other).statistic / 35
    assert found.probability == pytest.approx(u if higher else 1 - u)
    assert paired({0: 0.9}, {1: 0.8}).probability == 1, "over all runs, not the pairs"


def test_one_difference_by_hand():
    first = {0: 0.9, 1: 0.8, 2: 0.4, 3: None, 4: math.nan, 5: 0.3, 6: 0.2}
    other = {2: 0.3, 1: 0.8, 0: 1.0, 3: 0.1, 4: 0.1, 5: math.inf, 7: 0.2}
    found = paired(first, other)
    assert (found.pairs, found.wins, found.losses, found.ties) == (3, 1, 1, 1)
    assert (found.first_mean, found.other_mean) == (pytest.approx(0.7), pytest.approx(0.7))
    assert (found.mean, found.p) == (pytest.approx(0, abs=1e-12), 1)
    assert found.interval == pytest.approx((-0.1, 0.1))
    lower = paired(first, other, higher_is_better=False)
    assert (lower.mean, lower.wins, lower.losses) == (found.mean, 1, 1)


def test_few_and_equal():
    one = paired({3: 0.9}, {3: 0.8, 4: 0.7})
    assert (one.pairs, one.interval, one.p, one.outcome) == (1, None, 1, "no evidence")
    none = paired({}, {3: 0.8})
    assert (none.pairs, none.mean, none.interval, none.p, none.probability) == (0, None, None, None, None)
    steady = paired(by_seed([0.9] * 6), by_seed([0.8] * 6))
    assert steady.interval == (pytest.approx(0.1), pytest.approx(0.1))
    assert (steady.p, steady.outcome) == (2 / 64, "better")
    assert paired(by_seed([0.9] * 6), by_seed([0.8] * 6), higher_is_better=False).outcome == "worse"
    same = paired(by_seed([0.9] * 6), by_seed([0.9] * 6))
    assert (same.interval, same.p, same.ties, same.probability) == ((0, 0), 1, 6, 0.5)
    rounding = paired(by_seed([0.1 + 0.2] * 6), by_seed([0.3] * 6))
    assert (rounding.ties, rounding.mean, rounding.outcome) == (6, 0, "no evidence")


def test_interval_and_p_must_agree(monkeypatch):
    mixed = paired(by_seed([0.5, 0.5, 0.5, 0.5, 0.5, -0.2]), by_seed([0.0] * 6))
    assert mixed.interval[0] > 0
    assert mixed.p > 0.05
    assert mixed.outcome == "no evidence"
    # In 30,000 draws none had it the other way round.
    monkeypatch.setattr(statistics, "_interval", lambda difference: (-0.1, 1.0))
    wide = paired(by_seed([0.5] * 6), by_seed([0.0] * 6))
    assert wide.p < 0.05
    assert wide.outcome == "no evidence"


# Quantities


CURVES = {0: {1: 0.5, 2: 0.9, 3: 0.8}, 1: {1: 0.6, 2: math.nan, 3: 0.7}, 2: {3: None, 2: 0.4, 1: 0.45}}


def test_quantities_by_hand():
    assert verdict.final(CURVES) == {0: 0.8, 1: 0.7, 2: None}
    assert verdict.best(CURVES) == {0: 0.9, 1: 0.7, 2: 0.45}
    assert verdict.best(CURVES, higher_is_better=False) == {0: 0.5, 1: 0.6, 2: 0.4}
    assert verdict.best({0: {1: None}}) == {}
    assert verdict.epochs_to_reach(CURVES, 0.7) == {0: 2, 1: 3}
    assert verdict.epochs_to_reach(CURVES, 0.45, higher_is_better=False) == {2: 1}


def curves_of(**series):
    """Records from a list of curves, one a seed, for each arm; and tests of 0.9, less 0.1 for "plain"."""
    records = [
        {"arm": arm, "seed": seed, "epoch": epoch, "validation_loss": -x, "validation_accuracy": x}
        for arm, curves in series.items()
        for seed, curve in enumerate(curves)
        for epoch, x in enumerate(curve, 1)
    ]
    ran = dict.fromkeys((record["arm"], record["seed"]) for record in records)
    test = [{"arm": a, "seed": s, "loss": 1.0, "accuracy": 0.9 - 0.1 * (a == "plain")} for a, s in ran]
    return records, test, {arm: {"series": arm, "value": None} for arm in series}


def test_a_side_by_side_by_hand():
    content = curves_of(
        batchnorm=[[0.5, 0.8, 0.7], [0.6, 0.65, 0.9]], plain=[[0.3, 0.4, 0.57], [0.2, 0.6, 0.5]]
    )
    found = judge(*content, [], steps_per_epoch=1718)
    rows = found.differences["plain"]
    assert list(rows) == [
        "test accuracy",
        "final validation accuracy",
        "best validation accuracy",
        "epochs to validation accuracy 0.57",
    ]
    means = [(row.first_mean, row.other_mean) for row in rows.values()]
    np.testing.assert_allclose(means, [(0.9, 0.8), (0.8, 0.535), (0.85, 0.585), (1.5, 2.5)])
    assert [row.wins for row in rows.values()] == [2, 2, 2, 2]
    assert "An epoch is 1,718 steps." in found.text()


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
def test_the_level_that_all_reach(metric, worst, level):
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


def test_a_level_of_ones_own():
    content = curves_of(batchnorm=[[0.5, 0.8], [0.6, 0.9]], plain=[[0.3, 0.4], [0.2, 0.649]])
    found = judge(*content, [], reach=0.62)
    row = found.differences["plain"]["epochs to validation accuracy 0.62"]
    assert (row.pairs, row.first_mean, row.other_mean) == (1, 2, 2)
    assert "plain: 1 of 2 runs never reached accuracy 0.62." in found.text()
    assert "batchnorm: " not in found.text()


def test_losses_are_better_lower():
    records, test, arms, diverged = side_by_side(batchnorm=0.9 + 0.01 * np.arange(6), plain=np.full(6, 0.8))
    records = [{**r, "validation_accuracy": math.nan} for r in records]
    test = [{key: value for key, value in run.items() if key != "accuracy"} for run in test]
    found = judge(records, test, arms, diverged)
    quantity, row = headline(found)
    assert (quantity, row.outcome, row.wins, row.probability) == ("test loss", "better", 6, 1)
    assert found.sentence().startswith("With batchnorm the test loss is lower than with plain: by 0.125 on")


def test_diverged_and_unfinished_runs_are_in_no_mean():
    records, test, arms = curves_of(
        batchnorm=[[0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.9]],
        plain=[[0.8, 0.8], [0.1], [0.1, 0.2], [0.8, 0.8]],
    )
    diverged = [{"arm": "plain", "seed": 1, "epoch": 1}, {"arm": "plain", "seed": 2, "epoch": 2}]
    test = [run for run in test if (run["arm"], run["seed"]) not in [("batchnorm", 3), ("plain", 1)]]
    found = judge(records, test, arms, diverged)
    for quantity, row in found.differences["plain"].items():
        assert row.pairs == 1, quantity
    assert found.differences["plain"]["best validation accuracy"].probability == 1
    assert list(found.differences["plain"])[-1] == "epochs to validation accuracy 0.8"
    assert found.runs == {"batchnorm": {"runs": 4, "diverged": 0}, "plain": {"runs": 4, "diverged": 2}}
    assert found.sentence().endswith("plain: 2 of 4 runs diverged.")


def test_a_sweep_by_hand():
    nan = math.nan
    # [values, seeds]; the diverged runs are nan.
    batchnorm = [[0.90, 0.92], [0.94, 0.90], [0.50, 0.60]]
    plain = [[0.80, 0.80], [nan, 0.91], [0.55, 0.55]]
    records, test, arms, _ = sweep(batchnorm=batchnorm, plain=plain)
    gone = [{"arm": "plain 1", "seed": 0, "epoch": 1}]
    test = [{**run, "accuracy": run["accuracy"] / 2} for run in test if not math.isnan(run["accuracy"])]
    found = judge(records, test, arms, gone, reach=0.5)
    rows = found.differences["plain"]
    assert {name: (row.first_mean, row.other_mean) for name, row in rows.items()} == {
        "mean validation accuracy over the sweep": pytest.approx(
            (np.mean([0.70, 2.42 / 3]), np.mean([1.35 / 2, 2.26 / 3]))
        ),
        "mean test accuracy over the sweep": pytest.approx(
            (np.mean([0.70, 2.42 / 3]) / 2, np.mean([1.35 / 2, 2.26 / 3]) / 2)
        ),
        "validation accuracy at the best value": pytest.approx((0.93, 0.855)),
        "test accuracy at that value": pytest.approx((0.465, 0.4275)),
    }
    # At the first value batchnorm, at the second, of seed 1 alone, plain; at the third 1.10 to 1.10.
    assert "Both finished at 3 of 3 values" in found.text()
    assert "batchnorm is ahead at 1 of them, plain at 1." in found.text()
    assert "plain: 1 of 6 runs diverged." in found.sentence()


def test_a_sweep_of_losses_by_hand():
    """With a run that came to nothing, yet is not among those that diverged."""
    records, test, arms, diverged = sweep(batchnorm=[[0.9], [0.7], [0.6]], plain=[[0.5], [0.8], [0.4]])
    for run in [*records, *test]:
        loss = run.pop("validation_accuracy" if "epoch" in run else "accuracy")
        run["validation_loss" if "epoch" in run else "loss"] = loss if run["arm"] != "plain 2" else None
    found = judge(records, test, arms, diverged)
    assert {name: (row.first_mean, row.other_mean) for name, row in found.differences["plain"].items()} == {
        "mean validation loss over the sweep": pytest.approx((0.8, 0.65)),
        "mean test loss over the sweep": pytest.approx((0.8, 0.65)),
        "validation loss at the best value": (0.6, 0.5),
        "test loss at that value": (0.6, 0.5),
    }
    assert "Both finished at 2 of 3 values" in found.text()
    assert "batchnorm is ahead at 1 of them, plain at 1." in found.text()
    records[1]["validation_loss"] = 0.85
    found = judge(records, test, arms, diverged)
    assert "Both finished at 2 of 3 values" in found.text()
    assert "batchnorm is ahead at 0 of them, plain at 2." in found.text()


def test_the_best_value_is_chosen_by_validation_and_shown_by_test():
    records, test, arms, _ = sweep(batchnorm=[[0.9], [0.8]], plain=[[0.7], [0.75]])
    shown = {"batchnorm 0": 0.1, "batchnorm 1": 0.9, "plain 0": 0.9, "plain 1": 0.2}
    test = [{**run, "accuracy": shown[run["arm"]]} for run in test]
    found = judge(records, test, arms, [])
    row = found.differences["plain"]["test accuracy at that value"]
    assert (row.first_mean, row.other_mean) == (0.1, 0.2)
    assert "Both finished at 2 of 2 values" in found.text()
    assert "batchnorm is ahead at 2 of them, plain at 0." in found.text()


# Words


SITUATIONS = {
    "better": (
        {"batchnorm": [0.97, 0.96, 0.98, 0.97, 0.96, 0.98], "plain": [0.95] * 6},
        "With batchnorm the test accuracy is higher than with plain: by 0.0200 on average (95 % interval "
        "0.0133 to 0.0267), better with 6 of 6 seeds.",
    ),
    "worse": (
        {"batchnorm": [0.95] * 6, "plain": [0.97, 0.96, 0.98, 0.97, 0.96, 0.98]},
        "With batchnorm the test accuracy is lower than with plain: by 0.0200 on average (95 % interval "
        "0.0133 to 0.0267), worse with 6 of 6 seeds.",
    ),
    "none": (
        {"batchnorm": [0.97, 0.96, 0.98, 0.97, 0.96, 0.98], "plain": [0.97] * 6},
        "No evidence of a difference in test accuracy: batchnorm minus plain is +0.0000 on average (95 % "
        "interval -0.0067 to +0.0067), better with 2 of 6 seeds, equal with 2.",
    ),
    "the interval alone": (
        {"batchnorm": [0.5, 0.5, 0.5, 0.5, 0.5, -0.2], "plain": [0.0] * 6},
        "No evidence of a difference in test accuracy: batchnorm minus plain is +0.3833 on average (95 % "
        "interval +0.1500 to +0.5000), better with 5 of 6 seeds. By chance alone one as large comes 1 time "
        "in 16.",
    ),
    "three agree": (
        {"batchnorm": [0.9, 0.8, 0.94], "plain": [0.8, 0.75, 0.9]},
        "In test accuracy batchnorm is better than plain with all 3 seeds, by 0.0633 on average (95 % "
        "interval 0.0400 to 0.1000), which by chance alone happens 1 time in 4: no evidence of a "
        "difference yet; it takes 6 seeds.",
    ),
    "two agree": (
        {"batchnorm": [0.7, 0.6], "plain": [0.8, 0.65]},
        "In test accuracy batchnorm is worse than plain with both seeds, by 0.0750 on average (95 % "
        "interval 0.0500 to 0.1000), which by chance alone happens 1 time in 2: no evidence of a "
        "difference yet; it takes 6 seeds.",
    ),
    "three disagree": (
        {"batchnorm": [0.9, 0.8, 0.9], "plain": [0.8, 0.9, 0.85]},
        "No evidence of a difference in test accuracy: batchnorm minus plain is +0.0167 on average (95 % "
        "interval -0.1000 to +0.1000), better with 2 of 3 seeds. Fewer than 6 seeds cannot give any "
        "evidence.",
    ),
    "one": (
        {"batchnorm": [0.9], "plain": [0.8]},
        "One seed says nothing of chance: batchnorm minus plain is +0.1000 in test accuracy. Run 6 "
        "seeds or more to tell it from chance.",
    ),
    "no pair": (
        {"batchnorm": [math.nan, 0.9], "plain": [0.8]},
        "No seed finished with both batchnorm and plain: nothing to compare.",
    ),
    "alone": ({"batchnorm": [0.9, 0.8]}, "There is batchnorm alone: nothing to compare."),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_sentences(situation):
    scores, expected = SITUATIONS[situation]
    found = judge(*side_by_side(**scores))
    assert found.sentence() == expected
    assert found.text().startswith(expected)
    if len(scores) > 1:
        assert "seeds better" in found.text()
        (comparison,) = found.to_dict()["comparisons"]
        assert comparison["sentence"] == expected


def test_what_float32_hardly_resolves_is_no_evidence():
    found = judge(*side_by_side(batchnorm=[0.5 + 1e-7] * 6, plain=[0.5] * 6))
    assert headline(found)[1].wins == 6
    assert found.sentence().startswith("No evidence")


def test_table_by_hand():
    found = judge(*side_by_side(batchnorm=[0.97, 0.96, 0.98, 0.97, 0.96, 0.98], plain=[0.95] * 6))
    _, table, legend = found.text().split("\n\n")
    _, rule, first, *_, epochs = (line.split("  ") for line in table.splitlines())
    cells = [cell.strip() for cell in first if cell.strip()]
    assert cells == [
        "test accuracy",
        "0.9700",
        "0.9500",
        "+0.0200",
        "+0.0133 to +0.0267",
        "0.0312",
        "1.00",
        "6 of 6",
    ]
    assert epochs[0] == "epochs to validation accuracy 0.95"
    assert len(rule[0]) == max(map(len, table.splitlines()))
    assert "Only a table's first row decides" in legend
    assert found.text().isascii()
    assert "-0.0000" not in judge(*side_by_side(batchnorm=[0.9, 0.8], plain=[0.9, 0.80001])).text()


def test_to_dict_is_plain_and_whole():
    records, test, arms, _ = side_by_side(
        first=[0.9, math.nan, 0.8], other=[0.7, 0.6, 0.5], third=[math.nan]
    )
    found = judge(records, test, arms, [{"arm": "third", "seed": 0, "epoch": 1}])
    content = found.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert [comparison["other"] for comparison in content["comparisons"]] == ["other", "third"]
    one, none = content["comparisons"]
    assert one["decides"] == "test accuracy"
    assert one["outcome"] == "no evidence"
    assert one["quantities"]["test accuracy"]["pairs"] == 2
    assert "outcome" not in one["quantities"]["final validation accuracy"]
    assert none["quantities"]["test accuracy"]["mean"] is None
    assert content["runs"]["third"] == {"runs": 1, "diverged": 1}


# What is refused


def test_refuses():
    records, test, arms, _ = side_by_side(batchnorm=[0.9], plain=[0.8])
    with pytest.raises(ValueError, match=r"`arms` must name every arm.*\['plain'\]"):
        judge(records, test, {"batchnorm": arms["batchnorm"]}, [])
    with pytest.raises(ValueError, match="`arms` must name every arm"):
        judge([], [], {}, [])
    with pytest.raises(ValueError, match="one arm for each series and value"):
        judge(records, test, {arm: {"series": "both", "value": None} for arm in arms}, [])
    for reach in (math.nan, "0.9"):
        with pytest.raises(ValueError, match="`reach` must be a number"):
            judge(records, test, arms, [], reach=reach)
    with pytest.raises(TypeError, match="`other` must be a dict"):
        paired({}, [0.9])
