"""`run`: every recipe trains, and its settings reach the networks."""

import conftest
import keras
import numpy as np
import pytest

from tfbn.data import Data
from tfbn.recipes import RECIPES, find
from tfbn.recipes import run as experiment

PREPARED = str(conftest.PREPARED) if conftest.PREPARED.exists() else "nothing"
# Small, but enough to show that a recipe runs; its quick look takes up to a minute.
TINY = dict(epochs=2, batch_size=50)
CUT = {
    "side-by-side": dict(train_size=200),
    "depth": dict(train_size=200, hidden=(16,), values=(1, 2)),
    "cifar-init-scale": dict(train_size=200, values=(0.01, 0.1)),
    "mnist-init-scale": dict(train_size=200, values=(0.1, "he_normal")),
    "cifar-depth": dict(train_size=200),
    "wave": dict(steps_per_epoch=5),
    "ioffe-figure-1": dict(train_size=200, steps_per_epoch=4),
    "convnet": dict(train_size=200, conv_filters=(3, 4), hidden=(8,)),
    "learning-rate": dict(train_size=200, values=(0.01, 1e9)),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("tfbn.data.image_sets.NETWORK_SECONDS", 0.2)


@pytest.fixture
def without_xla(monkeypatch):
    """XLA takes longer to compile these networks than they train; comparisons are tested with it."""
    monkeypatch.setattr("tfbn.training.steps.choose_jit", lambda *_: False)


@pytest.mark.parametrize("name", RECIPES)
def test_run_trains_draws_and_saves_every_recipe(name, tmp_path, without_xla):
    if name.startswith("cifar") and PREPARED == "nothing":
        pytest.skip("no prepared CIFAR-10 beside the checkout, and no sample of it")
    data_dir = PREPARED if name.startswith("cifar") else "nothing"
    recipe = find(name)
    records = []
    result = experiment.run(
        name, quick=True, data_dir=data_dir, on_epoch=records.append, **{**TINY, **CUT[name]}
    )
    values = CUT[name].get("values", [None])
    assert len(result.arms) == 2 * len(values)
    assert result.about["recipe"]["name"] == name
    runs = {(record["arm"], record["seed"]) for record in result.records}
    assert len(runs) == len(result.arms), "one seed"
    assert len(records) == len(result.records)
    folder = result.save(tmp_path / "run", models=recipe.models)
    for figure in recipe.figures:
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 10_000
    page = (folder / "report.html").read_text()
    assert recipe.question in page.replace("&#39;", "'")
    assert page.count("data:image/png;base64,") == len(recipe.figures)
    assert (folder / "models").exists() == recipe.models


def test_verdict_and_table_count_diverged_runs(without_xla):
    result = experiment.run(
        "learning-rate", quick=True, data_dir="nothing", **{**TINY, **CUT["learning-rate"]}
    )
    assert "plain-1000000000.0" in [run["arm"] for run in result.about["diverged"]]
    assert "plain: 1 of 2 runs diverged" in result.verdict()
    assert "0 of 1" in result.table()


def test_settings_reach_the_networks():
    recipe = find("mnist-init-scale")
    settings = recipe.resolve(
        hidden=(7, 6), dropout=0.3, weight_decay=0.02, activation="tanh", values=("he_normal", 0.25)
    )
    split = np.zeros([4, 5]), [0, 1, 2, 0]
    data = Data(split, split, split)
    arms = experiment.arms(recipe.vary, settings, data)
    assert list(arms) == ["batchnorm-he_normal", "plain-he_normal", "batchnorm-0.25", "plain-0.25"]
    for arm in arms.values():
        model = arm.build()
        denses = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        assert [layer.units for layer in denses] == [7, 6, 3]
        assert all(layer.kernel_regularizer.l2 == pytest.approx(0.02) for layer in denses)
        norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
        assert len(norms) == (2 if arm.series == "batchnorm" else 0)
        rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
        assert rates == [0.3, 0.3]
        assert {
            layer.activation.__name__
            for layer in model.layers
            if isinstance(layer, keras.layers.Activation)
        } == {"tanh"}
        initializer = denses[0].kernel_initializer
        assert type(initializer).__name__ == ("HeNormal" if arm.value == "he_normal" else "RandomNormal")
        assert arm.value == "he_normal" or initializer.stddev == 0.25
    rates = experiment.arms(find("learning-rate").vary, find("learning-rate").resolve(values=(0.5,)), data)
    assert [arm.learning_rate for arm in rates.values()] == [0.5, 0.5]
    depths = experiment.arms(find("depth").vary, find("depth").resolve(hidden=(9,)), data)
    widths = [
        sum(getattr(layer, "units", 0) == 9 for layer in arm.build().layers) for arm in depths.values()
    ]
    assert widths == [3, 3, 5, 5, 7, 7]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("depth", 3.5, TypeError),
        ("depth", "", TypeError),
        ("depth", True, TypeError),
        ("depth", 0, ValueError),
        ("learning_rate", "high", TypeError),
        ("learning_rate", True, TypeError),
        ("learning_rate", -0.1, ValueError),
        ("learning_rate", float("nan"), ValueError),
    ],
)
def test_run_rejects_a_depth_or_learning_rate_before_loading_data(name, value, error, monkeypatch):
    monkeypatch.setattr(experiment, "load", lambda *_, **__: pytest.fail("loaded the data"))
    with pytest.raises(error, match=f"`{name}` must be .*Received: {name}={value!r}"):
        experiment.run("side-by-side", **{name: value})


def test_check_accepts_numpy_numbers():
    recipe = find("depth")
    experiment.check(recipe.vary, recipe.resolve(values=(np.int64(2),), learning_rate=np.float64(0.1)))
