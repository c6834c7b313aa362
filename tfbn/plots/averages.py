"""Statistics of batch norm layers, channel by channel."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from tfbn.plots.style import STYLES, set_title


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
    set_title(np.ravel(axes)[0].figure, title)
    return axes


def save_statistics(path, layers, title):
    """Write `statistics` to the file `path`."""
    figure = Figure(figsize=(10, 1.5 + 0.4 * len(layers)), layout="constrained")
    statistics(layers, title, figure.subplots(1, 2, sharey=True))
    figure.savefig(path, dpi=120)
