"""What may share a compiled program, and that it then trains as it would by itself."""

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
def test_initial_values_names_and_seeds_are_no_difference(one, other):
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
def test_what_is_computed_is_a_difference(one, other):
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
def test_what_a_configuration_may_not_tell_all_of_is_by_itself(layer):
    assert signature(keras.Sequential([keras.Input([8]), layer, LAYERS.Dense(3)])) is None


def build(scale, **options):
    return lambda: tfbn.Model(8, 3, kernel_initializer=scale, **options)


def test_arms_of_a_program_train_as_by_themselves(blobs, monkeypatch):
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


def test_models_of_one_program_are_not_one_model(blobs):
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
def test_what_one_program_cannot_train_is_refused(blobs, other):
    arms = {"a": Arm(build(0.1), program="one"), "b": Arm(other, program="one")}
    with pytest.raises(ValueError, match="Arm 'b' differs from the first of its program"):
        tfbn.compare(arms, blobs, epochs=1, batch_size=20, seeds=1)


def test_a_frozen_weight_is_a_difference(blobs):
    def frozen():
        model = build(0.5)()
        model.layers[1].kernel.trainable = False
        return model

    arms = {"a": Arm(build(0.1), program="one"), "b": Arm(frozen, program="one")}
    with pytest.raises(ValueError, match="Arm 'b' differs"):
        tfbn.compare(arms, blobs, epochs=1, batch_size=20, seeds=1)


def test_only_what_is_said_to_be_one_program_is(blobs):
    def relu(x):
        return -0.1 * x  # Keras' configuration calls it "relu".

    arms = {"a": lambda: tfbn.Model(8, 3), "b": lambda: tfbn.Model(8, 3, activation=relu)}
    together = tfbn.compare(arms, blobs, epochs=1, batch_size=20, seeds=2)
    alone = tfbn.compare({"b": arms["b"]}, blobs, epochs=1, batch_size=20, seeds=2)
    assert together.about["compiled_programs"] == 2
    assert together.scores("b", "loss") == alone.scores("b", "loss")


def test_the_policy_of_the_thread_holds_for_every_build(blobs):
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


def test_steps_between_records(blobs):
    arms, options = {"a": build(0.1)}, dict(batch_size=20, seeds=[3], jit=False)
    result = tfbn.compare(arms, blobs, epochs=3, steps_per_epoch=4, **options)
    longer = tfbn.compare(arms, blobs, epochs=1, steps_per_epoch=12, **options)
    assert len(result.records) == 3
    assert result.test == longer.test, "the same steps, cut otherwise"


def test_observes_before_and_after_each_epoch(blobs):
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


def test_a_regression(rng):
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
