"""What networks are compared by: for each quantity the results of two series, by seed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

import numpy as np

from tfbn.foundation.arguments import is_finite_number
from tfbn.verdict.statistics import finite_results, resolved_difference

Results = dict[int, Any]  # by seed
Curves = dict[int, dict[int, Any]]  # by seed and epoch
Sweep = dict[Any, Results]  # by value and seed
EPOCHS_QUANTITY = "epochs to"  # begins the name of a quantity that counts epochs


@dataclass(frozen=True)
class Scores:
    """The results of the runs that did not diverge, by arm."""

    metric: str  # "accuracy" or "loss"
    curves: dict[str, Curves]  # on the validation split, of the runs that reached the last epoch
    tests: dict[str, Results]  # on the test split


def collect_scores(
    records: list[dict], test: list[dict], arms: Iterable[str], diverged: set[tuple[str, int]]
) -> Scores:
    """Collect results from the arguments of `judge`. Without any accuracy the metric is the loss."""
    accuracies = [row.get(key) for row in (*records, *test) for key in ("accuracy", "validation_accuracy")]
    metric = "accuracy" if any(map(is_finite_number, accuracies)) else "loss"
    last = max((record["epoch"] for record in records), default=0)
    finished = {(record["arm"], record["seed"]) for record in records if record["epoch"] == last} - diverged
    scores = Scores(metric, {arm: {} for arm in arms}, {arm: {} for arm in arms})
    for record in records:
        if (record["arm"], record["seed"]) in finished:
            curve = scores.curves[record["arm"]].setdefault(record["seed"], {})
            curve[record["epoch"]] = record.get(f"validation_{metric}")
    for run in test:
        if (run["arm"], run["seed"]) not in diverged:
            scores.tests[run["arm"]][run["seed"]] = run.get(metric)
    return scores


def final_values(curves: Curves) -> Results:
    """Return the value of each seed's last epoch."""
    return {seed: curve[max(curve)] for seed, curve in curves.items()}


def best_values(curves: Curves, higher_is_better: bool = True) -> Results:
    """Return the value of each seed's best epoch; values that are None or not finite are ignored."""
    best = max if higher_is_better else min
    finite = {seed: finite_results(curve) for seed, curve in curves.items()}
    return {seed: best(curve.values()) for seed, curve in finite.items() if curve}


def epochs_to_reach(curves: Curves, threshold: float, higher_is_better: bool = True) -> Results:
    """Return each seed's first epoch at `threshold` or better, for the seeds that have one."""
    sign = 1 if higher_is_better else -1
    reached = {
        seed: [epoch for epoch, value in finite_results(curve).items() if sign * (value - threshold) >= 0]
        for seed, curve in curves.items()
    }
    return {seed: min(epochs) for seed, epochs in reached.items() if epochs}


def compare_arms(
    scores: Scores, series: dict[str, dict], reach: float | None
) -> tuple[dict[str, list], list[str]]:
    """Return the quantities of two series of one arm each, and notes; the first quantity decides."""
    metric, higher = scores.metric, scores.metric == "accuracy"
    arms = [arm for by_value in series.values() for arm in by_value.values()]
    curves = [scores.curves[arm] for arm in arms]
    best = [best_values(runs, higher) for runs in curves]
    quantities = {
        f"test {metric}": [scores.tests[arm] for arm in arms],
        f"final validation {metric}": [final_values(runs) for runs in curves],
        f"best validation {metric}": best,
    }
    notes = []
    if values := [value for runs in best for value in runs.values()]:
        level = _level_that_all_reach(values, higher) if reach is None else float(reach)
        reached = [epochs_to_reach(runs, level, higher) for runs in curves]
        quantities[f"{EPOCHS_QUANTITY} validation {metric} {level:g}"] = reached
        for name, runs, epochs in zip(series, curves, reached, strict=True):
            if missing := len(runs) - len(epochs):
                notes.append(f"{name}: {missing} of {len(runs)} runs never reached {metric} {level:g}.")
    return quantities, notes


def _level_that_all_reach(values: list[float], higher_is_better: bool) -> float:
    """Return the worst of `values`: an accuracy rounded down to two decimals, a loss up to two digits."""
    if higher_is_better:
        return float(Decimal(str(min(values))).quantize(Decimal("0.01"), ROUND_FLOOR))
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(str(max(values))))


def compare_sweeps(scores: Scores, series: dict[str, dict]) -> tuple[dict[str, list], list[str]]:
    """Return the quantities of two series over their values, and notes; the first quantity decides."""
    metric, higher = scores.metric, scores.metric == "accuracy"
    best = max if higher else min
    finals, tests = [], []
    for arms in map(dict.items, series.values()):
        finals.append({value: finite_results(final_values(scores.curves[arm])) for value, arm in arms})
        tests.append({value: finite_results(scores.tests[arm]) for value, arm in arms})
    gains = _gains_by_value(finals, higher)
    first, other = series
    note = (
        f"Both finished at {len(gains)} of {len(finals[0])} values: in final validation {metric} {first} "
        f"is ahead at {sum(gain > 0 for gain in gains)} of them, {other} at "
        f"{sum(gain < 0 for gain in gains)}. Being ahead at a single value proves nothing."
    )
    best_tests = [_at_best_value(*runs, best) for runs in zip(finals, tests, strict=True)]
    return {
        f"mean validation {metric} over the sweep": _means_over_shared_values(finals),
        f"mean test {metric} over the sweep": _means_over_shared_values(tests),
        f"validation {metric} at the best value": [_at_best_value(runs, runs, best) for runs in finals],
        f"test {metric} at that value": best_tests,
    }, [note]


def _means_over_shared_values(sweeps: list[Sweep]) -> list[Results]:
    """Return for each seed the two means over the values at which both series finished."""
    first, other = sweeps
    shared: dict[int, list] = {}
    for value in first:
        for seed in first[value].keys() & other.get(value, {}).keys():
            shared.setdefault(seed, []).append(value)
    return [
        {seed: float(np.mean([runs[value][seed] for value in values])) for seed, values in shared.items()}
        for runs in sweeps
    ]


def _at_best_value(chosen_by: Sweep, shown: Sweep, best: Callable) -> Results:
    """Return for each seed the result in `shown` at the value that is best in `chosen_by`."""
    results = {}
    for seed in set().union(*chosen_by.values()):
        of_seed = {value: runs[seed] for value, runs in chosen_by.items() if seed in runs}
        results[seed] = shown[best(of_seed, key=of_seed.__getitem__)].get(seed)
    return results


def _gains_by_value(sweeps: list[Sweep], higher_is_better: bool) -> list[float]:
    """Return how much better the first series is at each value at which a seed finished with both."""
    first, other = sweeps
    gains = []
    for value in first:
        if seeds := first[value].keys() & other.get(value, {}).keys():
            means = [np.mean([runs[value][seed] for seed in seeds]) for runs in sweeps]
            gain, _ = resolved_difference(*means)
            gains.append(float(gain if higher_is_better else -gain))
    return gains
