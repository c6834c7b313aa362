"""What facts.md found wrong with Keras' layer: each check passes on ours and fails on Keras'."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import tfbn

KERAS = keras.layers.BatchNormalization


def replicas_of(strategy, values):
    """One of `values` on each replica."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(values[context.replica_id_in_sync_group])
    )


def train_on_replicas(kind, strategy, shards, masks=None, **options):
    """A layer after one batch in shards; the outputs and averages of each replica."""
    with strategy.scope():
        layer = kind(momentum=0.5, **options)
        layer.build([None, *shards[0].shape[1:]])

    def step(x, mask):
        return layer(x, training=True, mask=mask if masks else None)

    masks_or_none = masks or [np.ones(len(shard), bool) for shard in shards]
    y = tf.function(lambda x, mask: strategy.run(step, (x, mask)))(
        replicas_of(strategy, shards), replicas_of(strategy, masks_or_none)
    )
    local = strategy.experimental_local_results
    averages = [local(weight.value) for weight in (layer.moving_mean, layer.moving_variance)]
    return local(y), averages


def assert_averages_are_those_of(x, averages, tolerance=1e-6):
    """On each replica: half the initial 0 and 1, half the float64 moments of `x`."""
    x = np.asarray(x, np.float64)
    for measured, expected in zip(averages, (0.5 * x.mean(0), 0.5 + 0.5 * x.var(0)), strict=True):
        for replica in measured:
            assert reference.error(replica, expected) < tolerance


def k1_replicas_keep_the_same_averages(kind, strategy, rng):
    shards = [rng.normal(5, 1, [6, 3]).astype("float32"), rng.normal(-9, 2, [4, 3]).astype("float32")]
    _, averages = train_on_replicas(kind, strategy, shards)
    assert_averages_are_those_of(np.concatenate(shards), averages)


def k2_an_empty_shard_does_no_harm(kind, strategy, rng):
    shards = [rng.normal(5, 1, [9, 3]).astype("float32"), np.zeros([0, 3], "float32")]
    _, averages = train_on_replicas(kind, strategy, shards)
    assert_averages_are_those_of(shards[0], averages)


def k3_a_mask_is_synchronized(kind, strategy, rng):
    shards = [rng.normal(5, 1, [6, 3]).astype("float32"), rng.normal(-9, 2, [4, 3]).astype("float32")]
    masks = [np.array([1, 0, 1, 1, 0, 1], bool), np.array([0, 1, 1, 0], bool)]
    ys, averages = train_on_replicas(kind, strategy, shards, masks, synchronized=True)
    kept = np.concatenate([x[mask] for x, mask in zip(shards, masks, strict=True)]).astype("float64")
    assert_averages_are_those_of(kept, averages)
    for x, y in zip(shards, ys, strict=True):
        assert reference.error(y, (x - kept.mean(0)) / np.sqrt(kept.var(0) + 1e-3)) < 1e-6


def k4_synchronized_is_exact(kind, strategy, rng):
    x = rng.normal(1e4, 1, [64, 3]).astype("float32")
    expected, _, _ = reference.forward(x, 1, 0, 1e-3)
    assert reference.error(kind(synchronized=True)(x, training=True), expected) < 2e-6


def k5_empty_and_nan_batches_move_nothing(kind, strategy, rng):
    layer = kind()
    layer.build([None, 3])
    before = layer.get_weights()
    x = rng.normal(size=[8, 3]).astype("float32")
    x[2, 1] = np.nan
    layer(x[:0], training=True)
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    layer(x, training=True)
    assert layer.moving_mean.numpy()[1] == 0 and layer.moving_variance.numpy()[1] == 1
    _, mean, _ = reference.forward(np.nan_to_num(x), 1, 0, 1e-3)
    for channel in (0, 2):  # The other channels move on.
        assert float(layer.moving_mean[channel]) == pytest.approx(0.01 * mean[channel], rel=1e-5)


def k6_a_fully_masked_batch_moves_nothing(kind, strategy, rng):
    layer = kind()
    layer.build([None, 4, 3])
    before = layer.get_weights()
    layer(rng.normal(5, 2, [8, 4, 3]).astype("float32"), training=True, mask=np.zeros([8, 4], bool))
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def k7_a_mask_with_one_channel_first(kind, strategy, rng):
    x = rng.normal(5, 2, [6, 1, 5]).astype("float32")
    mask = np.array([1, 0, 1, 1, 0, 1], bool)[:, None]
    y = kind(axis=1)(x, training=True, mask=mask)
    kept = x[mask[:, 0]].astype("float64")
    assert reference.error(y, (x - kept.mean()) / np.sqrt(kept.var() + 1e-3)) < 2e-6


def k8_averages_under_bfloat16_converge(kind, strategy, rng):
    layer = kind(dtype="bfloat16", momentum=0.99)
    x = tf.cast(rng.normal(2, 1, [64, 3]), "bfloat16")
    step = tf.function(lambda: layer(x, training=True))
    for _ in range(1500):
        step()
    assert reference.error(layer.moving_mean, np.mean(np.asarray(x, "float64"), axis=0)) < 1e-4


def k9_impossible_numbers_are_rejected(kind, strategy, rng):
    for options in ({"momentum": 1.5}, {"epsilon": -1}):
        try:
            kind(**options)
        except ValueError as error:
            assert str(*options.values()) in str(error)
        else:
            raise AssertionError(f"accepted {options}")


def k10_several_axes(kind, strategy, rng):
    x = rng.normal(3, 2, [16, 4, 5, 3]).astype("float32")
    layer = kind(axis=[1, 2])
    y = layer(x, training=True)
    wide = x.astype("float64")
    mean, variance = wide.mean((0, 3), keepdims=True), wide.var((0, 3), keepdims=True)
    assert reference.error(y, (wide - mean) / np.sqrt(variance + 1e-3)) < 2e-6
    assert layer.moving_mean.shape == (4, 5)


def k13_messages_name_the_values_received(kind, strategy, rng):
    with pytest.raises(ValueError) as raised:
        kind(renorm=True, renorm_clipping={"rmax": 1.5, "rmin": 2.5})
    assert "1.5" in str(raised.value) and "2.5" in str(raised.value)


def k14_training_may_be_a_tensor(kind, strategy, rng):
    x = rng.normal(3, 2, [16, 3]).astype("float32")
    by_tensor, by_bool = kind(), kind()
    step = tf.function(lambda training: by_tensor(x, training=training))
    for training in (True, False, True):
        expected = by_bool(x, training=training)
        assert reference.error(step(tf.constant(training)), expected) < 1e-6
    for one, other in zip(by_tensor.get_weights(), by_bool.get_weights(), strict=True):
        assert reference.error(one, other) < 1e-6


def k15_second_derivatives_are_right(kind, strategy, rng):
    """A Hessian-vector product, reverse over reverse, against differences of a float64 gradient."""
    x, v, w = np.float64(np.float32(rng.normal(0.5, 1.3, [3, 16, 4])))
    layer = kind()
    layer.build(x.shape)

    def gradient(x, dy):
        return reference.backward(x, dy, np.ones(4), layer.epsilon)[0]

    def loss_gradient(x):
        y, _, _ = reference.forward(x, np.ones(4), np.zeros(4), layer.epsilon)
        return gradient(x, w * y**2)  # of sum(w * y**3 / 3)

    size = 1e-5
    expected = (loss_gradient(x + size * v) - loss_gradient(x - size * v)) / (2 * size)
    with tf.GradientTape() as outer:
        outer.watch(x := tf.constant(x, "float32"))
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = tf.reduce_sum(w * layer(x, training=True) ** 3) / 3
        product = tf.reduce_sum(inner.gradient(loss, x) * v)
    assert reference.error(outer.gradient(product, x), expected) < 1e-4


DEFECTS = [
    (k1_replicas_keep_the_same_averages, AssertionError),
    (k2_an_empty_shard_does_no_harm, AssertionError),
    (k3_a_mask_is_synchronized, AssertionError),
    (k4_synchronized_is_exact, AssertionError),
    (k5_empty_and_nan_batches_move_nothing, AssertionError),
    (k6_a_fully_masked_batch_moves_nothing, AssertionError),
    (k7_a_mask_with_one_channel_first, IndexError),
    (k8_averages_under_bfloat16_converge, AssertionError),
    (k9_impossible_numbers_are_rejected, AssertionError),
    (k10_several_axes, TypeError),
    (k13_messages_name_the_values_received, AssertionError),
    (k14_training_may_be_a_tensor, (TypeError, tf.errors.OperatorNotAllowedInGraphError)),
    (k15_second_derivatives_are_right, AssertionError),
]
NAMES = [check.__name__ for check, _ in DEFECTS]


@pytest.mark.parametrize("check", [check for check, _ in DEFECTS], ids=NAMES)
def test_tfbn_is_right(check, two_replicas, rng):
    check(tfbn.BatchNormalization, two_replicas, rng)


@pytest.mark.parametrize(("check", "failure"), DEFECTS, ids=NAMES)
def test_keras_is_wrong(check, failure, two_replicas, rng):
    """If this fails, Keras has mended the defect: remove the claim from the README."""
    with pytest.raises(failure):
        check(KERAS, two_replicas, rng)


@pytest.mark.parametrize("kind", [KERAS, tfbn.BatchNormalization])
def test_k11_root_of_momentum_makes_up_for_gradient_accumulation(kind, rng):
    """Four updates an optimizer step: the root of the momentum keeps as much a step as it did."""
    x = rng.normal(7, 2, [64, 3]).astype("float32")

    def moving_mean(momentum):
        layer = kind(momentum=momentum)
        model = keras.Sequential([keras.Input([3]), layer, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01, gradient_accumulation_steps=4), "mse")
        model.fit(x, x[:, :1], batch_size=16, shuffle=False, verbose=0)  # Four batches: one step.
        return layer.moving_mean.numpy()

    kept = 1 - moving_mean(0.9) / x.mean(0)
    np.testing.assert_allclose(kept, 0.9**4, atol=0.03)  # Not 0.9, as one update a step would keep.
    np.testing.assert_allclose(1 - moving_mean(0.9**0.25) / x.mean(0), 0.9, atol=0.02)


def test_k12_reset_statistics_become_those_of_averaged_weights(rng):
    """After use_ema the statistics are those of other weights; reset and seen again, of these."""
    x = rng.normal(3, 2, [128, 4]).astype("float32")
    layer = tfbn.BatchNormalization(momentum=None)
    dense = keras.layers.Dense(5)
    model = keras.Sequential([keras.Input([4]), dense, layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5), "mse")
    model.fit(x, x[:, :1], batch_size=32, epochs=3, verbose=0)

    def error():
        inputs = dense(x).numpy().astype("float64")
        batches = inputs.reshape(4, 32, 5)
        return max(
            reference.error(layer.moving_mean, inputs.mean(0)),
            reference.error(layer.moving_variance, batches.var(1).mean(0)),
        )

    assert error() > 1e-3
    layer.reset_statistics()
    for batch in np.split(x, 4):
        model(batch, training=True)
    assert error() < 2e-6
