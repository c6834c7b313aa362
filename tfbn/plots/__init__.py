"""Records and observations to figures. No function bears the name of its file, which it would hide.

Arguments that many functions share:

- records: dicts with "arm", "seed", "epoch" and metrics, such as "train_loss".
- observations: dicts with "arm", "seed", "epoch" and what was observed, such as "percentiles".
- arms: the arms to draw, to dicts of "series" and "value".
- metric: a key of METRICS; of a run, `sweep` takes the best epoch, but the last training loss.
- steps_per_epoch: to draw over steps. Default None: over epochs.
"""
# ruff: noqa: F401

from matplotlib.figure import Figure

from tfbn.plots.observations import fits, histograms, inside, percentiles, save_statistics, statistics
from tfbn.plots.style import METRICS, figure, save
from tfbn.plots.sweep_panels import sweep, sweeps
from tfbn.plots.training_curves import all_curves, by_value, curves, overview, save_curves
