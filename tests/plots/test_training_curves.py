"""Curves over epochs draw their arguments; titles, legends and files of all figures."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tfbn import plots

RECORDS = [
    {"arm": arm, "seed": seed, "epoch": epoch, **dict.fromkeys(plots.METRICS, value + seed + epoch)}
    for arm, value in (("a", 0.0), ("b", 10.0))
    for seed in (0, 1, 2)
    for epoch in (1, 2)
]


def test_curves_draw_the_mean_and_a_band_from_lowest_to_highest():
    ax = plots.curves(Figure().subplots(), RECORDS, "train_loss", title="Two arms")
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["a"].get_ydata(), [2, 3])
    np.testing.assert_allclose(lines["b"].get_ydata(), [12, 13])
    np.testing.assert_allclose(lines["a"].get_xdata(), [1, 2])
    band = ax.collections[0].get_paths()[0].vertices
    assert {tuple(vertex) for vertex in band} >= {(1, 1), (1, 3), (2, 2), (2, 4)}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Epoch", "Training loss (nats)")
    assert ax.get_title() == "Two arms"
    assert lines["a"].get_linestyle() != lines["b"].get_linestyle(), "different in greyscale"
    assert lines["a"].get_marker() != lines["b"].get_marker()


def test_curves_average_seeds_of_unequal_length_where_they_exist():
    cut = [r for r in RECORDS if not (r["seed"] == 2 and r["epoch"] == 2)]
    ax = plots.curves(Figure().subplots(), cut, "train_loss")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 2.5])


def test_curves_draw_arms_whose_seeds_all_diverged():
    bad = [{**r, "train_loss": None, "validation_loss": None} for r in RECORDS]
    ax = plots.curves(Figure().subplots(), bad, "validation_loss")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["a (3 of 3 seeds diverged)", "b (3 of 3 seeds diverged)"]


def test_curves_mark_where_a_seed_diverged():
    bad = [
        {**r, "train_loss": None} if (r["arm"], r["seed"], r["epoch"]) == ("a", 1, 2) else r
        for r in RECORDS
    ]
    ax = plots.curves(Figure().subplots(), bad, "validation_loss")
    (cross,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert cross.get_xydata().tolist() == [[2, 3]]


def test_curves_leave_a_gap_for_a_missing_metric():
    records = [{**r, "train_accuracy": None if r["epoch"] == 1 else 0.5} for r in RECORDS]
    ax = plots.curves(Figure().subplots(), records, "train_accuracy")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [np.nan, 0.5])


def test_curves_draw_over_steps():
    ax = plots.curves(Figure().subplots(), RECORDS, "train_loss", steps_per_epoch=50)
    assert ax.lines[0].get_xdata().tolist() == [50, 100]
    assert ax.get_xlabel() == "Step"


def test_overview_of_a_regression_has_two_panels_and_no_nats(tmp_path):
    losses = [{k: v for k, v in r.items() if "accuracy" not in k} for r in RECORDS]
    axes = plots.overview(losses, "A wave", steps_per_epoch=4)
    assert [ax.get_ylabel() for ax in axes.ravel()] == ["Training loss", "Validation loss"]
    assert {ax.get_xlabel() for ax in axes.ravel()} == {"Step"}
    paths = plots.save_curves(tmp_path, losses, "A wave", 4)
    assert sorted(path.stem for path in paths) == ["curves", "train_loss", "validation_loss"]
    with pytest.raises(ValueError, match=r"`metric` must be one of .* Received: 'train_accuracy'"):
        plots.curves(Figure().subplots(), losses, "train_accuracy")


@pytest.mark.parametrize("arms", [1, 2, 6, 13])
def test_legend_covers_no_data_and_distinguishes_arms(arms):
    records = [{**r, "arm": f"arm number {index}"} for index in range(arms) for r in RECORDS]
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    ax = plots.curves(figure.subplots(), records, "train_loss", title="Title")
    figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent()
    assert not legend.overlaps(ax.bbox)
    assert not legend.overlaps(ax.title.get_window_extent())
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines}
    assert len(looks) == arms, "all different"
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = plots.overview(records, "Title", figure.subplots(2, 2)).ravel()
    figure.draw_without_rendering()
    assert not any(ax.get_legend() for ax in axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(
        dict.fromkeys(r["arm"] for r in records)
    )
    extent = legend.get_window_extent()
    assert not any(extent.overlaps(ax.get_tightbbox()) for ax in axes)
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1


def test_title_is_above_the_axes_and_its_source_small_below_it():
    title, source = "A set of data " * 10, "Source: " + "somewhere " * 20

    def draw(figure):
        plots.curves(figure.subplots(), RECORDS, "train_loss")

    figure = plots.figure(f"{title}\n{source}", draw)
    figure.draw_without_rendering()
    large, small = figure.texts[0], figure.artists[0]
    assert large.get_text().split() == title.split()
    assert small.get_text().split() == source.split()
    assert small.get_fontsize() < large.get_fontsize()
    above, below = large.get_window_extent(), small.get_window_extent()
    for extent in (above, below):
        assert extent.x0 > 0 and extent.x1 < figure.bbox.x1, "wrapped"
        assert extent.y0 > figure.axes[0].get_tightbbox().y1
    # The large text ends in empty lines, where the small one stands.
    lines = large.get_text().split("\n")
    share = len([line for line in lines if line]) / len(lines)
    assert below.y1 < above.y1 - share * above.height + 1


def test_save_passes_data_and_options_and_writes_a_png(tmp_path):
    def draw(figure, *data, **options):
        assert (data, options) == ((1, 2), {"three": 3})
        figure.subplots()

    path = plots.save(tmp_path / "it.png", "Title", draw, 1, 2, three=3)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_overview_draws_all_metrics_and_save_curves_writes_each(tmp_path):
    axes = plots.overview(RECORDS, "Everything")
    assert [ax.get_ylabel() for ax in axes.ravel()] == list(plots.METRICS.values())
    paths = plots.save_curves(tmp_path, RECORDS, "Everything")
    assert sorted(path.stem for path in paths) == sorted(["curves", *plots.METRICS])
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_no_function_hides_a_module():
    modules = {path.stem for path in Path(plots.__file__).parent.glob("[a-z]*.py")}
    assert not [name for name in modules if callable(getattr(plots, name, None))]
