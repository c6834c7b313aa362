"""Sweeps: the outcomes of runs over the setting that is varied."""

import numbers
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from tfbn.foundation.arguments import is_finite_number
from tfbn.plots import style

# The outcome of a run: its best epoch, but the last training loss.
OUTCOMES: dict[str, tuple[str, Callable]] = {
    "validation_accuracy": ("Best", max),
    "validation_loss": ("Best", min),
    "train_accuracy": ("Best", max),
    "train_loss": ("Final", lambda losses: losses[-1]),
}


class Point(NamedTuple):
    """What a figure shows of an arm."""

    outcomes: list[float]  # of the runs that did not diverge
    diverged: int  # runs
    runs: int  # in all


def sweeps(
    figure: Figure, records: list[dict], arms: dict[str, dict], vary: dict, diverged: list[dict]
) -> list[Axes]:
    """Draw `sweep` of best validation accuracy (or loss), best training accuracy, final training loss."""
    shown = [metric for metric in OUTCOMES if metric in style.metrics(records)]
    if "validation_accuracy" in shown:
        shown.remove("validation_loss")
    figure.set_size_inches(1 + 4 * len(shown), 4.5)
    for ax, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        sweep(ax, records, arms, vary, diverged, metric)
    style.legend_below(figure, figure.axes)
    return figure.axes


def sweep(
    ax: Axes, records: list[dict], arms: dict[str, dict], vary: dict, diverged: list[dict], metric: str
) -> Axes:
    """Draw outcomes over the varied setting: for each series the mean line, and a band from low to high.

    Diverged runs are in neither. A cross along the bottom, in a row for each series, marks them, with
    their number if not all diverged. Values that are not numbers, or not positive on a log axis, stand
    apart at the right: points with a bar from lowest to highest seed.

    `vary` is the varied setting, with its "label" and "log", whether its axis is logarithmic. `diverged`
    are dicts with "arm" and "seed". Raise ValueError if two arms of a series have the same value, or the
    records do not hold `metric`.
    """
    if len({(arm["series"], arm["value"]) for arm in arms.values()}) < len(arms):
        raise ValueError(
            "`arms` must differ in series or value, as each is a point of its own. Received: "
            f"arms={arms!r}. Give those that differ in something else a series of their own."
        )
    values = [arm["value"] for arm in arms.values()]
    _draw_value_axis(ax, values, vary)
    outcomes, crosses = [], {}
    looks = style.styles(arm["series"] for arm in arms.values())
    for index, (series, look) in enumerate(looks.items()):
        points = {
            arm["value"]: _point(style.by_seed(records, name), name, diverged, metric)
            for name, arm in arms.items()
            if arm["series"] == series
        }
        # Points that stand apart stand side by side.
        places = _places(values, vary, 0.3 * (index - (len(looks) - 1) / 2))
        _draw_series(ax, points, places, vary, look, series)
        outcomes += [outcome for point in points.values() for outcome in point.outcomes]
        if lost := {places[value]: point for value, point in points.items() if point.diverged}:
            crosses[series] = look["color"], lost
    label = style.label_of(metric, records)
    ax.set_ylabel(f"{OUTCOMES[metric][0]} {label[0].lower()}{label[1:]}")
    if not outcomes:
        ax.set_yticks([])
    if metric.endswith("loss"):
        style.log_if_wide(ax, "y", outcomes)
    if crosses:
        _mark_diverged(ax, crosses)
    style.legend_above(ax)
    return ax


def _point(runs: dict[int, list[dict]], arm: str, diverged: list[dict], metric: str) -> Point:
    lost = {item["seed"] for item in diverged if item["arm"] == arm}
    seeds = runs.keys() | lost
    finite_runs = [runs[seed] for seed in seeds if seed not in lost and not style.is_diverged(runs[seed])]
    values = [np.array([record.get(metric) for record in run], dtype=float) for run in finite_runs]
    values = [run[np.isfinite(run)] for run in values]
    outcomes = [OUTCOMES[metric][1](run) for run in values if len(run)]
    return Point(outcomes, len(seeds) - len(finite_runs), len(seeds))


def _draw_series(
    ax: Axes, points: dict[Any, Point], places: dict[Any, float], vary: dict, look: dict, series: str
) -> None:
    diverged, runs = (sum(getattr(point, key) for point in points.values()) for key in ("diverged", "runs"))
    label = f"{series} ({diverged} of {runs} runs diverged)" if diverged else series
    on_axis = sorted(value for value in points if _is_on_axis(value, vary))
    low, mean, high = _spread(points[value] for value in on_axis)
    style.line_with_band(ax, on_axis, low, mean, high, look, label)
    apart = [value for value in points if not _is_on_axis(value, vary)]
    low, mean, high = _spread(points[value] for value in apart)
    bars = {**look, "linestyle": "none", "markersize": 5, "capsize": 4}
    ax.errorbar([places[value] for value in apart], mean, (mean - low, high - mean), **bars)


def _spread(points: Iterable[Point]) -> np.ndarray:
    """Return lowest, mean and highest outcome of each point, NaN without any: [3, points]."""
    outcomes = [point.outcomes or [np.nan] for point in points]
    rows = [(min(values), np.mean(values), max(values)) for values in outcomes]
    return np.array(rows, dtype=float).reshape(-1, 3).T


def _is_on_axis(value: Any, vary: dict) -> bool:
    return is_finite_number(value) and not isinstance(value, bool) and (value > 0 or not vary["log"])


def _places(values: list, vary: dict, shift: float = 0) -> dict[Any, float]:
    """Return where each value is on the axis: a number at itself, others to their right, a step apart."""
    on_axis = [value for value in values if _is_on_axis(value, vary)]
    apart = [value for value in dict.fromkeys(values) if not _is_on_axis(value, vary)]
    steps = [index + shift for index in range(len(apart))]
    if on_axis and vary["log"]:
        step = (max(on_axis) / min(on_axis)) ** (1 / 8) if len(set(on_axis)) > 1 else 2
        steps = [max(on_axis) * step ** (1.5 + k) for k in steps]
    elif on_axis:
        step = (max(on_axis) - min(on_axis)) / 8 or 1
        steps = [max(on_axis) + step * (1.5 + k) for k in steps]
    return {**{value: value for value in on_axis}, **dict(zip(apart, steps, strict=True))}


def _draw_value_axis(ax: Axes, values: list, vary: dict) -> None:
    on_axis = sorted({value for value in values if _is_on_axis(value, vary)})
    apart = {value: x for value, x in _places(values, vary).items() if not _is_on_axis(value, vary)}
    ax.set_xlabel(vary["label"])
    ax.grid(alpha=0.3)
    if on_axis:
        if vary["log"]:
            ax.set_xscale("log")
        ticks, first, last = on_axis, on_axis[0], on_axis[-1]
        if sum(len(f"{value:g}") for value in on_axis) > 24:  # The labels of the values would overlap.
            whole = all(isinstance(value, numbers.Integral) for value in on_axis)
            locator = style.log_locator(on_axis) if vary["log"] else MaxNLocator(6, integer=whole)
            ticks = [tick for tick in locator.tick_values(first, last) if first <= tick <= last]
        ax.set_xticks(ticks)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    if apart:
        look = {"rotation": 30, "ha": "right", "rotation_mode": "anchor", "fontsize": "small"}
        ax.set_xticks(list(apart.values()), list(map(str, apart)), minor=bool(on_axis), **look)
    if on_axis and apart:
        ax.axvline(_places([*on_axis, "border"], vary, -0.75)["border"], color="black", linewidth=0.8)


def _mark_diverged(ax: Axes, crosses: dict[str, tuple[str, dict[float, Point]]]) -> None:
    """Draw crosses in a strip below all else, a row for each series: colour, and points by place."""
    low, high = ax.transScale.transform([(1, y) for y in ax.get_ylim()])[:, 1]
    row = 0.1 * (high - low) / (1 - 0.1 * len(crosses))  # A tenth of the final height.
    below = [0, *(0.7 + index for index in range(len(crosses))), len(crosses)]
    places = ax.transScale.inverted().transform([(1, low - row * rows) for rows in below])
    top, *heights, bottom = places[:, 1]
    ax.set_yticks([tick for tick in ax.get_yticks() if top <= tick <= ax.get_ylim()[1]])
    ax.set_yticks(heights, list(crosses), minor=True, fontsize="small")
    ax.set_ylim(bottom)
    ax.axhline(top, color="black", linewidth=0.8)
    for y, (color, points) in zip(heights, crosses.values(), strict=True):
        ax.plot(list(points), [y] * len(points), "x", color=color)
        for x, point in points.items():
            if point.diverged < point.runs:
                share = f"{point.diverged}/{point.runs}"
                ax.annotate(share, (x, y), (0, 4), textcoords="offset points", ha="center", fontsize=8)
