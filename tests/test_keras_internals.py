"""The private attributes of Keras and TensorFlow that tfbn uses, one by one."""

import keras

from tfbn import keras_internals


def test_mask_of_a_tensor():
    inputs = keras.Input((5, 3))
    masked = keras.layers.Dense(2)(keras.layers.Masking()(inputs))
    assert keras_internals.mask_of(inputs) is None
    assert keras_internals.mask_of(masked).dtype == "bool"
