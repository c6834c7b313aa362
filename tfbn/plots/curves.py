"""Losses and accuracies over epochs."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfbn.plots.runs import by_seed, is_diverged
from tfbn.plots.style import (
    label_of,
    legend_above,
    legend_below,
    line_with_band,
    metrics,
    series_styles,
    set_title,
    styles,
)


def curves(ax, records, metric, title=None, steps_per_epoch=None):
    """Draw `metric` over epochs: a line for each arm's mean, a band from its lowest to highest seed.

    A seed that ended at a loss that is no number stays out of line and band: it is drawn thin by
    itself, with a cross where it ended, and counted in the legend.

    Args:
        ax: matplotlib Axes.
        records: list of dicts with "arm", "seed", "epoch" and `metric`. Above six arms colours repeat:
            a sweep is for `sweep` then.
        metric: str, "train_loss", "train_accuracy", "validation_loss" or "validation_accuracy".
        title: str, the title of the Axes. Default None: none.
        steps_per_epoch: int, to draw over steps. Default None: over epochs.

    Returns:
        `ax`.
    """
    for arm, style in styles(record["arm"] for record in records).items():
        runs = by_seed(records, arm)
        bad = _diverged(runs)
        _curve(ax, runs, metric, f"{arm} ({bad})" if bad else arm, style, steps_per_epoch or 1)
    _finish(ax, records, metric, steps_per_epoch)
    legend_above(ax, title)
    return ax


def _diverged(runs):
    """How many runs diverged, in words; nothing if none did."""
    count = sum(map(is_diverged, runs.values()))
    return f"{count} of {len(runs)} seeds diverged" if count else ""


def _curve(ax, runs, metric, label, style, stretch):
    """Draw the runs of an arm, a dict of seed to records."""
    sound = []
    for run in runs.values():
        # A metric that is missing or None becomes NaN.
        points = np.array([(r["epoch"] * stretch, r.get(metric)) for r in run], dtype=float).T
        if not is_diverged(run):
            sound.append(points)
            continue
        epochs, values = points
        ax.plot(epochs, values, color=style["color"], linewidth=0.8)
        known = np.flatnonzero(np.isfinite(values))
        at = (epochs[known[-1]], values[known[-1]]) if len(known) else (epochs[0], 0)
        ax.plot(*at, "x", color=style["color"], markersize=9, markeredgewidth=2)
    if not sound:
        ax.plot([], [], label=label, markersize=4, **style)
        return
    # Seeds may have come to different epochs if the run was interrupted.
    epochs = np.unique(np.concatenate([points[0] for points in sound]))
    values = [np.concatenate([points[1][points[0] == epoch] for points in sound]) for epoch in epochs]
    low, mean, high = ([pick(v) for v in values] for pick in (np.min, np.mean, np.max))
    line_with_band(ax, epochs, low, mean, high, style, label)


def _finish(ax, records, metric, steps_per_epoch):
    ax.set_xlabel("Step" if steps_per_epoch else "Epoch")
    ax.set_ylabel(label_of(metric, records))
    # Steps are long numbers.
    ax.xaxis.set_major_locator(MaxNLocator(6 if steps_per_epoch else 10, integer=True))
    ax.grid(alpha=0.3)


def overview(records, title, axes=None, steps_per_epoch=None):
    """Draw all metrics that the records hold: losses and accuracies, or the losses of a regression.

    Args:
        records, steps_per_epoch: as in `curves`.
        title: str, above all; what follows a line break, such as a source, is set small.
        axes: as many matplotlib Axes in an array: four, or two without accuracies. Default None: a new
            pyplot figure.

    Returns:
        The array of Axes.
    """
    if axes is None:
        rows = len(metrics(records)) // 2
        figure = plt.figure(figsize=(10, 0.5 + 3.5 * rows), layout="constrained")
        axes = figure.subplots(rows, 2)
    for ax, metric in zip(np.ravel(axes), metrics(records), strict=True):
        curves(ax, records, metric, steps_per_epoch=steps_per_epoch)
    figure = np.ravel(axes)[0].figure
    legend_below(figure, np.ravel(axes))
    set_title(figure, title)
    return axes


def all_curves(figure, records, steps_per_epoch=None):
    """`overview` in a matplotlib Figure; returns its Axes."""
    rows = len(metrics(records)) // 2
    figure.set_size_inches(10, 0.5 + 3.5 * rows)
    return overview(records, "", figure.subplots(rows, 2), steps_per_epoch)


def save_curves(folder, records, title, steps_per_epoch=None):
    """Write `overview` as curves.png and each of its panels as a file of its own; return the paths."""
    figures = {}
    # Figures of our own, not pyplot's: no window opens, and none has to be closed.
    rows = len(metrics(records)) // 2
    figures["curves"] = Figure(figsize=(10, 0.5 + 3.5 * rows), layout="constrained")
    overview(records, title, figures["curves"].subplots(rows, 2), steps_per_epoch)
    for metric in metrics(records):
        figures[metric] = Figure(figsize=(6, 4.5), layout="constrained")
        curves(figures[metric].subplots(), records, metric, steps_per_epoch=steps_per_epoch)
        set_title(figures[metric], title)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
    return paths


def by_value(figure, records, arms, vary, steps_per_epoch=None):
    """Draw validation accuracy over epochs, a panel for each value of the knob, a line for each series.

    A regression has its validation loss drawn.

    Args:
        figure: matplotlib Figure.
        records, steps_per_epoch: as in `curves`.
        arms: dict of arms to dicts of "series" and "value".
        vary: dict of the knob, with "label".

    Returns:
        The list of Axes.
    """
    metric = list(metrics(records))[-1]
    values = list(dict.fromkeys(arm["value"] for arm in arms.values()))
    columns = min(3, len(values))
    rows = -(-len(values) // columns)
    figure.set_size_inches(1 + 3.5 * columns, 1 + 3.2 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, value in zip(axes, values, strict=False):
        shown = f"{value:g}" if isinstance(value, float) else value
        title = [textwrap.fill(f"{vary['label']}: {shown}", 40)]
        for name, style in series_styles(arms).items():
            if arms[name]["value"] == value:
                runs, series = by_seed(records, name), arms[name]["series"]
                _curve(ax, runs, metric, series, style, steps_per_epoch or 1)
                title += [f"{series}: {bad}"] if (bad := _diverged(runs)) else []
        ax.set_title("\n".join(title), fontsize="medium")
        _finish(ax, records, metric, steps_per_epoch)
        ax.tick_params(labelbottom=True, labelleft=True)
    for ax in axes[len(values) :]:
        ax.remove()
    legend_below(figure, axes[: len(values)])
    return list(axes[: len(values)])
