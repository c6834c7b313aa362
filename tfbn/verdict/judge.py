"""From the records of a comparison to an honest statement, in numbers and in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tfbn.foundation.arguments import is_finite_number
from tfbn.foundation.tables import text_table
from tfbn.verdict.quantities import EPOCHS_QUANTITY, collect_scores, compare_arms, compare_sweeps
from tfbn.verdict.statistics import SIGNIFICANCE_LEVEL, Difference, compare_pairs

COLUMNS = ("difference", "95 % interval", "p", "P(better)", "seeds better")
DASH = "-"


@dataclass(frozen=True)
class Verdict:
    """What the runs of a comparison say of its first series and each other one."""

    first: str  # the series that is compared with each other one
    differences: dict[str, dict[str, Difference]]  # by other series and quantity; the first one decides
    runs: dict[str, dict[str, int]]  # by series: how many "runs", and how many of them "diverged"
    level: float  # the largest p of a difference: 0.05 over the number of other series
    notes: dict[str, list[str]] = field(repr=False)  # by other series: what goes with its table

    def sentence(self) -> str:
        """Return a plain sentence for each other series, then the runs that diverged."""
        return " ".join(self.sentences())

    def sentences(self) -> list[str]:
        """Return `sentence` as a list."""
        sentences = [self._headline(other) for other in self.differences]
        if not sentences:
            sentences.append(f"There is only {self.first}: nothing to compare.")
        if len(sentences) > 1:
            sentences.append(
                f"Each of the {len(sentences)} comparisons needs p <= {self.level:.3g}, so that all "
                "together err at most 1 time in 20."
            )
        for series, count in self.runs.items():
            if count["diverged"]:
                sentences.append(f"{series}: {count['diverged']} of {count['runs']} runs diverged.")
        return sentences

    def text(self) -> str:
        """Return `sentence`, and for each other series a table of all quantities."""
        blocks = [self.sentence()]
        for other, quantities in self.differences.items():
            rows = [_row(quantity, difference) for quantity, difference in quantities.items()]
            table = text_table(("", self.first, other, *COLUMNS), rows, numeric=range(1, 8))
            blocks.append("\n".join([table, *self.notes[other]]))
        if self.differences:
            blocks.append(
                "Only the first row of a table decides, the others describe.\n"
                "p: how often chance alone makes as large a difference.\n"
                f"P(better): P(improvement), how likely a run of {self.first} is better\n"
                "than a run of the other."
            )
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as lists, strings and numbers. Only the quantity that decides has an outcome."""
        comparisons = []
        for other, quantities in self.differences.items():
            decides = next(iter(quantities))
            comparisons.append(
                {
                    "other": other,
                    "decides": decides,
                    "outcome": quantities[decides].outcome,
                    "sentence": self._headline(other),
                    "quantities": {name: difference.to_dict() for name, difference in quantities.items()},
                    "notes": self.notes[other],
                }
            )
        return {"first": self.first, "level": self.level, "runs": self.runs, "comparisons": comparisons}

    def _headline(self, other: str) -> str:
        """Return what the difference in the quantity that decides says."""
        quantity, difference = next(iter(self.differences[other].items()))
        mean, interval, pairs = difference.mean, difference.interval, difference.pairs
        needed = math.ceil(math.log2(2 / self.level))
        if mean is None:
            return f"No seed finished with both {self.first} and {other}: nothing to compare."
        signed = f"{self.first} minus {other} is {_number(quantity, mean, '+')}"
        if interval is None:
            advice = f"Run {needed} seeds or more."
            return f"One seed cannot separate an effect from noise: {signed} in {quantity}. {advice}"
        sign = 1 if mean > 0 else -1  # The words say it.
        ends = _interval(quantity, sorted(sign * end for end in interval))
        size = f"by {_number(quantity, sign * mean)} on average (95 % interval {ends})"
        if difference.outcome != "no evidence":
            direction = "higher" if sign > 0 else "lower"
            agreeing = difference.wins if difference.outcome == "better" else difference.losses
            return (
                f"With {self.first} the {quantity} is {direction} than with {other}: {size}, "
                f"{difference.outcome} with {agreeing} of {pairs} seeds."
            )
        if pairs < needed and pairs in (difference.wins, difference.losses):
            direction = "better" if difference.wins else "worse"
            return (
                f"In {quantity} {self.first} is {direction} than {other} with "
                f"{'both' if pairs == 2 else f'all {pairs}'} seeds, {size}. By chance alone this happens 1 "
                f"time in {2 ** (pairs - 1)}: no evidence of a difference yet, which takes {needed} seeds."
            )
        signed += f" on average (95 % interval {_interval(quantity, interval, '+')})"
        return f"No evidence of a difference in {quantity}: {signed}, {_agreement(difference, needed)}"


def _agreement(difference: Difference, needed: int) -> str:
    """Return the seeds that agree, and why a difference without evidence may look like one."""
    text = f"better with {difference.wins} of {difference.pairs} seeds"
    if difference.ties:
        text += f", equal with {difference.ties}"
    if difference.pairs < needed:
        return f"{text}. Fewer than {needed} seeds cannot give any evidence."
    if difference.interval and difference.p and not difference.interval[0] <= 0 <= difference.interval[1]:
        return f"{text}. Chance alone makes one as large 1 time in {math.floor(1 / difference.p)}."
    return f"{text}."


def _row(quantity: str, difference: Difference) -> tuple[str, ...]:
    single = difference.pairs < 2  # Of one pair p and probability would look certain.
    return (
        quantity,
        _number(quantity, difference.first_mean),
        _number(quantity, difference.other_mean),
        _number(quantity, difference.mean, "+"),
        _interval(quantity, difference.interval, "+"),
        DASH if single else f"{difference.p:.3g}",
        DASH if single else f"{difference.probability:.2f}",
        f"{difference.wins} of {difference.pairs}" if difference.pairs else DASH,
    )


def _number(quantity: str, value: float | None, sign: str = "") -> str:
    if value is None:
        return DASH
    if quantity.startswith(EPOCHS_QUANTITY):
        return f"{round(value, 1) + 0.0:{sign}.1f}"  # + 0.0: no -0.0
    if "accuracy" in quantity:
        return f"{round(value, 4) + 0.0:{sign}.4f}"
    return f"{value + 0.0:{sign}.4g}"  # Losses have any scale.


def _interval(quantity: str, interval: Sequence[float] | None, sign: str = "") -> str:
    return " to ".join(_number(quantity, end, sign) for end in interval) if interval else DASH


def judge(
    records: list[dict],
    test: list[dict],
    arms: dict[str, dict],
    diverged: list[dict],
    reach: float | None = None,
    steps_per_epoch: int | None = None,
) -> Verdict:
    """Compare the first series of a comparison with each other one.

    In a side-by-side, each series is one arm. The test accuracy decides. Final and best validation
    accuracy, and the first epoch that reaches a level, describe.

    In a sweep, each series has an arm for each value of a setting. The mean of the final validation
    accuracy over the values decides, for each seed over those at which both series finished. The setting
    would be tuned, so the results at the best value describe: chosen by final validation accuracy, for
    each seed and series by itself.

    What decides is fixed beforehand, so that more quantities make no error likelier. Several other series
    share the level of p (Bonferroni). Where there are no accuracies, losses take their place, the lower
    the better. Runs that diverged, or ended before the last epoch, are in no mean.

    Args:
        records: dicts of arm, seed, epoch (from 1), validation_loss (nats an example) and, if there is
            one, validation_accuracy (a fraction). None and NaN are ignored.
        test: dicts of arm, seed, loss and, if there is one, accuracy: one for each run that finished.
        arms: arm to a dict of "series", its name, and "value", that of the setting, or None.
        diverged: dicts with arm and seed of the runs that diverged.
        reach: the validation accuracy, or loss, to reach; a sweep ignores it. Default None: what all
            finished runs of both series reach, an accuracy rounded down to two decimals, a loss up to
            two digits.
        steps_per_epoch: for the note that explains the epochs. Default None: no such note.

    Raises:
        ValueError: an arm is not in `arms`, or has series and value of another; `reach` is not a number.
    """
    rows = [*records, *test, *diverged]
    series = _series(arms, {row["arm"] for row in rows})
    if reach is not None and not is_finite_number(reach):
        raise ValueError(f"`reach` must be a number, or None for the default. Received: reach={reach!r}.")
    diverged_runs = {(run["arm"], run["seed"]) for run in diverged}
    scores = collect_scores(records, test, arms, diverged_runs)
    first, *others = series
    level = SIGNIFICANCE_LEVEL / max(1, len(others))
    differences: dict[str, dict[str, Difference]] = {}
    notes = {}
    for other in others:
        pair = {name: series[name] for name in (first, other)}
        if any(len(by_value) > 1 for by_value in series.values()):
            quantities, notes[other] = compare_sweeps(scores, pair)
        else:
            quantities, notes[other] = compare_arms(scores, pair, reach)
            if steps_per_epoch:
                notes[other].append(f"An epoch is {steps_per_epoch:,} steps.")
        differences[other] = {}
        for quantity, (of_first, of_other) in quantities.items():
            higher_is_better = scores.metric == "accuracy" and not quantity.startswith(EPOCHS_QUANTITY)
            differences[other][quantity] = compare_pairs(of_first, of_other, higher_is_better, level)
    counts = {name: {"runs": 0, "diverged": 0} for name in series}
    for kind, runs in (("runs", {(row["arm"], row["seed"]) for row in rows}), ("diverged", diverged_runs)):
        for arm, _ in runs:
            counts[arms[arm]["series"]][kind] += 1
    return Verdict(first, differences, counts, level, notes)


def _series(arms: dict[str, dict], named: set[str]) -> dict[str, dict[Any, str]]:
    """Return the arms by series and value; raise ValueError unless each has its place and all are named."""
    unknown = sorted(named - set(arms))
    if unknown or not arms:
        raise ValueError(
            "`arms` must name every arm, with its series and value: {'plain': {'series': 'plain', 'value': "
            f"None}}}}. Received: {list(arms)}, and results of {unknown}."
        )
    series: dict[str, dict[Any, str]] = {}
    for arm, place in arms.items():
        if series.setdefault(place["series"], {}).setdefault(place["value"], arm) != arm:
            raise ValueError(
                "`arms` must have one arm for each series and value; an arm without a value is a series of "
                f"its own. Received: {arm!r} with the place of another, {place!r}."
            )
    return series
