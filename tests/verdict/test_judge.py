"""Verdicts against sums by hand, and against chance itself."""

import json
import math

import numpy as np
import pytest
from verdict_scores import deciding, side_by_side, sweep

from tfbn.verdict import statistics
from tfbn.verdict.judge import judge

NOISES = {
    "normal": lambda rng, shape: 0.95 + 0.005 * rng.normal(size=shape),
    "heavy tails": lambda rng, shape: 0.95 + 0.005 * rng.standard_t(1.5, size=shape),
    "skewed": lambda rng, shape: 1 - 0.05 * rng.lognormal(0, 1, size=shape),
    "of 500 images": lambda rng, shape: rng.binomial(500, 0.95, size=shape) / 500,
    "one of 16 fails": lambda rng, shape: np.where(
        rng.random(shape) < 1 / 16, 0.1, 0.95 + 0.005 * rng.normal(size=shape)
    ),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seeds", [3, 6, 10])
@pytest.mark.parametrize("kind", ["side by side", "sweep", "three arms"])
def test_judge_calls_chance_a_difference_at_most_one_time_in_twenty(kind, seeds, noise, monkeypatch):
    """The same network has each name. A share of 1 in 20 gives 32 of 400 or fewer with a probability of
    0.996, and 11 of 100; the draws are fixed."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)  # Only the interval uses them; p keeps the bound.
    repetitions, most = (400, 32) if kind == "side by side" and seeds > 3 else (100, 11)
    rng = np.random.default_rng([seeds, *map(ord, noise)])
    called = 0
    for _ in range(repetitions):
        # Only what decides, to be quick.
        if kind == "sweep":
            scores = NOISES[noise](rng, [2, 3, seeds])
            records, _, *rest = sweep(batchnorm=scores[0], plain=scores[1])
            verdict = judge(records, [], *rest)
        else:
            names = ("batchnorm", "plain", "third")[: 3 if kind == "three arms" else 2]
            _, *rest = side_by_side(**{name: NOISES[noise](rng, seeds) for name in names})
            verdict = judge([], *rest)
        called += any(deciding(verdict, other)[1].outcome != "no evidence" for other in verdict.differences)
    assert called <= (0 if seeds == 3 else most)


@pytest.mark.parametrize("kind", [side_by_side, sweep])
@pytest.mark.parametrize("sign", [1, -1])
def test_judge_finds_a_difference_of_two_deviations(kind, sign, monkeypatch):
    rng = np.random.default_rng(0)
    shape = [10] if kind is side_by_side else [3, 10]
    outcomes = []
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    for _ in range(60):
        plain = 0.9 + 0.01 * rng.normal(size=shape)
        batchnorm = 0.9 + sign * 0.02 + 0.01 * rng.normal(size=shape)
        outcomes.append(deciding(judge(*kind(batchnorm=batchnorm, plain=plain)))[1].outcome)
    assert outcomes.count("better" if sign > 0 else "worse") >= 55
    assert outcomes.count("worse" if sign > 0 else "better") == 0


@pytest.mark.parametrize(("others", "needed"), [(1, 6), (2, 7), (3, 7), (4, 8)])
def test_judge_needs_more_seeds_for_more_series(others, needed):
    names = [f"other{i}" for i in range(others)]
    for seeds in (needed - 1, needed):
        scores = {"first": 0.9 + 0.01 * np.arange(seeds), **{name: np.full(seeds, 0.8) for name in names}}
        verdict = judge(*side_by_side(**scores))
        assert verdict.level == 0.05 / others
        outcomes = {deciding(verdict, name)[1].outcome for name in names}
        assert outcomes == {"better" if seeds == needed else "no evidence"}
        assert (f"which takes {needed} seeds" in verdict.sentence()) == (seeds < needed)
    assert ("needs p <=" in verdict.sentence()) == (others > 1)


def curves_of(**series):
    """Records from a list of curves by seed for each arm; and tests of 0.9, but 0.8 for "plain"."""
    records = [
        {"arm": arm, "seed": seed, "epoch": epoch, "validation_loss": -x, "validation_accuracy": x}
        for arm, curves in series.items()
        for seed, curve in enumerate(curves)
        for epoch, x in enumerate(curve, 1)
    ]
    runs = dict.fromkeys((record["arm"], record["seed"]) for record in records)
    test = [{"arm": a, "seed": s, "loss": 1.0, "accuracy": 0.9 - 0.1 * (a == "plain")} for a, s in runs]
    return records, test, {arm: {"series": arm, "value": None} for arm in series}


def test_judge_of_a_side_by_side_by_hand():
    content = curves_of(
        batchnorm=[[0.5, 0.8, 0.7], [0.6, 0.65, 0.9]], plain=[[0.3, 0.4, 0.57], [0.2, 0.6, 0.5]]
    )
    verdict = judge(*content, [], steps_per_epoch=1718)
    rows = verdict.differences["plain"]
    assert list(rows) == [
        "test accuracy",
        "final validation accuracy",
        "best validation accuracy",
        "epochs to validation accuracy 0.57",
    ]
    means = [(row.first_mean, row.other_mean) for row in rows.values()]
    np.testing.assert_allclose(means, [(0.9, 0.8), (0.8, 0.535), (0.85, 0.585), (1.5, 2.5)])
    assert [row.wins for row in rows.values()] == [2, 2, 2, 2]
    assert "An epoch is 1,718 steps." in verdict.text()


def test_reach_sets_the_level_and_a_note_counts_the_runs_below():
    content = curves_of(batchnorm=[[0.5, 0.8], [0.6, 0.9]], plain=[[0.3, 0.4], [0.2, 0.649]])
    verdict = judge(*content, [], reach=0.62)
    row = verdict.differences["plain"]["epochs to validation accuracy 0.62"]
    assert (row.pairs, row.first_mean, row.other_mean) == (1, 2, 2)
    assert "plain: 1 of 2 runs never reached accuracy 0.62." in verdict.text()
    assert "batchnorm: " not in verdict.text()


def test_lower_losses_are_better():
    records, test, arms, diverged = side_by_side(batchnorm=0.9 + 0.01 * np.arange(6), plain=np.full(6, 0.8))
    records = [{**r, "validation_accuracy": math.nan} for r in records]
    test = [{key: value for key, value in run.items() if key != "accuracy"} for run in test]
    verdict = judge(records, test, arms, diverged)
    quantity, row = deciding(verdict)
    assert (quantity, row.outcome, row.wins, row.probability) == ("test loss", "better", 6, 1)
    assert verdict.sentence().startswith(
        "With batchnorm the test loss is lower than with plain: by 0.125 on"
    )


def test_diverged_and_unfinished_runs_are_in_no_mean():
    records, test, arms = curves_of(
        batchnorm=[[0.9, 0.9], [0.9, 0.9], [0.9, 0.9], [0.9]],
        plain=[[0.8, 0.8], [0.1], [0.1, 0.2], [0.8, 0.8]],
    )
    diverged = [{"arm": "plain", "seed": 1, "epoch": 1}, {"arm": "plain", "seed": 2, "epoch": 2}]
    test = [run for run in test if (run["arm"], run["seed"]) not in [("batchnorm", 3), ("plain", 1)]]
    verdict = judge(records, test, arms, diverged)
    for quantity, row in verdict.differences["plain"].items():
        assert row.pairs == 1, quantity
    assert verdict.differences["plain"]["best validation accuracy"].probability == 1
    assert list(verdict.differences["plain"])[-1] == "epochs to validation accuracy 0.8"
    assert verdict.runs == {"batchnorm": {"runs": 4, "diverged": 0}, "plain": {"runs": 4, "diverged": 2}}
    assert verdict.sentence().endswith("plain: 2 of 4 runs diverged.")


def test_judge_of_a_sweep_by_hand():
    nan = math.nan
    # [values, seeds]; the diverged runs are nan.
    batchnorm = [[0.90, 0.92], [0.94, 0.90], [0.50, 0.60]]
    plain = [[0.80, 0.80], [nan, 0.91], [0.55, 0.55]]
    records, test, arms, _ = sweep(batchnorm=batchnorm, plain=plain)
    diverged = [{"arm": "plain 1", "seed": 0, "epoch": 1}]
    test = [{**run, "accuracy": run["accuracy"] / 2} for run in test if not math.isnan(run["accuracy"])]
    verdict = judge(records, test, arms, diverged, reach=0.5)
    rows = verdict.differences["plain"]
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
    # Ahead: batchnorm at the first value, plain at the second (seed 1 only), none at the third.
    assert "Both finished at 3 of 3 values" in verdict.text()
    assert "batchnorm is ahead at 1 of them, plain at 1." in verdict.text()
    assert "plain: 1 of 6 runs diverged." in verdict.sentence()


def test_judge_of_a_sweep_of_losses_by_hand():
    """One run has no losses, but is not among those that diverged."""
    records, test, arms, diverged = sweep(batchnorm=[[0.9], [0.7], [0.6]], plain=[[0.5], [0.8], [0.4]])
    for run in [*records, *test]:
        loss = run.pop("validation_accuracy" if "epoch" in run else "accuracy")
        run["validation_loss" if "epoch" in run else "loss"] = loss if run["arm"] != "plain 2" else None
    verdict = judge(records, test, arms, diverged)
    assert {
        name: (row.first_mean, row.other_mean) for name, row in verdict.differences["plain"].items()
    } == {
        "mean validation loss over the sweep": pytest.approx((0.8, 0.65)),
        "mean test loss over the sweep": pytest.approx((0.8, 0.65)),
        "validation loss at the best value": (0.6, 0.5),
        "test loss at that value": (0.6, 0.5),
    }
    assert "Both finished at 2 of 3 values" in verdict.text()
    assert "batchnorm is ahead at 1 of them, plain at 1." in verdict.text()
    records[1]["validation_loss"] = 0.85
    verdict = judge(records, test, arms, diverged)
    assert "Both finished at 2 of 3 values" in verdict.text()
    assert "batchnorm is ahead at 0 of them, plain at 2." in verdict.text()


def test_best_value_is_chosen_by_validation_and_reported_on_test():
    records, test, arms, _ = sweep(batchnorm=[[0.9], [0.8]], plain=[[0.7], [0.75]])
    shown = {"batchnorm 0": 0.1, "batchnorm 1": 0.9, "plain 0": 0.9, "plain 1": 0.2}
    test = [{**run, "accuracy": shown[run["arm"]]} for run in test]
    verdict = judge(records, test, arms, [])
    row = verdict.differences["plain"]["test accuracy at that value"]
    assert (row.first_mean, row.other_mean) == (0.1, 0.2)
    assert "Both finished at 2 of 2 values" in verdict.text()
    assert "batchnorm is ahead at 2 of them, plain at 0." in verdict.text()


def test_to_dict_is_strict_json_and_only_what_decides_has_an_outcome():
    records, test, arms, _ = side_by_side(
        first=[0.9, math.nan, 0.8], other=[0.7, 0.6, 0.5], third=[math.nan]
    )
    verdict = judge(records, test, arms, [{"arm": "third", "seed": 0, "epoch": 1}])
    content = verdict.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert [comparison["other"] for comparison in content["comparisons"]] == ["other", "third"]
    one, none = content["comparisons"]
    assert one["decides"] == "test accuracy"
    assert one["outcome"] == "no evidence"
    assert one["quantities"]["test accuracy"]["pairs"] == 2
    assert "outcome" not in one["quantities"]["final validation accuracy"]
    assert none["quantities"]["test accuracy"]["mean"] is None
    assert content["runs"]["third"] == {"runs": 1, "diverged": 1}


def test_judge_rejects_incomplete_arms_and_a_level_that_is_not_a_number():
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
