"""The range of pixels that a model takes: by its graph, by what the user feeds, or asked for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn
from tfbn.diagnosis.pixels import pixel_range

L = keras.layers
PIXELS = np.random.default_rng(0).integers(0, 256, [40, 8, 8, 3]).astype("float32")


def normalization(data):
    layer = L.Normalization()
    layer.adapt(data)
    return layer


def stack(*layers, dtype="float32"):
    return keras.Sequential([keras.Input([8, 8, 3], dtype=dtype), *layers, *ending()])


def ending():
    return [L.Conv2D(4, 3), tfbn.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(3)]


def functional(scale):
    i = x = keras.Input([8, 8, 3])
    x = scale(x)
    for layer in ending():
        x = layer(x)
    return keras.Model(i, x)


class Hidden(keras.Model):
    """A subclass, whose graph is unknown."""

    def __init__(self, *layers):
        super().__init__()
        self.stack = [*layers, *ending()]

    def call(self, x, training=None):
        for layer in self.stack:
            x = layer(x)
        return x


class Own(L.Layer):
    """A layer of the user's, with `inner` layers and a `call` of its own."""

    def __init__(self, scale, *inner):
        super().__init__()
        self.scale, self.inner = scale, inner

    def call(self, x):
        x = self.scale(x)
        for layer in self.inner:
            x = layer(x)
        return x


class Standardization(L.Layer):
    """A layer of the user's with fixed weights."""

    def build(self, shape):
        constant = keras.initializers.Constant(127.5)
        self.middle = self.add_weight(shape=shape[-1:], initializer=constant, trainable=False)

    def call(self, x):
        return (x - self.middle) / self.middle


def frozen(model):
    model.trainable = False
    return model


def divided(x):
    return x / 255.0


def rows(*layers):
    return keras.Sequential([keras.Input([8, 8]), *layers, L.Dense(3)])


def half():
    """A model that computes in float16."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return stack(L.Rescaling(1 / 255))
    finally:
        keras.config.set_dtype_policy("float32")


def built(model):
    model(PIXELS[:2])
    return model


MODELS = {
    "0..255": [
        lambda: stack(L.Rescaling(1 / 255)),
        lambda: stack(L.Rescaling(1 / 127.5, offset=-1)),
        lambda: stack(L.RandomFlip(), L.RandomRotation(0.1), L.Rescaling(1 / 256)),
        lambda: stack(keras.Sequential([keras.Input([8, 8, 3]), L.Resizing(8, 8), L.Rescaling(1 / 255)])),
        lambda: stack(normalization(PIXELS)),
        lambda: stack(L.Rescaling(1 / 255), normalization(PIXELS / 255)),
        lambda: functional(lambda x: x / 255.0),
        lambda: functional(lambda x: x * (1 / 127.5) - 1),
        lambda: stack(L.Rescaling(1 / 255), dtype="uint8"),
        # A `call` of the user's own.
        lambda: built(Hidden(L.Rescaling(1 / 255))),
        lambda: built(Hidden(Own(divided, L.Conv2D(2, 1)))),
        lambda: stack(Own(divided, L.Conv2D(2, 1))),
        lambda: frozen(stack(Own(divided, L.Conv2D(2, 1)))),
        lambda: stack(Own(tf.function(divided), L.Conv2D(2, 1))),
        lambda: stack(Own(lambda x: tf.image.resize(x, [8, 8]) / 127.5 - 1, L.Conv2D(2, 1))),
        lambda: stack(Standardization()),
        lambda: functional(lambda x: L.Multiply()([x, keras.ops.full((1, 1, 1, 3), 1 / 255)])),
        lambda: functional(lambda x: 1 - x / 255),
        lambda: stack(L.Lambda(divided)),
        lambda: stack(L.Lambda(keras.applications.resnet.preprocess_input)),
        lambda: stack(L.Lambda(keras.applications.mobilenet_v2.preprocess_input)),
        # What Keras' layers make of it.
        half,
        lambda: stack(
            L.RandomContrast(0.1),
            L.Dropout(0.1),
            L.ZeroPadding2D(1),
            L.Rescaling(1 / 255),
            L.CenterCrop(8, 8),
        ),
        lambda: stack(L.Resizing(8, 8, pad_to_aspect_ratio=True), L.Rescaling(1 / 255)),
        lambda: stack(L.TimeDistributed(L.Rescaling(1 / 255))),
        lambda: rows(L.Rescaling(1 / 255), L.LSTM(2)),
        lambda: rows(L.Flatten(), L.Rescaling(1 / 255)),
    ],
    "0..1": [
        lambda: stack(normalization(PIXELS / 255)),
        lambda: stack(L.Rescaling(2, offset=-1)),
        lambda: stack(L.RandomFlip()),
        lambda: tfbn.Model((8, 8, 3), 3, conv_filters=(2,)),
        lambda: built(Hidden()),
        lambda: stack(Own(lambda x: tf.debugging.assert_all_finite(x, ""), L.Conv2D(2, 1))),
        lambda: rows(L.LSTM(2)),
        lambda: rows(L.Flatten()),
        lambda: stack(L.LayerNormalization()),
        lambda: frozen(stack(L.BatchNormalization())),
        lambda: functional(lambda x: x + L.Conv2D(3, 3, padding="same")(x)),
    ],
    "-1..1": [lambda: stack(L.Rescaling(0.5, offset=0.5))],
}


@pytest.mark.parametrize(
    ("scale", "make"), [(name, make) for name, makes in MODELS.items() for make in makes]
)
def test_the_graph_shows_the_range(scale, make):
    assert pixel_range(make())[0] == scale


UNCLEAR = [
    lambda: stack(L.Rescaling(1 / 50)),
    lambda: stack(L.Lambda(lambda x: (x / 16) ** 2)),
    lambda: stack(Own(tf.image.per_image_standardization, L.Conv2D(2, 1))),
    # A loop, a matrix that is no weight, two ways.
    lambda: stack(Own(lambda x: tf.map_fn(divided, x), L.Conv2D(2, 1))),
    lambda: stack(Own(tf.image.rgb_to_grayscale, L.Rescaling(1 / 255))),
    lambda: functional(lambda x: L.Concatenate()([L.Conv2D(2, 1)(x), L.Conv2D(2, 1)(x / 255)])),
]


@pytest.mark.parametrize("make", UNCLEAR)
def test_what_the_graph_does_not_show_is_asked_for(make):
    model = make()
    with pytest.raises(ValueError, match="Choose one, --scale"):
        pixel_range(model)
    assert pixel_range(model, "0..255")[0] == "0..255"
    assert pixel_range(model, examples=PIXELS)[0] == "0..255"
    assert pixel_range(model, examples=PIXELS / 255)[0] == "0..1"


def test_a_model_that_never_saw_its_input_is_asked_about():
    with pytest.raises(ValueError, match="not called on data yet"):
        pixel_range(Hidden())


def test_a_saved_function_is_asked_about(tmp_path):
    stack(L.Rescaling(1 / 255)).export(tmp_path, verbose=False)
    i = keras.Input([8, 8, 3])
    model = keras.Model(i, L.TFSMLayer(tmp_path, call_endpoint="serve")(i))
    with pytest.raises(ValueError, match="PartitionedCall in TFSMLayer"):
        pixel_range(model)


def test_the_reason_names_the_layers_that_scale():
    assert pixel_range(functional(Own(divided, L.Conv2D(2, 1))))[1].startswith(
        "the model scales them by 'own"
    )
    model = stack(L.Rescaling(1 / 255, name="to_one"), L.Conv2D(2, 1), L.Rescaling(3))
    assert pixel_range(model)[1] == "the model scales them by 'to_one'"


def test_data_of_another_range_are_rejected():
    with pytest.raises(ValueError, match=r"pixels of 0..255, but model .* is to take 0..1"):
        pixel_range(stack(), "0..1", PIXELS)
    with pytest.raises(ValueError, match=r"pixels of 0..1, but model .* is to take 0..255"):
        pixel_range(stack(L.Rescaling(1 / 255)), examples=PIXELS / 255)


@pytest.mark.parametrize(
    ("make", "fed"),
    [
        (lambda: stack(L.Rescaling(1 / 255)), PIXELS),
        (lambda: stack(normalization(PIXELS)), PIXELS),
        (lambda: stack(), PIXELS / 255),
        (lambda: stack(), PIXELS / 127.5 - 1),
        (lambda: built(Hidden(L.Rescaling(1 / 255))), PIXELS),
    ],
)
def test_serve_images_gives_what_keras_gives_on_what_the_user_feeds(tmp_path, make, fed):
    model = make()
    model.predict(fed, verbose=0)
    tfbn.recalibrate(model, fed)
    expected = keras.ops.softmax(model.predict(fed, verbose=0))
    done = tfbn.export(model, tmp_path / "served", images=True, data=fed, fold=False)
    loaded = tf.saved_model.load(tmp_path / "served" / "savedmodel")
    (served,) = loaded.signatures["serve_images"](tf.constant(PIXELS.astype("uint8"))).values()
    np.testing.assert_allclose(served, expected, atol=1e-5)
    assert (
        done.about["scale"]
        == {255: "0..255", 1: "0..1", -1: "-1..1"}[-1 if fed.min() < 0 else round(float(fed.max()))]
    )
