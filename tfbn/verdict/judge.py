"""From the records of a comparison to an honest statement."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tfbn.foundation.arguments import is_finite_number
from tfbn.verdict import wording
from tfbn.verdict.quantities import EPOCHS_QUANTITY, collect_scores, compare_arms, compare_sweeps
from tfbn.verdict.statistics import SIGNIFICANCE_LEVEL, Difference, compare_pairs


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
            table = wording.difference_table(self.first, other, quantities)
            blocks.append("\n".join([table, *self.notes[other]]))
        if self.differences:
            blocks.append(wording.legend(self.first))
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as lists, strings and numbers. Only the quantity that decides has an outcome."""
        comparisons = []
        for other, quantities in self.differences.items():
            decides = next(iter(quantities))
            contents = {}
            for quantity, difference in quantities.items():
                contents[quantity] = dataclasses.asdict(difference)
                contents[quantity]["interval"] = difference.interval and list(difference.interval)
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

    def _headline(self, other: str) -> str:
        quantity, difference = next(iter(self.differences[other].items()))
        return wording.headline(self.first, other, quantity, difference, self.level)


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

    >>> scores = {"batchnorm": [0.97, 0.96, 0.98], "plain": [0.95, 0.94, 0.95]}
    >>> test = [dict(arm=arm, seed=i, accuracy=x) for arm in scores for i, x in enumerate(scores[arm])]
    >>> arms = {arm: {"series": arm, "value": None} for arm in scores}
    >>> print(judge([], test, arms, []).sentence())  # doctest: +NORMALIZE_WHITESPACE
    In test accuracy batchnorm is better than plain with all 3 seeds, by 0.0233 on average (95 % interval
    0.0200 to 0.0300). By chance alone this happens 1 time in 4: no evidence of a difference yet, which
    takes 6 seeds.

    Source: as for `compare_pairs`.
    """
    rows = [*records, *test, *diverged]
    series = _series(arms, {row["arm"] for row in rows})
    if reach is not None and not is_finite_number(reach):
        raise ValueError(f"`reach` must be a number, or None for the default. Received: reach={reach!r}.")
    diverged_runs = {(run["arm"], run["seed"]) for run in diverged}
    scores = collect_scores(records, test, arms, diverged_runs)
    first, *others = series
    level = SIGNIFICANCE_LEVEL / max(1, len(others))
    differences: dict[str, dict[str, Difference]] = {other: {} for other in others}
    notes = {}
    for other in others:
        pair = {name: series[name] for name in (first, other)}
        if any(len(by_value) > 1 for by_value in series.values()):
            quantities, notes[other] = compare_sweeps(scores, pair)
        else:
            quantities, notes[other] = compare_arms(scores, pair, reach)
            if steps_per_epoch:
                notes[other].append(f"An epoch is {steps_per_epoch:,} steps.")
        for quantity, (of_first, of_other) in quantities.items():
            higher_is_better = scores.higher_is_better and not quantity.startswith(EPOCHS_QUANTITY)
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
