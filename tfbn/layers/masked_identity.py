"""`MaskedIdentity`, which replaces a layer that was taken out of a graph."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfbn")
class MaskedIdentity(keras.layers.Layer):
    """Return the inputs, and pass on the mask that the layer is called with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.supports_masking = True

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Return `inputs`."""
        return inputs
