import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn
from tfbn.layers import inspection

KERAS = keras.layers.BatchNormalization


def inputs_of(model, layer, x):
    """What enters `layer` in inference, float64, from a submodel rather than an interception."""
    return keras.Model(model.inputs[0], layer.input)(x).numpy().astype("float64")


def net(kind, shape=(6,), **options):
    """Two batch norm layers in a row, a dropout, and weights that are not those of the start."""
    keras.utils.set_random_seed(3)
    last = keras.layers.Dense(2)
    if len(shape) == 3:
        first, second = keras.layers.Conv2D(4, 3), keras.layers.Conv2D(3, 3, strides=2)
    else:
        first, second = keras.layers.Dense(5), keras.layers.Dense(4)
    return keras.Sequential(
        [
            keras.Input(shape),
            first,
            kind(**options),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.5),
            second,
            kind(**options),
            keras.layers.Flatten(),
            last,
        ]
    )


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("shape", [(6,), (9, 9, 2)], ids=["dense", "images"])
@pytest.mark.parametrize("kind", [tfbn.BatchNormalization, KERAS], ids=["tfbn", "keras"])
def test_each_layer_has_the_statistics_of_its_inputs(rng, kind, shape, unbiased):
    model = net(kind, shape)
    x = rng.normal(30, 2, [97, *shape]).astype("float32")  # three batches of 32 and one of 1
    assert tfbn.recalibrate(model, x, batch_size=32, unbiased=unbiased) is model
    for layer in inspection.find_batchnorms(model):
        inputs = inputs_of(model, layer, x)
        axes = tuple(range(inputs.ndim - 1))
        mean, variance = inputs.mean(axes), inputs.var(axes, ddof=int(unbiased))
        np.testing.assert_allclose(layer.moving_mean, mean, atol=1e-5 * np.abs(mean).max())
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


def test_recalibrate_keeps_all_other_weights(rng):
    model = net(tfbn.BatchNormalization)
    statistics = {
        w.path for layer in inspection.find_batchnorms(model) for w in layer.non_trainable_variables
    }
    before = {w.path: w.numpy() for w in model.weights if w.path not in statistics}
    tfbn.recalibrate(model, rng.normal(size=[50, 6]).astype("float32"))
    assert len(before) == len(model.weights) - 4
    for weight in model.weights:
        if weight.path in before:
            np.testing.assert_array_equal(weight, before[weight.path])


@pytest.mark.parametrize(
    "make",
    [
        lambda x: (x, np.zeros(len(x))),
        lambda x: tf.data.Dataset.from_tensor_slices(x).batch(7),
        lambda x: tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(40),
        lambda x: [x[:1], x[1:30], x[30:]],
        lambda x: [(x[:20], None), (x[20:], None)],
        lambda x: tf.constant(x),
        lambda x: tfbn.data.Data(*[(x, np.zeros(len(x), int))] * 3),
    ],
    ids=["pair", "batches of 7", "pairs of 40", "list of batches", "list of pairs", "tensor", "Data"],
)
def test_all_kinds_of_data_give_the_same_statistics(rng, make):
    x = rng.normal(5, 1, [50, 6]).astype("float32")
    wanted = tfbn.recalibrate(net(KERAS), x).get_weights()
    data = make(x)
    for ours, expected in zip(tfbn.recalibrate(net(KERAS), data).get_weights(), wanted, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_one_pass_normalises_by_batches(rng):
    """The first layer is the same; the second sees the first one's batch statistics."""
    x = rng.normal(3, 2, [90, 6]).astype("float32")
    model = tfbn.recalibrate(net(tfbn.BatchNormalization), x, batch_size=30, one_pass=True)
    first, second = inspection.find_batchnorms(model)
    inputs = inputs_of(model, first, x)
    np.testing.assert_allclose(first.moving_mean, inputs.mean(0), rtol=1e-5, atol=1e-5)
    between = keras.Sequential([keras.Input([5]), *model.layers[2:5]])
    parts = inputs.reshape(3, 30, 5)
    normalized = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-3)
    behind = between(np.maximum(normalized, 0).reshape(90, 5).astype("float32")).numpy()
    np.testing.assert_allclose(second.moving_mean, behind.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second.moving_variance, behind.var(0), rtol=1e-4)
    alike = tfbn.recalibrate(net(tfbn.BatchNormalization), x, batch_size=30)
    assert (
        np.abs(second.moving_variance - inspection.find_batchnorms(alike)[1].moving_variance).max() > 1e-4
    )


@pytest.mark.parametrize(
    "options",
    [{"momentum": None}, {"debias": True}, {"renorm": True}, {"unbiased": True}, {"axis": [1, 2]}],
    ids=str,
)
def test_every_kind_of_layer_normalises_by_its_new_statistics(rng, options):
    shape = (3, 2) if "axis" in options else (3,)
    layer = tfbn.BatchNormalization(epsilon=1e-9, **options)
    model = keras.Sequential([keras.Input(shape), layer])
    x = rng.normal(7, 3, [40, *shape]).astype("float32")
    model(x, training=True)
    x = rng.normal(-2, 0.5, [51, *shape]).astype("float32")
    y = tfbn.recalibrate(model, x, batch_size=25).predict(x, verbose=0)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(0), 50 / 51 if "unbiased" in options else 1, rtol=1e-5)
    # Training goes on from there: as an average of 51 examples, or a moving one far from its start.
    kept = 51 / 91 if options.get("momentum", 0.99) is None else 0.99
    model(x[:40] + 100, training=True)
    moved = kept * x.mean(0) + (1 - kept) * (x[:40].mean(0) + 100)
    np.testing.assert_allclose(inspection.averages(layer)[0], moved, rtol=1e-4)
    if "renorm" in options:
        np.testing.assert_allclose(layer.renorm_mean, moved, rtol=1e-4)
        np.testing.assert_allclose(layer.renorm_stddev, layer.moving_stddev, rtol=1e-4)


@pytest.mark.parametrize("kind", [tfbn.BatchNormalization, KERAS], ids=["tfbn", "keras"])
def test_masked_values_do_not_count(rng, kind):
    inputs = keras.Input([None, 2])
    layer = kind()
    model = keras.Model(inputs, layer(keras.layers.Masking()(inputs)))
    x = rng.normal(4, 1, [30, 5, 2]).astype("float32")
    x[::2, 3:] = 0
    tfbn.recalibrate(model, x, batch_size=16)
    seen = x[(x != 0).all(-1)].astype("float64")
    np.testing.assert_allclose(layer.moving_mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, seen.var(0), rtol=1e-5)


def test_nested_subclassed_and_shared_layers_are_recalibrated(rng):
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.Sequential([keras.layers.Dense(3), tfbn.BatchNormalization()])
            self.norm = KERAS()

        def call(self, x, training=False):
            return self.norm(self.norm(self.inner(x, training=training)), training=training)

    model, x = Mine(), rng.normal(2, 3, [40, 4]).astype("float32")
    model(x)
    model.norm.gamma.assign([3.0, 3.0, 3.0])
    tfbn.recalibrate(model, x, batch_size=16)
    inner = model.inner(x).numpy()
    np.testing.assert_allclose(inner.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(inner.var(0), 1, atol=1e-2)  # epsilon
    # Of both calls' inputs, the second's being the first one's output by the averages that it had.
    both = np.concatenate([inner, 3 * inner / np.sqrt(1 + 1e-3)])
    np.testing.assert_allclose(model.norm.moving_variance, both.var(0), rtol=1e-4)


def test_an_interrupt_at_the_second_layer_restores_the_first(rng):
    model = net(tfbn.BatchNormalization)
    before = model.get_weights()

    def interrupt(name, done, batch):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tfbn.recalibrate(model, rng.normal(3, 2, [20, 6]).astype("float32"), on_batch=interrupt)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_recalibrate_accepts_several_inputs(rng):
    a, b = keras.Input([3], name="a"), keras.Input([2], name="b")
    norm = tfbn.BatchNormalization()
    x, z = rng.normal(2, 3, [40, 3]).astype("float32"), rng.normal(5, 1, [40, 2]).astype("float32")
    wanted = np.concatenate([z, x], 1).mean(0)
    for data in ([z, x], ([z, x], np.zeros(40)), {"a": x, "b": z}):
        model = keras.Model([b, a], norm(keras.layers.Concatenate()([b, a])))
        norm.reset_statistics()
        tfbn.recalibrate(model, data, batch_size=16)
        np.testing.assert_allclose(norm.moving_mean, wanted, rtol=1e-5)


def test_recalibrate_rejects_statistics_too_large_for_float16(rng):
    model = keras.Sequential([keras.Input([3]), KERAS(dtype="float16")])
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"moving_variance .* float16 does not hold"):
        tfbn.recalibrate(model, rng.normal(0, 500, [60, 3]).astype("float32"))
    np.testing.assert_array_equal(model.get_weights(), before)


def test_on_batch_gets_layer_and_batch(rng):
    calls = []
    model = net(tfbn.BatchNormalization)
    x = rng.normal(size=[50, 6]).astype("float32")
    tfbn.recalibrate(model, x, batch_size=32, on_batch=lambda *now: calls.append(now))
    names = [layer.name for layer in inspection.find_batchnorms(model)]
    assert calls == [(names[0], 0, 1), (names[0], 0, 2), (names[1], 1, 1), (names[1], 1, 2)]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.zeros([0, 6], "float32"), ValueError, "one or more examples"),
        (np.zeros([4, 7], "float32"), ValueError, r"shape \(6,\) for model .*Received: \(7,\)"),
        ((np.zeros([4, 6]), np.zeros(3)), ValueError, r"lengths \[3, 4\]"),
        (iter([np.zeros([4, 6])]), TypeError, "more than once"),
        (np.full([4, 6], np.nan, "float32"), ValueError, "not finite"),
        (tf.data.Dataset.from_tensor_slices(np.zeros([0, 6])).batch(2), ValueError, "one or more batches"),
        (3, TypeError, "more than once"),
    ],
    ids=["empty", "shape", "lengths", "iterator", "NaN", "empty dataset", "number"],
)
def test_bad_data_leaves_the_model_unchanged(data, error, message):
    model = net(tfbn.BatchNormalization)
    before = model.get_weights()
    with pytest.raises(error, match=message):
        tfbn.recalibrate(model, data)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not any("call" in vars(layer) for layer in inspection.find_batchnorms(model))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (3, TypeError, "must be a keras.Model"),
        (keras.Sequential([keras.layers.BatchNormalization()]), ValueError, "no weights yet"),
        (keras.Sequential([keras.Input([2]), keras.layers.Dense(2)]), ValueError, "no batch normalization"),
    ],
    ids=["no model", "not built", "no layer"],
)
def test_recalibrate_rejects_models_without_built_batchnorm(model, error, message):
    with pytest.raises(error, match=message):
        tfbn.recalibrate(model, np.zeros([4, 2], "float32"))


def test_recalibrate_rejects_a_batch_size_of_zero():
    with pytest.raises(ValueError, match="batch_size=0"):
        tfbn.recalibrate(net(KERAS), np.zeros([4, 6], "float32"), batch_size=0)
