import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn
from tfbn.data.arrays import batch_order
from tfbn.training.history import History


def net(classes=3, **options):
    # A bias ahead of a norm has no gradient but rounding noise, which Adam makes steps of.
    return tfbn.Model(8, classes, (6,), seed=0, use_bias=False, **options)


def compiled_by_keras(optimizer, **options):
    model = net(**options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def assert_same_weights(one, other, tolerance=1e-5):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "adamw, clipped": lambda: keras.optimizers.AdamW(0.01, clipnorm=0.5),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "averaging": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.5, 15)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_train_is_keras_step_by_step(blobs, optimizer):
    theirs = compiled_by_keras(OPTIMIZERS[optimizer]())
    solver = tfbn.Solver(net(), OPTIMIZERS[optimizer]())
    for batch in np.split(np.arange(200), 10):
        x, y = blobs.train.x[batch], blobs.train.y[batch]
        theirs.reset_metrics()
        assert solver.train(x, y) == pytest.approx(theirs.train_on_batch(x, y)[0], rel=1e-5)
        assert_same_weights(solver.model, theirs)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("optimizer", ["adam", "schedule", "accumulating", "averaging"])
def test_fit_is_keras_fit(blobs, optimizer, jit):
    """203 examples in batches of 32: the last of 11 is trained on, too."""
    theirs = compiled_by_keras(OPTIMIZERS[optimizer](), weight_decay=1e-3)
    expected = theirs.fit(
        *blobs.train, epochs=3, batch_size=32, shuffle=False, validation_data=blobs.validation, verbose=0
    ).history
    solver = tfbn.Solver(net(weight_decay=1e-3), OPTIMIZERS[optimizer](), jit=jit)
    history = solver.fit(
        *blobs.train, epochs=3, batch_size=32, shuffle=False, validation_data=tuple(blobs.validation)
    )
    assert_same_weights(solver.model, theirs)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4)
    assert history["epoch"] == [1, 2, 3]
    assert history.about["jit"] is jit
    assert history.about["device"].startswith("cpu:0")


def test_training_against_numpy(blobs):
    """Softmax regression by gradient descent, written out in float64."""
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(3, kernel_initializer="zeros")])
    solver = tfbn.Solver(model, "sgd", learning_rate=0.3)
    solver.fit(*blobs.train, epochs=2, batch_size=50, seed=4)

    x, labels = blobs.train.x.astype("float64"), np.eye(3)[blobs.train.y]
    kernel, bias = np.zeros([8, 3]), np.zeros(3)

    def probabilities(x):
        scores = np.exp(x @ kernel + bias)
        return scores / scores.sum(1, keepdims=True)

    for epoch in (1, 2):
        order = batch_order(203, seed=4, epoch=epoch)
        for batch in np.split(order, range(50, 203, 50)):
            slope = (probabilities(x[batch]) - labels[batch]) / len(batch)
            kernel, bias = kernel - 0.3 * x[batch].T @ slope, bias - 0.3 * slope.sum(0)
    np.testing.assert_allclose(model.layers[0].kernel, kernel, atol=1e-6)
    loss, accuracy = solver.evaluate(*blobs.test)
    p = probabilities(blobs.test.x)
    assert loss == pytest.approx(-np.log(p[np.arange(50), blobs.test.y]).mean(), rel=1e-5)
    assert accuracy == pytest.approx((p.argmax(1) == blobs.test.y).mean())


def test_a_partial_last_batch_counts_by_its_size(blobs):
    solver = tfbn.Solver(net())
    solver.fit(*blobs.train)
    logits = np.asarray(solver.model(blobs.test.x), "float64")
    log_sum = np.log(np.exp(logits).sum(1))
    expected = (log_sum - logits[np.arange(50), blobs.test.y]).mean()
    for batch_size in (1, 7, 49, 50, np.int64(1000), 2**40, None):
        result = solver.evaluate(*blobs.test, batch_size=batch_size)
        assert result.loss == pytest.approx(expected, rel=1e-5), batch_size
        assert result.accuracy == pytest.approx((logits.argmax(1) == blobs.test.y).mean()), batch_size


def test_labels_one_hot_or_in_a_column_are_as_integers(blobs):
    x, y = blobs.train
    results = []
    for labels in (y, np.eye(3)[y], np.eye(3, dtype=int)[y], y[:, None], y.astype(float)):
        solver = tfbn.Solver(net(), jit=False)
        solver.fit(x, labels, epochs=2, batch_size=np.int64(32), seed=np.int64(0), callbacks=None)
        results.append(solver.evaluate(x, labels))
    assert len(set(results)) == 1


def test_a_softmax_at_the_end_is_noticed(blobs):
    logits = net()
    with_softmax = keras.Sequential([logits, keras.layers.Softmax()])
    dense = keras.Sequential([keras.Input([8]), keras.layers.Dense(3, activation="softmax")])
    expected = tfbn.Solver(logits).evaluate(*blobs.test)
    assert tfbn.Solver(with_softmax).evaluate(*blobs.test) == pytest.approx(expected, rel=1e-5)
    p = np.asarray(dense(blobs.test.x), "float64")[np.arange(50), blobs.test.y]
    assert tfbn.Solver(dense).evaluate(*blobs.test).loss == pytest.approx(-np.log(p).mean(), rel=1e-5)


def test_other_losses(blobs):
    target = blobs.train.x.sum(1, keepdims=True)
    solver = tfbn.Solver(net(classes=1), "adam", loss="mse", metrics=["mae"], jit=False)
    history = solver.fit(blobs.train.x, target, epochs=30)
    assert history["loss"][-1] < history["loss"][0] / 2
    loss, accuracy = solver.evaluate(blobs.train.x, target)
    assert loss == pytest.approx(((np.asarray(solver.model(blobs.train.x)) - target) ** 2).mean(), rel=1e-4)
    assert np.isnan(accuracy)


def test_dataset_is_trained_as_the_arrays_are(blobs):
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


def test_models_that_wait_for_their_input_and_subclasses(blobs):
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


def test_one_output_is_no_classifier(blobs):
    waiting = keras.Sequential([keras.layers.Dense(1)])
    for model in (net(classes=1), waiting):
        with pytest.raises(ValueError, match="The model has one output"):
            tfbn.Solver(model).fit(blobs.test.x, np.zeros(50))


def test_initial_epoch_and_a_second_fit_after_an_early_stop(blobs):
    solver = tfbn.Solver(net(), jit=False)
    stop = keras.callbacks.EarlyStopping(monitor="loss", patience=0, min_delta=100)
    assert solver.fit(blobs, epochs=9, callbacks=[stop])["epoch"] == [1, 2]
    assert solver.fit(blobs, epochs=5, initial_epoch=2)["epoch"] == [3, 4, 5]
    whole = tfbn.Solver(net(), jit=False)
    whole.fit(blobs, epochs=5)
    assert_same_weights(solver.model, whole.model, tolerance=0)


def test_too_large_a_batch_for_memory_is_no_reason_to_leave_xla(blobs):
    solver = tfbn.Solver(net())
    solver.prepare(*blobs.train)

    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    solver._steps._epoch = exhausted
    with pytest.raises(tf.errors.ResourceExhaustedError):
        solver.fit(blobs)
    assert solver.jit is True


def test_half_precision_scales_the_loss_as_keras_does(blobs):
    """Gradients of 1e-8 are 0 in float16 unless the loss is scaled."""

    def build(dtype):
        kernel = keras.initializers.GlorotUniform(3)
        hidden = keras.layers.Dense(6, "relu", kernel_initializer=kernel, dtype=dtype)
        out = keras.layers.Dense(3, kernel_initializer=kernel, dtype=dtype)
        return keras.Sequential([keras.Input([8]), hidden, out])

    later = tfbn.Solver(build("float32"), "sgd", precision="mixed_float16")
    built = tfbn.Solver(net(dtype="mixed_float16"), "sgd")
    for solver in (later, built):
        assert isinstance(solver.model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = later.model.get_weights()[0]
    tiny = tfbn.Solver(
        later.model,
        keras.optimizers.SGD(1e6),
        loss=lambda y, p: 1e-8 * keras.losses.mean_squared_error(y, p),
        metrics=[],
    )
    tiny.fit(blobs.train.x, np.eye(3)[blobs.train.y], epochs=3)
    assert (later.model.get_weights()[0] != before).mean() > 0.5


def test_targets_of_any_dtype(blobs):
    solver = tfbn.Solver(net(classes=1), loss="mse", metrics=[])
    losses = {
        solver.evaluate(blobs.test.x, blobs.test.y[:, None].astype(d)).loss for d in ("float64", "float32")
    }
    assert len(losses) == 1


def test_loaded_data_trains_and_validates(blobs):
    history = tfbn.Solver(net()).fit(blobs, epochs=8, batch_size=20)
    assert history["val_accuracy"][-1] > 0.8
    with pytest.raises(ValueError, match="come from the data itself"):
        tfbn.Solver(net()).fit(blobs, validation_data=tuple(blobs.test))


def test_seed_and_shuffle_determine_the_run(blobs):
    def run(**options):
        return tfbn.Solver(net(), jit=False).fit(*blobs.train, epochs=2, **options)["loss"]

    assert run(seed=1) == run(seed=1)
    assert run(seed=1) != run(seed=2)
    assert run(shuffle=False, seed=1) == run(shuffle=False, seed=2)


def test_compiled_once(blobs):
    solver = tfbn.Solver(net())
    solver.fit(blobs, epochs=3)
    solver.restart(net())
    solver.fit(blobs, epochs=2, seed=5)
    solver.evaluate(*blobs.test)
    assert solver._steps._epoch.experimental_get_tracing_count() == 1
    assert len(solver._steps._evaluations) == 1, "for any size"


def test_restart_is_a_fresh_start(blobs):
    used = tfbn.Solver(net(dropout=0.3), "adam", jit=False)
    used.fit(blobs, epochs=3)
    used.restart(net(dropout=0.3))
    fresh = tfbn.Solver(net(dropout=0.3), "adam", jit=False)
    assert used.fit(blobs, epochs=2)["loss"] == fresh.fit(blobs, epochs=2)["loss"]
    assert_same_weights(used.model, fresh.model, tolerance=0)


def test_callbacks_at_epochs(blobs, tmp_path):
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}.keras", save_best_only=False),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
        keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=0, min_delta=100),
        keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=2, min_delta=100, restore_best_weights=True
        ),
    ]
    solver = tfbn.Solver(net(), "adam", learning_rate=0.01, jit=False)
    history = solver.fit(blobs, epochs=9, callbacks=callbacks)
    assert len(history.records) == 3, "EarlyStopping: no epoch but the first is better by 100"
    rate = float(solver.model.optimizer.learning_rate)
    assert rate == pytest.approx(1e-4, rel=1e-3), "ReduceLROnPlateau: the 2nd and the 3rd were no better"
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == ["01.keras", "02.keras", "03.keras"]
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 4
    assert {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"} <= set(rows[0].split(","))
    assert float(dict(zip(rows[0].split(","), rows[2].split(","), strict=True))["loss"]) == pytest.approx(
        history["loss"][1]
    )
    assert list(tmp_path.glob("board/*/events*"))
    best = keras.models.load_model(tmp_path / "01.keras")
    assert_same_weights(best, solver.model, tolerance=0)


def test_a_callback_that_waits_for_batches_is_told(blobs, tmp_path):
    class Counter(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise AssertionError

    of_batches = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    for callback in (
        Counter(),
        of_batches,
        keras.callbacks.ModelCheckpoint(tmp_path / "a.keras", save_freq=5),
    ):
        with pytest.warns(UserWarning, match="waits for batches"):
            tfbn.Solver(net(), jit=False).fit(blobs, callbacks=[callback])


def test_xla_for_dense_nets_and_not_for_convolutions_on_a_cpu():
    image = tfbn.Model((8, 8, 1), 3, (4,), conv_filters=(2,))
    assert tfbn.Solver(net()).jit is True
    assert tfbn.Solver(image).jit is False
    assert tfbn.Solver(keras.Sequential([image])).jit is False, "nested"
    assert tfbn.Solver(image, jit=True).jit is True


def test_where_xla_fails_training_goes_on_and_says_so(blobs):
    @keras.saving.register_keras_serializable()
    class Through(keras.layers.Layer):
        """XLA has no kernel for a Python function."""

        def call(self, x):
            return tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), x.shape)

        def compute_output_shape(self, shape):
            return shape

    def build(layers):
        return keras.Sequential(
            [keras.Input([8]), *layers, keras.layers.Dense(3, kernel_initializer="zeros")]
        )

    solver, plain = tfbn.Solver(build([Through()])), tfbn.Solver(build([]), jit=False)
    with pytest.warns(UserWarning, match="XLA failed, training goes on without"):
        history = solver.fit(blobs, epochs=2)
    assert history.about["jit"] is False
    assert solver.jit is False
    np.testing.assert_allclose(history["loss"], plain.fit(blobs, epochs=2)["loss"], rtol=1e-5)


def test_runs_on_the_device_it_is_told(blobs):
    with tf.device("cpu:1"):
        model = net()
    solver = tfbn.Solver(model, device="cpu:1")
    history = solver.fit(blobs, epochs=2)
    assert solver.jit is True, "XLA refuses variables of another device"
    assert history.about["device"].startswith("cpu:1")
    assert solver.prepare(*blobs.test).x.device.endswith("CPU:1")
    expected = tfbn.Solver(net(), jit=False).fit(blobs, epochs=2)["loss"]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_precision(blobs, precision):
    solver = tfbn.Solver(net(), precision=precision)
    history = solver.fit(blobs, epochs=5, batch_size=20)
    assert solver.model(blobs.test.x).dtype == precision.removeprefix("mixed_")
    assert {weight.dtype for weight in solver.model.weights} == {"float32"}
    assert history.about["precision"] == precision
    exact = tfbn.Solver(net(), jit=False).fit(blobs, epochs=5, batch_size=20)
    assert history["loss"] != exact["loss"]
    np.testing.assert_allclose(history["loss"], exact["loss"], rtol=0.1)


def test_a_loss_that_is_no_number_ends_training(blobs):
    model = net(kernel_initializer=1e30, use_batchnorm=False)
    with pytest.warns(UserWarning, match="training ends there"):
        history = tfbn.Solver(model).fit(blobs, epochs=5)
    assert len(history.records) == 1
    assert not np.isfinite(history["loss"][0])


def test_interrupted_keeps_the_epochs_done(blobs):
    def interrupt(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
    with pytest.warns(UserWarning, match="Interrupted after 2 epochs"):
        history = tfbn.Solver(net(), jit=False).fit(blobs, epochs=5, callbacks=callback)
    assert history["epoch"] == [1, 2]


def test_verbose_prints_keras_line(blobs, capsys):
    tfbn.Solver(net(), jit=False).fit(blobs, epochs=2, verbose=2)
    printed = capsys.readouterr().out
    assert "Epoch 2/2" in printed
    assert "7/7" in printed, "steps of 32 for 203 examples"
    assert "val_accuracy" in printed


def test_history_goes_to_a_file_and_back(blobs, tmp_path):
    history = tfbn.Solver(net(), jit=False).fit(blobs, epochs=2)
    history.save(tmp_path / "history.json")
    again = History.load(tmp_path / "history.json")
    assert again == history


def test_the_model_stays_one_of_keras(blobs, tmp_path):
    solver = tfbn.Solver(net(), jit=False)
    solver.fit(blobs, epochs=2)
    solver.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    loss, accuracy = again.evaluate(*blobs.test, verbose=0)
    assert solver.evaluate(*blobs.test) == pytest.approx((loss, accuracy), rel=1e-5)
    assert int(again.optimizer.iterations) == int(solver.model.optimizer.iterations) == 14


X, Y = np.zeros([10, 8], "float32"), np.arange(10) % 3


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
        (lambda s: s.evaluate(X, Y, batch_size=0), ValueError, "1 or more"),
        (lambda s: s.fit(X[:, :7], Y), ValueError, "(None, 8)"),
        (lambda s: s.train(X[0], Y[0]), ValueError, "(8,)"),
        (lambda s: s.fit(X, Y[:9]), ValueError, "as many examples"),
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
    ],
)
def test_bad_data(run, error, message):
    solver = tfbn.Solver(net())
    before = solver.model.get_weights()
    with pytest.raises(error) as raised:
        run(solver)
    assert message in str(raised.value)
    for one, other in zip(before, solver.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class Own(keras.Sequential):
    def train_step(self, data):
        return {"loss": 0.0}


def two_inputs():
    inputs = [keras.Input([3]), keras.Input([3])]
    return keras.Model(inputs, keras.layers.Add()(inputs))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "net"}, TypeError, "keras.Model"),
        ({"optimizer": "adma"}, ValueError, "Known: adadelta"),
        ({"optimizer": 5}, ValueError, "Unknown optimizer 5"),
        ({"learning_rate": -1}, ValueError, "learning_rate=-1"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate=nan"),
        ({"device": "tpu"}, ValueError, "Available: auto, cpu:0, cpu:1"),
        ({"device": "cpu:9"}, ValueError, "cpu:9"),
        ({"precision": "float8"}, ValueError, "float32, mixed_float16, mixed_bfloat16"),
        ({"model": two_inputs()}, ValueError, "2 and 1"),
        ({"jit": "yes"}, ValueError, "jit='yes'"),
        ({"model": Own([keras.Input([8])])}, ValueError, "Own has its own"),
        ({"model": net(dtype="float64"), "precision": "mixed_float16"}, ValueError, "float64"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error) as raised:
        tfbn.Solver(**{"model": net(), **options})
    assert message in str(raised.value)
