"""What all figures share: colours, labels, legends beside the data, the title, the file."""

from __future__ import annotations

import math
import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullLocator

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


def style(index):
    """The `index`th style: past the last, the colours come again with other dashes and markers."""
    again, place = divmod(index, len(STYLES))
    return {**STYLES[(place + again) % len(STYLES)], "color": STYLES[place]["color"]}


def styles(names):
    """A dict of names to styles, in the order in which the names come first."""
    return {name: style(index) for index, name in enumerate(dict.fromkeys(names))}


def series_styles(arms):
    """A dict of arms to the styles of their series.

    >>> found = series_styles({"a3": {"series": "a"}, "b3": {"series": "b"}, "a5": {"series": "a"}})
    >>> found["a3"] == found["a5"] == STYLES[0], found["b3"] == STYLES[1]
    (True, True)
    """
    found = styles(arm["series"] for arm in arms.values())
    return {name: found[arm["series"]] for name, arm in arms.items()}


def metrics(records):
    """Those of METRICS that the records hold, with labels: a regression has no accuracies and no nats."""
    found = [metric for metric in METRICS if any(metric in record for record in records)]
    known = any("accuracy" in metric for metric in found)
    return {
        metric: METRICS[metric] if known else METRICS[metric].removesuffix(" (nats)") for metric in found
    }


def label_of(metric, records):
    """The label of `metric`, or a ValueError if the records do not hold it."""
    known = metrics(records)
    if metric not in known:
        raise ValueError(f"`metric` must be one of the records' {list(known)}. Received: {metric!r}.")
    return known[metric]


def line_with_band(ax, x, low, mean, high, style, label):
    """A line at `mean` and a band from `low` to `high`."""
    ax.plot(x, mean, label=label, markersize=4, **style)
    # In grey, bands that overlap are told apart by their edges.
    edge = {"edgecolor": style["color"], "linestyle": style["linestyle"], "linewidth": 0.8}
    ax.fill_between(x, low, high, facecolor=style["color"], alpha=0.2, **edge)


def legend_above(ax, title=None):
    """A legend above `ax`, where it covers no data, and the title above both."""
    labels = ax.get_legend_handles_labels()[1]
    rows = 0
    if labels:
        columns = _columns(labels, ax)
        rows = -(-len(labels) // columns)
        ax.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=columns,
            frameon=False,
            fontsize="small",
            borderaxespad=0.1,
        )
    if title:
        ax.set_title(title, pad=6 + 14 * rows, fontsize="medium")


def legend_below(figure, axes):
    """One legend below all of the figure in place of those of `axes`, with each label once."""
    shown = {}
    for ax in axes:
        if ax.get_legend():
            ax.get_legend().remove()
        handles, labels = ax.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    if shown:
        columns = _columns(shown, figure)
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns)


def _columns(labels, place):
    """How many columns of these labels go into the width of `place`, an Axes or a Figure."""
    inches = place.bbox.width / place.figure.dpi
    fit = max(1, int(inches / (0.75 + 0.09 * max(map(len, labels)))))
    rows = math.ceil(len(labels) / fit)
    return math.ceil(len(labels) / rows)


def log_if_wide(ax, name, values):
    """Make the axis `name`, "x" or "y", logarithmic if `values` are positive and over a decade apart."""
    values = np.array(values, dtype=float)
    if len(values) and 0 < 10 * values.min() < values.max():
        ax.set(**{f"{name}scale": "log"})
        axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
        axis.set_major_locator(log_locator(values))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def log_locator(values):
    """Ticks at decades, and at 2 and 5 times them where the decades are few."""
    return LogLocator(subs=[1] if max(values) >= 1000 * min(values) else [1, 2, 5])


def set_title(figure, title):
    """Set `title` above all of the figure: its first line large, the rest (a source, say) small."""
    inches = figure.bbox.width / figure.dpi
    first, _, rest = title.partition("\n")
    first, rest = textwrap.fill(first, int(10 * inches)), textwrap.fill(rest, int(13 * inches))
    # A text has one size. The title keeps empty lines, in which another text takes its place.
    room = "\n" * len(rest.splitlines())
    above = figure.suptitle(first + room)
    if rest:
        place = {"xy": (0.5, 0), "xycoords": above, "ha": "center", "va": "bottom"}
        figure.add_artist(Annotation(rest, annotation_clip=False, fontsize="small", **place))


def figure(title, draw, *data, pyplot=False, **options):
    """A matplotlib Figure in which `draw(figure, *data, **options)` drew.

    Args:
        title: str, above all; what follows a line break, such as a source, is set small.
        draw: function that draws in a Figure: `sweeps`, `by_value`, `inside`, `histograms` or `fits`.
        data, options: what `draw` takes after the figure.
        pyplot: bool, whether pyplot shows and keeps it. Default False: a notebook shows it after
            `%matplotlib inline`.

    Returns:
        The Figure.
    """
    made = (plt.figure if pyplot else Figure)(layout="constrained")
    draw(made, *data, **options)
    set_title(made, title)
    return made


def save(path, title, draw, *data, **options):
    """Write `figure(title, draw, *data, **options)` to the file `path`; return `path`."""
    figure(title, draw, *data, **options).savefig(path, dpi=120)
    return path
