"""Losses and accuracies over epochs."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfbn.plots import style


def curves(
    ax: Axes,
    records: list[dict],
    metric: str,
    title: str | None = None,
    steps_per_epoch: int | None = None,
) -> Axes:
    """Draw `metric` over epochs: for each arm the mean line, and a band from lowest to highest seed.

    A diverged seed is in neither: it is drawn thin by itself, with a cross at its end, and the legend
    counts it. With more than six arms colours repeat; `sweep` suits them better.
    """
    for arm, look in style.styles(record["arm"] for record in records).items():
        runs = style.by_seed(records, arm)
        diverged = _count_diverged(runs)
        label = f"{arm} ({diverged})" if diverged else arm
        _draw_runs(ax, runs, metric, label, look, steps_per_epoch or 1)
    _label_axes(ax, records, metric, steps_per_epoch)
    style.legend_above(ax, title)
    return ax


def _count_diverged(runs: dict[int, list[dict]]) -> str:
    """Return how many runs diverged, in words; an empty string if none did."""
    count = sum(map(style.is_diverged, runs.values()))
    return f"{count} of {len(runs)} seeds diverged" if count else ""


def _draw_runs(
    ax: Axes, runs: dict[int, list[dict]], metric: str, label: str, look: dict, scale: int
) -> None:
    """Draw an arm's runs, whose epochs are `scale` steps."""
    finite_runs = []
    for run in runs.values():
        # A metric that is missing or None becomes NaN.
        points = np.array([(r["epoch"] * scale, r.get(metric)) for r in run], dtype=float).T
        if not style.is_diverged(run):
            finite_runs.append(points)
            continue
        ax.plot(*points, color=look["color"], linewidth=0.8)
        finite = np.flatnonzero(np.isfinite(points[1]))
        end = points[:, finite[-1]] if len(finite) else (points[0, 0], 0)
        ax.plot(*end, "x", color=look["color"], markersize=9, markeredgewidth=2)
    if not finite_runs:
        ax.plot([], [], label=label, markersize=4, **look)
        return
    # Seeds of an interrupted run can end at different epochs.
    epochs = np.unique(np.concatenate([points[0] for points in finite_runs]))
    values = [np.concatenate([points[1][points[0] == epoch] for points in finite_runs]) for epoch in epochs]
    low, mean, high = ([pick(v) for v in values] for pick in (np.min, np.mean, np.max))
    style.line_with_band(ax, epochs, low, mean, high, look, label)


def _label_axes(ax: Axes, records: list[dict], metric: str, steps_per_epoch: int | None) -> None:
    ax.set(xlabel="Step" if steps_per_epoch else "Epoch", ylabel=style.label_of(metric, records))
    # Steps are long numbers.
    ax.xaxis.set_major_locator(MaxNLocator(6 if steps_per_epoch else 10, integer=True))
    ax.grid(alpha=0.3)


def overview(records: list[dict], title: str, axes: Any = None, steps_per_epoch: int | None = None) -> Any:
    """Draw all metrics of the records: losses and accuracies, or the losses of a regression.

    `axes` are four matplotlib Axes in an array, or two without accuracies, which are returned. Default
    None: a new pyplot figure.
    """
    if axes is None:
        axes = _panels(plt.figure(layout="constrained"), records)
    for ax, metric in zip(np.ravel(axes), style.metrics(records), strict=True):
        curves(ax, records, metric, steps_per_epoch=steps_per_epoch)
    figure = np.ravel(axes)[0].figure
    style.legend_below(figure, np.ravel(axes))
    style.set_title(figure, title)
    return axes


def _panels(figure: Figure, records: list[dict]) -> Any:
    rows = len(style.metrics(records)) // 2
    figure.set_size_inches(10, 0.5 + 3.5 * rows)
    return figure.subplots(rows, 2)


def all_curves(figure: Figure, records: list[dict], steps_per_epoch: int | None = None) -> Any:
    """Draw `overview` in a matplotlib Figure; return its Axes."""
    return overview(records, "", _panels(figure, records), steps_per_epoch)


def save_curves(
    folder: Path, records: list[dict], title: str, steps_per_epoch: int | None = None
) -> list[Path]:
    """Write `overview` as curves.png and each of its panels as a file of its own; return the paths."""
    paths = [style.save(folder / "curves.png", title, all_curves, records, steps_per_epoch)]
    for metric in style.metrics(records):
        path = folder / f"{metric}.png"
        paths.append(style.save(path, title, _single_panel, records, metric, steps_per_epoch))
    return paths


def _single_panel(figure: Figure, records: list[dict], metric: str, steps_per_epoch: int | None) -> None:
    figure.set_size_inches(6, 4.5)
    curves(figure.subplots(), records, metric, steps_per_epoch=steps_per_epoch)


def by_value(
    figure: Figure,
    records: list[dict],
    arms: dict[str, dict],
    vary: dict[str, Any],
    steps_per_epoch: int | None = None,
) -> list[Axes]:
    """Draw validation accuracy (or loss) over epochs, a panel for each value, a line for each series."""
    metric = list(style.metrics(records))[-1]
    values = list(dict.fromkeys(arm["value"] for arm in arms.values()))
    columns = min(3, len(values))
    rows = -(-len(values) // columns)
    figure.set_size_inches(1 + 3.5 * columns, 1 + 3.2 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(values) :]:
        ax.remove()
    for ax, value in zip(figure.axes, values, strict=True):
        name = f"{value:g}" if isinstance(value, float) else value
        title = [textwrap.fill(f"{vary['label']}: {name}", 40)]
        for arm, look in style.series_styles(arms).items():
            if arms[arm]["value"] == value:
                runs, series = style.by_seed(records, arm), arms[arm]["series"]
                _draw_runs(ax, runs, metric, series, look, steps_per_epoch or 1)
                title += [f"{series}: {diverged}"] if (diverged := _count_diverged(runs)) else []
        ax.set_title("\n".join(title), fontsize="medium")
        _label_axes(ax, records, metric, steps_per_epoch)
        ax.tick_params(labelbottom=True, labelleft=True)
    style.legend_below(figure, figure.axes)
    return figure.axes
