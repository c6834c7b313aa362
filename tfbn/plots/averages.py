"""Statistics of batch norm layers, channel by channel."""

import os
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from tfbn.plots.style import STYLES, save, set_title

# What a panel shows: its label, and the value of averages that describe the data.
PANELS = {
    "mean_error": ("Moving mean off by (standard deviations)", 0),
    "variance_ratio": ("Moving variance / variance of the data", 1),
}


def statistics(layers: list[dict], title: str, axes: Any = None) -> Any:
    """Draw moving against population statistics, a point for each channel of each batch norm layer.

    Args:
        layers: dicts with "name", "mean_error" (in standard deviations) and "variance_ratio".
        title: above all.
        axes: two matplotlib Axes in an array. Default None: a new pyplot figure.

    Returns:
        The array of Axes.
    """
    if axes is None:
        axes = _panels(plt.figure(layout="constrained"), layers)
    for ax, (key, (label, right)) in zip(np.ravel(axes), PANELS.items(), strict=True):
        for row, layer in enumerate(layers):
            values = np.array(layer[key])
            # Side by side rather than on top of each other.
            heights = row + np.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else [row]
            ax.plot(values, heights, ".", color=STYLES[0]["color"], markersize=4)
        ax.axvline(right, color="black", linewidth=1)
        ax.set_xlabel(label)
        ax.set_ylim(len(layers) - 0.4, -0.6)
        ax.set_yticks(range(len(layers)), [layer["name"] for layer in layers])
        ax.grid(alpha=0.3, axis="x")
    errors, ratios = np.ravel(axes)
    ratios.set_xscale("log", base=2)
    # Differences that do not matter look small.
    errors.set_xlim(right=max(errors.get_xlim()[1], 0.5))
    ratios.set_xlim(min(ratios.get_xlim()[0], 0.45), max(ratios.get_xlim()[1], 2.2))
    ratios.xaxis.set_major_formatter("{x:g}")
    set_title(errors.figure, title)
    return axes


def save_statistics(path: str | os.PathLike, layers: list[dict], title: str) -> None:
    """Write `statistics` to the file `path`."""
    save(path, title, lambda figure: statistics(layers, "", _panels(figure, layers)))


def _panels(figure: Figure, layers: list[dict]) -> Any:
    figure.set_size_inches(10, 1.5 + 0.4 * len(layers))
    return figure.subplots(1, 2, sharey=True)
