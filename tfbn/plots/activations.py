"""Inside the networks: what comes into their activations, and how it moves in training."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator

from tfbn.plots.runs import by_seed, drift, first_seeds, median_unit
from tfbn.plots.style import log_if_wide, series_styles


def inside(figure, observations, arms, unit=None, steps_per_epoch=None):
    """Draw the `percentiles` of a unit, a panel for each arm and of its lowest seed; below, all `drifts`.

    Args:
        figure: matplotlib Figure.
        observations: list of dicts with "arm", "seed", "epoch" and "percentiles", [units, 3].
        arms: dict of the arms to draw, to dicts of "series".
        unit: int. Default None: for each arm the unit whose drift is the median, so that none is picked
            by its looks.
        steps_per_epoch: int, to draw over steps. Default None: over epochs.

    Returns:
        The list of Axes, that of the drifts last.
    """
    found = first_seeds(observations, arms, "percentiles")
    styles = series_styles(arms)
    figure.set_size_inches(1 + 4.5 * len(found), 4.5 + 0.5 * len(found))
    grid = figure.add_gridspec(2, len(found), height_ratios=[3.5, 0.6 + 0.4 * len(found)])
    axes = []
    for column, (arm, (seed, run)) in enumerate(found.items()):
        ax = figure.add_subplot(grid[0, column], sharey=axes[0] if axes else None)
        moved = drift(run)
        shown = median_unit(moved) if unit is None else unit
        percentiles(ax, run, shown, styles[arm], steps_per_epoch)
        rule = ": the one of median drift" if unit is None and np.isfinite(moved).any() else ""
        ax.set_title(f"{arm}, seed {seed}\nunit {shown} of {len(moved)}{rule}", fontsize="medium")
        axes.append(ax)
    drifts(figure.add_subplot(grid[1, :]), observations, arms)
    return figure.axes


def percentiles(ax, run, unit, style, steps_per_epoch=None):
    """Draw 15th, 50th and 85th percentile of the input of a unit's activation over the training of one run.

    Source: Ioffe and Szegedy 2015, Figure 1 (b, c).

    Args:
        ax: matplotlib Axes.
        run: list of dicts with "epoch", in order, and "percentiles", [units, 3].
        unit: int, which unit, from 0.
        style: dict of "color", "linestyle" and "marker".
        steps_per_epoch: int, to draw over steps. Default None: over epochs.

    Returns:
        `ax`.
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
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            # The outer labels a little outwards: lines may lie close.
            place = {"xytext": (4, up), "textcoords": "offset points", "va": "center", "fontsize": "small"}
            ax.annotate(name, (times[known[-1]], values[known[-1]]), **place)
    ax.set_xlabel("Step" if steps_per_epoch else "Epoch")
    ax.set_ylabel("Input of the activation:\n15th, 50th, 85th percentile")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.margins(x=0.02)
    ax.grid(alpha=0.3)
    return ax


def drifts(ax, observations, arms):
    """Draw the `drift` of every unit: a row for each arm, a string of sorted dots and its median a seed.

    Args:
        ax: matplotlib Axes.
        observations, arms: as in `inside`.

    Returns:
        `ax`.
    """
    rows = [arm for arm in arms if by_seed(observations, arm, "percentiles")]
    styles, shown = series_styles(arms), []
    for row, arm in enumerate(rows):
        style = {"color": styles[arm]["color"], "marker": styles[arm]["marker"], "linestyle": "none"}
        for run in by_seed(observations, arm, "percentiles").values():
            values = drift(run)
            values = np.sort(values[np.isfinite(values)])
            if len(values):
                heights = np.linspace(row + 0.3, row - 0.3, len(values)) if len(values) > 1 else [row]
                ax.plot(values, heights, **style, markersize=3, alpha=0.6)
                shown += list(values)
                ax.plot([np.median(values)] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1)
    log_if_wide(ax, "x", shown)
    ax.set_xlabel(
        "Drift of each unit: mean distance of its percentiles from where they end, in final widths"
    )
    ax.set_ylabel("Units")
    ax.set_title("All units of all seeds, sorted; black: a seed's median", fontsize="medium")
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(alpha=0.3, axis="x")
    return ax


def histograms(figure, observations, arms):
    """Draw what comes into the activations before and after training: a row for each hidden layer.

    Args:
        figure: matplotlib Figure.
        observations: list of dicts with "arm", "seed", "epoch" and "histograms", a dict of "low", "high"
            and "counts" for each hidden layer. Of each arm the lowest seed is drawn, first and last epoch.
        arms: dict of the arms to draw, a column each, to dicts of "series".

    Returns:
        The list of Axes.
    """
    found = first_seeds(observations, arms, "histograms")
    styles = series_styles(arms)
    layers = max(len(run[0]["histograms"]) for _, run in found.values())
    figure.set_size_inches(1 + 4 * len(found), 1.2 + 1.7 * layers)
    axes = figure.subplots(layers, len(found), sharex="row", squeeze=False)
    for place, (arm, (seed, run)) in enumerate(found.items()):
        for layer, ax in enumerate(axes[:, place]):
            if layer >= len(run[0]["histograms"]):
                ax.remove()
                continue
            before, after = (item["histograms"][layer] for item in (run[0], run[-1]))
            histogram(ax, before, after, styles[arm]["color"])
            ax.set_xlabel(f"Input of the activation of hidden layer {layer + 1}")
        epochs = f"epoch {run[0]['epoch']} (filled) and {run[-1]['epoch']} (line)"
        axes[0, place].set_title(f"{arm}, seed {seed}\n{epochs}", fontsize="medium")
    return figure.axes


def histogram(ax, before, after, color):
    """Draw two histograms, each in shares of its largest count: `before` filled in grey, `after` as a line.

    Args:
        ax: matplotlib Axes.
        before, after: dicts of "low", "high" and "counts", of equal bins from low to high.
        color: of the line.

    Returns:
        `ax`.
    """
    looks = {"facecolor": "0.8", "edgecolor": "0.6", "fill": True}, {"edgecolor": color, "linewidth": 1.8}
    for item, look in zip((before, after), looks, strict=True):
        counts = np.array(item["counts"], dtype=float)
        low, high = np.array([item["low"], item["high"]], dtype=float)
        # A run that diverged may have ended at no numbers.
        if np.isfinite([low, high]).all() and np.nansum(counts) > 0:
            if low == high:  # One value: a bar rather than nothing.
                low, high = low - 0.5, high + 0.5
            ax.stairs(counts / np.nanmax(counts), np.linspace(low, high, len(counts) + 1), **look)
    ax.set_ylabel("Count / largest")
    ax.set_ylim(0, 1.1)
    return ax
