"""The averages that the layer keeps: what moves them, by how much, and that replicas agree on them."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import tfbn


@pytest.mark.parametrize("renorm", [False, True])
def test_a_batch_without_values_moves_no_average(renorm):
    layer = tfbn.BatchNormalization(renorm=renorm)
    layer.build([None, 3])
    before = [np.full(3, 0.5 + place) for place in range(len(layer.weights))]
    layer.set_weights(before)
    layer(np.zeros([0, 3], "float32"), training=True)
    layer(np.ones([8, 3], "float32"), training=True, mask=np.zeros([8], bool))
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"debias": True}, {"renorm": True}, {"virtual_batch_size": 4}],
    ids=str,
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_leave_their_channel_unchanged(rng, options, bad):
    layer = tfbn.BatchNormalization(**options)
    x = rng.normal(size=[8, 3]).astype("float32")
    layer(x, training=True)
    before = [weight.numpy()[1] for weight in layer.non_trainable_weights]
    x[2, 1] = bad
    layer(x, training=True)
    np.testing.assert_array_equal([weight.numpy()[1] for weight in layer.non_trainable_weights], before)
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())


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


def test_unbiased_averages_equal_those_of_pytorch(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(3, 2, [16, 5]).astype("float32")
    theirs = torch.nn.BatchNorm1d(5, momentum=0.3)
    ours = tfbn.BatchNormalization(momentum=0.7, epsilon=1e-5, unbiased=True)
    expected = theirs(torch.from_numpy(x)).detach()
    assert reference.error(ours(x, training=True), expected) < 2e-6
    assert reference.error(ours.moving_mean, theirs.running_mean) < 2e-6
    assert reference.error(ours.moving_variance, theirs.running_var) < 2e-6


def test_debias_removes_the_initial_value_at_once(rng):
    x = rng.normal(100, 1, [64, 3]).astype("float32")
    layer = tfbn.BatchNormalization(momentum=0.999, debias=True)
    before = layer(x)
    layer(x, training=True)
    assert reference.error(layer(x), reference.forward(x, 1, 0, 1e-3)[0]) < 2e-4
    # The stored average stays a plain one, and before an update the initial values hold.
    assert reference.error(layer.moving_mean, 0.001 * x.astype("float64").mean(0)) < 1e-4
    assert reference.error(before, x / np.sqrt(1 + 1e-3)) < 1e-6


def test_averages_with_a_long_momentum_stay_exact(rng):
    """In float32 a share that was rounded apart from its rest would be off by 1e-5 here."""
    layer = tfbn.BatchNormalization(momentum=0.999)
    batches = rng.normal(1, 0.1, [5000, 4, 3]).astype("float32")
    tf.function(lambda xs: tf.map_fn(lambda x: layer(x, training=True), xs, parallel_iterations=1))(batches)
    expected = np.zeros(3)
    for batch in batches.astype("float64"):
        expected = 0.999 * expected + 0.001 * batch.mean(0)
    assert reference.error(layer.moving_mean, expected) < 4e-6


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


def test_fit_counts_a_last_batch_that_leaves_a_replica_empty(rng, two_replicas):
    x = rng.normal(50, 5, [9, 3]).astype("float32")
    with two_replicas.scope():
        model = keras.Sequential([keras.Input([3]), tfbn.BatchNormalization(momentum=None)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, x, batch_size=8, shuffle=False, epochs=2, verbose=0)
    layer = model.layers[-1]
    assert reference.error(layer.moving_mean, x.astype("float64").mean(0)) < 1e-6
    predicted = model.predict(np.repeat(x[:1], 8, 0), batch_size=8, verbose=0)
    np.testing.assert_array_equal(predicted, np.repeat(predicted[:1], 8, 0))


def test_reset_statistics_assigns_the_initial_values():
    layer = tfbn.BatchNormalization(renorm=True, moving_mean_initializer="ones")
    with pytest.raises(ValueError, match="no statistics yet"):
        layer.reset_statistics()
    layer.build([None, 3])
    before = layer.get_weights()
    layer(np.arange(12, dtype="float32").reshape(4, 3), training=True)
    layer.reset_statistics()
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
