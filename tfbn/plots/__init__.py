"""Records and observations to figures. Draws nothing that it was not given."""

from matplotlib.figure import Figure

from tfbn.plots.activations import drifts, histogram, histograms, inside, percentiles
from tfbn.plots.averages import save_statistics, statistics
from tfbn.plots.curves import all_curves, by_value, curves, overview, save_curves
from tfbn.plots.fits import fits, fitted
from tfbn.plots.runs import drift
from tfbn.plots.style import METRICS, STYLES, figure, save
from tfbn.plots.sweeps import sweep, sweeps

__all__ = [
    "METRICS",
    "STYLES",
    "Figure",
    "all_curves",
    "by_value",
    "curves",
    "drift",
    "drifts",
    "figure",
    "fits",
    "fitted",
    "histogram",
    "histograms",
    "inside",
    "overview",
    "percentiles",
    "save",
    "save_curves",
    "save_statistics",
    "statistics",
    "sweep",
    "sweeps",
]
