"""What all figures share: runs, colours, labels, legends beside the data, the title, the file."""

import math
import os
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullLocator

METRICS = {
    "train_loss": "Training loss (nats)",
    "train_accuracy": "Training accuracy",
    "validation_loss": "Validation loss (nats)",
    "validation_accuracy": "Validation accuracy",
}
# Okabe and Ito's colours, which colour-blind eyes distinguish; dashes and markers differ in grey, too.
STYLES: list[dict[str, Any]] = [
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": "#E69F00", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#000000", "linestyle": (0, (1, 1)), "marker": "P"},
]


def by_seed(items: Iterable[dict], arm: str, key: str = "epoch") -> dict[int, list[dict]]:
    """Return the records or observations of `arm` that have `key`, by seed and in order of epochs.

    >>> by_seed([{"arm": "a", "seed": 0, "epoch": 2}, {"arm": "a", "seed": 0, "epoch": 1}], "a")
    {0: [{'arm': 'a', 'seed': 0, 'epoch': 1}, {'arm': 'a', 'seed': 0, 'epoch': 2}]}
    """
    runs: dict[int, list[dict]] = {}
    for item in sorted(items, key=lambda item: (item["seed"], item["epoch"])):
        if item["arm"] == arm and item.get(key) is not None:
            runs.setdefault(item["seed"], []).append(item)
    return runs


def is_diverged(records: Iterable[dict]) -> bool:
    """Return whether a run reached a loss that is not a finite number.

    >>> is_diverged([{"train_loss": 0.5}]), is_diverged([{"train_loss": 0.5}, {"train_loss": None}])
    (False, True)
    """
    losses = [r[key] for r in records for key in ("train_loss", "validation_loss") if key in r]
    # None is how JSON holds NaN.
    return not all(loss is not None and math.isfinite(loss) for loss in losses)


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return names to styles, in the order in which the names first occur.

    After the last style, the colours repeat with other dashes and markers.
    """
    by_name = {}
    for index, name in enumerate(dict.fromkeys(names)):
        rounds, place = divmod(index, len(STYLES))
        by_name[name] = {**STYLES[(place + rounds) % len(STYLES)], "color": STYLES[place]["color"]}
    return by_name


def series_styles(arms: dict[str, dict]) -> dict[str, dict[str, Any]]:
    """Return arms to the styles of their series.

    >>> styles = series_styles({"a3": {"series": "a"}, "b3": {"series": "b"}, "a5": {"series": "a"}})
    >>> styles["a3"] == styles["a5"] == STYLES[0], styles["b3"] == STYLES[1]
    (True, True)
    """
    by_series = styles(arm["series"] for arm in arms.values())
    return {name: by_series[arm["series"]] for name, arm in arms.items()}


def metrics(records: list[dict]) -> dict[str, str]:
    """Return the METRICS of the records, with labels: a regression has no accuracies and no nats."""
    names = [metric for metric in METRICS if any(metric in record for record in records)]
    is_regression = not any("accuracy" in metric for metric in names)
    return {name: METRICS[name].removesuffix(" (nats)" if is_regression else "") for name in names}


def label_of(metric: str, records: list[dict]) -> str:
    """Return the label of `metric`; raise ValueError if the records do not hold it."""
    labels = metrics(records)
    if metric not in labels:
        raise ValueError(f"`metric` must be one of the records' {list(labels)}. Received: {metric!r}.")
    return labels[metric]


def line_with_band(ax: Axes, x: Any, low: Any, mean: Any, high: Any, style: dict, label: str) -> None:
    """Draw a line at `mean` and a band from `low` to `high`."""
    ax.plot(x, mean, label=label, markersize=4, **style)
    # In grey, the edges distinguish bands that overlap.
    edge = {"edgecolor": style["color"], "linestyle": style["linestyle"], "linewidth": 0.8}
    ax.fill_between(x, low, high, facecolor=style["color"], alpha=0.2, **edge)


def legend_above(ax: Axes, title: str | None = None) -> None:
    """Draw a legend above `ax`, where it covers no data, and the title above both."""
    rows = 0
    if labels := ax.get_legend_handles_labels()[1]:
        rows, columns = _grid(labels, ax)
        place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "borderaxespad": 0.1}
        ax.legend(ncols=columns, frameon=False, fontsize="small", **place)
    if title:
        ax.set_title(title, pad=6 + 14 * rows, fontsize="medium")


def legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    """Draw one legend below the figure in place of those of `axes`, with each label once."""
    shown: dict[str, Any] = {}
    for ax in axes:
        if legend := ax.get_legend():
            legend.remove()
        handles, labels = ax.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    if shown:
        _, columns = _grid(shown, figure)
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns)


def _grid(labels: Collection[str], place: Any) -> tuple[int, int]:
    """Return the rows and columns of a legend of these labels that fits the width of an Axes or Figure."""
    inches = place.bbox.width / place.figure.dpi
    most = max(1, int(inches / (0.75 + 0.09 * max(map(len, labels)))))
    rows = math.ceil(len(labels) / most)
    return rows, math.ceil(len(labels) / rows)


def log_if_wide(ax: Axes, name: str, values: Sequence[float]) -> None:
    """Make the axis `name`, "x" or "y", logarithmic if `values` are positive and span over a decade."""
    if len(values) and 0 < 10 * np.min(values) < np.max(values):
        ax.set(**{f"{name}scale": "log"})
        axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
        axis.set_major_locator(log_locator(values))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def log_locator(values: Sequence[float]) -> LogLocator:
    """Return ticks at decades, and at 2 and 5 times them where the decades are few."""
    return LogLocator(subs=[1] if max(values) >= 1000 * min(values) else [1, 2, 5])


def set_title(figure: Figure, title: str) -> None:
    """Set `title` above the figure: its first line large, the rest (such as a source) small."""
    inches = figure.bbox.width / figure.dpi
    first, _, rest = title.partition("\n")
    first, rest = textwrap.fill(first, int(10 * inches)), textwrap.fill(rest, int(13 * inches))
    # A text has one size. The title keeps empty lines, in which another text takes its place.
    above = figure.suptitle(first + "\n" * len(rest.splitlines()))
    if rest:
        place: dict[str, Any] = {"xy": (0.5, 0), "xycoords": above, "ha": "center", "va": "bottom"}
        figure.add_artist(Annotation(rest, annotation_clip=False, fontsize="small", **place))


def figure(title: str, draw: Callable, *data: Any, pyplot: bool = False, **options: Any) -> Figure:
    """Return a matplotlib Figure in which `draw(figure, *data, **options)` drew.

    What follows a line break in `title`, such as a source, is small. With `pyplot`, pyplot shows and keeps
    the figure. Default False: a notebook displays the returned Figure after `%matplotlib inline`.
    """
    new_figure = (plt.figure if pyplot else Figure)(layout="constrained")
    draw(new_figure, *data, **options)
    set_title(new_figure, title)
    return new_figure


def save(path: str | os.PathLike, title: str, draw: Callable, *data: Any, **options: Any) -> Path:
    """Write `figure(title, draw, *data, **options)` to the file `path`; return `path`."""
    figure(title, draw, *data, **options).savefig(path, dpi=120)
    return Path(path)
