"""Percentiles, drifts, histograms and fits draw their arguments; drifts by hand."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tfbn import plots
from tfbn.plots.observations import drift, histogram, median_unit

ARMS = {"batchnorm": {"series": "batchnorm"}, "plain": {"series": "plain"}}
NAN = float("nan")
LOOK = {"color": "#0072B2", "linestyle": "-", "marker": "o"}


def observed(key, value_of, arms=ARMS, seeds=(1, 0), epochs=(2, 0, 1)):
    """Observations of `key`, not in order."""
    return [
        {"arm": arm, "seed": seed, "epoch": epoch, key: value_of(arm, seed, epoch)}
        for epoch in epochs
        for seed in seeds
        for arm in arms
    ]


def moving(arm, seed, epoch):
    """Three units of width 2 whose medians move by this much each epoch."""
    moves = {"batchnorm": [0.4, 0.2, 0.6], "plain": [1.0, 6.0, 4.0]}[arm]
    return [[epoch * move - 1, epoch * move + seed, epoch * move + 1] for move in moves]


def dots(ax):
    return [line.get_xdata() for line in ax.lines if line.get_marker() in ("o", "s")]


def test_percentiles_draw_one_unit_and_reject_one_out_of_range():
    run = [{"epoch": e, "percentiles": moving("plain", 0, e)} for e in (0, 1, 2)]
    run[2]["percentiles"][1] = [None, None, None]
    ax = plots.percentiles(Figure().subplots(), run, 1, LOOK, steps_per_epoch=10)
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["15th"].get_xydata(), [[0, -1], [10, 5], [20, NAN]])
    np.testing.assert_allclose(lines["50th"].get_ydata(), [0, 6, NAN])
    np.testing.assert_allclose(lines["85th"].get_ydata(), [1, 7, NAN])
    band = {tuple(vertex) for path in ax.collections[0].get_paths() for vertex in path.vertices}
    assert band == {(0, -1), (0, 1), (10, 5), (10, 7)}
    assert {(text.get_text(), text.xy) for text in ax.texts} == {
        ("15th", (10, 5)),
        ("50th", (10, 6)),
        ("85th", (10, 7)),
    }
    assert ax.get_xlabel() == "Step"
    assert "percentile" in ax.get_ylabel()
    for unit in (3, -1):
        with pytest.raises(ValueError, match=f"`unit` must be from 0 to 2. Received: unit={unit}"):
            plots.percentiles(Figure().subplots(), run, unit, LOOK)


def test_inside_draws_the_lowest_seeds_unit_of_median_drift_and_all_drifts():
    figure = plots.figure("Title", plots.inside, observed("percentiles", moving), ARMS)
    batchnorm, plain, drifts = figure.axes
    assert batchnorm.get_title() == "batchnorm, seed 0\nunit 0 of 3 (median drift)"
    assert plain.get_title() == "plain, seed 0\nunit 2 of 3 (median drift)"
    np.testing.assert_allclose(batchnorm.lines[1].get_xydata(), [[0, 0], [1, 0.4], [2, 0.8]])
    np.testing.assert_allclose(plain.lines[1].get_xydata(), [[0, 0], [1, 4], [2, 8]])
    assert batchnorm.get_ylim() == plain.get_ylim()
    assert batchnorm.get_xlabel() == "Epoch"
    # Twice, for two seeds: 0.4 from the end after an epoch, over a width of 2, and so on.
    np.testing.assert_allclose(dots(drifts), [[0.1, 0.2, 0.3]] * 2 + [[0.5, 2, 3]] * 2)
    medians = [line.get_xdata() for line in drifts.lines if line.get_color() == "black"]
    np.testing.assert_allclose(medians, [[0.2, 0.2]] * 2 + [[2, 2]] * 2)
    assert [label.get_text() for label in drifts.get_yticklabels()] == ["batchnorm", "plain"]
    assert drifts.get_xlabel().startswith("Drift of each unit") and drifts.get_ylabel() == "Units"
    assert drifts.get_xscale() == "log", "from 0.1 to 3"


def test_inside_draws_the_unit_of_the_argument():
    figure = plots.figure("Title", plots.inside, observed("percentiles", moving), ARMS, unit=1)
    assert [ax.get_title() for ax in figure.axes[:2]] == [
        f"{arm}, seed 0\nunit 1 of 3" for arm in ("batchnorm", "plain")
    ]


@pytest.mark.parametrize("value", [None, NAN, 0.0])
def test_inside_draws_arms_that_diverged_at_once_or_do_not_move(value):
    def percentiles(arm, seed, epoch):
        return [[value] * 3] * 2 if arm == "plain" else moving(arm, seed, epoch)

    observations = observed("percentiles", percentiles)
    figure = plots.figure("Title", plots.inside, observations, ARMS)
    assert figure.axes[1].get_title() == "plain, seed 0\nunit 0 of 2"
    assert len(dots(figure.axes[2])) == 2, "those of the other arm"
    figure = plots.figure("Title", plots.inside, observations[3:4], ARMS)
    assert len(figure.axes) == 2, "one arm, one seed, one epoch"
    for figure_of in (plots.inside, plots.histograms):
        with pytest.raises(ValueError, match="`observations` must hold"):
            plots.figure("Title", figure_of, [{"arm": "plain", "seed": 0, "epoch": 0}], ARMS)


def bars(ax):
    """Edges and values of each histogram."""
    return [(patch.get_data().edges, patch.get_data().values) for patch in ax.patches]


def test_histograms_draw_first_and_last_epoch_of_the_lowest_seed():
    def histograms(arm, seed, epoch):
        layers, high = ([0], 5.0) if arm == "plain" else ([0, 1], 2.0)
        return [{"low": -1.0, "high": high + k, "counts": [1 + seed, 2 + epoch, 0]} for k in layers]

    figure = plots.figure("Title", plots.histograms, observed("histograms", histograms), ARMS)
    assert [ax.get_title() for ax in figure.axes] == [
        "batchnorm, seed 0\nepoch 0 (filled) and 2 (line)",
        "plain, seed 0\nepoch 0 (filled) and 2 (line)",
        "",
    ]
    first, plain, second = figure.axes
    for ax, width in ((first, 1), (plain, 2)):
        (edges, before), (_, after) = bars(ax)
        np.testing.assert_allclose(edges, -1 + width * np.arange(4))
        np.testing.assert_allclose(before, [1 / 2, 1, 0])
        np.testing.assert_allclose(after, [1 / 4, 1, 0])
        assert [patch.get_fill() for patch in ax.patches] == [True, False]
    np.testing.assert_allclose(bars(second)[0][0], [-1, 1 / 3, 5 / 3, 3])
    assert [ax.get_xlabel()[-1] for ax in figure.axes] == ["1", "1", "2"]
    assert {ax.get_ylabel() for ax in figure.axes} == {"Count / largest"}
    assert first.get_xlim() == plain.get_xlim() != second.get_xlim(), "a row has one scale"
    assert first.patches[1].get_edgecolor() != plain.patches[1].get_edgecolor()


@pytest.mark.parametrize("bad", [None, NAN])
def test_histogram_draws_one_value_and_leaves_out_limits_that_are_not_numbers(bad):
    one = {"low": 3.0, "high": 3.0, "counts": [0, 4]}
    ax = histogram(Figure().subplots(), one, {"low": bad, "high": bad, "counts": [4, 0]}, "black")
    ((edges, values),) = bars(ax)
    assert (edges.tolist(), values.tolist()) == ([2.5, 3, 3.5], [0, 1])


def test_fits_draw_data_and_curves_darker_with_each_step():
    x, points = [0.0, 0.5, 1.0], ([0.1, 0.2], [-1.0, 3.0])

    def outputs(arm, seed, epoch):
        return [None] * 3 if (arm, epoch) == ("plain", 2) else [seed, epoch, 1e6]

    observations = observed("outputs", outputs)
    figure = plots.figure("Title", plots.fits, observations, ARMS, x, points, steps_per_epoch=50)
    batchnorm, plain, bar = figure.axes
    for ax, last in ((batchnorm, [0, 2, 1e6]), (plain, [NAN] * 3)):
        data, *curves = ax.lines
        np.testing.assert_allclose(data.get_xydata(), np.transpose(points))
        np.testing.assert_allclose([line.get_xdata() for line in curves], [x] * 3)
        np.testing.assert_allclose([line.get_ydata() for line in curves], [[0, 0, 1e6], [0, 1, 1e6], last])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["data", "step 100"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
        assert ax.get_ylim() == (-2.2, 4.2), "the data and a third of them, whatever runs away"
        grey = [np.dot(line.get_color()[:3], [0.299, 0.587, 0.114]) for line in curves]
        assert grey[0] > grey[1] + 0.1 > grey[2] + 0.2, "darker with each step"
    assert [ax.get_title() for ax in (batchnorm, plain)] == ["batchnorm, seed 0", "plain, seed 0"]
    assert bar.get_ylabel() == "Step"
    assert bar.get_ylim() == (0, 100)


def test_fits_draw_observations_from_before_training_only():
    observations = observed("outputs", lambda *_: [1.0, 2.0], epochs=[0])
    figure = plots.figure("Title", plots.fits, observations, ARMS, [0, 1], ([0, 1], [0, 1]))
    figure.draw_without_rendering()
    assert figure.axes[-1].get_ylabel() == "Epoch"


def run_of(percentiles, first=1):
    return [{"epoch": epoch, "percentiles": units} for epoch, units in enumerate(percentiles, first)]


def test_drift_by_hand():
    # Unit 0 ends 3 wide; it is away by 0, 0, 2, then by 1, 1, 0. Unit 1 stays. Unit 2 has no width at the
    # end, and of unit 3 the end is not known.
    percentiles = [
        [[0, 1, 1], [-1, 0, 1], [5, 5, 6], [-1, 0, 1]],
        [[1, 2, 3], [-1, 0, 1], [6, 6, 7], [-1, 0, 1]],
        [[0, 1, 3], [-1, 0, 1], [7, 7, 7], [NAN, NAN, NAN]],
    ]
    expected = [np.mean([2 / 3, 2 / 3]) / 3, 0, NAN, NAN]
    np.testing.assert_allclose(drift(run_of(percentiles)), expected)
    np.testing.assert_allclose(drift(run_of(percentiles[:1])), [NAN] * 4)
    np.testing.assert_allclose(drift(run_of(percentiles[:1], first=0)), [NAN] * 4)


def test_drift_ignores_missing_epochs_and_those_before_training():
    percentiles = [[[-9.0, 0.0, 9.0]], [[-1.0, 2.0, 1.0]], [[None] * 3], [[0.0, 3.0, 2.0]]]
    np.testing.assert_allclose(drift(run_of(percentiles, first=0)), [1 / 2])


def test_drift_has_no_unit():
    percentiles = np.sort(np.random.default_rng(0).normal(size=[5, 4, 3]))
    np.testing.assert_allclose(drift(run_of(1000 * percentiles + 7)), drift(run_of(percentiles)))


@pytest.mark.parametrize(
    ("drifts", "unit"),
    [([3, 1, 2], 2), ([3, 1, 2, 4], 2), ([NAN, 5, NAN, 4, 6], 1), ([NAN, NAN], 0), ([0.5], 0)],
)
def test_median_unit_is_the_lower_middle_one(drifts, unit):
    assert median_unit(np.array(drifts, dtype=float)) == unit
