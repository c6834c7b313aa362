"""Feeds: arrays, datasets and splits are read in the same order."""

import numpy as np
import pytest
import tensorflow as tf

import tfbn


def net(classes=3, **options):
    return tfbn.Model(8, classes, (6,), seed=0, use_bias=False, **options)


def assert_same_weights(one, other, tolerance=1e-5):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


def test_dataset_trains_as_arrays_do(blobs):
    dataset = tf.data.Dataset.from_tensor_slices((blobs.train.x, np.eye(3)[blobs.train.y])).batch(32)
    validation = tf.data.Dataset.from_tensor_slices(tuple(blobs.validation)).batch(7)
    by_dataset, by_arrays = tfbn.Solver(net(), jit=False), tfbn.Solver(net(), jit=False)
    one = by_dataset.fit(dataset, epochs=2, validation_data=validation)
    other = by_arrays.fit(
        *blobs.train, epochs=2, batch_size=32, shuffle=False, validation_data=tuple(blobs.validation)
    )
    assert_same_weights(by_dataset.model, by_arrays.model)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
    assert by_dataset.evaluate(validation) == pytest.approx(by_arrays.evaluate(*blobs.validation), rel=1e-5)


def test_data_trains_and_validates_by_its_splits(blobs):
    history = tfbn.Solver(net()).fit(blobs, epochs=8, batch_size=20)
    assert history["val_accuracy"][-1] > 0.8
    with pytest.raises(ValueError, match="come from the data itself"):
        tfbn.Solver(net()).fit(blobs, validation_data=tuple(blobs.test))


def test_seed_and_shuffle_determine_the_losses(blobs):
    def run(**options):
        return tfbn.Solver(net(), jit=False).fit(*blobs.train, epochs=2, **options)["loss"]

    assert run(seed=1) == run(seed=1)
    assert run(seed=1) != run(seed=2)
    assert run(shuffle=False, seed=1) == run(shuffle=False, seed=2)
