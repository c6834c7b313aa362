"""Sweeps and panels by value draw their arguments."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tfbn import plots

NAN = float("nan")
SCALE = {"name": "initial_scale", "label": "Standard deviation", "log": True}
DEPTH = {"name": "depth", "label": "Hidden layers", "log": False}


def run(arm, seed, accuracies, losses):
    return [
        {
            "arm": arm,
            "seed": seed,
            "epoch": epoch,
            "train_loss": loss,
            "validation_loss": loss,
            "train_accuracy": accuracy and accuracy + 0.1,
            "validation_accuracy": accuracy,
        }
        for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), 1)
    ]


ARMS = {
    f"{series}-{value}": {"series": series, "value": value}
    for series in ("batchnorm", "plain")
    for value in (0.1, 0.001, 0.01)  # Not in order.
}
RECORDS = [
    record
    for arm in ARMS
    for seed, more in ((0, 0.0), (1, 0.2))
    for record in run(arm, seed, [0.3 + more, 0.5 + more, 0.4 + more], [4.0, 0.5, 1.0 + more])
]


def bottom(ax):
    """The crosses: a list of x, y and colour."""
    return [(*line.get_xydata().T, line.get_color()) for line in ax.lines if line.get_marker() == "x"]


def labelled(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def without(records, arm, seed):
    return [record for record in records if (record["arm"], record["seed"]) != (arm, seed)]


@pytest.mark.parametrize(
    ("metric", "label", "low", "high"),
    [
        ("validation_accuracy", "Best validation accuracy", 0.5, 0.7),
        ("train_accuracy", "Best training accuracy", 0.6, 0.8),
        ("validation_loss", "Best validation loss (nats)", 0.5, 0.5),
        ("train_loss", "Final training loss (nats)", 1.0, 1.2),
    ],
)
def test_sweep_draws_mean_and_band_of_one_outcome_per_run(metric, label, low, high):
    ax = plots.sweep(Figure().subplots(), RECORDS, ARMS, SCALE, [], metric)
    assert list(labelled(ax)) == texts(ax) == ["batchnorm", "plain"]
    for line in labelled(ax).values():
        np.testing.assert_allclose(line.get_xdata(), [0.001, 0.01, 0.1])
        np.testing.assert_allclose(line.get_ydata(), [(low + high) / 2] * 3)
    band = ax.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [low, high])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Standard deviation", label)
    assert ax.get_xscale() == "log"
    assert bottom(ax) == []


def test_sweep_marks_diverged_runs_below_and_leaves_them_out_of_lines():
    bad = without(RECORDS, "plain-0.1", 0) + run("plain-0.1", 0, [0.9, None], [0.01, None])
    # One run has no record, and another diverged in the test only.
    bad = without(bad, "plain-0.1", 1)
    diverged = [("plain-0.1", 0), ("plain-0.1", 1), ("batchnorm-0.01", 0)]
    diverged = [{"arm": arm, "seed": seed, "epoch": 2} for arm, seed in diverged]
    for named in (diverged, diverged[1:]):  # A loss that is not a number needs no mention.
        ax = plots.sweep(Figure().subplots(), bad, ARMS, SCALE, named, "validation_accuracy")
        assert texts(ax) == ["batchnorm (1 of 6 runs diverged)", "plain (2 of 6 runs diverged)"]
        batchnorm, plain = labelled(ax).values()
        np.testing.assert_allclose(batchnorm.get_ydata(), [0.6, 0.7, 0.6])
        np.testing.assert_allclose(plain.get_ydata(), [0.6, 0.6, NAN])
        (x, y, color), (x_plain, y_plain, color_plain) = bottom(ax)
        assert (x.tolist(), x_plain.tolist()) == ([0.01], [0.1])
        assert (color, color_plain) == (batchnorm.get_color(), plain.get_color())
        assert 0.5 > y[0] > y_plain[0] > ax.get_ylim()[0], "below the data, a row a series"
        assert [tick.get_text() for tick in ax.get_yticklabels(minor=True)] == ["batchnorm", "plain"]
        assert np.isclose(ax.get_yticks(minor=True), [y[0], y_plain[0]]).all()
        (border,) = [line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [0, 1]]
        assert 0.5 > border > y[0] and min(ax.get_yticks()) >= border, "below it is no accuracy"
        assert np.isclose(y[0] - y_plain[0], 0.1 * np.ptp(ax.get_ylim()))
        assert np.isclose(border - ax.get_ylim()[0], 0.2 * np.ptp(ax.get_ylim()))
        assert [text.get_text() for text in ax.texts] == ["1/2"], "of the other value all did"


def test_sweep_draws_series_whose_runs_all_diverged():
    bad = [{**record, "train_loss": NAN} for record in RECORDS]
    for metric in ("validation_accuracy", "train_loss"):
        ax = plots.sweep(Figure().subplots(), bad, ARMS, SCALE, [], metric)
        assert texts(ax) == [f"{series} (6 of 6 runs diverged)" for series in ("batchnorm", "plain")]
        assert [sorted(x) for x, _, _ in bottom(ax)] == [[0.001, 0.01, 0.1]] * 2
        assert len(ax.get_yticks()) == 0


def test_sweep_has_a_log_axis_for_losses_that_span_over_a_decade():
    arms = {"a": {"series": "plain", "value": 1}, "b": {"series": "plain", "value": 2}}
    for loss, scale in ((0.09, "log"), (0.11, "linear"), (0.0, "linear")):
        records = run("a", 0, [0.5], [1.0]) + run("b", 0, [0.01], [loss])
        ax = plots.sweep(Figure().subplots(), records, arms, DEPTH, [], "train_loss")
        assert ax.get_yscale() == scale
        ax = plots.sweep(Figure().subplots(), records, arms, DEPTH, [], "validation_accuracy")
        assert ax.get_yscale() == "linear"


def test_sweep_marks_diverged_runs_below_a_log_axis():
    arms = {"a": {"series": "plain", "value": 1}, "b": {"series": "plain", "value": 2}}
    records = run("a", 0, [0.5], [1.0]) + run("a", 1, [0.5], [0.01]) + run("b", 0, [0.5], [None])
    ax = plots.sweep(Figure().subplots(), records, arms, DEPTH, [], "train_loss")
    ((x, y, _),) = bottom(ax)
    assert ax.get_yscale() == "log"
    assert x.tolist() == [2]
    assert 0.01 > y[0] > ax.get_ylim()[0] > 0
    assert 0.01 in ax.get_yticks()


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([3, 5, 7], False, [3, 5, 7]),
        ([16, 32, 64], True, [16, 32, 64]),
        (list(range(1, 11)), False, list(range(1, 11))),
        (list(range(1, 31)), False, [5, 10, 15, 20, 25, 30]),
        (np.linspace(1, 2, 9).tolist(), False, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        ([0.0002, 0.001, 0.003, 0.01], True, [0.0002, 0.001, 0.003, 0.01]),
        (np.logspace(-2, 0, 7).tolist(), True, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]),
        (np.logspace(-4, 0, 20).tolist(), True, [0.0001, 0.001, 0.01, 0.1, 1]),
    ],
)
def test_sweep_ticks_are_the_values_or_round_numbers(values, log, ticks):
    arms = {str(value): {"series": "plain", "value": value} for value in values}
    records = [record for arm in arms for record in run(arm, 0, [0.5], [1.0])]
    ax = plots.sweep(Figure().subplots(), records, arms, {**DEPTH, "log": log}, [], "train_loss")
    np.testing.assert_allclose(ax.get_xticks(), ticks)
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"{tick:g}" for tick in ticks]
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))


def points(ax):
    """The points with bars: x, lowest, mean and highest, in order of x."""
    bars_of = []
    for container in ax.containers:
        line, _, bars = container
        for (x, mean), bar in zip(line.get_xydata(), bars[0].get_segments(), strict=True):
            if np.isfinite(mean):
                bars_of.append((x, bar[0, 1], mean, bar[1, 1]))
    return sorted(bars_of)


def test_sweep_of_names_has_a_categorical_axis():
    arms = {
        f"{series}-{value}": {"series": series, "value": value}
        for series in ("batchnorm", "plain")
        for value in ("he_normal", "zeros")
    }
    records = run("batchnorm-he_normal", 0, [0.5], [1.0]) + run("batchnorm-he_normal", 1, [0.8], [1.0])
    records += run("plain-he_normal", 0, [0.4], [1.0]) + run("batchnorm-zeros", 0, [0.7], [1.0])
    records += run("plain-zeros", 0, [0.1], [NAN])
    ax = plots.sweep(Figure().subplots(), records, arms, SCALE, [], "validation_accuracy")
    assert ax.get_xticks().tolist() == [0, 1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["he_normal", "zeros"]
    x, *rest = np.array(points(ax)).T
    assert -0.5 < x[0] < 0 < x[1] < 0.5 < x[2] < 1, "side by side"
    np.testing.assert_allclose(rest, [[0.5, 0.4, 0.7], [0.65, 0.4, 0.7], [0.8, 0.4, 0.7]])
    assert all(len(line.get_xdata()) == 0 for line in labelled(ax).values()), "no line between names"
    ((x, _, _),) = bottom(ax)
    assert 1 < x[0] < 1.5
    assert texts(ax) == ["batchnorm", "plain (1 of 2 runs diverged)"]


@pytest.mark.parametrize("log", [True, False])
def test_sweep_draws_names_apart_from_numbers(log):
    values = [None, 0.01, "he_normal", 1.0] + [0] * log
    arms = {str(value): {"series": "plain", "value": value} for value in values}
    records = [record for arm in arms for record in run(arm, 0, [0.5], [1.0])]
    ax = plots.sweep(Figure().subplots(), records, arms, {**SCALE, "log": log}, [], "train_loss")
    assert ax.get_xscale() == ("log" if log else "linear")
    assert labelled(ax)["plain"].get_xdata().tolist() == [0.01, 1.0]
    assert ax.get_xticks().tolist() == [0.01, 1.0]
    names = [label.get_text() for label in ax.get_xticklabels(minor=True)]
    assert names == ["None", "he_normal", "0"][: 2 + log]
    x = np.array(points(ax))[:, 0]
    np.testing.assert_allclose(x, ax.get_xticks(minor=True))
    (border,) = [line.get_xdata()[0] for line in ax.lines if np.ptp(line.get_ydata(orig=False)) == 1]
    assert 1 < border < x.min() and x.max() < ax.get_xlim()[1]


def test_sweep_draws_one_value_of_one_seed_and_one_epoch():
    arms = {"a": {"series": "plain", "value": 0.5}}
    ax = plots.sweep(Figure().subplots(), run("a", 0, [0.5], [1.0]), arms, SCALE, [], "train_loss")
    assert labelled(ax)["plain"].get_xydata().tolist() == [[0.5, 1.0]]


def test_sweep_rejects_equal_places_and_unknown_metrics():
    twins = {"a": {"series": "plain", "value": 1}, "b": {"series": "plain", "value": 1}}
    with pytest.raises(ValueError, match="must differ in series or value"):
        plots.sweep(Figure().subplots(), [], twins, DEPTH, [], "train_loss")
    with pytest.raises(ValueError, match=r"`metric` must be one of .* Received: 'loss'"):
        plots.sweep(Figure().subplots(), RECORDS, ARMS, SCALE, [], "loss")


def test_sweeps_have_three_panels_or_two_and_one_legend():
    figure = plots.figure("Title", plots.sweeps, RECORDS, ARMS, SCALE, [])
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "Best validation accuracy",
        "Best training accuracy",
        "Final training loss (nats)",
    ]
    assert not any(ax.get_legend() for ax in figure.axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["batchnorm", "plain"]
    losses = [{k: v for k, v in r.items() if "accuracy" not in k} for r in RECORDS]
    figure = plots.figure("Title", plots.sweeps, losses, ARMS, SCALE, [])
    assert [ax.get_ylabel() for ax in figure.axes] == ["Best validation loss", "Final training loss"]


def test_by_value_draws_a_panel_for_each_value():
    arms = {
        f"{series}-{value}": {"series": series, "value": value}
        for value in (3, 5, 7, 10**-0.2)
        for series in ("batchnorm", "plain")
    }
    del arms["batchnorm-5"], arms[f"plain-{10**-0.2}"]
    records = [record for arm in arms for record in run(arm, 0, [arms[arm]["value"] / 10, 0.5], [2.0, 1.0])]
    records = without(records, "plain-7", 0) + run("plain-7", 0, [0.7, None], [2.0, None])
    records += run("plain-7", 1, [0.6, 0.4], [2.0, 1.0])
    figure = plots.figure("Title", plots.by_value, records, arms, DEPTH)
    assert [ax.get_title() for ax in figure.axes] == [
        "Hidden layers: 3",
        "Hidden layers: 5",
        "Hidden layers: 7\nplain: 1 of 2 seeds diverged",
        "Hidden layers: 0.630957",
    ]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert {(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes} == {("Epoch", "Validation accuracy")}
    lines = [labelled(ax) for ax in figure.axes]
    both = ["batchnorm", "plain"]
    assert [list(panel) for panel in lines] == [both, ["plain"], both, ["batchnorm"]]
    assert lines[0]["plain"].get_ydata().tolist() == [0.3, 0.5]
    assert lines[2]["plain"].get_ydata().tolist() == [0.6, 0.4]
    assert (
        lines[1]["plain"].get_color() == lines[0]["plain"].get_color() != lines[0]["batchnorm"].get_color()
    )
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["batchnorm", "plain"]


def test_by_value_draws_losses_of_a_regression_over_steps():
    arms = {"a": {"series": "plain", "value": "he_normal"}}
    records = [{"arm": "a", "seed": 0, "epoch": 2, "train_loss": 2.0, "validation_loss": 3.0}]
    figure = plots.figure("Title", plots.by_value, records, arms, DEPTH, steps_per_epoch=10)
    (ax,) = figure.axes
    assert labelled(ax)["plain"].get_xydata().tolist() == [[20, 3]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Step", "Validation loss")
