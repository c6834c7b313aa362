"""Histories to matplotlib Axes. Draws nothing that it was not given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

METRICS = {
    "train_loss": "Training loss (nats)",
    "train_accuracy": "Training accuracy",
    "validation_loss": "Validation loss (nats)",
    "validation_accuracy": "Validation accuracy",
}
# Okabe and Ito's colours, told apart by colour-blind eyes; dashes and markers tell them apart in grey.
STYLES = [
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": "#E69F00", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#000000", "linestyle": (0, (1, 1)), "marker": "P"},
]


def curves(ax, records, metric, title=None):
    """Draw `metric` over epochs: a line for each arm's mean, a band from its lowest to highest seed.

    A seed that ended at a loss that is no number stays out of line and band: it is drawn thin by
    itself, with a cross where it ended, and counted in the legend.

    Args:
        ax: matplotlib Axes.
        records: list of dicts with "arm", "seed", "epoch" and `metric`.
        metric: str, one of METRICS.
        title: str, the title of the Axes. Default None: none.

    Returns:
        `ax`.
    """
    for index, arm in enumerate(dict.fromkeys(record["arm"] for record in records)):
        style = STYLES[index % len(STYLES)]
        seeds = {}
        for record in records:
            if record["arm"] == arm:
                seeds.setdefault(record["seed"], []).append(
                    (record["epoch"], record[metric], record["train_loss"])
                )
        # None is how JSON holds NaN.
        seeds = {seed: np.array(sorted(points), dtype=float).T for seed, points in seeds.items()}
        diverged = [seed for seed, points in seeds.items() if not np.isfinite(points[2]).all()]
        sound = [points for seed, points in seeds.items() if seed not in diverged]
        label = arm
        if diverged:
            label += f" ({len(diverged)} of {len(seeds)} seeds diverged)"
            for seed in diverged:
                epochs, values, _ = seeds[seed]
                ax.plot(epochs, values, color=style["color"], linewidth=0.8)
                known = np.flatnonzero(np.isfinite(values))
                at = (epochs[known[-1]], values[known[-1]]) if len(known) else (epochs[0], 0)
                ax.plot(*at, "x", color=style["color"], markersize=9, markeredgewidth=2)
        if sound:
            # Seeds may have come to different epochs if the run was interrupted.
            epochs = np.unique(np.concatenate([points[0] for points in sound]))
            values = [
                np.concatenate([points[1][points[0] == epoch] for points in sound]) for epoch in epochs
            ]
            ax.plot(epochs, [v.mean() for v in values], label=label, markersize=4, **style)
            low, high = [v.min() for v in values], [v.max() for v in values]
            # In grey, bands that overlap are told apart by their edges.
            edge = {"edgecolor": style["color"], "linestyle": style["linestyle"], "linewidth": 0.8}
            ax.fill_between(epochs, low, high, facecolor=style["color"], alpha=0.2, **edge)
        else:
            ax.plot([], [], label=label, **style)
    ax.set_xlabel("Epoch")
    ax.set_ylabel(METRICS[metric])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    ax.legend()
    if title:
        ax.set_title(title)
    return ax


def overview(records, title, axes=None):
    """Draw all four METRICS.

    Args:
        records, title: as in `curves`; the title stands above all.
        axes: four matplotlib Axes in an array. Default None: a new pyplot figure.

    Returns:
        The array of Axes.
    """
    if axes is None:
        _, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for ax, metric in zip(np.ravel(axes), METRICS, strict=True):
        curves(ax, records, metric)
    np.ravel(axes)[0].figure.suptitle(title)
    return axes


def save_curves(folder, records, title):
    """Write `overview` as curves.png and each of its panels as a file of its own; return the paths."""
    figures = {}
    # Figures of our own, not pyplot's: no window opens, and none has to be closed.
    figures["curves"] = Figure(figsize=(10, 7), layout="constrained")
    overview(records, title, figures["curves"].subplots(2, 2))
    for metric in METRICS:
        figures[metric] = Figure(figsize=(6, 4), layout="constrained")
        curves(figures[metric].subplots(), records, metric, title)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
    return paths


def statistics(layers, title, axes=None):
    """Draw moving against population statistics, a point for each channel of each batch norm layer.

    Args:
        layers: list of dicts with "name", "mean_error" (in standard deviations) and "variance_ratio".
        title: str, above all.
        axes: two matplotlib Axes in an array. Default None: a new pyplot figure.

    Returns:
        The array of Axes.
    """
    if axes is None:
        _, axes = plt.subplots(
            1, 2, figsize=(10, 1.5 + 0.4 * len(layers)), layout="constrained", sharey=True
        )
    panels = {
        "mean_error": ("Moving mean off by (standard deviations)", 0),
        "variance_ratio": ("Moving variance / variance of the data", 1),
    }
    for ax, (key, (label, right)) in zip(np.ravel(axes), panels.items(), strict=True):
        for place, layer in enumerate(layers):
            values = np.array(layer[key])
            # Side by side rather than upon each other.
            heights = place + np.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else [place]
            ax.plot(values, heights, ".", color=STYLES[0]["color"], markersize=4)
        ax.axvline(right, color="black", linewidth=1)
        ax.set_xlabel(label)
        ax.set_ylim(len(layers) - 0.4, -0.6)
        ax.set_yticks(range(len(layers)), [layer["name"] for layer in layers])
        ax.grid(alpha=0.3, axis="x")
    errors, ratios = np.ravel(axes)
    ratios.set_xscale("log", base=2)
    # No closer look than matters.
    errors.set_xlim(right=max(errors.get_xlim()[1], 0.5))
    ratios.set_xlim(min(ratios.get_xlim()[0], 0.45), max(ratios.get_xlim()[1], 2.2))
    ratios.xaxis.set_major_formatter("{x:g}")
    np.ravel(axes)[0].figure.suptitle(title)
    return axes


def save_statistics(path, layers, title):
    """Write `statistics` to the file `path`."""
    figure = Figure(figsize=(10, 1.5 + 0.4 * len(layers)), layout="constrained")
    statistics(layers, title, figure.subplots(1, 2, sharey=True))
    figure.savefig(path, dpi=120)
