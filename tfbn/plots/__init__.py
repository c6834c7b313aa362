"""Records and observations to figures. No function bears the name of its file, which it would hide."""
# ruff: noqa: F401

from matplotlib.figure import Figure

from tfbn.plots.activations import drifts, histogram, histograms, inside, percentiles
from tfbn.plots.averages import save_statistics, statistics
from tfbn.plots.fitted_curves import fits, fitted
from tfbn.plots.runs import drift
from tfbn.plots.style import METRICS, STYLES, figure, save
from tfbn.plots.sweep_panels import sweep, sweeps
from tfbn.plots.training_curves import all_curves, by_value, curves, overview, save_curves
