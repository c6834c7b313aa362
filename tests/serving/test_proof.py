import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbn.serving.proof import difference, endpoint_functions, probabilities_head

L = keras.layers


def functional(shape, *layers, **options):
    x = y = keras.Input(shape, **options)
    for layer in layers:
        y = layer(y)
    return keras.Model(x, y)


LOGITS = tf.constant([[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]])
SOFTMAX, SIGMOID = tf.nn.softmax(LOGITS), tf.sigmoid(LOGITS)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([L.Identity()], SOFTMAX),
        ([L.Activation("linear")], SOFTMAX),
        ([L.Softmax()], SOFTMAX),
        ([L.Activation("softmax")], SOFTMAX),
        ([L.Activation("sigmoid")], SIGMOID),
        ([keras.ops.softmax], SOFTMAX),
        ([L.Dense(3, "softmax", kernel_initializer="identity")], SOFTMAX),
        ([L.Softmax(), L.Activation("linear", dtype="float32")], SOFTMAX),
        ([functional([3], L.Softmax())], SOFTMAX),
        ([functional([3], L.Identity())], SOFTMAX),
        ([L.Softmax(), L.Reshape([3])], SOFTMAX),
        ([L.Cropping1D((1, 1)), L.Flatten()], None),
    ],
)
def test_endpoint_for_images_gives_probabilities(layers, expected):
    if expected is None:
        layers, expected = [L.Reshape([3, 1]), *layers], SIGMOID[:, 1:2]  # a single logit
    # Pixels are too coarse for these logits: the model looks them up.
    model = functional([1], L.Rescaling(255.0), L.Embedding(2, 3, weights=[LOGITS]), L.Flatten(), *layers)
    head = probabilities_head(model, np.array([[0], [1]], "float32") / 255)
    serve = endpoint_functions(model, tf.TensorSpec([None, 1], "float32"), head)["serve_images"]
    np.testing.assert_allclose(serve(tf.constant([[0], [1]], "uint8")), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ([[1.0, -4.0]], 0.0),
        ([[1.0, -3.0]], 0.25),
        ([[np.nan, -4.0]], np.nan),
        ([[1.0]], np.inf),
        ([[1.0, -4.0]] * 2, np.inf),
    ],
)
def test_difference_is_a_share_of_the_largest_output(output, expected):
    wanted = {1: np.array([[1.0, -4.0]]), 3: np.zeros([3, 2])}
    assert difference({1: np.array(output), 3: np.zeros([3, 2])}, wanted) == pytest.approx(
        expected, nan_ok=True
    )
