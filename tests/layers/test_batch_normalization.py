"""The layer beside Keras' and beside the float64 oracle."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import tfbn

KERAS = keras.layers.BatchNormalization
SHAPES = [
    ((16, 5), -1),
    ((16, 5), 1),
    ((6, 4, 5), -1),
    ((6, 5, 4), 1),
    ((4, 5, 5, 3), -1),
    ((4, 3, 5, 5), 1),
]
OPTIONS = [
    {},
    {"scale": False},
    {"center": False},
    {"scale": False, "center": False},
    {"momentum": 0.3, "epsilon": 0.1},
    {"renorm": True},
    {
        "renorm": True,
        "momentum": 0.7,
        "renorm_momentum": 0.6,
        "renorm_clipping": {"rmax": 1.1, "rmin": 0.9},
    },
    {"renorm": True, "renorm_clipping": {"dmax": 0.1}, "scale": False},
]


def twins(shape, **options):
    """Keras' layer and ours with the same random weights."""
    theirs, ours = KERAS(**options), tfbn.BatchNormalization(**options)
    rng = np.random.default_rng(7)
    theirs.build(shape)
    ours.build(shape)
    theirs.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in theirs.weights])
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def step(layer, x, dy, mask=None):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
    return y, tape.gradient(y, [x, *layer.trainable_variables], dy)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_training_steps_equal_those_of_keras(rng, shape, axis, options):
    theirs, ours = twins(shape, axis=axis, **options)
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]
    for _ in range(3):
        x, dy = (tf.constant(rng.normal(1, 2, shape).astype("float32")) for _ in range(2))
        (y, gradients), (expected, wanted) = step(ours, x, dy), step(theirs, x, dy)
        assert reference.error(y, expected) < 1e-5
        for measured, theirs_measured in zip(gradients, wanted, strict=True):
            assert reference.error(measured, theirs_measured) < 1e-5
        for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            assert reference.error(mine, other) < 1e-5
        assert reference.error(ours(x, training=False), theirs(x, training=False)) < 1e-5


def test_a_masked_step_equals_that_of_keras(rng):
    theirs, ours = twins([6, 4, 5])
    x, dy = (tf.constant(rng.normal(1, 2, [6, 4, 5]).astype("float32")) for _ in range(2))
    mask = rng.random([6, 4]) < 0.6
    (y, gradients), (expected, wanted) = step(ours, x, dy, mask), step(theirs, x, dy, mask)
    assert reference.error(y, expected) < 1e-5
    for measured, theirs_measured in zip(gradients, wanted, strict=True):
        assert reference.error(measured, theirs_measured) < 1e-5
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert reference.error(mine, other) < 1e-5


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_outputs_and_averages_follow_the_paper(rng, shape, axis):
    layer = tfbn.BatchNormalization(axis=axis, momentum=0.9, epsilon=1e-2)
    moving_mean, moving_variance = np.zeros(shape[axis]), np.ones(shape[axis])
    layer.build(shape)
    gamma, beta = rng.uniform(0.5, 2, [2, shape[axis]]).astype("float32")
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    for _ in range(4):
        x = rng.normal(3, 2, shape).astype("float32")
        expected, mean, variance = reference.forward(x, gamma, beta, 1e-2, axis)
        assert reference.error(layer(x, training=True), expected) < 2e-6
        moving_mean = 0.9 * moving_mean + 0.1 * mean
        moving_variance = 0.9 * moving_variance + 0.1 * variance
    assert reference.error(layer.moving_mean, moving_mean) < 1e-6
    assert reference.error(layer.moving_variance, moving_variance) < 1e-6
    broadcast = [1] * len(shape)
    broadcast[axis] = -1
    scale, shift, mean, variance = (
        v.reshape(broadcast) for v in (gamma, beta, moving_mean, moving_variance)
    )
    expected = scale * (x - mean) / np.sqrt(variance + 1e-2) + shift
    assert reference.error(layer(x, training=False), expected) < 2e-6


@pytest.mark.parametrize("jit", [False, True])
def test_compiled_steps_equal_eager_ones(rng, jit):
    _, eager = twins([8, 3])
    _, compiled = twins([8, 3])
    x = tf.constant(rng.normal(size=[8, 3]).astype("float32"))
    for _ in range(2):
        y = tf.function(lambda: compiled(x, training=True), jit_compile=jit)()
        assert reference.error(y, eager(x, training=True)) < 1e-6
    for one, other in zip(compiled.get_weights(), eager.get_weights(), strict=True):
        assert reference.error(one, other) < 1e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_computed_and_kept_in_float32(rng, dtype):
    """K8 of facts: an average kept in bfloat16 stalls at 1.6 on its way to 2."""
    layer = tfbn.BatchNormalization(dtype=dtype)
    x = tf.cast(rng.normal(2, 1, [512, 3]), keras.dtype_policies.get(dtype).compute_dtype)
    assert layer(x, training=True).dtype == x.dtype
    xs = tf.repeat(x[None], 999, 0)
    tf.function(lambda: tf.map_fn(lambda x: layer(x, training=True), xs, parallel_iterations=1))()
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    assert reference.error(layer.moving_mean, np.mean(np.asarray(x, "float64"), axis=0)) < 1e-3


def test_float64_stays_float64(rng):
    layer = tfbn.BatchNormalization(dtype="float64")
    x = rng.normal(1e4, 1, [64, 3])
    expected, mean, _ = reference.forward(x, 1, 0, 1e-3)
    assert reference.error(layer(x, training=True), expected) < 1e-10
    assert reference.error(layer.moving_mean, 0.01 * mean) < 1e-14


def test_frozen_layer_uses_and_keeps_its_moving_averages(rng):
    _, layer = twins([8, 3])
    layer.trainable = False
    before = layer.get_weights()
    x = rng.normal(5, 2, [8, 3]).astype("float32")
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_regularizers_constraints_and_initializers_take_effect():
    layer = tfbn.BatchNormalization(
        gamma_initializer=keras.initializers.Constant(3.0),
        moving_mean_initializer=keras.initializers.Constant(5.0),
        gamma_regularizer=keras.regularizers.L2(0.1),
        beta_constraint="non_neg",
    )
    layer.build([None, 4])
    assert float(sum(layer.losses)) == pytest.approx(0.1 * 9 * 4)
    np.testing.assert_array_equal(layer.moving_mean, np.full(4, 5.0))
    assert layer.beta.constraint(tf.constant([-1.0])).numpy() == 0


def test_config_survives_a_round_trip():
    layer = tfbn.BatchNormalization(
        axis=1, momentum=0.5, epsilon=0.1, renorm=True, renorm_clipping={"rmax": 2.0}, synchronized=True,
        beta_regularizer="l2", gamma_constraint="non_neg", name="norm",
    )  # fmt: skip
    assert tfbn.BatchNormalization.from_config(layer.get_config()).get_config() == layer.get_config()


def test_renorm_does_not_divide_by_a_deviation_near_zero(rng):
    layer = tfbn.BatchNormalization(renorm=True, moving_variance_initializer="zeros", epsilon=1e-4)
    x = rng.normal(3, 2, [64, 2]).astype("float32")
    mean, stddev = x.mean(0, dtype="float64"), np.sqrt(x.var(0, dtype="float64") + 1e-4)
    expected = (x - mean) / stddev * (stddev / 1e-2) + mean / 1e-2
    assert reference.error(layer(x, training=True), expected) < 2e-6


def test_ghost_batches_are_consecutive_examples(rng):
    """Each ghost batch by a layer of its own, the rest included."""
    x = rng.normal(3, 2, [11, 4, 3]).astype("float32")
    y = tfbn.BatchNormalization(virtual_batch_size=4)(x, training=True)
    parts = [tfbn.BatchNormalization()(x[i : i + 4], training=True) for i in (0, 4, 8)]
    assert reference.error(y, np.concatenate(parts)) < 1e-6


@pytest.mark.parametrize("shape", [(31, 75, 75, 4), (27, 57, 57, 32), (20001, 64), (7, 3, 5, 8)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_results_are_exact_for_rows_without_factors_of_two(rng, shape, mean):
    x, dy = (rng.normal(size=shape).astype("float32") for _ in range(2))
    x += np.float32(mean)
    x = x.astype("float32")
    expected, batch_mean, variance = reference.forward(x, 1, 0, 1e-3)
    wanted = (expected, batch_mean, variance, *reference.backward(x, dy, 1, 1e-3))
    for jit in (False, True):
        layer = tfbn.BatchNormalization(momentum=0.0)
        layer.build([None, *shape[1:]])
        y, gradients = tf.function(step, jit_compile=jit)(layer, x, dy)
        measured = (y, layer.moving_mean, layer.moving_variance, *gradients)
        for one, other in zip(measured, wanted, strict=True):
            assert reference.error(one, other) < 3e-6, jit


def test_channels_on_every_axis_give_zeros(rng):
    for axis, shape in ((0, [6]), ([0, 1], [3, 2])):
        x = rng.normal(size=shape).astype("float32")
        np.testing.assert_allclose(tfbn.BatchNormalization(axis=axis)(x, training=True), np.zeros(shape))


def test_a_masked_nan_has_no_gradient(rng):
    x, keep = rng.normal(size=[6, 2]).astype("float32"), np.array([1, 1, 0, 1, 1, 1], bool)
    dy = (rng.normal(size=x.shape) * keep[:, None]).astype("float32")
    gradients = []
    for masked in (np.nan, 0.0):
        x[2] = masked
        gradients += [step(tfbn.BatchNormalization(), tf.constant(x), dy, keep)[1]]
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_may_be_a_keras_variable_and_frozen_overrides_it(rng):
    layer, x = tfbn.BatchNormalization(), rng.normal(5, 2, [8, 3]).astype("float32")
    training = keras.Variable(True, dtype="bool")
    assert reference.error(layer(x, training=training), reference.forward(x, 1, 0, 1e-3)[0]) < 2e-6
    layer.trainable = False
    frozen = tf.function(lambda training: layer(x, training=training))(tf.constant(True))
    assert reference.error(frozen, layer(x, training=False)) < 1e-6


def test_default_weights_are_gamma_beta_and_two_averages():
    layer = tfbn.BatchNormalization()
    layer.build([None, 3])
    assert [w.name for w in layer.trainable_weights] == ["gamma", "beta"]
    assert [w.name for w in layer.non_trainable_weights] == ["moving_mean", "moving_variance"]
