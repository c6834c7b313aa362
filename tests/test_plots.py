import numpy as np
from matplotlib.figure import Figure

from tfbn import plots

RECORDS = [
    {"arm": arm, "seed": seed, "epoch": epoch, **dict.fromkeys(plots.METRICS, value + seed + epoch)}
    for arm, value in (("a", 0.0), ("b", 10.0))
    for seed in (0, 1, 2)
    for epoch in (1, 2)
]


def test_line_is_the_mean_and_band_from_lowest_to_highest():
    ax = plots.curves(Figure().subplots(), RECORDS, "train_loss", title="Two arms")
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["a"].get_ydata(), [2, 3])
    np.testing.assert_allclose(lines["b"].get_ydata(), [12, 13])
    np.testing.assert_allclose(lines["a"].get_xdata(), [1, 2])
    band = ax.collections[0].get_paths()[0].vertices
    assert {tuple(vertex) for vertex in band} >= {(1, 1), (1, 3), (2, 2), (2, 4)}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Epoch", "Training loss (nats)")
    assert ax.get_title() == "Two arms"
    assert lines["a"].get_linestyle() != lines["b"].get_linestyle(), "told apart in greyscale"
    assert lines["a"].get_marker() != lines["b"].get_marker()


def test_seeds_of_unequal_length_are_averaged_where_they_are():
    cut = [r for r in RECORDS if not (r["seed"] == 2 and r["epoch"] == 2)]
    ax = plots.curves(Figure().subplots(), cut, "train_loss")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 2.5])


def test_all_diverged_is_drawn_too():
    bad = [{**r, "train_loss": None, "validation_loss": None} for r in RECORDS]
    ax = plots.curves(Figure().subplots(), bad, "validation_loss")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["a (3 of 3 seeds diverged)", "b (3 of 3 seeds diverged)"]


def test_a_cross_where_a_seed_diverged():
    bad = [
        {**r, "train_loss": None} if (r["arm"], r["seed"], r["epoch"]) == ("a", 1, 2) else r
        for r in RECORDS
    ]
    ax = plots.curves(Figure().subplots(), bad, "validation_loss")
    (cross,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert cross.get_xydata().tolist() == [[2, 3]]


def test_overview_and_files(tmp_path):
    axes = plots.overview(RECORDS, "Everything")
    assert [ax.get_ylabel() for ax in axes.ravel()] == list(plots.METRICS.values())
    paths = plots.save_curves(tmp_path, RECORDS, "Everything")
    assert sorted(path.stem for path in paths) == sorted(["curves", *plots.METRICS])
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
