"""Moments over masks and replicas."""

import numpy as np
import pytest
import reference
import tensorflow as tf

from tfbn.layers.functional import batch_normalize
from tfbn.layers.moments import moments

EPSILON = 1e-3


def test_moments_of_a_mask_are_those_of_the_values_left(rng):
    x = rng.normal(3, 2, [10, 4]).astype("float32")
    keep = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1, 0], bool)
    x[2] = np.nan  # A masked value must not matter, whatever it is.
    batch = moments(tf.constant(x), [0], np.broadcast_to(keep[:, None], x.shape))
    assert reference.error(batch.mean[0], x[keep].astype("float64").mean(0)) < 1e-6
    assert reference.error(batch.variance[0], x[keep].astype("float64").var(0)) < 1e-6
    np.testing.assert_array_equal(batch.count[0], keep.sum())


@pytest.mark.parametrize("mean", [5.0, 1e4])
@pytest.mark.parametrize("first", [6, 5, 11, 12], ids=["even", "uneven", "one row", "empty"])
@pytest.mark.parametrize("masked", [False, True])
def test_two_replicas_synchronized_equal_one_device(rng, two_replicas, masked, first, mean):
    """The shared moments, and dx through them, are those of both shards put together."""
    x, dy = rng.normal([[[mean]], [[0]]], 2, [2, 12, 3]).astype("float32")
    gamma, beta = np.full([1, 3], 1.5, "float32"), np.full([1, 3], -0.5, "float32")
    keep = np.broadcast_to(rng.random([12, 1]) < 0.6, [12, 3])

    def run(x, dy, mask, synchronized):
        mask = mask if masked else None
        with tf.GradientTape() as tape:
            tape.watch(x)
            batch = moments(x, [0], mask, synchronized)
            y = batch_normalize(x, batch, gamma, beta, EPSILON, [0], mask, synchronized)
        return y, tape.gradient(y, x, dy), batch.mean, batch.variance

    whole = run(tf.constant(x), tf.constant(dy), tf.constant(keep), False)
    shards = [
        two_replicas.experimental_distribute_values_from_function(
            lambda context, values=values: tf.constant(
                np.split(values, [first])[context.replica_id_in_sync_group]
            )
        )
        for values in (x, dy, keep)
    ]
    both = tf.function(lambda *shard: two_replicas.run(run, (*shard, True)))(*shards)
    both = [two_replicas.experimental_local_results(value) for value in both]
    for measured, expected in zip(both[:2], whole[:2], strict=True):
        assert reference.error(tf.concat(measured, 0), expected) < 1e-6
    for measured, expected in zip(both[2:], whole[2:], strict=True):
        for replica in measured:
            assert reference.error(replica, expected) < 1e-6
