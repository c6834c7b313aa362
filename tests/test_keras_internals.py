"""Each function of `tfbn.keras_internals`: the release that changes a private attribute fails here."""

import concurrent.futures
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbn import keras_internals


class Block(keras.layers.Layer):
    """A custom layer with a layer inside."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_flatten_layers_finds_layers_inside_wrappers_and_custom_layers():
    wrapped, block = keras.layers.Dense(2), Block()
    inner = keras.Sequential([keras.Input([4, 2]), keras.layers.Dense(2)])
    model = keras.Sequential([keras.Input([4, 2]), keras.layers.TimeDistributed(wrapped), inner, block])
    layers = keras_internals.flatten_layers(model)
    assert model in layers
    for layer in (wrapped, block.dense, inner.layers[0]):
        assert layer in layers and layer not in model.layers
    assert len(layers) == len(set(map(id, layers)))


def test_flatten_layers_leaves_out_the_layer_itself_on_request():
    block = Block()
    assert keras_internals.flatten_layers(block) == [block, block.dense]
    assert keras_internals.flatten_layers(block, include_self=False) == [block.dense]


def test_consumers_are_the_operations_that_take_the_output():
    inputs = keras.Input([3])
    norm, relu, dense = keras.layers.BatchNormalization(), keras.layers.ReLU(), keras.layers.Dense(2)
    normalized = norm(inputs)
    keras.Model(inputs, [relu(normalized), dense(normalized)])
    assert keras_internals.consumers(norm) == [relu, dense]
    assert keras_internals.consumers(dense) == []


def test_consumers_of_a_layer_without_a_graph_are_none():
    block = Block()
    block(np.zeros([2, 3], "float32"))
    assert keras_internals.consumers(block.dense) == []


class CountingCell(keras.layers.Layer):
    """A recurrent cell that counts its calls."""

    state_size = output_size = 2
    calls = 0

    def call(self, x, states):
        self.calls += 1
        return x + states[0], [x + states[0]]


@pytest.mark.parametrize("unroll", [False, True])
def test_cells_called_once_leaves_out_the_calls_whose_outputs_keras_drops(unroll):
    cells = [CountingCell(), CountingCell()]
    layer = keras.layers.RNN(cells, unroll=unroll)
    x = np.arange(12, dtype="float32").reshape(2, 3, 2)
    expected, attributes = layer(x), {**vars(layer)}

    def calls():
        before = [cell.calls for cell in cells]
        np.testing.assert_array_equal(layer(x), expected)
        return [cell.calls - number for cell, number in zip(cells, before, strict=True)]

    with keras_internals.cells_called_once(layer):
        assert calls() == [3, 3]
    assert calls() == ([4, 4] if unroll else [5, 5])  # as Keras does
    assert vars(layer) == attributes


def test_map_calls_once_leaves_out_the_call_for_the_signature():
    elements = []

    def double(x):
        elements.append(float(x)) if tf.executing_eagerly() else elements.append("traced")
        return 2 * x

    def calls():
        elements.clear()
        np.testing.assert_array_equal(keras.ops.map(double, np.float32([1, 2, 3])), [2, 4, 6])
        return elements

    with keras_internals.map_calls_once():
        assert calls() == [1, 2, 3]
        np.testing.assert_array_equal(tf.function(keras.ops.map)(double, tf.range(3)), [0, 2, 4])
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(calls).result() == [1, 1, 2, 3]
    assert calls() == [1, 1, 2, 3]  # as Keras does


def traced_under_xla(jit_compile):
    """The answers of `under_xla` in the trace of a function, and in a branch within it."""
    answers = []

    def ask():
        answers.append(keras_internals.under_xla())
        return 0.0

    tf.function(lambda flag: ask() + tf.cond(flag, ask, ask), jit_compile=jit_compile)(tf.constant(True))
    return answers


def test_under_xla_is_true_where_xla_compiles_and_only_there():
    assert keras_internals.under_xla() is False
    assert traced_under_xla(jit_compile=False) == [False] * 3
    assert traced_under_xla(jit_compile=True) == [True] * 3


def without_the_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow.python.ops", None)


def without_the_name(monkeypatch):
    from tensorflow.python.ops import control_flow_util

    monkeypatch.delattr(control_flow_util, "GraphOrParentsInXlaContext")


@pytest.mark.parametrize("change", [without_the_module, without_the_name])
def test_under_xla_is_true_where_tensorflow_cannot_answer(monkeypatch, change):
    change(monkeypatch)
    assert keras_internals.under_xla() is True


def test_layer_works_where_tensorflow_cannot_answer(python):
    """In a process of its own, which imports tfbn without the private name."""
    printed = python(
        """
import numpy as np
from tensorflow.python.ops import control_flow_util
del control_flow_util.GraphOrParentsInXlaContext
import tfbn
x = np.random.default_rng(0).normal(3, 2, [64, 5]).astype("float32")
y = tfbn.BatchNormalization()(x, training=True).numpy()
expected = (x - x.mean(0, dtype="float64")) / np.sqrt(x.var(0, dtype="float64") + 1e-3)
print(np.abs(y - expected).max())
"""
    )
    assert float(printed) < 1e-5


@pytest.mark.parametrize("compile_", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_has_tangent_is_true_of_what_a_forward_accumulator_follows_and_only_there(compile_):
    def ask():
        x, constant = tf.ones([3]), tf.ones([3])
        before = keras_internals.has_tangent([x])
        with tf.autodiff.ForwardAccumulator(x, x):
            within = [keras_internals.has_tangent(t) for t in ([constant], [constant, x], [tf.exp(x)])]
        answers.extend([before, *within])

    answers = []
    compile_(ask)()
    assert answers == [False, False, True, True]


def test_has_tangent_is_true_where_tensorflow_cannot_answer(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow.python.eager.forwardprop_util", None)
    from tensorflow.python import eager

    monkeypatch.delattr(eager, "forwardprop_util", raising=False)
    assert keras_internals.has_tangent([tf.ones([3])]) is True


def test_runs_onednn_is_false_where_tensorflow_cannot_answer(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow.python.util._pywrap_util_port", None)
    from tensorflow.python import util

    monkeypatch.delattr(util, "_pywrap_util_port", raising=False)
    assert keras_internals.runs_onednn() is False


def test_symbolic_build_creates_metric_variables_without_a_step():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=["mae"])
    before = model.get_weights()
    keras_internals.symbolic_build(model, (np.ones([1, 3], "float32"), np.ones([1, 2], "float32")))
    assert len(model.metrics_variables) == 4  # total and count, of the loss and of the metric
    assert int(model.optimizer.iterations) == 0
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_mask_of_returns_the_mask_of_a_tensor_or_none():
    inputs = keras.Input((5, 3))
    masked = keras.layers.Dense(2)(keras.layers.Masking()(inputs))
    assert keras_internals.mask_of(inputs) is None
    assert keras_internals.mask_of(masked).dtype == "bool"


def test_take_initial_epoch_returns_once_what_a_backup_restored(tmp_path):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    model.fit(np.ones([4, 2]), np.ones(4), epochs=3, callbacks=[backup], verbose=0)
    assert keras_internals.take_initial_epoch(model) == 0
    backup.on_train_begin()
    assert keras_internals.take_initial_epoch(model) == 3
    assert keras_internals.take_initial_epoch(model) == 0


def test_profiles_batches_reads_what_tensorboard_was_told(tmp_path):
    for batch, expected in ((0, False), (1, True), ((2, 4), True)):
        board = keras.callbacks.TensorBoard(tmp_path, profile_batch=batch)
        assert keras_internals.profiles_batches(board) is expected
