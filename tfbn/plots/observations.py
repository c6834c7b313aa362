"""What was observed in networks: inputs of activations, fitted curves, statistics of batch norm layers."""

import os
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfbn.plots import style

# From light to dark, in grey too, without the lightest, which vanishes on white.
TIME_COLORS = ListedColormap(colormaps["viridis_r"](np.linspace(0.1, 1, 256)))
# What a panel of `statistics` shows: its label, and the value of averages that describe the data.
STATISTICS_PANELS = {
    "mean_error": ("Moving mean off by (standard deviations)", 0),
    "variance_ratio": ("Moving variance / variance of the data", 1),
}


def first_seeds(observations: list[dict], arms: dict[str, dict], key: str) -> dict[str, tuple]:
    """Return each observed arm's lowest seed and its observations with `key`, or raise ValueError."""
    runs = {arm: style.by_seed(observations, arm, key) for arm in arms}
    if not any(runs.values()):
        raise ValueError(
            f"`observations` must hold {key!r} of at least one arm of `arms`. Received: arms={list(arms)}, "
            f"{len(observations)} observations. Draw another figure, or observe {key!r}."
        )
    return {arm: next(iter(seeds.items())) for arm, seeds in runs.items() if seeds}


def inside(
    figure: Figure,
    observations: list[dict],
    arms: dict[str, dict],
    unit: int | None = None,
    steps_per_epoch: int | None = None,
) -> list[Axes]:
    """Draw the `percentiles` of a unit of each arm's lowest seed, a panel each; below, all drifts.

    `unit` is by default that of the median drift, for each arm, so that none is chosen by its looks.
    """
    runs = first_seeds(observations, arms, "percentiles")
    looks = style.series_styles(arms)
    figure.set_size_inches(1 + 4.5 * len(runs), 4.5 + 0.5 * len(runs))
    grid = figure.add_gridspec(2, len(runs), height_ratios=[3.5, 0.6 + 0.4 * len(runs)])
    for column, (arm, (seed, run)) in enumerate(runs.items()):
        ax = figure.add_subplot(grid[0, column], sharey=figure.axes[0] if column else None)
        drifts = drift(run)
        shown = median_unit(drifts) if unit is None else unit
        percentiles(ax, run, shown, looks[arm], steps_per_epoch)
        rule = " (median drift)" if unit is None and np.isfinite(drifts).any() else ""
        ax.set_title(f"{arm}, seed {seed}\nunit {shown} of {len(drifts)}{rule}", fontsize="medium")
    _draw_drifts(figure.add_subplot(grid[1, :]), observations, arms)
    return figure.axes


def percentiles(
    ax: Axes, run: list[dict], unit: int, look: dict, steps_per_epoch: int | None = None
) -> Axes:
    """Draw 15th, 50th and 85th percentile of the input of a unit's activation over one run's training.

    The observations of the `run` are in order and have "percentiles", [units, 3]. `look` has "color".

    Source: Ioffe and Szegedy 2015, Figure 1 (b, c).
    """
    units = len(run[0]["percentiles"])
    if not 0 <= unit < units:
        raise ValueError(f"`unit` must be from 0 to {units - 1}. Received: unit={unit!r}.")
    times = [item["epoch"] * (steps_per_epoch or 1) for item in run]
    # None becomes NaN.
    low, median, high = np.array([item["percentiles"][unit] for item in run], dtype=float).T
    ax.fill_between(times, low, high, color=look["color"], alpha=0.15, linewidth=0)
    lines = {"85th": (high, 1.2, 7), "50th": (median, 2.2, 0), "15th": (low, 1.2, -7)}
    for name, (values, width, up) in lines.items():
        ax.plot(times, values, color=look["color"], linewidth=width, label=name)
        finite = np.flatnonzero(np.isfinite(values))
        if len(finite):
            end = times[finite[-1]], values[finite[-1]]
            # The outer labels a little outwards: lines can lie close.
            ax.annotate(name, end, (4, up), textcoords="offset points", va="center", fontsize="small")
    ax.set_xlabel("Step" if steps_per_epoch else "Epoch")
    ax.set_ylabel("Input of the activation:\n15th, 50th, 85th percentile")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.margins(x=0.02)
    ax.grid(alpha=0.3)
    return ax


def _draw_drifts(ax: Axes, observations: list[dict], arms: dict[str, dict]) -> None:
    """Draw the `drift` of every unit: a row for each arm, sorted dots and their median for each seed."""
    runs = {arm: seeds for arm in arms if (seeds := style.by_seed(observations, arm, "percentiles"))}
    looks = style.series_styles(arms)
    all_drifts: list[float] = []
    for row, (arm, seeds) in enumerate(runs.items()):
        look = {**looks[arm], "linestyle": "none", "markersize": 3, "alpha": 0.6}
        for values in map(drift, seeds.values()):
            values = np.sort(values[np.isfinite(values)])
            if len(values):
                heights = np.linspace(row + 0.3, row - 0.3, len(values)) if len(values) > 1 else [row]
                ax.plot(values, heights, **look)
                ax.plot([np.median(values)] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1)
                all_drifts += list(values)
    style.log_if_wide(ax, "x", all_drifts)
    ax.set_xlabel(
        "Drift of each unit: mean distance of its percentiles from where they end, in final widths"
    )
    ax.set(ylabel="Units", ylim=(len(runs) - 0.45, -0.55))
    ax.set_title("All units of all seeds, sorted; black: a seed's median", fontsize="medium")
    ax.set_yticks(range(len(runs)), list(runs))
    ax.grid(alpha=0.3, axis="x")


def drift(run: list[dict]) -> np.ndarray:
    """Return how far the inputs of each unit are from where they end, on average over the training.

    ::

        drift = mean(abs(percentile[t] - percentile[T])) / (p85[T] - p15[T])

    The mean is over the 15th, 50th and 85th percentile and over the times t after which training went
    on. They begin at the end of the first epoch, since before training the averages of a batch norm are
    empty. T is the end. The drift has no unit: 1 says that the percentiles were as far from their end as
    the 15th and 85th percentile then lie apart. A unit of fewer than two times, without width, or without
    an end has NaN. The observations of the `run` are in order and have "percentiles", [units, 3]; None and
    NaN count as missing.

    >>> at = [[[5, 5, 5]], [[-3, -2, -1]], [[-1, 0, 1]]]  # a unit that goes up by two
    >>> drift([{"epoch": epoch, "percentiles": percentiles} for epoch, percentiles in enumerate(at)])
    array([1.])
    """
    times = np.array([item["percentiles"] for item in run if item["epoch"]], dtype=float)
    if not len(times):
        return np.full(len(run[0]["percentiles"]), np.nan)
    end = times[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        distances = np.abs(times[:-1] - end).mean(-1)
        finite = np.isfinite(distances)
        mean = np.where(finite, distances, 0).sum(0) / finite.sum(0)
        width = end[:, 2] - end[:, 0]
        return np.where(width > 0, mean / width, np.nan)


def median_unit(drifts: Sequence[float] | np.ndarray) -> int:
    """Return the unit whose drift is the median, of an even number of units the lower middle one.

    >>> median_unit([0.3, float("nan"), 0.1, 0.2])
    3
    """
    order = np.argsort(drifts)  # NaN comes last.
    return int(order[max(np.isfinite(drifts).sum() - 1, 0) // 2])


def histograms(figure: Figure, observations: list[dict], arms: dict[str, dict]) -> list[Axes]:
    """Draw the inputs of the activations before and after training: a row for each hidden layer.

    The observations have a list of "histograms", one for each hidden layer, as in `histogram`. The first
    and last epoch of each arm's lowest seed are drawn, in a column.
    """
    runs = first_seeds(observations, arms, "histograms")
    looks = style.series_styles(arms)
    layers = max(len(run[0]["histograms"]) for _, run in runs.values())
    figure.set_size_inches(1 + 4 * len(runs), 1.2 + 1.7 * layers)
    axes = figure.subplots(layers, len(runs), sharex="row", squeeze=False)
    for column, (arm, (seed, run)) in zip(axes.T, runs.items(), strict=True):
        before, after = run[0], run[-1]
        for layer, ax in enumerate(column):
            if layer >= len(before["histograms"]):
                ax.remove()
                continue
            histogram(ax, before["histograms"][layer], after["histograms"][layer], looks[arm]["color"])
            ax.set_xlabel(f"Input of the activation of hidden layer {layer + 1}")
        epochs = f"epoch {before['epoch']} (filled) and {after['epoch']} (line)"
        column[0].set_title(f"{arm}, seed {seed}\n{epochs}", fontsize="medium")
    return figure.axes


def histogram(ax: Axes, before: dict, after: dict, color: str) -> Axes:
    """Draw two histograms, `before` filled in grey, `after` as a line of `color`.

    Each is a dict of "low", "high" and "counts", of equal bins. Bars are shares of the largest count.
    """
    filled: dict[str, Any] = {"facecolor": "0.8", "edgecolor": "0.6", "fill": True}
    line: dict[str, Any] = {"edgecolor": color, "linewidth": 1.8}
    for item, look in ((before, filled), (after, line)):
        counts = np.array(item["counts"], dtype=float)
        low, high = np.array([item["low"], item["high"]], dtype=float)
        # A run that diverged can end without finite limits.
        if np.isfinite([low, high]).all() and np.nansum(counts) > 0:
            if low == high:  # One value: a bar rather than nothing.
                low, high = low - 0.5, high + 0.5
            ax.stairs(counts / np.nanmax(counts), np.linspace(low, high, len(counts) + 1), **look)
    ax.set(ylabel="Count / largest", ylim=(0, 1.1))
    return ax


def fits(
    figure: Figure,
    observations: list[dict],
    arms: dict[str, dict],
    x: np.ndarray,
    points: tuple,
    steps_per_epoch: int | None = None,
) -> list[Axes]:
    """Draw the data and the curves that the lowest seed of each arm goes through, the last one wide.

    The observations have "outputs", [N], which were taken at `x`, [N], in order. `points` are x and y of
    the data, [M] each.
    """
    runs = first_seeds(observations, arms, "outputs")
    figure.set_size_inches(1.5 + 4.5 * len(runs), 4.5)
    axes = list(figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0])
    unit = "Step" if steps_per_epoch else "Epoch"
    last = max(item["epoch"] for _, run in runs.values() for item in run) * (steps_per_epoch or 1)
    # Most happens early: the root of the step gives it more of the colours.
    scale = ScalarMappable(PowerNorm(0.5, 0, last), TIME_COLORS)
    # Room for the legend above the data. A curve that runs away leaves the frame.
    low, high = np.min(points[1]), np.max(points[1])
    for ax, (arm, (seed, run)) in zip(axes, runs.items(), strict=True):
        # Wider than the curves that cover them.
        ax.plot(*points, "o", color="0.75", markersize=6, markeredgewidth=0, label="data")
        for item in run:
            time = item["epoch"] * (steps_per_epoch or 1)
            look = (
                {"linewidth": 2.5, "label": f"{unit.lower()} {time}"}
                if item is run[-1]
                else {"linewidth": 1}
            )
            # None becomes NaN.
            ax.plot(x, np.array(item["outputs"], dtype=float), color=scale.to_rgba(time), **look)
        ax.set_title(f"{arm}, seed {seed}", fontsize="medium")
        ax.set(xlabel="x", ylabel="y", ylim=(low - 0.3 * (high - low), high + 0.3 * (high - low)))
        ax.tick_params(labelleft=True)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(alpha=0.3)
        ax.legend(loc="upper right", ncols=2)
    figure.colorbar(scale, ax=axes, label=unit)
    return axes


def statistics(layers: list[dict], title: str, axes: Any = None) -> Any:
    """Draw moving against population statistics, a point for each channel of each batch norm layer.

    The `layers` are dicts with "name", "mean_error" (in standard deviations) and "variance_ratio". `axes`
    are two matplotlib Axes in an array, which are returned. Default None: a new pyplot figure.
    """
    if axes is None:
        axes = _statistics_axes(plt.figure(layout="constrained"), layers)
    for ax, (key, (label, right)) in zip(np.ravel(axes), STATISTICS_PANELS.items(), strict=True):
        for row, layer in enumerate(layers):
            values = np.array(layer[key])
            # Side by side rather than on top of each other.
            heights = row + np.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else [row]
            ax.plot(values, heights, ".", color=style.STYLES[0]["color"], markersize=4)
        ax.axvline(right, color="black", linewidth=1)
        ax.set(xlabel=label, ylim=(len(layers) - 0.4, -0.6))
        ax.set_yticks(range(len(layers)), [layer["name"] for layer in layers])
        ax.grid(alpha=0.3, axis="x")
    errors, ratios = np.ravel(axes)
    ratios.set_xscale("log", base=2)
    # Differences that do not matter look small.
    errors.set_xlim(right=max(errors.get_xlim()[1], 0.5))
    ratios.set_xlim(min(ratios.get_xlim()[0], 0.45), max(ratios.get_xlim()[1], 2.2))
    ratios.xaxis.set_major_formatter("{x:g}")
    style.set_title(errors.figure, title)
    return axes


def save_statistics(path: str | os.PathLike, layers: list[dict], title: str) -> None:
    """Write `statistics` to the file `path`."""
    style.save(path, title, lambda figure: statistics(layers, "", _statistics_axes(figure, layers)))


def _statistics_axes(figure: Figure, layers: list[dict]) -> Any:
    figure.set_size_inches(10, 1.5 + 0.4 * len(layers))
    return figure.subplots(1, 2, sharey=True)
