"""Logits or probabilities: what the graph of a model says, of every way to end it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbn.layers.outputs import gives_probabilities, output_kind

L, ops = keras.layers, keras.ops


def functional(end):
    i = keras.Input([4])
    return keras.Model(i, end(L.Dense(3)(i)))


class Attention(keras.Model):
    """Scores, by a subclass whose last attribute is the softmax of its attention."""

    def __init__(self, end=lambda x: x, wrap=lambda call: call):
        super().__init__()
        self.scores, self.weigh, self.end = L.Dense(3), L.Softmax(), wrap(end)

    def call(self, x):
        return self.end(self.scores(x) * self.weigh(x[:, :3]))


def softmax_by_hand(x):
    e = ops.exp(x - ops.max(x, -1, keepdims=True))
    return e / ops.sum(e, -1, keepdims=True)


def half(x):
    return L.Activation("linear", dtype="float32")(L.Softmax(dtype="mixed_float16")(x))


def squeeze_and_excite(x):
    return L.Multiply()([x, L.Dense(3, "sigmoid")(x)])


SUBMODEL = keras.Sequential([keras.Input([3]), L.Dense(3), L.Softmax()])
ENDS = {
    "softmax": [
        L.Softmax(),
        ops.softmax,
        half,
        softmax_by_hand,
        SUBMODEL,
        lambda x: L.Activation("linear")(L.Softmax()(x)),
        lambda x: L.Average()([L.Softmax()(x), L.Softmax()(2 * x)]),
        lambda x: ops.mean(ops.stack([ops.softmax(x), SUBMODEL(x)]), 0),
        lambda x: 0.25 * L.Softmax()(x) + 0.75 * SUBMODEL(x),
        lambda x: L.Reshape([3])(L.Permute([2, 1])(L.Reshape([3, 1])(L.Softmax()(x)))),
        lambda x: L.Dropout(0.5)(L.Softmax()(x)),
        lambda x: ops.clip(ops.softmax(x), 1e-6, 1.0),
        lambda x: L.GlobalAveragePooling1D()(L.TimeDistributed(L.Softmax())(L.RepeatVector(2)(x))),
        lambda x: L.Lambda(lambda p: p / tf.reduce_sum(p, -1, keepdims=True))(L.Softmax()(x)),
        lambda x: ops.roll(L.Softmax()(x), 1, -1),
        lambda x: L.Rescaling(0.5)(L.Softmax()(x) + L.Softmax()(2 * x)),
        lambda x: ops.abs(ops.softmax(x) + 1e-7),
    ],
    "sigmoid": [
        L.Activation("sigmoid"),
        L.Activation("hard_sigmoid"),
        lambda x: 1 - ops.sigmoid(x),
        lambda x: L.Reshape([3, 1])(L.Dense(3, "sigmoid")(x)),
    ],
    "scores": [
        lambda x: x,
        L.BatchNormalization(),
        L.ReLU(),
        squeeze_and_excite,
        ops.log_softmax,
        lambda x: ops.log(ops.softmax(x)),
        lambda x: L.Dense(3)(L.Softmax()(x)),
        lambda x: x + ops.sigmoid(x),
        lambda x: L.Activation("silu")(x),
        lambda x: L.Softmax()(x) - ops.softmax(2 * x),
        lambda x: L.Conv1D(3, 2)(L.TimeDistributed(L.Softmax())(L.RepeatVector(2)(x))),
        lambda x: L.LayerNormalization()(L.Softmax()(x)),
        lambda x: L.Activation("gelu")(L.Dense(3)(x)),
        lambda x: L.Dot(axes=1)([L.Softmax()(x), L.Reshape([3, 3])(L.Dense(9)(x))]),
    ],
    None: [
        lambda x: L.Concatenate()([x, L.Softmax()(x)]),
        lambda x: L.Average()([L.Softmax()(x), L.Activation("sigmoid")(x)]),
        lambda x: ops.exp(x),
        lambda x: L.Dot(axes=1)([L.Softmax()(x), L.Softmax()(L.Reshape([3, 3])(L.Dense(9)(x)))]),
        lambda x: ops.einsum("bi,bij->bj", ops.softmax(x), ops.softmax(L.Reshape([3, 3])(L.Dense(9)(x)))),
        lambda x: L.Rescaling(20.0, -10.0)(L.Softmax()(x)),
        lambda x: L.Rescaling(10.0)(L.Softmax()(x)),
        lambda x: ops.sort(ops.softmax(x)),
        lambda x: ops.tanh(ops.softmax(x)),
        lambda x: L.Lambda(lambda z: tf.map_fn(tf.nn.softmax, z))(x),
    ],
}


@pytest.mark.parametrize(("kind", "end"), [(kind, end) for kind, ends in ENDS.items() for end in ends])
def test_functional_models_are_told_by_their_graph(kind, end):
    assert output_kind(functional(end), np.zeros([1, 4], "float32")) == kind


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, tf.function(jit_compile=True)])
def test_subclasses_are_told_by_what_they_compute(wrap):
    for end, kind in ((lambda x: x, "scores"), (tf.nn.softmax, "softmax"), (tf.nn.sigmoid, "sigmoid")):
        model = Attention(end, wrap)
        assert output_kind(model, tf.TensorSpec([None, 4])) == kind
    assert not tf.config.functions_run_eagerly()


def test_telling_changes_no_state():
    class Counting(L.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.calls.assign_add(1)
            return x

    model = functional(lambda x: L.Softmax()(Counting()(x)))
    model.layers[-2].calls.assign(3)
    assert output_kind(model, np.zeros([2, 4], "float32")) == "softmax"
    assert model.layers[-2].calls.numpy() == 3


def test_several_inputs_and_outputs():
    a, b = keras.Input([4], name="a"), keras.Input([4], name="b")
    joined = L.Concatenate()([a, b])
    one = keras.Model({"a": a, "b": b}, L.Dense(3, "softmax")(joined))
    two = keras.Model([a, b], [L.Dense(3, "softmax")(joined), L.Dense(3)(joined)])
    x = np.zeros([2, 4], "float32")
    assert output_kind(one, {"a": x, "b": x}) == "softmax"
    assert output_kind(two, [x, x]) is None


def test_outputs_that_sum_to_one_are_probabilities_whatever_the_graph_hides():
    hidden = functional(lambda x: L.Lambda(lambda z: tf.map_fn(tf.nn.softmax, z))(x))
    x = np.ones([5, 4], "float32")
    assert gives_probabilities(hidden, x, hidden.predict(x, verbose=0))
    assert not gives_probabilities(functional(lambda x: x), x, np.ones([5, 3]))
