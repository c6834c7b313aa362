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
def test_as_keras_step_by_step(rng, shape, axis, options):
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


def test_as_keras_with_a_mask(rng):
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
def test_as_the_paper(rng, shape, axis):
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
def test_compiled_as_eager(rng, jit):
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


def test_frozen_uses_and_keeps_the_moving_averages(rng):
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


def test_config_round_trip():
    layer = tfbn.BatchNormalization(
        axis=1, momentum=0.5, epsilon=0.1, renorm=True, renorm_clipping={"rmax": 2.0}, synchronized=True,
        beta_regularizer="l2", gamma_constraint="non_neg", name="norm",
    )  # fmt: skip
    assert tfbn.BatchNormalization.from_config(layer.get_config()).get_config() == layer.get_config()


def test_takes_the_arguments_and_defaults_of_keras():
    import inspect

    theirs, ours = (
        inspect.signature(kind.__init__).parameters for kind in (KERAS, tfbn.BatchNormalization)
    )
    own = [name for name, parameter in ours.items() if name not in theirs]
    assert [name for name in ours if name not in own] == list(theirs)
    assert all(ours[name].default == parameter.default for name, parameter in theirs.items())
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own)
    assert not issubclass(tfbn.BatchNormalization, KERAS)
    assert tfbn.BatchNormalization.__bases__ == (keras.layers.Layer,)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"momentum": 1.5}, ValueError, "`momentum` must be within [0, 1]"),
        ({"momentum": -0.1}, ValueError, "momentum=-0.1"),
        ({"momentum": float("nan")}, ValueError, "momentum=nan"),
        ({"renorm_momentum": 2}, ValueError, "renorm_momentum=2"),
        ({"epsilon": 0}, ValueError, "epsilon=0"),
        ({"epsilon": -1}, ValueError, "`epsilon` must be a positive, finite number"),
        ({"epsilon": "small"}, TypeError, "epsilon='small'"),
        ({"momentum": "fast"}, TypeError, "momentum='fast'"),
        ({"axis": 1.5}, TypeError, "axis=1.5"),
        ({"axis": []}, ValueError, "axis=[]"),
        ({"axis": [1, 1]}, ValueError, "axis=[1, 1]"),
        ({"axis": [1, "2"]}, TypeError, "axis='2'"),
        ({"unbiased": 1}, TypeError, "unbiased=1"),
        ({"synchronized": "no"}, TypeError, "synchronized='no'"),
        ({"renorm": True, "renorm_clipping": [1, 2]}, TypeError, "renorm_clipping=[1, 2]"),
        ({"renorm": True, "renorm_clipping": {"rmax": "a"}}, TypeError, "rmax='a'"),
        ({"renorm": True, "renorm_clipping": {"rmax": float("nan")}}, ValueError, "rmax=nan"),
        ({"debias": "yes"}, TypeError, "debias='yes'"),
        ({"test_local_stats": None}, TypeError, "test_local_stats=None"),
        ({"virtual_batch_size": 0}, ValueError, "virtual_batch_size=0"),
        ({"virtual_batch_size": 2.0}, TypeError, "virtual_batch_size=2.0"),
        ({"single_value": "ignore"}, ValueError, "'moving'"),
        ({"renorm": True, "renorm_clipping": {"low": 1}}, ValueError, "['low']"),
        ({"renorm": True, "renorm_clipping": {"rmax": 1.0, "rmin": 2.0}}, ValueError, "rmax=1.0, rmin=2.0"),
        ({"renorm": True, "renorm_clipping": {"dmax": -1.0}}, ValueError, "dmax=-1.0"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error) as raised:
        tfbn.BatchNormalization(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("axis", "shape", "message"),
    [
        (2, [None, 5], "`axis` must be within [-2, 1]"),
        (-3, [None, 5], "axis=-3"),
        (0, [None, 5], "must be known"),
        (-1, [None, 5, None], "(None, 5, None)"),
    ],
)
def test_bad_inputs(axis, shape, message):
    for use in (lambda: tfbn.BatchNormalization(axis=axis).build(shape),
                lambda: tfbn.BatchNormalization(axis=axis)(keras.Input(shape[1:]))):  # fmt: skip
        with pytest.raises(ValueError) as raised:
            use()
        assert message in str(raised.value)


@pytest.mark.parametrize("renorm", [False, True])
def test_a_batch_without_values_moves_no_average(renorm):
    _, layer = twins([8, 3], renorm=renorm)
    before = layer.get_weights()
    layer(np.zeros([0, 3], "float32"), training=True)
    layer(np.ones([8, 3], "float32"), training=True, mask=np.zeros([8], bool))
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"renorm": True, "momentum": None},
        {"renorm": True, "unbiased": True},
        {"renorm": True, "debias": True},
        {"renorm": True, "virtual_batch_size": 4},
        {"renorm": True, "test_local_stats": True},
        {"renorm": True, "single_value": "moving"},
        {"debias": True, "momentum": None},
        {"debias": True, "momentum": 1},
        {"debias": True, "momentum": 1 - 1e-8},
        {"virtual_batch_size": 4, "synchronized": True},
    ],
    ids=str,
)
def test_contradictions_are_refused_with_their_reason(options):
    with pytest.raises(ValueError, match=r"`.*` does not go with `.*`: \w+.*\. Leave one out\."):
        tfbn.BatchNormalization(**options)


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"debias": True}, {"renorm": True}, {"virtual_batch_size": 4}],
    ids=str,
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_spoils_no_average(rng, options, bad):
    layer = tfbn.BatchNormalization(**options)
    x = rng.normal(size=[8, 3]).astype("float32")
    layer(x, training=True)
    before = [weight.numpy()[1] for weight in layer.non_trainable_weights]
    x[2, 1] = bad
    layer(x, training=True)
    np.testing.assert_array_equal([weight.numpy()[1] for weight in layer.non_trainable_weights], before)
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())


def test_renorm_divides_by_no_deviation_near_zero(rng):
    layer = tfbn.BatchNormalization(renorm=True, moving_variance_initializer="zeros", epsilon=1e-4)
    x = rng.normal(3, 2, [64, 2]).astype("float32")
    mean, stddev = x.mean(0, dtype="float64"), np.sqrt(x.var(0, dtype="float64") + 1e-4)
    expected = (x - mean) / stddev * (stddev / 1e-2) + mean / 1e-2
    assert reference.error(layer(x, training=True), expected) < 2e-6


@pytest.mark.parametrize(
    ("shape", "mask"),
    [((4, 3), (5,)), ((4, 3), (4, 2)), ((4, 3), (4, 3, 1)), ((4, 6, 3), (6,)), ((4, 6, 3), (4, 3))],
)
def test_bad_mask(shape, mask):
    with pytest.raises(ValueError) as raised:
        tfbn.BatchNormalization()(np.zeros(shape, "float32"), training=True, mask=np.ones(mask, bool))
    assert f"mask.shape={mask}" in str(raised.value) and f"{shape}" in str(raised.value)


def test_axes_that_meet_or_take_the_ghosts():
    with pytest.raises(ValueError, match="must name different axes"):
        tfbn.BatchNormalization(axis=[-1, 2]).build([None, 4, 3])
    with pytest.raises(ValueError, match="parts the first axis"):
        tfbn.BatchNormalization(axis=[0, 2], virtual_batch_size=2).build([8, 4, 3])


def test_axes_too_far_apart_for_tensorflow():
    with pytest.raises(ValueError, match="Put the channels side by side"):
        tfbn.BatchNormalization(axis=[1, 3, 5]).build([None, 2, 2, 2, 2, 2])
    with pytest.raises(ValueError, match="virtual_batch_size"):
        tfbn.BatchNormalization(axis=[1, 3], virtual_batch_size=2).build([None, 2, 2, 2, 2])


def test_ghosts_are_consecutive_examples(rng):
    """Each ghost batch by a layer of its own, the rest included."""
    x = rng.normal(3, 2, [11, 4, 3]).astype("float32")
    y = tfbn.BatchNormalization(virtual_batch_size=4)(x, training=True)
    parts = [tfbn.BatchNormalization()(x[i : i + 4], training=True) for i in (0, 4, 8)]
    assert reference.error(y, np.concatenate(parts)) < 1e-6


@pytest.mark.parametrize("batches", [[64], [32, 32], [1, 40, 23], [5, 59]])
def test_cumulative_mean_is_that_of_all_values(rng, batches):
    x = rng.normal(100, 1, [64, 3]).astype("float32")
    layer, parts = tfbn.BatchNormalization(momentum=None), np.split(x, np.cumsum(batches)[:-1])
    for part in parts:
        layer(part, training=True)
    wide = x.astype("float64")
    assert reference.error(layer.moving_mean, wide.mean(0)) < 1e-6
    within = sum(len(part) * part.astype("float64").var(0) for part in parts) / 64
    assert reference.error(layer.moving_variance, within) < 1e-6
    np.testing.assert_array_equal(layer.count, [64] * 3)


def test_unbiased_as_pytorch(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(3, 2, [16, 5]).astype("float32")
    theirs = torch.nn.BatchNorm1d(5, momentum=0.3)
    ours = tfbn.BatchNormalization(momentum=0.7, epsilon=1e-5, unbiased=True)
    expected = theirs(torch.from_numpy(x)).detach()
    assert reference.error(ours(x, training=True), expected) < 2e-6
    assert reference.error(ours.moving_mean, theirs.running_mean) < 2e-6
    assert reference.error(ours.moving_variance, theirs.running_var) < 2e-6


def test_debias_forgets_the_start_at_once(rng):
    x = rng.normal(100, 1, [64, 3]).astype("float32")
    layer = tfbn.BatchNormalization(momentum=0.999, debias=True)
    before = layer(x)
    layer(x, training=True)
    assert reference.error(layer(x), reference.forward(x, 1, 0, 1e-3)[0]) < 2e-4
    # The stored average stays a plain one, and before an update the initial values hold.
    assert reference.error(layer.moving_mean, 0.001 * x.astype("float64").mean(0)) < 1e-4
    assert reference.error(before, x / np.sqrt(1 + 1e-3)) < 1e-6


class TestSingleValue:
    x = np.array([[3.0, -2.0]], "float32")

    def test_warns(self, capfd):
        layer = tfbn.BatchNormalization(single_value="warn", name="norm")
        with pytest.warns(UserWarning, match="norm: one value a channel"):
            y = layer(self.x, training=True)
        np.testing.assert_array_equal(y, [[0, 0]])
        step = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, 2])])
        step(np.concatenate([self.x, self.x]))
        assert "one value a channel" not in capfd.readouterr().err
        step(self.x)
        assert "norm: one value a channel" in capfd.readouterr().err

    def test_raises(self):
        layer = tfbn.BatchNormalization(single_value="raise")
        with pytest.raises(ValueError, match="one value a channel"):
            layer(self.x, training=True)
        step = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, 2])])
        step(np.concatenate([self.x, self.x]))
        with pytest.raises(tf.errors.InvalidArgumentError, match="one value a channel"):
            step(self.x)

    def test_raises_under_xla_where_the_size_is_known(self):
        layer = tfbn.BatchNormalization(single_value="raise")
        layer.build([None, 2])
        with pytest.raises(ValueError, match="one value a channel"):
            tf.function(lambda x: layer(x, training=True), jit_compile=True)(self.x)

    def test_falls_back_on_the_averages(self):
        layer = tfbn.BatchNormalization(single_value="moving")
        layer.build([None, 2])
        layer.moving_mean.assign([1.0, 2.0])
        before = layer.get_weights()
        assert reference.error(layer(self.x, training=True), layer(self.x)) < 1e-6
        for one, other in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_says_nothing_of_two(self, recwarn):
        tfbn.BatchNormalization(single_value="warn")(np.zeros([2, 2], "float32"), training=True)
        assert not recwarn.list


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": None},
        {"debias": True, "unbiased": True},
        {"renorm": True},
        {"synchronized": True},
        {"synchronized": True, "momentum": None, "unbiased": True},
        {"synchronized": True, "renorm": True},
        {"virtual_batch_size": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [5, 4, 9, 10], ids=["even", "uneven", "one row", "empty"])
def test_replicas_keep_the_averages_of_the_whole_batch(rng, two_replicas, first, options):
    """As one device on the concatenated batch does, whether outputs are synchronized or not."""
    x = rng.normal([[-3.0], [40.0]], 2, [2, 5]).repeat(5, 0).astype("float32")
    x += rng.normal(size=x.shape).astype("float32")
    if "virtual_batch_size" in options:  # Whole ghost batches on each replica
        first -= first % 2
    with two_replicas.scope():
        layer = tfbn.BatchNormalization(**options)
        layer.build([None, 5])
    alone = tfbn.BatchNormalization(**options)
    shards = two_replicas.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(x, [first])[context.replica_id_in_sync_group])
    )
    step = tf.function(lambda shard: two_replicas.run(lambda x: layer(x, training=True), (shard,)))
    for _ in range(2):
        step(shards)
        alone(x, training=True)
    for weight, wanted in zip(layer.weights, alone.weights, strict=True):
        for replica in two_replicas.experimental_local_results(weight.value):
            assert reference.error(replica, wanted) < 1e-6, weight.name


def test_fit_on_replicas_with_a_last_batch_that_leaves_one_empty(rng, two_replicas):
    x = rng.normal(50, 5, [9, 3]).astype("float32")
    with two_replicas.scope():
        model = keras.Sequential([keras.Input([3]), tfbn.BatchNormalization(momentum=None)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, x, batch_size=8, shuffle=False, epochs=2, verbose=0)
    layer = model.layers[-1]
    assert reference.error(layer.moving_mean, x.astype("float64").mean(0)) < 1e-6
    predicted = model.predict(np.repeat(x[:1], 8, 0), batch_size=8, verbose=0)
    np.testing.assert_array_equal(predicted, np.repeat(predicted[:1], 8, 0))


@pytest.mark.parametrize("shape", [(31, 75, 75, 4), (27, 57, 57, 32), (20001, 64), (7, 3, 5, 8)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_exact_over_numbers_of_rows_without_factors_of_two(rng, shape, mean):
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


def test_channels_on_every_axis(rng):
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


def test_training_as_a_keras_variable_and_frozen(rng):
    layer, x = tfbn.BatchNormalization(), rng.normal(5, 2, [8, 3]).astype("float32")
    training = keras.Variable(True, dtype="bool")
    assert reference.error(layer(x, training=training), reference.forward(x, 1, 0, 1e-3)[0]) < 2e-6
    layer.trainable = False
    frozen = tf.function(lambda training: layer(x, training=training))(tf.constant(True))
    assert reference.error(frozen, layer(x, training=False)) < 1e-6


def test_reset_statistics():
    layer = tfbn.BatchNormalization(renorm=True, moving_mean_initializer="ones")
    with pytest.raises(ValueError, match="no statistics yet"):
        layer.reset_statistics()
    layer.build([None, 3])
    before = layer.get_weights()
    layer(np.arange(12, dtype="float32").reshape(4, 3), training=True)
    layer.reset_statistics()
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_default_weights_are_two_and_two():
    layer = tfbn.BatchNormalization()
    layer.build([None, 3])
    assert [w.name for w in layer.trainable_weights] == ["gamma", "beta"]
    assert [w.name for w in layer.non_trainable_weights] == ["moving_mean", "moving_variance"]


def test_averages_under_long_momentum_stay_true(rng):
    """In float32 a share that was rounded apart from its rest would be off by 1e-5 here."""
    layer = tfbn.BatchNormalization(momentum=0.999)
    batches = rng.normal(1, 0.1, [5000, 4, 3]).astype("float32")
    tf.function(lambda xs: tf.map_fn(lambda x: layer(x, training=True), xs, parallel_iterations=1))(batches)
    expected = np.zeros(3)
    for batch in batches.astype("float64"):
        expected = 0.999 * expected + 0.001 * batch.mean(0)
    assert reference.error(layer.moving_mean, expected) < 4e-6
