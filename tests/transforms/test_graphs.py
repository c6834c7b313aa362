import keras
import numpy as np
import pytest
from keras import layers as L

import tfbn
from tfbn.keras_internals import flatten_layers
from tfbn.transforms import graphs

BN = tfbn.BatchNormalization


def shared():
    """A layer that is called twice, on inputs of two lengths."""
    short, long = keras.Input((3, 2)), keras.Input((5, 2))
    dense = L.Dense(4, name="d")
    return keras.Model([short, long], [dense(short), L.ReLU(name="r")(dense(long), training=None)])


def heads():
    """Two nested models on one trunk, whose calls they share."""
    inputs = keras.Input((4,))
    trunk = BN(name="n")(L.Dense(4, name="d")(inputs))
    one = keras.Model(inputs, L.Dense(2, name="e")(trunk), name="one")
    other = keras.Model(inputs, L.ReLU(name="r")(trunk), name="other")
    outer = keras.Input((4,))
    return keras.Model(outer, [one(outer), other(outer)])


def test_trace_lists_calls_in_order_with_their_tensors():
    trace = graphs.Trace(graphs.Graphs(shared()))
    long, short, relu = trace.calls
    assert [call.layer.name for call in trace.calls] == ["d", "d", "r"]
    assert trace.counts == {long.layer: 2, relu.layer: 1}
    assert [call.outputs[0].shape for call in trace.calls] == [(None, 5, 4), (None, 3, 4), (None, 5, 4)]
    assert relu.args == (long.outputs[0],) and trace.producers[relu.args[0]] is long
    assert trace.uses[long.outputs[0]] == [relu]
    assert trace.uses[short.outputs[0]] == trace.uses[relu.outputs[0]] == [None]
    assert short.args[0] not in trace.producers


def test_trace_counts_a_call_in_two_graphs_once():
    model = heads()
    trace = graphs.Trace(graphs.Graphs(model))
    assert sorted(call.layer.name for call in trace.calls) == ["d", "e", "n", "one", "other", "r"]
    folded = tfbn.fold(model)
    assert folded.folding.folded == {"one/n": "one/d"} and not folded.folding.kept


@pytest.mark.parametrize("build", [shared, heads, lambda: tfbn.Model((8, 8, 1), 3, conv_filters=(2,))])
def test_trace_adds_no_calls_to_the_model(build):
    model = build()

    def calls():
        return {layer: len(layer._outbound_nodes) for layer in flatten_layers(model)}

    before = calls()
    trace = graphs.Trace(graphs.Graphs(model))
    assert trace.calls and calls() == before


def test_copy_of_a_sequential_keeps_the_structure_of_its_outputs():
    x = keras.Input((4,))
    last = keras.Model(x, {"a": BN()(x), "b": [L.Dense(2)(x)]})
    model = keras.Sequential([keras.Input((4,)), L.Dense(4), last])
    x = np.random.default_rng(0).normal(size=[5, 4])
    for copy in (tfbn.fold(model), tfbn.convert(model, to="keras"), tfbn.without_batchnorm(model)):
        keras.tree.assert_same_structure(copy(x), model(x))
