"""Batch norm layers called out of sight get the statistics of their inputs, or are refused by name."""

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn

KINDS = [tfbn.BatchNormalization, keras.layers.BatchNormalization]
CHANNELS = 4


class Block(keras.layers.Layer):
    """A layer that calls a batch norm layer by `how`, a function of the layer and the inputs."""

    def __init__(self, norm, how):
        super().__init__()
        self.norm, self.how = norm, how

    def build(self, input_shape):
        self.norm.build((None, input_shape[-1]))

    def call(self, x):
        return self.how(self.norm, x)


@keras.saving.register_keras_serializable("hidden_calls")
class Cell(keras.layers.Layer):
    """A cell of a recurrent network that normalises its inputs."""

    state_size = output_size = CHANNELS

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.norm = KINDS[kind]()

    def build(self, input_shape):
        self.norm.build(input_shape)

    def call(self, x, states):
        y = self.norm(x) + 0.5 * states[0]
        return y, [y]

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def compiled(norm, x, jit_compile=False):
    if not hasattr(norm, "compiled"):  # Traced once, by whoever comes first.
        norm.compiled = tf.function(norm, jit_compile=jit_compile)
    return norm.compiled(x)


def by_rows(norm, x):
    return tf.map_fn(lambda row: norm(row[None])[0], x)


def in_a_loop(norm, x):
    outputs = tf.TensorArray("float32", tf.shape(x)[0])
    _, outputs = tf.while_loop(
        lambda i, _: i < tf.shape(x)[0],
        lambda i, outputs: (i + 1, outputs.write(i, norm(x[i][None])[0])),
        [0, outputs],
    )
    return outputs.stack()


def by_halves(loop):
    """Return a function that applies a norm to one half of the inputs after the other, in a `loop`."""

    def run(norm, x):
        halves = keras.ops.reshape(x, (2, -1, CHANNELS))
        return keras.ops.reshape(loop(norm, halves), (-1, CHANNELS))

    return run


BLOCKS = {
    "tf.function": compiled,
    "tf.function, XLA": lambda norm, x: compiled(norm, x, jit_compile=True),
    "tf.cond": lambda norm, x: tf.cond(tf.reduce_sum(x) > -1e9, lambda: norm(x), lambda: x),
    "tf.map_fn": by_rows,
    "tf.while_loop": in_a_loop,
    "tf.recompute_grad": lambda norm, x: tf.recompute_grad(norm)(x),
    "keras.remat": lambda norm, x: keras.remat(norm)(x),
    "keras.ops.map": by_halves(keras.ops.map),
    "keras.ops.map, pairs": by_halves(
        lambda norm, x: keras.ops.map(lambda pair: norm(pair[0]) + pair[1], (x, x))
    ),
    "keras.ops.scan": by_halves(
        lambda norm, x: keras.ops.scan(lambda last, half: (last, norm(half)), x[0], x)[1]
    ),
    "keras.ops.cond": lambda norm, x: keras.ops.cond(keras.ops.any(x), lambda: norm(x), lambda: x),
    "keras.ops.switch": lambda norm, x: keras.ops.switch(1, [lambda x: x, norm], x),
}


def functional(length, *layers):
    """A model of vectors for the length (), else of sequences."""
    shape = [CHANNELS] if length == () else [length, CHANNELS]
    return keras.Sequential([keras.Input(shape), *layers])


def in_a_block(how):
    return lambda kind: functional((), Block(kind(), how))


def in_a_nested_model(kind):
    inner = functional((), kind())
    return functional((), inner, keras.layers.Activation("linear"))


def in_time_distributed(length):
    return lambda kind: functional(length, keras.layers.TimeDistributed(kind()))


def in_a_cell(length, wrap):
    return lambda kind: functional(length, wrap(keras.layers.RNN(Cell(KINDS.index(kind)))))


def in_stacked_cells(length, wrap=lambda layer: layer, **options):
    """A cell with a norm, and one behind it that takes its outputs."""
    return lambda kind: functional(
        length, wrap(keras.layers.RNN([Cell(KINDS.index(kind)), keras.layers.LSTMCell(3)], **options))
    )


# Models whose norms, all of them, have exactly the data as inputs: vectors, or sequences.
OF_VECTORS = {name: in_a_block(how) for name, how in BLOCKS.items()} | {"nested model": in_a_nested_model}
OF_SEQUENCES = {
    "TimeDistributed": in_time_distributed(6),
    "TimeDistributed, unknown length": in_time_distributed(None),
    "RNN cell": in_a_cell(6, lambda layer: layer),
    "RNN cell, unknown length": in_a_cell(None, lambda layer: layer),
    "Bidirectional": in_a_cell(None, keras.layers.Bidirectional),
    "stacked cells": in_stacked_cells(6),
    "stacked cells, unknown length": in_stacked_cells(None),
    "stacked cells, unrolled": in_stacked_cells(6, unroll=True),
    "stacked cells, Bidirectional": in_stacked_cells(None, keras.layers.Bidirectional),
}


def norms(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, tuple(KINDS))]


def assert_statistics(layer, values, tolerance=1e-5):
    rows = np.float64(values).reshape(-1, CHANNELS)
    np.testing.assert_allclose(layer.moving_mean, rows.mean(0), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(layer.moving_variance, rows.var(0), rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS, ids=["tfbn", "keras"])
@pytest.mark.parametrize("name", [*OF_VECTORS, *OF_SEQUENCES])
def test_recalibrate_and_diagnose_see_hidden_calls(rng, name, kind):
    model = (OF_VECTORS | OF_SEQUENCES)[name](kind)
    shape = [40, CHANNELS] if name in OF_VECTORS else [40, 6, CHANNELS]
    x = rng.normal(3, 2, shape).astype("float32")
    if name in OF_SEQUENCES:
        x += np.arange(6, dtype="float32")[:, None]  # So that no step alone has the statistics of all.
    model(x[:2])  # Functions are traced before.
    start = model.get_weights()
    for one_pass in (False, True):
        model.set_weights(start)
        tfbn.recalibrate(model, x, batch_size=16, one_pass=one_pass)
        assert norms(model)
        for layer in norms(model):
            assert_statistics(layer, x)
    for row in tfbn.diagnose(model, x).layers:
        assert max(row["mean_error"]) < 1e-5
        np.testing.assert_allclose(row["variance_ratio"], 1, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_recalibrate_takes_batches_of_different_lengths(rng, kind):
    model = functional(None, keras.layers.TimeDistributed(kind()))
    batches = [rng.normal(3, 2, [8, steps, CHANNELS]).astype("float32") for steps in (2, 7, 5)]
    tfbn.recalibrate(model, batches)
    assert_statistics(norms(model)[0], np.concatenate([batch.reshape(-1, CHANNELS) for batch in batches]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_subclass_keeps_what_it_does_besides(rng, kind):
    class Fused(kind):
        def call(self, x, training=None, mask=None):
            return tf.nn.relu(super().call(2 * x, training=training, mask=mask)) + 1

    model = functional((), Fused(), kind())
    x = rng.normal(3, 2, [64, CHANNELS]).astype("float32")
    for one_pass in (False, True):
        tfbn.recalibrate(model, x, one_pass=one_pass)
        first, second = norms(model)
        assert_statistics(first, 2 * x)
        x_hat = (np.float64(x) - x.mean(0)) / np.sqrt(np.float64(x).var(0) + 1e-3 / 4)
        assert_statistics(second, np.maximum(x_hat, 0) + 1, 2e-5)


def test_ragged_inputs_count_by_their_values():
    class Ragged(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = tfbn.BatchNormalization()

        def build(self, shape):
            self.norm.build((None, None, shape[-1]))

        def call(self, x):
            return self.norm(tf.RaggedTensor.from_tensor(x, lengths=tf.range(x.shape[0]) % 3)).to_tensor()

        def compute_output_shape(self, shape):
            return shape

    layer = Ragged()
    model = functional(None, layer)
    x = np.random.default_rng(0).normal(3, 2, [9, 2, CHANNELS]).astype("float32")
    tfbn.recalibrate(model, x)
    assert_statistics(layer.norm, np.concatenate([row[: i % 3] for i, row in enumerate(x)]))


class NormPerStep(keras.layers.Layer):
    """A norm for each step, and one behind all, as many as the batch is long."""

    def __init__(self, kind):
        super().__init__()
        self.steps, self.last = [kind(name=f"step_{step}") for step in range(5)], kind(name="last")

    def build(self, shape):
        for norm in [*self.steps, self.last]:
            norm.build((None, CHANNELS))

    def compute_output_shape(self, shape):
        return (shape[0], shape[-1])

    def call(self, x):
        steps = [self.steps[step](x[:, step]) for step in range(x.shape[1])]
        return self.last(keras.ops.mean(keras.ops.stack(steps), 0))


@pytest.mark.parametrize("lengths", [(3, 5), (5, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_that_some_batches_lack_come_in_order(rng, kind, lengths):
    layer = NormPerStep(kind)
    model = functional(None, layer)
    batches = [rng.normal(3, 2, [16, length, CHANNELS]).astype("float32") for length in lengths]
    tfbn.recalibrate(model, batches)
    inputs = []
    for batch in batches:
        steps = []
        for step in range(batch.shape[1]):
            seen = np.concatenate([other[:, step] for other in batches if other.shape[1] > step])
            seen = seen.astype("float64")
            steps.append((batch[:, step] - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-3))
        inputs.append(np.mean(steps, 0))
    assert_statistics(layer.last, np.concatenate(inputs))


def test_random_states_are_restored(rng):
    class DropoutInUse(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dropout = keras.layers.Dropout(0.5)

        def call(self, x):
            return self.dropout(x, training=True)

    model = functional((), tfbn.BatchNormalization(), DropoutInUse(), keras.layers.Dense(2))
    x = rng.normal(3, 2, [32, CHANNELS]).astype("float32")
    before = [variable.numpy() for variable in model.variables if "seed" in variable.path]
    assert before
    tfbn.diagnose(model, (x, np.arange(32) % 2))
    tfbn.recalibrate(model, (x, np.arange(32) % 2), force=True)
    after = [variable.numpy() for variable in model.variables if "seed" in variable.path]
    np.testing.assert_array_equal(after, before)


def vectorized(norm, x):
    return tf.vectorized_map(lambda row: norm(row[None])[0], x)


def concrete(norm, x):
    if not hasattr(norm, "concrete"):
        spec = tf.TensorSpec([None, CHANNELS], "float32")
        norm.concrete = tf.function(norm.__call__).get_concrete_function(spec)
    return norm.concrete(x)


def on_two_threads(norm, x):
    """Call `norm` on half of the rows here, and on the others on a thread that lives on."""
    if not tf.executing_eagerly():
        return norm(x)
    if not hasattr(norm, "pool"):
        norm.pool = concurrent.futures.ThreadPoolExecutor(1)
    others = norm.pool.submit(norm, x[1::2])
    return tf.concat([norm(x[::2]), others.result()], 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how",
    [
        vectorized,
        lambda norm, x: keras.ops.vectorized_map(lambda row: norm(row[None])[0], x),
        concrete,
        on_two_threads,
        lambda norm, x: 2 * x,
        lambda norm, x: norm(x, training=True),
        by_halves(lambda norm, x: keras.ops.map(lambda half: norm(half, training=True), x)),
    ],
    ids=[
        *("vectorized_map", "keras.ops.vectorized_map", "concrete function", "two threads", "no call"),
        *("in training", "keras.ops.map, in training"),
    ],
)
def test_a_call_that_cannot_be_observed_is_refused_by_name(rng, kind, how):
    model = functional((), kind(name="seen"), Block(kind(name="out_of_sight"), how))
    x = rng.normal(3, 2, [32, CHANNELS]).astype("float32")
    weights = model.get_weights()
    before = model(x).numpy()
    model.set_weights(weights)
    for attempt in (tfbn.recalibrate, tfbn.diagnose):
        with pytest.raises(ValueError, match="'out_of_sight'"):
            attempt(model, x)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)
    for _ in range(10):
        np.testing.assert_array_equal(model(x), before)
    np.testing.assert_array_equal(tf.function(model)(x), tf.function(lambda x: model(x))(x))
    assert tf.config.functions_run_eagerly() is False


def test_state_that_a_layer_keeps_in_inference_is_restored(rng):
    class Counting(keras.layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.calls.assign_add(1.0)
            return x

    counting = Counting()
    model = functional((), counting, tfbn.BatchNormalization())
    x = rng.normal(3, 2, [32, CHANNELS]).astype("float32")
    counting.calls.assign(5.0)
    tfbn.recalibrate(model, x)
    tfbn.diagnose(model, x)
    assert float(counting.calls) == 5


def trained_on_blobs(blobs):
    model = tfbn.Model(8, 3, (16,))
    tfbn.Solver(model, learning_rate=0.05).fit(blobs, epochs=5)
    return model


def test_recalibrate_refuses_to_make_a_model_much_worse_unless_forced(blobs):
    model = trained_on_blobs(blobs)
    x, y = (np.asarray(part) for part in blobs.train)
    one_class = x[y == 1], y[y == 1]
    before = model.get_weights()
    with pytest.raises(ValueError, match="much worse on these data: accuracy"):
        tfbn.recalibrate(model, one_class)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    tfbn.recalibrate(model, (x, y))  # Those of training are accepted,
    tfbn.recalibrate(model, one_class, force=True)  # and whatever is forced,
    tfbn.recalibrate(model, (x[::-1], np.roll(y, 1)))  # and data by which nothing is known.
