"""`MaskedIdentity`, which stands where a layer was taken out of a graph."""

from __future__ import annotations

import keras


@keras.saving.register_keras_serializable(package="tfbn")
class MaskedIdentity(keras.layers.Layer):
    """Return the inputs, and pass on the mask that the layer is called with."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return inputs
