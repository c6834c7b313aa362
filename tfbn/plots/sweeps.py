"""Sweeps: what came out, over the knob that was turned."""

from __future__ import annotations

import math
import numbers

import numpy as np
from matplotlib.ticker import MaxNLocator, NullFormatter

from tfbn.plots.runs import by_seed, is_diverged
from tfbn.plots.style import (
    label_of,
    legend_above,
    legend_below,
    line_with_band,
    log_if_wide,
    log_locator,
    metrics,
    styles,
)

# What a run came to: its best epoch; of the training loss the last.
OUTCOMES = {
    "validation_accuracy": ("Best", max),
    "validation_loss": ("Best", min),
    "train_accuracy": ("Best", max),
    "train_loss": ("Final", lambda losses: losses[-1]),
}


def sweeps(figure, records, arms, vary, diverged):
    """Draw `sweep` of best validation accuracy, best training accuracy and final training loss.

    Of a regression: best validation loss and final training loss.

    Args:
        figure: matplotlib Figure.
        records, arms, vary, diverged: as in `sweep`.

    Returns:
        The list of Axes.
    """
    found = [metric for metric in OUTCOMES if metric in metrics(records)]
    if "validation_accuracy" in found:
        found.remove("validation_loss")
    figure.set_size_inches(1 + 4 * len(found), 4.5)
    axes = list(figure.subplots(1, len(found), squeeze=False)[0])
    for ax, metric in zip(axes, found, strict=True):
        sweep(ax, records, arms, vary, diverged, metric)
    legend_below(figure, axes)
    return axes


def sweep(ax, records, arms, vary, diverged, metric):
    """Draw what runs came to over the knob: a line for each series' mean, a band from lowest to highest.

    Diverged runs are in no line and band. A cross along the bottom, in a row for each series, says that
    runs diverged, and how many if not all. Values that are no numbers, or not positive on a log axis,
    stand apart at the right: points with a bar from lowest to highest seed.

    Args:
        ax: matplotlib Axes.
        records: list of dicts with "arm", "seed", "epoch", "train_loss" and `metric`.
        arms: dict of arms to dicts of "series" and "value".
        vary: dict of the knob, with "label" for the axis and "log", whether it is a log axis.
        diverged: list of dicts with "arm" and "seed".
        metric: str, of a run "validation_accuracy" (best epoch), "train_accuracy" (best),
            "validation_loss" (best) or "train_loss" (last).

    Returns:
        `ax`.

    Raises:
        ValueError: two arms of a series have the same value, or the records do not hold `metric`.
    """
    if len({(arm["series"], arm["value"]) for arm in arms.values()}) < len(arms):
        raise ValueError(
            "`arms` must differ in series or value, as each is a point of its own. Received: "
            f"arms={arms!r}. Give those that differ in something else a series of their own."
        )
    values = [arm["value"] for arm in arms.values()]
    bad = {(item["arm"], item["seed"]) for item in diverged}
    looks = styles(arm["series"] for arm in arms.values())
    _knob_axis(ax, values, vary)
    outcomes, crosses = [], {}
    for index, (series, style) in enumerate(looks.items()):
        # Points that stand apart stand side by side.
        places = _places(values, vary, 0.3 * (index - (len(looks) - 1) / 2))
        mine = {arm["value"]: name for name, arm in arms.items() if arm["series"] == series}
        found = {
            value: _outcomes(by_seed(records, name), name, bad, metric) for value, name in mine.items()
        }
        gone = [(places[value], lost, runs) for value, (_, lost, runs) in found.items() if lost]
        label = series
        if gone:
            crosses[series] = style["color"], gone
            lost, runs = (sum(counts[place] for counts in found.values()) for place in (1, 2))
            label += f" ({lost} of {runs} runs diverged)"
        on = sorted(value for value in found if _is_on_axis(value, vary))
        line_with_band(ax, on, *_spread([found[value][0] for value in on]), style, label)
        apart = [value for value in found if not _is_on_axis(value, vary)]
        low, mean, high = _spread([found[value][0] for value in apart])
        look = {**style, "linestyle": "none", "markersize": 5, "capsize": 4}
        ax.errorbar([places[value] for value in apart], mean, (mean - low, high - mean), **look)
        outcomes += [outcome for sound, _, _ in found.values() for outcome in sound]
    label = label_of(metric, records)
    ax.set_ylabel(f"{OUTCOMES[metric][0]} {label[0].lower()}{label[1:]}")
    if not outcomes:
        ax.set_yticks([])
    if metric.endswith("loss"):
        log_if_wide(ax, "y", outcomes)
    _mark_diverged(ax, crosses)
    legend_above(ax)
    return ax


def _outcomes(runs, arm, bad, metric):
    """Of an arm: what its sound runs came to, how many runs diverged, and of how many."""
    seeds = runs.keys() | {seed for name, seed in bad if name == arm}
    sound = [seed for seed in seeds if (arm, seed) not in bad and not is_diverged(runs[seed])]
    values = [np.array([r.get(metric) for r in runs[seed]], dtype=float) for seed in sound]
    values = [v[np.isfinite(v)] for v in values]
    return [OUTCOMES[metric][1](v) for v in values if len(v)], len(seeds) - len(sound), len(seeds)


def _spread(outcomes):
    """Lowest, mean and highest of each list in `outcomes`, NaN where it is empty: three arrays."""
    rows = [(min(v), np.mean(v), max(v)) if v else (np.nan,) * 3 for v in outcomes]
    return np.array(rows, dtype=float).reshape(-1, 3).T


def _is_on_axis(value, vary):
    number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    return number and (value > 0 or not vary["log"])


def _places(values, vary, shift=0):
    """Where each value is along the axis: a number at itself, others to their right, a step apart."""
    on = [value for value in values if _is_on_axis(value, vary)]
    apart = [value for value in dict.fromkeys(values) if not _is_on_axis(value, vary)]
    steps = [index + shift for index in range(len(apart))]
    if on and vary["log"]:
        step = (max(on) / min(on)) ** (1 / 8) if len(set(on)) > 1 else 2
        steps = [max(on) * step ** (1.5 + k) for k in steps]
    elif on:
        step = (max(on) - min(on)) / 8 or 1
        steps = [max(on) + step * (1.5 + k) for k in steps]
    return {**{value: value for value in on}, **dict(zip(apart, steps, strict=True))}


def _knob_axis(ax, values, vary):
    on = sorted({value for value in values if _is_on_axis(value, vary)})
    apart = {value: x for value, x in _places(values, vary).items() if not _is_on_axis(value, vary)}
    ax.set_xlabel(vary["label"])
    ax.grid(alpha=0.3)
    if on:
        if vary["log"]:
            ax.set_xscale("log")
        ticks = on
        if sum(len(f"{value:g}") for value in on) > 24:  # They would run into each other.
            whole = all(isinstance(value, numbers.Integral) for value in on)
            locator = log_locator(on) if vary["log"] else MaxNLocator(6, integer=whole)
            ticks = [tick for tick in locator.tick_values(on[0], on[-1]) if on[0] <= tick <= on[-1]]
        ax.set_xticks(ticks)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    if apart:
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        names = [str(value) for value in apart]
        ax.set_xticks(list(apart.values()), names, minor=bool(on), fontsize="small", **turned)
    if on and apart:
        ax.axvline(_places([*on, "border"], vary, -0.75)["border"], color="black", linewidth=0.8)


def _mark_diverged(ax, crosses):
    """Crosses in a strip below all that is drawn, a row for each series.

    Args:
        ax: matplotlib Axes.
        crosses: dict of series to pairs of colour and list of (place, diverged runs, all runs).
    """
    if not crosses:
        return
    low, high = ax.transScale.transform([(1, y) for y in ax.get_ylim()])[:, 1]
    row = 0.1 * (high - low) / (1 - 0.1 * len(crosses))  # A tenth of the height in the end.
    below = [0, *(0.7 + index for index in range(len(crosses))), len(crosses)]
    places = ax.transScale.inverted().transform([(1, low - row * rows) for rows in below])
    top, *heights, bottom = places[:, 1]
    ax.set_yticks([tick for tick in ax.get_yticks() if top <= tick <= ax.get_ylim()[1]])
    ax.set_yticks(heights, list(crosses), minor=True, fontsize="small")
    ax.set_ylim(bottom)
    ax.axhline(top, color="black", linewidth=0.8)
    for y, (color, points) in zip(heights, crosses.values(), strict=True):
        ax.plot([x for x, _, _ in points], [y] * len(points), "x", color=color)
        for x, lost, runs in points:
            if lost < runs:
                place = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "fontsize": 8}
                ax.annotate(f"{lost}/{runs}", (x, y), **place)
