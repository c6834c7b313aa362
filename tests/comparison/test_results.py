"""A comparison's table, verdict and figures."""

import json

import numpy as np
import pytest
from small_arms import ARMS, build

import tfbn
from tfbn import plots


def made(scores, interrupted=False):
    """A comparison of these test accuracies, by arm and seed."""
    test = [
        {"arm": arm, "seed": seed, "loss": 1.0, "accuracy": accuracy}
        for arm, by_seed in scores.items()
        for seed, accuracy in by_seed.items()
    ]
    about = {
        "dataset": {"title": "MNIST", "classes": 10},
        "settings": {
            "arms": {arm: {"series": arm, "value": None} for arm in scores},
            "reach": None,
            "steps_per_epoch": None,
        },
        "vary": None,
        "notes": [],
        "diverged": [],
        "interrupted": interrupted,
    }
    return tfbn.Comparison([], test, about)


def test_verdict_and_table_equal_those_by_hand():
    clear = made({"bn": {0: 0.9, 1: 0.8, 2: 0.94}, "no": {0: 0.8, 1: 0.75, 2: 0.9}})
    assert clear.verdict().startswith("MNIST: ")
    assert "better than no with all 3 seeds, by 0.0633 on average" in clear.verdict()
    assert "1 time in 4: no evidence" in clear.verdict()
    assert "0.8800 (0.8000–0.9400)" in clear.table()
    unpaired = made({"bn": {0: 0.9}, "no": {1: 0.8}}, interrupted=True).verdict()
    assert "nothing to compare" in unpaired
    assert "interrupted" in unpaired


def test_equal_arms_give_no_evidence(blobs):
    result = tfbn.compare({"a": build(), "b": build()}, blobs, epochs=1, seeds=2, jit=False)
    assert "No evidence of a difference in test accuracy" in result.verdict()
    assert "0 of 2" in result.verdict()


def test_the_table_of_a_sweep_has_a_row_a_value(blobs):
    arms = {
        f"{series}-{scale}": tfbn.Arm(
            build(series == "bn", kernel_initializer=scale), series, scale, None, series
        )
        for scale in (0.1, 1e30)
        for series in ("bn", "no")
    }
    vary = {"setting": "scale", "label": "Scale", "log": True}
    result = tfbn.compare(arms, blobs, epochs=1, seeds=2, jit=False, vary=vary)
    header, small, large = result.rows()
    assert header == ["Scale", "bn, test accuracy", "no, test accuracy"]
    for cell, arm in zip(small[1:], ("bn-0.1", "no-0.1"), strict=True):
        scores = result.scores(arm).values()
        assert cell == f"{np.mean([*scores]):.4f} ({min(scores):.4f}–{max(scores):.4f})"
    assert large == ["1e+30", large[1], "- (0 of 2 seeds)"]
    assert result.about["figures"] == ["sweep"]
    assert {ax.get_xlabel() for ax in result.plot()} == {"Scale"}
    with pytest.raises(ValueError, match=r"one of \['curves', 'sweep'.*Received: name='curve'"):
        result.figure("curve")
    with pytest.raises(ValueError, match=r"observe=\['outputs'\]"):
        result.figure("fitted")


@pytest.fixture(scope="module")
def diverging(blobs):
    """An arm that diverges with seed 1 alone."""
    builds = []

    def sometimes():
        builds.append(1)
        return build(False, kernel_initializer=1e30 if len(builds) == 2 else "glorot_uniform")()

    return tfbn.compare({"batchnorm": ARMS["batchnorm"], "wild": sometimes}, blobs, epochs=3, seeds=3)


def test_a_diverged_seed_ends_and_counts_in_no_mean(diverging):
    wild = [(r["seed"], r["epoch"]) for r in diverging.records if r["arm"] == "wild"]
    assert wild == [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (2, 3)]
    assert diverging.about["diverged"] == [{"arm": "wild", "seed": 1, "epoch": 1}]
    assert set(diverging.scores("wild")) == {0, 2}
    assert "wild: 1 of 3 runs diverged" in diverging.verdict()
    assert " of 2" in diverging.verdict()
    assert "2 of 3" in diverging.table()
    assert np.isfinite(diverging.models["wild"].get_weights()[0]).all()


def test_a_diverged_seed_is_left_out_of_the_mean_line(diverging):
    figure = plots.Figure()
    ax = plots.curves(figure.subplots(), diverging.records, "validation_loss")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["batchnorm", "wild (1 of 3 seeds diverged)"]
    (line,) = [line for line in ax.lines if line.get_label() == labels[1]]
    sound = [r for r in diverging.records if r["arm"] == "wild" and r["seed"] in (0, 2)]
    expected = [
        np.mean([r["validation_loss"] for r in sound if r["epoch"] == epoch]) for epoch in (1, 2, 3)
    ]
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_results_json_is_strict_and_loads_to_the_same_verdict(diverging, tmp_path):
    diverging.save(tmp_path / "run")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "run" / "results.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    (bad,) = [r for r in content["records"] if (r["arm"], r["seed"]) == ("wild", 1)]
    assert bad["train_loss"] is None
    again = tfbn.Comparison.load(tmp_path / "run")
    assert again.verdict() == diverging.verdict()
    assert again.table() == diverging.table()
    again.plot()


def test_plot_draws_on_four_axes(diverging):
    axes = plots.Figure().subplots(2, 2)
    assert diverging.plot(axes) is axes
    assert [ax.get_ylabel() for ax in axes.ravel()] == list(plots.METRICS.values())


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 3)])
def test_plot_rejects_other_than_four_axes(diverging, shape):
    axes = plots.Figure().subplots(*shape)
    with pytest.raises(ValueError, match=f"four matplotlib Axes.* Received: {shape[0] * shape[1]}"):
        diverging.plot(axes)


def test_metadata_names_the_entries_of_about(diverging):
    metadata = diverging.metadata
    assert vars(metadata) == diverging.about
    diverging.about["later"] = 1
    assert diverging.metadata == metadata, "what a later version adds is ignored"
    del diverging.about["later"]
    assert list(metadata.arms) == diverging.arms == ["batchnorm", "wild"]
