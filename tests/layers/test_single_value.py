"""Batches of one value a channel, for each choice of `single_value`."""

import numpy as np
import pytest
import reference
import tensorflow as tf

import tfbn


class TestSingleValue:
    x = np.array([[3.0, -2.0]], "float32")

    def test_warn_warns_of_one_value_a_channel(self, capfd):
        layer = tfbn.BatchNormalization(single_value="warn", name="norm")
        with pytest.warns(UserWarning, match="norm: one value a channel"):
            y = layer(self.x, training=True)
        np.testing.assert_array_equal(y, [[0, 0]])
        step = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, 2])])
        step(np.concatenate([self.x, self.x]))
        assert "one value a channel" not in capfd.readouterr().err
        step(self.x)
        assert "norm: one value a channel" in capfd.readouterr().err

    def test_raise_raises_for_one_value_a_channel(self):
        layer = tfbn.BatchNormalization(single_value="raise")
        with pytest.raises(ValueError, match="one value a channel"):
            layer(self.x, training=True)
        step = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, 2])])
        step(np.concatenate([self.x, self.x]))
        with pytest.raises(tf.errors.InvalidArgumentError, match="one value a channel"):
            step(self.x)

    def test_raise_acts_under_xla_where_the_size_is_known(self):
        layer = tfbn.BatchNormalization(single_value="raise")
        layer.build([None, 2])
        with pytest.raises(ValueError, match="one value a channel"):
            tf.function(lambda x: layer(x, training=True), jit_compile=True)(self.x)

    def test_moving_normalises_by_the_averages_and_keeps_them(self):
        layer = tfbn.BatchNormalization(single_value="moving")
        layer.build([None, 2])
        layer.moving_mean.assign([1.0, 2.0])
        before = layer.get_weights()
        assert reference.error(layer(self.x, training=True), layer(self.x)) < 1e-6
        for one, other in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_warn_does_not_warn_of_two_values(self, recwarn):
        tfbn.BatchNormalization(single_value="warn")(np.zeros([2, 2], "float32"), training=True)
        assert not recwarn.list
