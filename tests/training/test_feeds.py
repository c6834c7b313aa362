"""Data are checked against the model; arrays, datasets and splits are read in the same order."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn


def net(classes=3, **options):
    return tfbn.Model(8, classes, (6,), seed=0, use_bias=False, **options)


def assert_same_weights(one, other, tolerance=1e-5):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


def test_dataset_trains_as_arrays_do(blobs):
    dataset = tf.data.Dataset.from_tensor_slices((blobs.train.x, np.eye(3)[blobs.train.y])).batch(32)
    validation = tf.data.Dataset.from_tensor_slices(tuple(blobs.validation)).batch(7)
    by_dataset, by_arrays = tfbn.Solver(net(), jit=False), tfbn.Solver(net(), jit=False)
    one = by_dataset.fit(dataset, epochs=2, validation_data=validation)
    other = by_arrays.fit(
        *blobs.train, epochs=2, batch_size=32, shuffle=False, validation_data=tuple(blobs.validation)
    )
    assert_same_weights(by_dataset.model, by_arrays.model)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
    assert by_dataset.evaluate(validation) == pytest.approx(by_arrays.evaluate(*blobs.validation), rel=1e-5)


def test_data_trains_and_validates_by_its_splits(blobs):
    history = tfbn.Solver(net()).fit(blobs, epochs=8, batch_size=20)
    assert history["val_accuracy"][-1] > 0.8
    with pytest.raises(ValueError, match="come from the data itself"):
        tfbn.Solver(net()).fit(blobs, validation_data=tuple(blobs.test))


def test_seed_and_shuffle_determine_the_losses(blobs):
    def run(**options):
        return tfbn.Solver(net(), jit=False).fit(*blobs.train, epochs=2, **options)["loss"]

    assert run(seed=1) == run(seed=1)
    assert run(seed=1) != run(seed=2)
    assert run(shuffle=False, seed=1) == run(shuffle=False, seed=2)


def test_labels_one_hot_or_in_a_column_equal_integers(blobs):
    x, y = blobs.train
    results = []
    for labels in (y, np.eye(3)[y], np.eye(3, dtype=int)[y], y[:, None], y.astype(float)):
        solver = tfbn.Solver(net(), jit=False)
        solver.fit(x, labels, epochs=2, batch_size=np.int64(32), seed=np.int64(0), callbacks=None)
        results.append(solver.evaluate(x, labels))
    assert len(set(results)) == 1


def test_default_loss_takes_probabilities_after_a_softmax(blobs):
    logits = net()
    with_softmax = keras.Sequential([logits, keras.layers.Softmax()])
    dense = keras.Sequential([keras.Input([8]), keras.layers.Dense(3, activation="softmax")])
    expected = tfbn.Solver(logits).evaluate(*blobs.test)
    assert tfbn.Solver(with_softmax).evaluate(*blobs.test) == pytest.approx(expected, rel=1e-5)
    p = np.asarray(dense(blobs.test.x), "float64")[np.arange(50), blobs.test.y]
    assert tfbn.Solver(dense).evaluate(*blobs.test).loss == pytest.approx(-np.log(p).mean(), rel=1e-5)


def test_waiting_and_subclassed_models_train_as_functional_ones(blobs):
    """Sequential without an Input, and a model by subclassing, train as the functional one does."""

    class Subclass(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.norm, self.out = layers()

        def call(self, x, training=None):
            return self.out(keras.ops.relu(self.norm(self.hidden(x), training=training)))

    def layers():
        hidden = keras.layers.Dense(6, kernel_initializer=keras.initializers.GlorotUniform(1))
        out = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(2))
        return hidden, tfbn.BatchNormalization(), out

    def sequential(*first):
        hidden, norm, out = layers()
        return keras.Sequential([*first, hidden, norm, keras.layers.ReLU(), out])

    losses = []
    for build in (Subclass, sequential, lambda: sequential(keras.Input([8]))):
        solver = tfbn.Solver(build(), "sgd", 0.1)
        losses.append(solver.fit(*blobs.train, epochs=2)["loss"])
        solver.restart(build())
        assert solver.fit(*blobs.train, epochs=2)["loss"] == losses[-1]
        with pytest.raises(ValueError, match="3 classes"):
            solver.evaluate(blobs.test.x, blobs.test.y + 1)
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-5)
    assert losses[1] == losses[2]


def with_fixed_batch(layer=None):
    start = keras.initializers.GlorotUniform(1)
    inputs = keras.Input([2, 4], batch_size=10)
    x = (layer or keras.layers.Flatten())(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=start)(x))


def test_models_of_a_fixed_batch_size_train_on_batches_of_it(blobs):
    x, y = blobs.test.x.reshape(50, 2, 4), blobs.test.y
    free = keras.Sequential([keras.Input([2, 4]), *with_fixed_batch().layers[1:]])
    options = dict(batch_size=10, shuffle=False, validation_data=(x, y), epochs=2)
    fixed = tfbn.Solver(with_fixed_batch(), "sgd").fit(x, y, **options)
    free = tfbn.Solver(free, "sgd").fit(x, y, **options)
    np.testing.assert_allclose(fixed["val_loss"], free["val_loss"], rtol=1e-6)
    recurrent = tfbn.Solver(with_fixed_batch(keras.layers.LSTM(3, stateful=True)), "sgd", jit=False)
    assert np.isfinite(recurrent.fit(x, y, **options)["val_loss"]).all()
    for solver_data, size in (((x, y), 25), ((x[:45], y[:45]), 10)):
        with pytest.raises(ValueError, match="batches of 10 examples alone"):
            tfbn.Solver(with_fixed_batch()).fit(*solver_data, batch_size=size)


def several(kind):
    def call(x):
        return {"a": x} if kind is dict else kind([x])

    class Several(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = keras.layers.Dense(3)

        def call(self, x):
            return call(self.out(x))

    inputs = keras.Input([8])
    return Several(), keras.Model(inputs, call(keras.layers.Dense(3)(inputs)))


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_outputs_that_are_not_one_tensor_are_rejected(kind):
    for model in several(kind):
        with pytest.raises(ValueError, match=f"one tensor. Received: {kind.__name__} of 1"):
            tfbn.Solver(model).fit(X, Y)


def test_cross_entropy_rejects_one_output(blobs):
    waiting = keras.Sequential([keras.layers.Dense(1)])
    for model in (net(classes=1), waiting):
        with pytest.raises(ValueError, match="The model has one output"):
            tfbn.Solver(model).fit(blobs.test.x, np.zeros(50))


def test_targets_of_any_float_dtype_give_one_loss(blobs):
    solver = tfbn.Solver(net(classes=1), loss="mse", metrics=[])
    losses = {
        solver.evaluate(blobs.test.x, blobs.test.y[:, None].astype(d)).loss for d in ("float64", "float32")
    }
    assert len(losses) == 1


X, Y = np.zeros([10, 8], "float32"), np.arange(10) % 3


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return X, Y


def with_nan():
    x = X.copy()
    x[3, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda s: s.fit(X, Y, batch_size=0), ValueError, "from 1 to 10"),
        (lambda s: s.fit(X, Y, batch_size=11), ValueError, "batch_size=11"),
        (lambda s: s.fit(X, Y, batch_size=2.5), TypeError, "batch_size=2.5"),
        (lambda s: s.fit(X, Y, batch_size=5, seed=None), TypeError, "seed=None"),
        (lambda s: s.fit(X, Y, batch_size=5, validation_data=(X, Y, Y)), ValueError, "a pair (x, y)"),
        (lambda s: s.fit(X * 1j, Y), ValueError, "real numbers"),
        (lambda s: s.fit(X.astype("float64") + 1e300, Y), ValueError, "10 of 10"),
        (lambda s: s.fit(X, Y, epochs=0), ValueError, "epochs=0"),
        (lambda s: s.fit(X, Y, epochs=True), TypeError, "epochs=True"),
        (lambda s: s.fit(X, Y, initial_epoch=-1), ValueError, "initial_epoch=-1"),
        (lambda s: s.fit(X, Y, initial_epoch=0.5), TypeError, "initial_epoch=0.5"),
        (lambda s: s.evaluate(X, Y, batch_size=0), ValueError, "1 or more"),
        (lambda s: s.fit(X[:, :7], Y), ValueError, "(None, 8)"),
        (lambda s: s.train(X[0], Y[0]), ValueError, "(8,)"),
        (lambda s: s.fit(X, Y[:9]), ValueError, "same number of examples"),
        (lambda s: s.fit(X[:0], Y[:0]), ValueError, "one or more"),
        (lambda s: s.fit(X, Y + 1), ValueError, "Received labels from 1 to 3"),
        (lambda s: s.fit(X, Y - 1), ValueError, "from -1 to 1"),
        (lambda s: s.evaluate(X, Y + 0.5), ValueError, "integers from 0 to 2"),
        (lambda s: s.evaluate(X, np.eye(4)[Y]), ValueError, "one-hot [N, 3]"),
        (lambda s: s.evaluate(X, np.full([10, 3], 1 / 3)), ValueError, "soft labels"),
        (lambda s: s.evaluate(X, Y.astype(str)), ValueError, "real numbers"),
        (lambda s: s.fit(with_nan(), Y), ValueError, "NaN or infinity in 1 of 10 examples, the first at 3"),
        (lambda s: s.train(X + np.inf, Y), ValueError, "10 of 10"),
        (lambda s: s.fit(tf.data.Dataset.from_tensors((X, Y)).repeat()), ValueError, "take(steps)"),
        (lambda s: s.fit(tf.data.Dataset.from_tensors((X, Y)).take(0)), ValueError, "empty"),
        (lambda s: s.fit(tf.data.Dataset.from_tensors(X)), ValueError, "pairs (x, y)"),
        (lambda s: s.fit(tf.data.Dataset.from_tensors((X, Y + 7))), ValueError, "labels from 7 to 9"),
        (lambda s: s.fit(X, Y, batch_size=5, validation_data=(X, Y + 7)), ValueError, "labels from 7 to 9"),
        (lambda s: s.fit(Batches()), TypeError, "Received: Batches. Join its batches"),
        (lambda s: s.fit(X, Y, batch_size=5, validation_data=Batches()), ValueError, "Received: Batches"),
        (lambda s: s.fit((X, Y) for _ in range(3)), TypeError, "Received: generator. Join its batches"),
        (lambda s: s.fit([(X, Y), (X, Y)]), TypeError, "`y` must be an array"),
        (lambda s: s.evaluate({"a": X}, Y), TypeError, "Received: dict"),
        (lambda s: s.fit(X), TypeError, "Received: NoneType"),
    ],
)
def test_solver_rejects_bad_data_and_keeps_its_weights(run, error, message):
    solver = tfbn.Solver(net())
    before = solver.model.get_weights()
    with pytest.raises(error) as raised:
        run(solver)
    assert message in str(raised.value)
    for one, other in zip(before, solver.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
