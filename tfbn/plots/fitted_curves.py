"""Curves that the regression of one variable goes through."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfbn.plots.runs import first_seeds

# From light to dark, in grey too, without the lightest, which vanishes on white.
COLORS = ListedColormap(colormaps["viridis_r"](np.linspace(0.1, 1, 256)))


def fits(
    figure: Figure,
    observations: list[dict],
    arms: dict[str, dict],
    x: np.ndarray,
    points: tuple,
    steps_per_epoch: int | None = None,
) -> list[Axes]:
    """Draw `fitted`, a panel for the lowest seed of each arm; return the panels' Axes.

    Args:
        observations: dicts with "arm", "seed", "epoch" and "outputs", [N].
        arms: the arms to draw.
        x, points, steps_per_epoch: as in `fitted`.
    """
    runs = first_seeds(observations, arms, "outputs")
    figure.set_size_inches(1.5 + 4.5 * len(runs), 4.5)
    axes = list(figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0])
    last = max(item["epoch"] for _, run in runs.values() for item in run) * (steps_per_epoch or 1)
    # Most happens early: the root of the step gives it more of the colours.
    scale = ScalarMappable(PowerNorm(0.5, 0, last), COLORS)
    for ax, (arm, (seed, run)) in zip(axes, runs.items(), strict=True):
        fitted(ax, run, x, points, scale, steps_per_epoch)
        ax.set_title(f"{arm}, seed {seed}", fontsize="medium")
        ax.tick_params(labelleft=True)
    figure.colorbar(scale, ax=axes, label="Step" if steps_per_epoch else "Epoch")
    return axes


def fitted(
    ax: Axes,
    run: list[dict],
    x: np.ndarray,
    points: tuple,
    scale: ScalarMappable,
    steps_per_epoch: int | None = None,
) -> Axes:
    """Draw the data and the curves of one run, coloured by time, the last one wide; return `ax`.

    Args:
        run: dicts with "epoch", in order, and "outputs", [N].
        x: [N], where the outputs were taken, in order.
        points: x and y of the data, [M] each.
        scale: from steps (or epochs) to colours.
        steps_per_epoch: to colour by step. Default None: by epoch.
    """
    # Wider than the curves that cover them.
    ax.plot(*points, "o", color="0.75", markersize=6, markeredgewidth=0, label="data")
    unit = "step" if steps_per_epoch else "epoch"
    for item in run:
        time = item["epoch"] * (steps_per_epoch or 1)
        look = {"linewidth": 2.5, "label": f"{unit} {time}"} if item is run[-1] else {"linewidth": 1}
        # None becomes NaN.
        ax.plot(x, np.array(item["outputs"], dtype=float), color=scale.to_rgba(time), **look)
    ax.set_xlabel("x")
    ax.set_ylabel("y")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    # Room for the legend above the data. A curve that runs away leaves the frame.
    low, high = np.min(points[1]), np.max(points[1])
    ax.set_ylim(low - 0.3 * (high - low), high + 0.3 * (high - low))
    ax.grid(alpha=0.3)
    ax.legend(loc="upper right", ncols=2)
    return ax
