"""Shapes and types of inputs and arguments that Keras' layer takes, in every option of ours."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from parameters import thorough

import tfbn

OPTIONS = [
    {},
    {"renorm": True},
    {"renorm": True, "renorm_clipping": {"rmax": 3.0}},
    {"virtual_batch_size": 3},
    {"synchronized": True},
    {"test_local_stats": True},
    {"debias": True, "unbiased": True},
    {"momentum": None},
    {"single_value": "moving"},
]
SHAPES = {2: (8, 3), 3: (8, 4, 3), 4: (4, 3, 2, 3), 5: (4, 2, 2, 2, 3)}


def layers(count, shape, **options):
    twins = [tfbn.BatchNormalization(**options) for _ in range(count)]
    for layer in twins:
        layer.build(shape)
    return twins


def usual(options, rank, jit_compile):
    plain = options in ({}, {"virtual_batch_size": 3})
    return (rank == 4 and (plain or not jit_compile)) or (rank == 2 and plain)


@pytest.mark.parametrize(
    ("options", "rank", "jit_compile"), thorough(itertools.product(OPTIONS, SHAPES, [False, True]), usual)
)
def test_a_built_layer_takes_inputs_of_unknown_lengths(rng, options, rank, jit_compile):
    x = rng.normal(3, 2, SHAPES[rank]).astype("float32")
    known, unknown = layers(2, x.shape, **options)
    signature = [tf.TensorSpec([None] * rank)]
    step = tf.function(
        lambda x: (unknown(x, training=True), unknown(x)),
        input_signature=signature,
        jit_compile=jit_compile,
    )
    for measured, expected in zip(step(x), (known(x, training=True), known(x)), strict=True):
        np.testing.assert_allclose(measured, expected, rtol=1e-5, atol=1e-5)


def test_other_channels_than_those_built_for_are_rejected_as_it_runs(rng):
    (layer,) = layers(1, (8, 3))
    step = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, None])])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[\?,3\]|not compatible"):
        step(np.ones([8, 4], "float32"))


def test_images_of_unknown_channels_train_like_those_of_keras(rng):
    png = [tf.io.encode_png(rng.integers(0, 255, [8, 8, 3], "uint8")) for _ in range(8)]
    data = tf.data.Dataset.from_tensor_slices((png, np.zeros([8, 1], "float32")))
    data = data.map(lambda image, y: (tf.io.decode_png(image), y)).batch(4)

    def loss(kind):
        keras.utils.set_random_seed(0)
        stack = [keras.layers.Rescaling(1 / 255), kind(), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input([8, 8, 3]), *stack])
        model.compile("sgd", "mse")
        return model.fit(data, verbose=0).history["loss"]

    assert loss(tfbn.BatchNormalization) == pytest.approx(loss(keras.layers.BatchNormalization), rel=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("compile_", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_ragged_tensors_give_what_their_values_give(rng, training, compile_):
    ragged = tf.ragged.constant(
        [rng.normal(3, 2, [length, 2]).tolist() for length in (2, 0, 5)], ragged_rank=1, dtype="float32"
    )
    ours, dense = layers(2, (None, None, 2))
    keras_layer = keras.layers.BatchNormalization()
    y = compile_(lambda: ours(ragged, training=training))()
    expected = dense(ragged.flat_values[:, None], training=training)[:, 0]
    np.testing.assert_allclose(y.flat_values, expected, atol=1e-6)
    np.testing.assert_allclose(y.flat_values, keras_layer(ragged, training=training).flat_values, atol=1e-5)
    assert y.row_lengths().numpy().tolist() == [2, 0, 5]
    np.testing.assert_allclose(ours.moving_mean, dense.moving_mean, rtol=1e-6)


def test_ragged_tensors_are_rejected_where_rows_are_no_examples(rng):
    ragged = tf.ragged.constant([[[1.0, 2.0]], []], ragged_rank=1)
    with pytest.raises(ValueError, match="ragged tensor without mask and virtual_batch_size"):
        tfbn.BatchNormalization(virtual_batch_size=2)(ragged, training=True)


ARGUMENTS = {
    "center": [np.bool_(False), 0, np.array(False), False],
    "epsilon": [np.array(0.5), np.float64(0.5), 0.5],
    "momentum": [np.array(0.5), np.float32(0.5), 0.5],
    "axis": [np.int64(1), np.array(1), 1],
    "virtual_batch_size": [np.int32(4), np.array(4), 4],
    "renorm": [1, np.bool_(True), True],
    "renorm_momentum": [np.array(0.5), 0.5],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_numpy_scalars_and_0_and_1_are_taken_for_what_they_hold(name):
    *values, plain = ARGUMENTS[name]
    for value in values:
        config = tfbn.BatchNormalization(**{name: value}).get_config()
        assert config[name] == plain and type(config[name]) is type(plain)
        json.dumps(config)


def test_an_array_of_axes_is_a_list_of_axes():
    assert tfbn.BatchNormalization(axis=np.array([1, 2])).axis == [1, 2]


@pytest.mark.parametrize("value", [2, 0.5, "yes", None, np.array([True])])
def test_other_values_are_rejected_as_flags(value):
    with pytest.raises(TypeError, match="`center` must be True or False"):
        tfbn.BatchNormalization(center=value)


def test_zero_channels_give_zero_channels_in_a_graph(python):
    """In a process of its own, which a division by zero in a graph would end."""
    printed = python(
        """
import itertools
import tensorflow as tf, tfbn
for shape, jit_compile in itertools.product([(8, 0), (2, 3, 3, 0)], [False, True]):
    layer = tfbn.BatchNormalization()
    layer.build(shape)
    spec = tf.TensorSpec([None] * (len(shape) - 1) + [0])
    step = tf.function(lambda x: layer(x, training=True), input_signature=[spec], jit_compile=jit_compile)
    print(step(tf.zeros(shape)).shape)
"""
    )
    assert printed.split("\n") == [*["(8, 0)"] * 2, *["(2, 3, 3, 0)"] * 2, ""]


def test_several_axes_survive_the_legacy_h5_format(rng, tmp_path):
    model = keras.Sequential([keras.Input([3, 4, 2]), tfbn.BatchNormalization(axis=[1, 2])])
    x = rng.normal(3, 2, [8, 3, 4, 2]).astype("float32")
    model(x, training=True)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert loaded.layers[-1].axis == [1, 2]
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_check_numerics_raises_no_false_alarm(rng, options):
    tf.debugging.enable_check_numerics()
    try:
        for shape, masked in (((8, 3), False), ((7, 3), True), ((4, 3, 2, 3), False), ((1, 3), False)):
            (layer,) = layers(1, (None, *shape[1:]), **options)
            x = tf.constant(rng.normal(size=shape).astype("float32"))
            mask = tf.constant(np.arange(shape[0]) % 2 == 1) if masked else None

            def step(x, layer=layer, mask=mask):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    loss = tf.reduce_sum(layer(x, training=True, mask=mask) ** 2) + tf.reduce_sum(layer(x))
                return tape.gradient(loss, x)

            assert np.isfinite((step if masked else tf.function(step))(x)).all()
    finally:
        tf.debugging.disable_check_numerics()


def test_integers_keep_their_digits_in_a_float64_layer():
    x = np.arange(12).reshape(4, 3) + 2**40
    layer = tfbn.BatchNormalization(dtype="float64")
    y = layer(x, training=True)
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-9)
