"""From the records of a comparison to an honest statement."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import numpy as np

from tfbn.foundation.arguments import is_finite_number
from tfbn.verdict.statistics import LEVEL, finite, minus, paired


@dataclass(frozen=True)
class Verdict:
    """What `judge` found.

    Attributes:
        first: str, the series that the others are held against.
        differences: dict of each other series to a dict of quantity to `Difference`. The first quantity
            decides, the others describe.
        runs: dict of series to a dict of "runs" and "diverged", how many.
        level: float, the largest p that is called: 0.05 over the number of other series.
        notes: dict of each other series to a list of sentences that go with the table.
    """

    first: str
    differences: dict
    runs: dict
    level: float
    notes: dict = field(repr=False)

    def sentence(self):
        """What decides, in plain sentences for each other series; then the runs that diverged."""
        return " ".join(self.sentences())

    def sentences(self):
        """`sentence` as a list."""
        said = [self._headline(other) for other in self.differences]
        if not said:
            said.append(f"There is {self.first} alone: nothing to compare.")
        if len(said) > 1:
            said.append(
                f"Each of the {len(said)} comparisons is held to p <= {self.level:.3g}, so that all "
                "together err at most 1 time in 20."
            )
        for series, count in self.runs.items():
            if count["diverged"]:
                said.append(f"{series}: {count['diverged']} of {count['runs']} runs diverged.")
        return said

    def text(self):
        """`sentence`, and a table of all quantities for each other series."""
        columns = ("difference", "95 % interval", "p", "P(improvement)", "seeds better")
        blocks = [self.sentence()]
        for other, quantities in self.differences.items():
            rows = [_row(quantity, found) for quantity, found in quantities.items()]
            lines = _aligned([("", self.first, other, *columns), *rows])
            blocks.append("\n".join([*lines, *self.notes[other]]))
        if self.differences:
            blocks.append(
                "Only a table's first row decides, the others describe.\n"
                "p: how often chance alone makes as large a difference.\n"
                f"P(improvement): how likely a run of {self.first} is better than one of the other."
            )
        return "\n\n".join(blocks)

    def to_dict(self):
        """All of it as a dict of lists, texts and numbers. Only what decides has an outcome."""
        comparisons = []
        for other, quantities in self.differences.items():
            decides = next(iter(quantities))
            contents = {}
            for quantity, found in quantities.items():
                contents[quantity] = dataclasses.asdict(found)
                contents[quantity]["interval"] = found.interval and list(found.interval)
                del contents[quantity]["outcome"]
            comparisons.append(
                {
                    "other": other,
                    "decides": decides,
                    "outcome": quantities[decides].outcome,
                    "sentence": self._headline(other),
                    "quantities": contents,
                    "notes": self.notes[other],
                }
            )
        return {"first": self.first, "level": self.level, "runs": self.runs, "comparisons": comparisons}

    def _headline(self, other):
        quantity, found = next(iter(self.differences[other].items()))
        return _sentence(self.first, other, quantity, found, self.level)


def judge(records, test, arms, diverged, reach=None, steps_per_epoch=None):
    """Hold the first series of a comparison against each other one.

    In a side-by-side, each series one arm, the test accuracy decides; final and best validation accuracy,
    and the first epoch that reaches a level, describe. In a sweep, each series an arm for each value of a
    knob, the mean of the final validation accuracy over the values decides, for each seed over those at
    which both series finished. Since the knob would be tuned, the results at the best value describe:
    chosen by final validation accuracy, for each seed and series by itself. What decides is fixed
    beforehand, so that looking at several quantities makes no error likelier; with several other series
    the level of p is shared between them (Bonferroni). Where there are no accuracies, losses take their
    place, the lower the better.

    Runs that diverged, or ended before the last epoch, are in no mean.

    Args:
        records: list of dicts: arm, seed, epoch (from 1), validation_loss (nats an example) and
            validation_accuracy (a fraction), if there is one; None and NaN are left out.
        test: list of dicts, one for each run that finished: arm, seed, loss and accuracy, if there is one.
        arms: dict of arm to a dict of "series", its name, and "value", that of the knob, or None.
        diverged: list of dicts with arm and seed of the runs that diverged.
        reach: float, the validation accuracy, or loss, to reach. Default None: what all finished runs of
            both series reach, an accuracy rounded down to two decimals, a loss up to two digits. Not used
            in a sweep.
        steps_per_epoch: int, to be told along with the epochs. Default None: not told.

    Returns:
        `Verdict`, with `sentence`, `text` and `to_dict`.

    Raises:
        ValueError: an arm is not in `arms`, or has series and value of another; `reach` is no number.

    >>> scores = {"batchnorm": [0.97, 0.96, 0.98], "plain": [0.95, 0.94, 0.95]}
    >>> test = [dict(arm=arm, seed=i, accuracy=x) for arm in scores for i, x in enumerate(scores[arm])]
    >>> arms = {arm: {"series": arm, "value": None} for arm in scores}
    >>> print(judge([], test, arms, []).sentence())  # doctest: +NORMALIZE_WHITESPACE
    In test accuracy batchnorm is better than plain with all 3 seeds, by 0.0233 on average (95 % interval
    0.0200 to 0.0300), which by chance alone happens 1 time in 4: no evidence of a difference yet; it takes
    6 seeds.

    Source: as for `paired`.
    """
    rows = [*records, *test, *diverged]
    series = _series(arms, rows)
    if reach is not None and not is_finite_number(reach):
        raise ValueError(f"`reach` must be a number, or None for the default. Received: reach={reach!r}.")
    names = ("accuracy", "validation_accuracy")
    metric = (
        "accuracy" if any(is_finite_number(row.get(name)) for row in rows for name in names) else "loss"
    )
    gone = {(run["arm"], run["seed"]) for run in diverged}
    curves = _curves(records, f"validation_{metric}", arms, gone)
    tests = {arm: {} for arm in arms}
    for run in test:
        if (run["arm"], run["seed"]) not in gone:
            tests[run["arm"]][run["seed"]] = run.get(metric)

    first, *others = series
    level = LEVEL / max(1, len(others))
    differences, notes = {}, {}
    for other in others:
        if any(len(by_value) > 1 for by_value in series.values()):
            quantities, notes[other] = _sweep(first, other, series, curves, tests, metric)
        else:
            quantities, notes[other] = _side_by_side(first, other, series, curves, tests, metric, reach)
            if steps_per_epoch:
                notes[other].append(f"An epoch is {steps_per_epoch:,} steps.")
        differences[other] = {
            quantity: paired(*pair, metric == "accuracy" and not _counts_epochs(quantity), level)
            for quantity, pair in quantities.items()
        }
    runs = {name: {"runs": 0, "diverged": 0} for name in series}
    for what, found in (("runs", {(row["arm"], row["seed"]) for row in rows}), ("diverged", gone)):
        for arm, _ in found:
            runs[arms[arm]["series"]][what] += 1
    return Verdict(first, differences, runs, level, notes)


def final(curves):
    """The last epoch's value: dict of seed to value, from a dict of seed to a dict of epoch to value."""
    return {seed: curve[max(curve)] for seed, curve in curves.items()}


def best(curves, higher_is_better=True):
    """The best epoch's value, as `final`; values that are None or not finite are left out."""
    pick = max if higher_is_better else min
    return {seed: pick(values) for seed, curve in curves.items() if (values := finite(curve).values())}


def epochs_to_reach(curves, threshold, higher_is_better=True):
    """The first epoch at `threshold` or better, as `final`, for the seeds that have one.

    >>> epochs_to_reach({0: {1: 0.90, 2: 0.95, 3: 0.94}, 1: {1: 0.90, 2: 0.91, 3: 0.92}}, 0.95)
    {0: 2}
    """
    sign = 1 if higher_is_better else -1
    reached = {
        seed: [epoch for epoch, value in finite(curve).items() if sign * (value - threshold) >= 0]
        for seed, curve in curves.items()
    }
    return {seed: min(epochs) for seed, epochs in reached.items() if epochs}


def _series(arms, rows):
    """Dict of series to a dict of value to arm. Raise for what is not allowed."""
    unknown = sorted({row["arm"] for row in rows} - set(arms))
    if unknown or not arms:
        raise ValueError(
            "`arms` must name every arm, with its series and value: {'plain': {'series': 'plain', 'value': "
            f"None}}}}. Received: {list(arms)}, and results of {unknown}."
        )
    series = {}
    for arm, place in arms.items():
        if series.setdefault(place["series"], {}).setdefault(place["value"], arm) != arm:
            raise ValueError(
                "`arms` must have one arm for each series and value; an arm without a value is a series of "
                f"its own. Received: {arm!r} with the place of another, {place!r}."
            )
    return series


def _curves(records, metric, arms, gone):
    """Dict of arm to a dict of seed to a dict of epoch to value: the runs that came to the last epoch."""
    curves = {arm: {} for arm in arms}
    for record in records:
        curves[record["arm"]].setdefault(record["seed"], {})[record["epoch"]] = record.get(metric)
    last = max((record["epoch"] for record in records), default=0)
    return {
        arm: {seed: curve for seed, curve in runs.items() if last in curve and (arm, seed) not in gone}
        for arm, runs in curves.items()
    }


def _side_by_side(first, other, series, curves, tests, metric, reach):
    """Dict of quantity to two dicts of seed to value, what decides first; and the notes."""
    arms = [next(iter(series[name].values())) for name in (first, other)]
    curves = [curves[arm] for arm in arms]
    higher = metric == "accuracy"
    tops = [best(runs, higher) for runs in curves]
    quantities = {
        f"test {metric}": [tests[arm] for arm in arms],
        f"final validation {metric}": [final(runs) for runs in curves],
        f"best validation {metric}": tops,
    }
    notes = []
    values = [value for top in tops for value in top.values()]
    if values:
        if reach is None and higher:
            reach = Decimal(str(min(values))).quantize(Decimal("0.01"), ROUND_FLOOR)
        elif reach is None:
            reach = Context(prec=2, rounding=ROUND_CEILING).create_decimal(str(max(values)))
        reach = float(reach)
        reached = [epochs_to_reach(runs, reach, higher) for runs in curves]
        quantities[f"epochs to validation {metric} {reach:g}"] = reached
        for name, runs, at in zip((first, other), curves, reached, strict=True):
            if len(at) < len(runs):
                missing = len(runs) - len(at)
                notes.append(f"{name}: {missing} of {len(runs)} runs never reached {metric} {reach:g}.")
    return quantities, notes


def _sweep(first, other, series, curves, tests, metric):
    """As `_side_by_side`."""
    arms = [series[name] for name in (first, other)]
    finals = [{value: finite(final(curves[arm])) for value, arm in of.items()} for of in arms]
    tested = [{value: finite(tests[arm]) for value, arm in of.items()} for of in arms]
    pick = max if metric == "accuracy" else min
    quantities = {
        f"mean validation {metric} over the sweep": _means(*finals),
        f"mean test {metric} over the sweep": _means(*tested),
        f"validation {metric} at the best value": [_tuned(runs, runs, pick) for runs in finals],
        f"test {metric} at that value": [_tuned(*of, pick) for of in zip(finals, tested, strict=True)],
    }
    gains = []
    for value, one in finals[0].items():
        two = finals[1].get(value, {})
        if both := one.keys() & two.keys():
            gain, _ = minus(*(np.mean([runs[seed] for seed in both]) for runs in (one, two)))
            gains.append(gain if metric == "accuracy" else -gain)
    ahead, behind = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return quantities, [
        f"Both finished at {len(gains)} of {len(finals[0])} values: in final validation {metric} {first} "
        f"is ahead at {ahead} of them, {other} at {behind}. Being ahead at a single value proves nothing."
    ]


def _means(first, other):
    """For each seed the two means over the values at which both finished."""
    shared = {}
    for value in first:
        for seed in first[value].keys() & other.get(value, {}).keys():
            shared.setdefault(seed, []).append(value)
    return [
        {seed: float(np.mean([runs[value][seed] for value in values])) for seed, values in shared.items()}
        for runs in (first, other)
    ]


def _tuned(chosen_by, shown, pick):
    """For each seed what is shown at the value that another quantity picks."""
    found = {}
    for seed in set().union(*chosen_by.values()):
        here = {value: runs[seed] for value, runs in chosen_by.items() if seed in runs}
        found[seed] = shown[pick(here, key=here.get)].get(seed)
    return found


def _counts_epochs(quantity):
    return quantity.startswith("epochs")


def _sentence(first, other, quantity, found, level):
    """What `found` says, aloud."""
    needed = math.ceil(math.log2(2 / level))
    if not found.pairs:
        return f"No seed finished with both {first} and {other}: nothing to compare."
    minus = f"{first} minus {other} is {_show(quantity, found.mean, '+')}"
    if found.pairs == 1:
        return (
            f"One seed says nothing of chance: {minus} in {quantity}. Run {needed} seeds or more to tell "
            "it from chance."
        )
    sign = 1 if found.mean > 0 else -1
    ends = _range(quantity, sorted(sign * end for end in found.interval))
    by = f"by {_show(quantity, sign * found.mean)} on average (95 % interval {ends})"
    if found.outcome != "no evidence":
        agreeing = found.wins if found.outcome == "better" else found.losses
        return (
            f"With {first} the {quantity} is {'higher' if sign > 0 else 'lower'} than with {other}: {by}, "
            f"{found.outcome} with {agreeing} of {found.pairs} seeds."
        )
    few = found.pairs < needed
    if few and found.pairs in (found.wins, found.losses):
        return (
            f"In {quantity} {first} is {'better' if found.wins else 'worse'} than {other} with "
            f"{'both' if found.pairs == 2 else f'all {found.pairs}'} seeds, {by}, which by chance alone "
            f"happens 1 time in {2 ** (found.pairs - 1)}: no evidence of a difference yet; it takes "
            f"{needed} seeds."
        )
    said = (
        f"No evidence of a difference in {quantity}: {minus} on average (95 % interval "
        f"{_range(quantity, found.interval, '+')}), better with {found.wins} of {found.pairs} seeds"
    )
    if found.ties:
        said += f", equal with {found.ties}"
    if few:
        return f"{said}. Fewer than {needed} seeds cannot give any evidence."
    if not found.interval[0] <= 0 <= found.interval[1]:
        return f"{said}. By chance alone one as large comes 1 time in {math.floor(1 / found.p)}."
    return f"{said}."


def _show(quantity, value, sign=""):
    if _counts_epochs(quantity):
        return f"{round(value, 1) + 0.0:{sign}.1f}"  # + 0.0: no -0.0
    if "accuracy" in quantity:
        return f"{round(value, 4) + 0.0:{sign}.4f}"
    return f"{value + 0.0:{sign}.4g}"  # Losses have any scale.


def _range(quantity, ends, sign=""):
    return " to ".join(_show(quantity, end, sign) for end in ends)


def _row(quantity, found):
    if not found.pairs:
        return quantity, *["-"] * 7
    single = found.pairs == 1  # Which would look certain.
    return (
        quantity,
        _show(quantity, found.first_mean),
        _show(quantity, found.other_mean),
        _show(quantity, found.mean, "+"),
        _range(quantity, found.interval, "+") if found.interval else "-",
        "-" if single else f"{found.p:.3g}",
        "-" if single else f"{found.probability:.2f}",
        f"{found.wins} of {found.pairs}",
    )


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
