"""Compiled steps: traced once, by XLA or not, on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn

pytestmark = pytest.mark.xla


def net(classes=3, **options):
    return tfbn.Model(8, classes, (6,), seed=0, use_bias=False, **options)


def test_epoch_and_evaluation_are_compiled_once(blobs):
    solver = tfbn.Solver(net())
    solver.fit(blobs, epochs=3)
    solver.restart(net())
    solver.fit(blobs, epochs=2, seed=5)
    solver.evaluate(*blobs.test)
    assert solver._steps._epoch.experimental_get_tracing_count() == 1
    assert len(solver._steps._evaluations) == 1, "for any size"


def test_xla_compiles_dense_nets_and_not_convolutions_on_a_cpu():
    image = tfbn.Model((8, 8, 1), 3, (4,), conv_filters=(2,))
    assert tfbn.Solver(net()).jit is True
    assert tfbn.Solver(image).jit is False
    assert tfbn.Solver(keras.Sequential([image])).jit is False, "nested"
    assert tfbn.Solver(image, jit=True).jit is True


def test_training_goes_on_with_a_warning_where_xla_fails(blobs):
    @keras.saving.register_keras_serializable()
    class Through(keras.layers.Layer):
        """XLA has no kernel for a Python function."""

        def call(self, x):
            return tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), x.shape)

        def compute_output_shape(self, shape):
            return shape

    def build(layers):
        return keras.Sequential(
            [keras.Input([8]), *layers, keras.layers.Dense(3, kernel_initializer="zeros")]
        )

    solver, plain = tfbn.Solver(build([Through()])), tfbn.Solver(build([]), jit=False)
    with pytest.warns(UserWarning, match="XLA failed, training goes on without"):
        history = solver.fit(blobs, epochs=2)
    assert history.about["jit"] is False
    assert solver.jit is False
    np.testing.assert_allclose(history["loss"], plain.fit(blobs, epochs=2)["loss"], rtol=1e-5)


def test_exhausted_memory_does_not_turn_off_xla(blobs):
    solver = tfbn.Solver(net())
    solver.prepare(*blobs.train)

    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    solver._steps._epoch = exhausted
    with pytest.raises(tf.errors.ResourceExhaustedError):
        solver.fit(blobs)
    assert solver.jit is True


def test_training_runs_on_its_device(blobs):
    with tf.device("cpu:1"):
        model = net()
    solver = tfbn.Solver(model, device="cpu:1")
    history = solver.fit(blobs, epochs=2)
    assert solver.jit is True, "XLA refuses variables of another device"
    assert history.about["device"].startswith("cpu:1")
    assert solver.prepare(*blobs.test).x.device.endswith("CPU:1")
    expected = tfbn.Solver(net(), jit=False).fit(blobs, epochs=2)["loss"]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
