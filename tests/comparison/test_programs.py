"""What may share a compiled program, and that it then trains as it would by itself."""

import os
import signal
import threading
import time

import keras
import numpy as np
import pytest

import tfbn
from tfbn.comparison import programs
from tfbn.comparison.arms import Arm
from tfbn.training.signatures import signature

LAYERS = keras.layers


def dense(**options):
    return keras.Sequential([keras.Input([8]), LAYERS.Dense(4, **options), LAYERS.Dense(3)])


def functional(names, activations):
    x = keras.Input([8])
    y = x
    for name, activation in zip(names, activations, strict=True):
        y = LAYERS.Activation(activation, name=name)(y)
    return keras.Model(x, LAYERS.Dense(3)(y))


def forked(crossed):
    x = keras.Input([8])
    a, b = LAYERS.Dense(4, "relu")(x), LAYERS.Dense(4, "tanh")(x)
    return keras.Model(x, LAYERS.Subtract()([b, a] if crossed else [a, b]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: dense(), lambda: dense(kernel_initializer="he_normal", bias_initializer="ones")),
        (lambda: dense(), lambda: dense(name="another")),
        (lambda: tfbn.Model(8, 3, seed=1), lambda: tfbn.Model(8, 3, seed=2, kernel_initializer=0.5)),
        (
            lambda: keras.Sequential([keras.Input([8]), LAYERS.Dropout(0.5, seed=1)]),
            lambda: keras.Sequential([keras.Input([8]), LAYERS.Dropout(0.5, seed=2)]),
        ),
    ],
)
def test_signature_ignores_initial_values_names_and_seeds(one, other):
    assert signature(one()) == signature(other()) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: dense(), lambda: dense(activation="relu")),
        (lambda: dense(), lambda: dense(kernel_regularizer=keras.regularizers.L2(0.1))),
        (lambda: dense(), lambda: dense(kernel_constraint="non_neg")),
        (lambda: dense(), lambda: dense(dtype="mixed_bfloat16")),
        (lambda: dense(), lambda: dense(trainable=False)),
        (lambda: tfbn.Model(8, 3), lambda: tfbn.Model(8, 3, use_batchnorm=False)),
        (lambda: tfbn.Model(8, 3), lambda: tfbn.Model(8, 3, dropout=0.1)),
        (lambda: tfbn.Model(8, 3), lambda: tfbn.Model(8, 3, batchnorm_options={"momentum": 0.5})),
        (lambda: functional(["relu"], ["relu"]), lambda: functional(["tanh"], ["tanh"])),
        (lambda: forked(False), lambda: forked(True)),
    ],
)
def test_signature_differs_with_what_is_computed(one, other):
    assert signature(one()) != signature(other())


class Own(LAYERS.Layer):
    def call(self, x):
        return 2 * x


def own_function(x):
    return 2 * x


@pytest.mark.parametrize(
    "layer",
    [
        Own(),
        LAYERS.Lambda(lambda x: 2 * x),
        LAYERS.Activation(own_function),
        LAYERS.Normalization(mean=0, variance=1),
    ],
    ids=["layer", "lambda", "function", "adapted"],
)
def test_signature_is_none_where_a_configuration_hides_something(layer):
    assert signature(keras.Sequential([keras.Input([8]), layer, LAYERS.Dense(3)])) is None


def build(scale, **options):
    return lambda: tfbn.Model(8, 3, kernel_initializer=scale, **options)


def test_arms_of_a_program_train_as_each_alone(blobs, monkeypatch):
    """A sweep over scales and learning rates, against each arm alone."""
    solvers = []

    class Watched(programs.Solver):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            solvers.append(self)

    monkeypatch.setattr(programs, "Solver", Watched)
    arms = {
        f"{series}-{scale}-{rate}": Arm(
            build(scale, use_batchnorm=series == "bn", dropout=0.2), series, f"{scale}/{rate}", rate, series
        )
        for series in ("bn", "plain")
        for scale, rate in ((0.1, 0.01), (0.5, 0.001), (0.1, 0.1))
    }
    together = tfbn.compare(arms, blobs, epochs=2, batch_size=20, seeds=2)
    assert together.about["compiled_programs"] == 2
    assert [solver._steps._epoch.experimental_get_tracing_count() for solver in solvers] == [1, 1]
    for name in ("bn-0.1-0.1", "plain-0.5-0.001"):
        alone = tfbn.compare({name: arms[name]}, blobs, epochs=2, batch_size=20, seeds=2)
        for one, other in zip(
            alone.records, [r for r in together.records if r["arm"] == name], strict=True
        ):
            assert {**one, "seconds": 0} == {**other, "seconds": 0}
        assert alone.test == [result for result in together.test if result["arm"] == name]
        for one, other in zip(
            alone.models[name].get_weights(), together.models[name].get_weights(), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_models_of_one_program_share_no_weights(blobs):
    arms = {name: Arm(build(scale), program="one") for name, scale in (("a", 0.1), ("b", 0.5))}
    result = tfbn.compare(arms, blobs, epochs=1, batch_size=20, seeds=1, jit=False)
    assert result.about["compiled_programs"] == 1
    for arm, model in result.models.items():
        (told,) = result.scores(arm).values()
        x, y = blobs.test
        assert (model.predict(x, verbose=0).argmax(-1) == y).mean() == pytest.approx(told)


@pytest.mark.parametrize(
    "other",
    [
        build(0.5, use_batchnorm=False),
        build(0.5, dropout=0.1),
        lambda: tfbn.Model(8, 3, activation="tanh"),
        lambda: keras.Sequential([keras.Input([8]), LAYERS.Dense(3)]),
    ],
)
def test_compare_rejects_arms_that_one_program_cannot_train(blobs, other):
    arms = {"a": Arm(build(0.1), program="one"), "b": Arm(other, program="one")}
    with pytest.raises(ValueError, match="Arm 'b' differs from the first of its program"):
        tfbn.compare(arms, blobs, epochs=1, batch_size=20, seeds=1)


def test_compare_rejects_a_frozen_weight_within_a_program(blobs):
    def frozen():
        model = build(0.5)()
        model.layers[1].kernel.trainable = False
        return model

    arms = {"a": Arm(build(0.1), program="one"), "b": Arm(frozen, program="one")}
    with pytest.raises(ValueError, match="Arm 'b' differs"):
        tfbn.compare(arms, blobs, epochs=1, batch_size=20, seeds=1)


def test_arms_without_a_program_are_compiled_apart(blobs):
    def relu(x):
        return -0.1 * x  # Keras' configuration calls it "relu".

    arms = {"a": lambda: tfbn.Model(8, 3), "b": lambda: tfbn.Model(8, 3, activation=relu)}
    together = tfbn.compare(arms, blobs, epochs=1, batch_size=20, seeds=2)
    alone = tfbn.compare({"b": arms["b"]}, blobs, epochs=1, batch_size=20, seeds=2)
    assert together.about["compiled_programs"] == 2
    assert together.scores("b", "loss") == alone.scores("b", "loss")


def test_every_build_has_the_threads_dtype_policy(blobs):
    seen = []

    def build():
        model = tfbn.Model(8, 3)
        seen.append(model.layers[1].dtype_policy.name)
        return model

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        tfbn.compare({"a": build}, blobs, epochs=1, batch_size=20, seeds=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert seen == ["mixed_bfloat16"] * 2


def test_steps_per_epoch_moves_records_and_not_results(blobs):
    arms, options = {"a": build(0.1)}, dict(batch_size=20, seeds=[3], jit=False)
    result = tfbn.compare(arms, blobs, epochs=3, steps_per_epoch=4, **options)
    longer = tfbn.compare(arms, blobs, epochs=1, steps_per_epoch=12, **options)
    assert len(result.records) == 3
    assert result.test == longer.test, "the same steps, cut otherwise"


def test_observations_come_before_and_after_each_epoch(blobs):
    arms, observe = {"a": build(0.1), "b": build(0.5)}, ["percentiles", "histograms"]
    result = tfbn.compare(arms, blobs, epochs=2, seeds=2, jit=False, observe=observe)
    found = result.about["observations"]
    assert [(o["seed"], o["arm"], o["epoch"]) for o in found] == [
        (seed, arm, epoch) for seed in (0, 1) for arm in "ab" for epoch in (0, 1, 2)
    ]
    # Before training the inputs are proportional to the scale, up to batch norm's own.
    assert np.shape(found[0]["percentiles"]) == (32, 3)
    assert all(sum(layer["counts"]) == 40 * 32 for o in found for layer in o["histograms"])
    keras.utils.set_random_seed(1)
    fresh = build(0.5)()
    inner = keras.Model(fresh.inputs[0], fresh.layers[5].output)(blobs.validation.x)
    (start,) = [o for o in found if (o["seed"], o["arm"], o["epoch"]) == (1, "b", 0)]
    expected = np.percentile(inner, [15, 50, 85], axis=0).T
    np.testing.assert_allclose(start["percentiles"], expected, rtol=1e-4, atol=1e-5)


def test_a_regression_is_judged_by_its_loss(rng):
    x = rng.normal(size=[64, 3])
    split = (x, x @ [[1.0], [2.0], [-1.0]])
    data = tfbn.data.Data(split, split, split, classes=0)

    def build():
        return tfbn.Model(3, 1, use_batchnorm=False)

    options = dict(epochs=20, batch_size=16, seeds=1, jit=False, loss="mse")
    result = tfbn.compare({"a": build, "b": build}, data, **options)
    assert "train_accuracy" not in result.records[0]
    assert set(result.test[0]) == {"arm", "seed", "loss"}
    prediction = result.models["a"].predict(x.astype("float32"), verbose=0)
    assert result.scores("a")[0] == pytest.approx(np.mean((prediction - split[1]) ** 2), rel=1e-4)
    assert "test loss" in result.table()
    assert "loss" in result.verdict()


def wait_for(event):
    assert event.wait(10)


def test_run_jobs_keeps_the_order_within_a_queue():
    calls = []
    queues = [[(name, place) for place in range(5)] for name in "abc"]
    programs.run_jobs(queues, lambda *job: calls.append(job), 2, threading.Event())
    assert sorted(calls) == sorted(job for queue in queues for job in queue)
    for queue in queues:
        assert [job for job in calls if job[0] == queue[0][0]] == queue


def test_run_jobs_works_on_queues_at_the_same_time():
    met = threading.Barrier(2, timeout=10)
    programs.run_jobs([[(0,)], [(1,)]], lambda job: met.wait(), 2, threading.Event())


def test_one_thread_works_on_a_queue_after_the_other():
    calls = []
    programs.run_jobs([[(0,), (1,)], [(2,)]], calls.append, 1, threading.Event())
    assert calls == [0, 1, 2]


def test_a_job_that_fails_stops_all_queues():
    calls, stop, begun = [], threading.Event(), threading.Event()

    def train(job):
        calls.append(job)
        if job == "bad":
            wait_for(begun)
            raise OSError("no more")
        begun.set()
        wait_for(stop)

    with pytest.raises(OSError, match="no more"):
        programs.run_jobs([[("long",), ("never",)], [("bad",), ("never",)]], train, 2, stop)
    assert stop.is_set() and sorted(calls) == ["bad", "long"]


def test_ctrl_c_lets_the_jobs_under_way_finish():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    finished, stop = [], threading.Event()

    def train(job):
        time.sleep(0.2)  # For the main thread to wait.
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(stop)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)  # For it to arrive.
        finished.append(job)

    programs.run_jobs([[(1,), (2,)], [(3,)]], train, 1, stop)
    assert stop.is_set() and finished == [1]
