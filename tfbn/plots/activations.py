"""Inside the networks: the inputs of their activations, and how they move in training."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfbn.plots.runs import by_seed, drift, first_seeds, median_unit
from tfbn.plots.style import log_if_wide, series_styles


def inside(
    figure: Figure,
    observations: list[dict],
    arms: dict[str, dict],
    unit: int | None = None,
    steps_per_epoch: int | None = None,
) -> list[Axes]:
    """Draw the `percentiles` of a unit of each arm's lowest seed, a panel each; below, all `drifts`.

    Args:
        observations: dicts with "arm", "seed", "epoch" and "percentiles", [units, 3].
        arms: the arms to draw, to dicts of "series".
        unit: Default None: for each arm the unit whose drift is the median, so that none is chosen by
            its looks.
        steps_per_epoch: to draw over steps. Default None: over epochs.

    Returns:
        The Axes, that of the drifts last.
    """
    runs = first_seeds(observations, arms, "percentiles")
    styles = series_styles(arms)
    figure.set_size_inches(1 + 4.5 * len(runs), 4.5 + 0.5 * len(runs))
    grid = figure.add_gridspec(2, len(runs), height_ratios=[3.5, 0.6 + 0.4 * len(runs)])
    first = None
    for column, (arm, (seed, run)) in enumerate(runs.items()):
        ax = figure.add_subplot(grid[0, column], sharey=first)
        first = first or ax
        unit_drifts = drift(run)
        shown = median_unit(unit_drifts) if unit is None else unit
        percentiles(ax, run, shown, styles[arm], steps_per_epoch)
        rule = " (median drift)" if unit is None and np.isfinite(unit_drifts).any() else ""
        ax.set_title(f"{arm}, seed {seed}\nunit {shown} of {len(unit_drifts)}{rule}", fontsize="medium")
    drifts(figure.add_subplot(grid[1, :]), observations, arms)
    return figure.axes


def percentiles(
    ax: Axes, run: list[dict], unit: int, style: dict, steps_per_epoch: int | None = None
) -> Axes:
    """Draw 15th, 50th and 85th percentile of the input of a unit's activation over one run's training.

    Source: Ioffe and Szegedy 2015, Figure 1 (b, c).

    Args:
        run: dicts with "epoch", in order, and "percentiles", [units, 3].
        unit: which unit, from 0.
        style: "color", "linestyle" and "marker".
        steps_per_epoch: to draw over steps. Default None: over epochs.
    """
    units = len(run[0]["percentiles"])
    if not 0 <= unit < units:
        raise ValueError(f"`unit` must be from 0 to {units - 1}. Received: unit={unit!r}.")
    times = [item["epoch"] * (steps_per_epoch or 1) for item in run]
    # None becomes NaN.
    low, median, high = np.array([item["percentiles"][unit] for item in run], dtype=float).T
    ax.fill_between(times, low, high, color=style["color"], alpha=0.15, linewidth=0)
    lines = {"85th": (high, 1.2, 7), "50th": (median, 2.2, 0), "15th": (low, 1.2, -7)}
    for name, (values, width, up) in lines.items():
        ax.plot(times, values, color=style["color"], linewidth=width, label=name)
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


def drifts(ax: Axes, observations: list[dict], arms: dict[str, dict]) -> Axes:
    """Draw the `drift` of every unit: a row for each arm, sorted dots and their median for each seed."""
    runs = {arm: seeds for arm in arms if (seeds := by_seed(observations, arm, "percentiles"))}
    styles = series_styles(arms)
    all_drifts: list[float] = []
    for row, (arm, seeds) in enumerate(runs.items()):
        look = {"color": styles[arm]["color"], "marker": styles[arm]["marker"], "linestyle": "none"}
        for values in map(drift, seeds.values()):
            values = np.sort(values[np.isfinite(values)])
            if len(values):
                heights = np.linspace(row + 0.3, row - 0.3, len(values)) if len(values) > 1 else [row]
                ax.plot(values, heights, **look, markersize=3, alpha=0.6)
                ax.plot([np.median(values)] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1)
                all_drifts += list(values)
    log_if_wide(ax, "x", all_drifts)
    ax.set_xlabel(
        "Drift of each unit: mean distance of its percentiles from where they end, in final widths"
    )
    ax.set_ylabel("Units")
    ax.set_title("All units of all seeds, sorted; black: a seed's median", fontsize="medium")
    ax.set_ylim(len(runs) - 0.45, -0.55)
    ax.set_yticks(range(len(runs)), list(runs))
    ax.grid(alpha=0.3, axis="x")
    return ax


def histograms(figure: Figure, observations: list[dict], arms: dict[str, dict]) -> list[Axes]:
    """Draw the inputs of the activations before and after training: a row for each hidden layer.

    Args:
        observations: dicts with "arm", "seed", "epoch" and "histograms", for each hidden layer a dict of
            "low", "high" and "counts". The first and last epoch of each arm's lowest seed are drawn.
        arms: the arms to draw, a column each, to dicts of "series".
    """
    runs = first_seeds(observations, arms, "histograms")
    styles = series_styles(arms)
    layers = max(len(run[0]["histograms"]) for _, run in runs.values())
    figure.set_size_inches(1 + 4 * len(runs), 1.2 + 1.7 * layers)
    axes = figure.subplots(layers, len(runs), sharex="row", squeeze=False)
    for column, (arm, (seed, run)) in zip(axes.T, runs.items(), strict=True):
        before, after = run[0], run[-1]
        for layer, ax in enumerate(column):
            if layer >= len(before["histograms"]):
                ax.remove()
                continue
            histogram(ax, before["histograms"][layer], after["histograms"][layer], styles[arm]["color"])
            ax.set_xlabel(f"Input of the activation of hidden layer {layer + 1}")
        epochs = f"epoch {before['epoch']} (filled) and {after['epoch']} (line)"
        column[0].set_title(f"{arm}, seed {seed}\n{epochs}", fontsize="medium")
    return figure.axes


def histogram(ax: Axes, before: dict, after: dict, color: str) -> Axes:
    """Draw two histograms, `before` filled in grey, `after` as a line of `color`.

    Each is a dict of "low", "high" and "counts", of equal bins. Bars are shares of the largest count.
    """
    looks: tuple[dict[str, Any], ...] = (
        {"facecolor": "0.8", "edgecolor": "0.6", "fill": True},
        {"edgecolor": color, "linewidth": 1.8},
    )
    for item, look in zip((before, after), looks, strict=True):
        counts = np.array(item["counts"], dtype=float)
        low, high = np.array([item["low"], item["high"]], dtype=float)
        # A run that diverged can end without finite limits.
        if np.isfinite([low, high]).all() and np.nansum(counts) > 0:
            if low == high:  # One value: a bar rather than nothing.
                low, high = low - 0.5, high + 0.5
            ax.stairs(counts / np.nanmax(counts), np.linspace(low, high, len(counts) + 1), **look)
    ax.set_ylabel("Count / largest")
    ax.set_ylim(0, 1.1)
    return ax
