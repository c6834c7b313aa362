import json
import os
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn
from tfbn import plots
from tfbn.comparison import programs
from tfbn.comparison.results import check_destination
from tfbn.data.arrays import batch_order


def build(use_batchnorm=True, **options):
    return lambda: tfbn.Model(8, 3, (6,), use_batchnorm=use_batchnorm, **options)


ARMS = {"batchnorm": build(True), "plain": build(False)}


@pytest.fixture(scope="module")
def result(blobs):
    return tfbn.compare(ARMS, blobs, epochs=3, batch_size=20, seeds=2, command="tfbn compare")


def without_seconds(records):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_the_same_arm_twice_gives_the_same_twice(blobs):
    """Same batches, same order, same initial weights: nothing is left to differ."""
    result = tfbn.compare({"a": build(dropout=0.2), "b": build(dropout=0.2)}, blobs, epochs=3, seeds=2)
    for arms in (result.records, result.test):
        a, b = ([{**r, "arm": ""} for r in without_seconds(arms) if r["arm"] == arm] for arm in "ab")
        assert a == b
    assert result.scores("a", "loss")[0] != result.scores("a", "loss")[1]


def test_a_seed_does_not_depend_on_the_seeds_before_it(blobs):
    """Restarting forgets everything: weights, averages, the optimizer's state, dropout's."""
    arms = {"a": build(dropout=0.2), "b": build(False)}
    alone = tfbn.compare(arms, blobs, epochs=2, seeds=[5], jit=False)
    third = tfbn.compare(arms, blobs, epochs=2, seeds=[1, 2, 5], jit=False)
    assert without_seconds(alone.records) == without_seconds(r for r in third.records if r["seed"] == 5)
    assert alone.test == [r for r in third.test if r["seed"] == 5]


def test_models_that_wait_for_their_input(blobs):
    def waiting(*first):
        return keras.Sequential(
            [*first, keras.layers.Dense(4), keras.layers.Dropout(0.1), keras.layers.Dense(3)]
        )

    arms = {"waits": waiting, "knows": lambda: waiting(keras.Input([8]))}
    result = tfbn.compare(arms, blobs, epochs=1, seeds=2, jit=False)
    assert result.scores("waits", "loss") == result.scores("knows", "loss")


def test_an_arm_that_takes_integers_leaves_the_others_their_data(blobs):
    def whole_numbers():
        x = keras.Input([8], dtype="int32")
        y = keras.layers.Rescaling(1.0)(x)
        return keras.Model(x, keras.layers.Dense(3)(y))

    alone = tfbn.compare({"a": build()}, blobs, epochs=1, seeds=np.int64(1), jit=False)
    arms = {"whole": whole_numbers, "a": build()}
    beside = tfbn.compare(arms, blobs, epochs=1, seeds=1, jit=False)
    assert beside.scores("a", "loss") == alone.scores("a", "loss")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_loss_that_is_no_number_anywhere_counts_as_diverged(blobs, split):
    huge = (np.full([4, 8], 3e38, "float32"), [0, 1, 2, 0])
    data = tfbn.data.Data(**{**blobs.splits(), split: huge})
    result = tfbn.compare({"a": build(False)}, data, epochs=2, seeds=1, jit=False)
    assert result.about["diverged"] == [{"arm": "a", "seed": 0, "epoch": 1 if split == "validation" else 2}]
    assert result.test == []
    assert "-" in result.table()


def test_as_a_loop_of_keras_own_steps(blobs, result):
    for arm in ("batchnorm", "plain"):
        keras.utils.set_random_seed(1)
        model = ARMS[arm]()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=False)
        for epoch in (1, 2, 3):
            for batch in batch_order(203, seed=1, epoch=epoch)[:200].reshape(10, 20):
                model.train_on_batch(blobs.train.x[batch], blobs.train.y[batch])
            (record,) = [r for r in result.records if (r["arm"], r["seed"], r["epoch"]) == (arm, 1, epoch)]
            for name in ("train", "validation"):
                expected = model.evaluate(*blobs.splits()[name], verbose=0)
                got = record[f"{name}_loss"], record[f"{name}_accuracy"]
                assert got == pytest.approx(tuple(expected), rel=1e-3)
        expected = model.evaluate(*blobs.test, verbose=0)
        assert result.scores(arm, "loss")[1] == pytest.approx(expected[0], rel=1e-3)
        assert result.scores(arm)[1] == pytest.approx(expected[1])


def test_an_arm_is_compiled_once(blobs, monkeypatch):
    solvers = []

    class Watched(programs.Solver):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            solvers.append(self)

    monkeypatch.setattr(programs, "Solver", Watched)
    tfbn.compare(ARMS, blobs, epochs=2, seeds=3)
    assert [solver._steps._epoch.experimental_get_tracing_count() for solver in solvers] == [1, 1]


def test_records_are_complete_and_in_order(result):
    order = [(r["seed"], r["arm"], r["epoch"]) for r in result.records]
    assert order == [(s, a, e) for s in (0, 1) for a in ("batchnorm", "plain") for e in (1, 2, 3)]
    metrics = ["train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    assert all(list(record) == ["arm", "seed", "epoch", *metrics, "seconds"] for record in result.records)
    assert [list(r) for r in result.test] == [["arm", "seed", "loss", "accuracy"]] * 4
    assert result.about["dataset"]["train"] == 203
    assert result.about["jit"] == {"batchnorm": True, "plain": True}


def test_says_what_the_arms_are(result):
    config = result.about["settings"]["arms"]["plain"]["architecture"]["config"]
    assert config["use_batchnorm"] is False
    assert config["hidden_dims"] == [6]


def test_each_epoch_is_announced_as_it_comes(blobs):
    seen = []
    result = tfbn.compare(ARMS, blobs, epochs=2, seeds=1, jit=False, on_epoch=seen.append)
    assert sorted(map(str, seen)) == sorted(map(str, result.records))


def test_optimizer_is_each_arms_own(blobs):
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    short = dict(epochs=1, seeds=1, jit=False)
    tfbn.compare(ARMS, blobs, optimizer=scaled, **short)
    mine = keras.optimizers.SGD(0.5, momentum=0.9)
    by_instance = tfbn.compare(ARMS, blobs, optimizer=mine, learning_rate=0.1, **short)
    assert float(mine.learning_rate) == 0.5
    assert not mine.built
    settings = by_instance.about["settings"]["optimizer"]
    assert settings["class_name"] == "SGD"
    assert settings["config"]["learning_rate"] == 0.1
    assert settings["config"]["momentum"] == 0.9
    again = tfbn.compare(ARMS, blobs, optimizer=keras.optimizers.SGD(0.1, momentum=0.9), **short)
    assert again.test == by_instance.test


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


def test_a_diverged_seed_is_drawn_by_itself(diverging):
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


def test_strict_json_and_back(diverging, tmp_path):
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


def test_saves_everything_or_nothing(result, blobs, tmp_path, monkeypatch, python):
    result.save(tmp_path / "deep" / "run")
    run = tmp_path / "deep" / "run"
    names = sorted(
        str(path.relative_to(run)) for path in run.rglob("*") if path.suffix != ".pb" and path.is_file()
    )
    assert names == [
        "figures/curves.png",
        *(f"figures/{metric}.png" for metric in ("train_accuracy", "train_loss")),
        *(f"figures/{metric}.png" for metric in ("validation_accuracy", "validation_loss")),
        "history.csv",
        "models/batchnorm.keras",
        "models/batchnorm/variables/variables.data-00000-of-00001",
        "models/batchnorm/variables/variables.index",
        "models/plain.keras",
        "models/plain/variables/variables.data-00000-of-00001",
        "models/plain/variables/variables.index",
        "report.html",
        "results.json",
    ]
    assert len((run / "history.csv").read_text().splitlines()) == 1 + len(result.records)
    with pytest.raises(ValueError, match="exists already"):
        result.save(run)

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(plots, "save_curves", fail)
    with pytest.raises(OSError, match="disk full"):
        result.save(tmp_path / "other" / "run")
    assert not (tmp_path / "other").exists()


def test_saved_models_score_as_the_results_say(result, blobs, tmp_path, python):
    """Each in a fresh process: .keras with tfbn, the SavedModel without, at batch sizes 1 and 257."""
    result.save(tmp_path / "run")
    x = np.random.default_rng(0).normal(size=[257, 8]).astype("float32")
    for arm, model in result.models.items():
        np.savez(tmp_path / f"{arm}.npz", x=x, y=model(x), test_x=blobs.test.x, test_y=blobs.test.y)
    printed = python(
        """
import sys
import numpy as np
import tensorflow as tf
sys.modules["tfbn"] = None  # Importing it fails.
for arm in ("batchnorm", "plain"):
    expected = np.load(arm + ".npz")
    served = tf.saved_model.load("run/models/" + arm)
    x, y = expected["x"], expected["y"]
    print(np.abs(served.serve(x) - y).max())
    print(max(np.abs(served.serve(x[i:i+1]) - y[i]).max() for i in range(9)))
del sys.modules["tfbn"]
import keras
import tfbn
for arm in ("batchnorm", "plain"):
    expected = np.load(arm + ".npz")
    print(keras.models.load_model("run/models/" + arm + ".keras").evaluate(
        expected["test_x"], expected["test_y"], verbose=0)[1])
"""
    ).split()
    assert max(map(float, printed[:4])) < 1e-6
    for arm, accuracy in zip(("batchnorm", "plain"), printed[4:], strict=True):
        assert result.about["settings"]["arms"][arm]["model"] == {"seed": 1, "epoch": 3}
        assert float(accuracy) == pytest.approx(result.scores(arm)[1])


@pytest.mark.parametrize("name", ["x" * 250, "new/../run", "link"])
def test_odd_destinations(result, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    monkeypatch.setattr(result, "models", {})
    assert tfbn.Comparison.load(result.save(name)).records == result.records
    assert not [
        path for path in tmp_path.iterdir() if path.name not in ("target", "link", "x" * 250, "run")
    ]


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


def test_verdict_and_table_by_hand():
    clear = made({"bn": {0: 0.9, 1: 0.8, 2: 0.94}, "no": {0: 0.8, 1: 0.75, 2: 0.9}})
    assert clear.verdict().startswith("MNIST: ")
    assert "better than no with all 3 seeds, by 0.0633 on average" in clear.verdict()
    assert "1 time in 4: no evidence" in clear.verdict()
    assert "0.8800 (0.8000–0.9400)" in clear.table()
    unpaired = made({"bn": {0: 0.9}, "no": {1: 0.8}}, interrupted=True).verdict()
    assert "nothing to compare" in unpaired
    assert "interrupted" in unpaired


def test_tells_of_averages_that_lag(blobs):
    def arm(**options):
        return build(True, batchnorm_options=options)

    arms = {"late": arm(), "early": arm(momentum=0.5), "debiased": arm(debias=True), "plain": build(False)}
    result = tfbn.compare(arms, blobs, epochs=2, batch_size=20, seeds=1)
    # 20 steps: 0.99**20 = 0.818, and 0.5**20 is nothing.
    (note,) = result.about["notes"]
    assert note.startswith("late: after 20 steps at a momentum of 0.99 moving averages still hold 82 %")
    assert note in result.verdict()


def test_no_evidence_where_arms_are_equal(blobs):
    result = tfbn.compare({"a": build(), "b": build()}, blobs, epochs=1, seeds=2, jit=False)
    assert "No evidence of a difference in test accuracy" in result.verdict()
    assert "0 of 2" in result.verdict()


def test_the_table_of_a_sweep(blobs):
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
    with pytest.raises(ValueError, match=r"'curve'. Known: curves, sweep"):
        result.figure("curve")
    with pytest.raises(ValueError, match=r"observe=\['outputs'\]"):
        result.figure("fitted")


def test_interrupted_keeps_epochs_and_models(blobs):
    seen = []

    def interrupt(record):
        seen.append(record)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    # A shell that runs the tests in the background has them ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.warns(UserWarning, match="Interrupted: kept"):
        result = tfbn.compare(ARMS, blobs, epochs=2000, seeds=3, on_epoch=interrupt)
    assert result.about["interrupted"]
    assert 5 <= len(result.records) < 2000
    assert len(result.records) == len(seen)
    for arm, model in result.models.items():
        last = [r for r in result.records if r["arm"] == arm][-1]
        assert result.about["settings"]["arms"][arm]["model"] == {"seed": 0, "epoch": last["epoch"]}
        loss, _ = tfbn.Solver(model).evaluate(*blobs.validation)
        assert loss == pytest.approx(last["validation_loss"], rel=1e-5)


@pytest.mark.parametrize("method", ["_observe", "_train_epoch"])
def test_interrupted_thrice_before_the_first_epoch_is_done(blobs, tmp_path, monkeypatch, method):
    """What began is finished and kept, and goes on from there; nothing is seen twice."""
    keras.backend.clear_session()
    options = dict(epochs=2, seeds=2, observe=["outputs"], checkpoint_dir=tmp_path)
    arms = {"only": ARMS["batchnorm"]}
    whole = tfbn.compare(arms, blobs, **options | {"checkpoint_dir": None})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    known = getattr(programs.Program, method)

    def interrupt(*arguments):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # For it to arrive.
        return known(*arguments)

    monkeypatch.setattr(programs.Program, method, interrupt)
    if method == "_observe":
        with pytest.raises(KeyboardInterrupt):
            tfbn.compare(arms, blobs, **options)
    else:
        with pytest.warns(UserWarning, match="Interrupted: kept 1 epochs"):
            tfbn.compare(arms, blobs, **options)
    monkeypatch.setattr(programs.Program, method, known)
    trained = []

    def train_epoch(*arguments):
        trained.append(arguments)
        return own(*arguments)

    own = programs.Program._train_epoch
    monkeypatch.setattr(programs.Program, "_train_epoch", train_epoch)
    keras.backend.clear_session()
    resumed = tfbn.compare(arms, blobs, **options)
    assert len(trained) == (4 if method == "_observe" else 3)
    for one, other in zip(resumed.records, whole.records, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert resumed.about["observations"] == whole.about["observations"]


def test_interrupted_between_two_seeds(blobs):
    built = []

    def build():
        built.append(1)
        if len(built) == 2:
            raise KeyboardInterrupt
        return ARMS["plain"]()

    with pytest.warns(UserWarning, match="Interrupted: kept 2 epochs"):
        result = tfbn.compare({"only": build}, blobs, epochs=2, seeds=2)
    assert [record["seed"] for record in result.records] == [0, 0]
    assert len(result.test) == 1 and result.about["interrupted"]


def test_convolutions_and_other_devices(rng):
    y = rng.integers(0, 3, 60)
    x = rng.normal(size=[60, 8, 8, 1]) + y[:, None, None, None]
    images = tfbn.data.Data(train=(x, y), validation=(x, y), test=(x, y), name="squares")
    arms = {
        "conv": lambda: tfbn.Model((8, 8, 1), 3, (6,), conv_filters=(4,)),
        "dense": lambda: tfbn.Model((8, 8, 1), 3, (6,)),
    }
    result = tfbn.compare(arms, images, epochs=30, batch_size=10, seeds=1, device="cpu:1")
    assert result.about["jit"] == {"conv": False, "dense": True}
    assert result.about["device"].startswith("cpu:1")
    assert result.scores("conv")[0] > 0.6


def test_data_is_not_copied_for_each_arm(blobs, monkeypatch):
    seen = []
    train_epoch = programs.Solver.train_epoch

    def watched(solver, arrays, *rest):
        seen.append(arrays.x)
        return train_epoch(solver, arrays, *rest)

    monkeypatch.setattr(programs.Solver, "train_epoch", watched)
    tfbn.compare(ARMS, blobs, epochs=1, seeds=1, jit=False)
    assert len(seen) == 2
    assert seen[0] is seen[1]
    assert isinstance(seen[0], tf.Tensor)


def test_a_class_that_is_missing_and_batches_of_one(blobs):
    kept = blobs.train.y != 1
    train = (blobs.train.x[kept][:9], blobs.train.y[kept][:9])
    data = tfbn.data.Data(train=train, validation=blobs.validation, test=blobs.test)
    result = tfbn.compare(ARMS, data, epochs=2, batch_size=1, seeds=1, jit=False)
    assert data.classes == 3
    assert len(result.test) == 2 and not result.about["diverged"]


ONE = tfbn.Model(8, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"arms": {}}, TypeError, "one or more"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"arms": {"a": tfbn.Model(8, 3)}}, TypeError, "functions that build a model"),
        ({"arms": {"a": lambda: ONE}, "seeds": 2}, ValueError, "Build a new one"),
        ({"arms": {"a": lambda: ONE, "b": lambda: ONE}}, ValueError, "'b' returned a model that was used"),
        ({"arms": {"a": "net"}}, TypeError, "functions that build a model"),
        ({"arms": {"../a": build()}}, ValueError, "'../a'"),
        ({"arms": {1: build()}}, ValueError, "Received: 1"),
        ({"arms": {"x" * 101: build()}}, ValueError, "up to 100"),
        ({"arms": {"x": build(), "x.keras": build()}}, ValueError, "'x.keras'"),
        ({"arms": {"a": lambda: 5}}, TypeError, "keras.Model"),
        ({"arms": {"a": lambda: tfbn.Model(8, 2)}}, ValueError, "2 classes"),
        ({"arms": {"a": lambda: tfbn.Model(9, 3)}}, ValueError, "(None, 9)"),
        ({"data": ([1], [2])}, TypeError, "tfbn.data.Data"),
        ({"seeds": 0}, ValueError, "seeds=0"),
        ({"seeds": [1, 1]}, ValueError, "different"),
        ({"seeds": [-1]}, ValueError, "[-1]"),
        ({"seeds": 1.5}, ValueError, "seeds=1.5"),
        ({"seeds": True}, ValueError, "seeds=True"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"batch_size": 204}, ValueError, "from 1 to 203"),
        ({"optimizer": "adma"}, ValueError, "Unknown optimizer 'adma'"),
        ({"device": "gpu:3"}, ValueError, "Available"),
        ({"precision": "int8"}, ValueError, "int8"),
    ],
)
def test_bad_arguments(blobs, options, error, message):
    with pytest.raises(error) as raised:
        tfbn.compare(**{"arms": ARMS, "data": blobs, **options})
    assert message in str(raised.value)


def test_bad_destinations(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for path in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(ValueError, match="exists already"):
            check_destination(path)
    for path in (tmp_path / "full" / "file" / "below", "/proc/nowhere/run"):
        with pytest.raises(ValueError, match="cannot be written"):
            check_destination(path)
    assert check_destination(tmp_path / "new" / "run") == tmp_path / "new" / "run"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "full"]
    with pytest.raises(ValueError, match="File name too long"):
        check_destination(tmp_path / ("x" * 300))
    with pytest.raises(ValueError, match=r"holds no results\.json"):
        tfbn.Comparison.load(tmp_path / "full")
