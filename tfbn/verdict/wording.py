"""A verdict in words: its sentences and its table."""

import math
from collections.abc import Sequence

from tfbn.foundation.tables import text_table
from tfbn.verdict.quantities import EPOCHS_QUANTITY
from tfbn.verdict.statistics import Difference

COLUMNS = ("difference", "95 % interval", "p", "P(better)", "seeds better")
DASH = "-"


def headline(first: str, other: str, quantity: str, difference: Difference, level: float) -> str:
    """Return what the difference in the quantity that decides says; `level` is the largest p of one."""
    mean, interval, pairs = difference.mean, difference.interval, difference.pairs
    needed = math.ceil(math.log2(2 / level))
    if mean is None:
        return f"No seed finished with both {first} and {other}: nothing to compare."
    signed = f"{first} minus {other} is {_number(quantity, mean, '+')}"
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
            f"With {first} the {quantity} is {direction} than with {other}: {size}, {difference.outcome} "
            f"with {agreeing} of {pairs} seeds."
        )
    if pairs < needed and pairs in (difference.wins, difference.losses):
        direction = "better" if difference.wins else "worse"
        return (
            f"In {quantity} {first} is {direction} than {other} with "
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


def difference_table(first: str, other: str, differences: dict[str, Difference]) -> str:
    """Return the differences of two series as an aligned table, a row for each quantity."""
    rows = [_row(quantity, difference) for quantity, difference in differences.items()]
    return text_table(("", first, other, *COLUMNS), rows, numeric=range(1, 8))


def legend(first: str) -> str:
    """Return what the columns of `difference_table` mean."""
    return (
        "Only the first row of a table decides, the others describe.\n"
        "p: how often chance alone makes as large a difference.\n"
        f"P(better): P(improvement), how likely a run of {first} is better\n"
        "than a run of the other."
    )


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
    # + 0.0: no -0.0
    if quantity.startswith(EPOCHS_QUANTITY):
        return f"{round(value, 1) + 0.0:{sign}.1f}"
    if "accuracy" in quantity:
        return f"{round(value, 4) + 0.0:{sign}.4f}"
    return f"{value + 0.0:{sign}.4g}"  # Losses have any scale.


def _interval(quantity: str, interval: Sequence[float] | None, sign: str = "") -> str:
    return " to ".join(_number(quantity, end, sign) for end in interval) if interval else DASH
