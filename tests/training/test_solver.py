"""`Solver` trains, evaluates and saves as Keras does, and as NumPy in float64."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from parameters import thorough

import tfbn
from tfbn.data.arrays import batch_order


def net(classes=3, **options):
    # A bias ahead of a norm has no gradient but rounding noise, which Adam makes steps of.
    return tfbn.Model(8, classes, (6,), seed=0, use_bias=False, **options)


def assert_same_weights(one, other, tolerance=1e-5):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


def compiled_by_keras(optimizer, **options):
    model = net(**options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


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
def test_train_equals_keras_train_on_batch(blobs, optimizer):
    theirs = compiled_by_keras(OPTIMIZERS[optimizer]())
    solver = tfbn.Solver(net(), OPTIMIZERS[optimizer]())
    for batch in np.split(np.arange(200), 10):
        x, y = blobs.train.x[batch], blobs.train.y[batch]
        theirs.reset_metrics()
        assert solver.train(x, y) == pytest.approx(theirs.train_on_batch(x, y)[0], rel=1e-5)
        assert_same_weights(solver.model, theirs)


@pytest.mark.parametrize(
    ("optimizer", "jit"),
    thorough(
        itertools.product(["adam", "schedule", "accumulating", "averaging"], [True, False]),
        lambda optimizer, jit: optimizer == "accumulating" or not jit,
    ),
)
def test_fit_equals_keras_fit(blobs, optimizer, jit):
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


def test_fit_equals_gradient_descent_in_numpy(blobs):
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


def test_evaluate_weighs_a_partial_last_batch_by_its_size(blobs):
    solver = tfbn.Solver(net())
    solver.fit(*blobs.train)
    logits = np.asarray(solver.model(blobs.test.x), "float64")
    log_sum = np.log(np.exp(logits).sum(1))
    expected = (log_sum - logits[np.arange(50), blobs.test.y]).mean()
    for batch_size in (1, 7, 49, 50, np.int64(1000), 2**40, None):
        result = solver.evaluate(*blobs.test, batch_size=batch_size)
        assert result.loss == pytest.approx(expected, rel=1e-5), batch_size
        assert result.accuracy == pytest.approx((logits.argmax(1) == blobs.test.y).mean()), batch_size


def test_fit_minimises_another_loss(blobs):
    target = blobs.train.x.sum(1, keepdims=True)
    solver = tfbn.Solver(net(classes=1), "adam", loss="mse", metrics=["mae"], jit=False)
    history = solver.fit(blobs.train.x, target, epochs=30)
    assert history["loss"][-1] < history["loss"][0] / 2
    loss, accuracy = solver.evaluate(blobs.train.x, target)
    assert loss == pytest.approx(((np.asarray(solver.model(blobs.train.x)) - target) ** 2).mean(), rel=1e-4)
    assert np.isnan(accuracy)


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


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_precision_changes_computations_and_not_weights(blobs, precision):
    solver = tfbn.Solver(net(), precision=precision)
    history = solver.fit(blobs, epochs=5, batch_size=20)
    assert solver.model(blobs.test.x).dtype == precision.removeprefix("mixed_")
    assert {weight.dtype for weight in solver.model.weights} == {"float32"}
    assert history.about["precision"] == precision
    exact = tfbn.Solver(net(), jit=False).fit(blobs, epochs=5, batch_size=20)
    assert history["loss"] != exact["loss"]
    np.testing.assert_allclose(history["loss"], exact["loss"], rtol=0.1)


def test_restart_equals_a_new_solver(blobs):
    used = tfbn.Solver(net(dropout=0.3), "adam", jit=False)
    used.fit(blobs, epochs=3)
    used.restart(net(dropout=0.3))
    fresh = tfbn.Solver(net(dropout=0.3), "adam", jit=False)
    assert used.fit(blobs, epochs=2)["loss"] == fresh.fit(blobs, epochs=2)["loss"]
    assert_same_weights(used.model, fresh.model, tolerance=0)


def test_keras_saves_and_evaluates_the_trained_model(blobs, tmp_path):
    solver = tfbn.Solver(net(), jit=False)
    solver.fit(blobs, epochs=2)
    solver.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    loss, accuracy = again.evaluate(*blobs.test, verbose=0)
    assert solver.evaluate(*blobs.test) == pytest.approx((loss, accuracy), rel=1e-5)
    assert int(again.optimizer.iterations) == int(solver.model.optimizer.iterations) == 14


def test_preparing_moves_no_state_that_a_layer_keeps_in_inference(blobs):
    class Calls(keras.layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.calls.assign_add(1)
            return x

    layer = Calls()
    solver = tfbn.Solver(keras.Sequential([keras.Input([8]), layer, keras.layers.Dense(3)]))
    layer.calls.assign(0)
    solver.prepare(*blobs.test)
    assert layer.calls.numpy() == 0
    solver.evaluate(*blobs.test, batch_size=10)
    assert layer.calls.numpy() == 5


def test_many_solvers_print_no_retracing_warning(caplog):
    x, y = np.eye(8, dtype="float32"), np.arange(8) % 3
    dataset = tf.data.Dataset.from_tensors((x, y))
    for _ in range(6):
        solver = tfbn.Solver(keras.Sequential([keras.Input([8]), keras.layers.Dense(3)]), jit=False)
        solver.fit(x, y, batch_size=8, validation_data=(x, y))
        solver.fit(dataset)
        solver.train(x[:5], y[:5])
    assert "retracing" not in caplog.text


def test_metrics_may_be_none():
    solver = tfbn.Solver(net(), jit=False, metrics=None)
    history = solver.fit(np.eye(8), np.arange(8) % 3, batch_size=8)
    assert set(history.history) == {"epoch", "loss", "seconds"}


def test_learning_rate_may_be_a_numpy_integer():
    assert float(tfbn.Solver(net(), "sgd", np.int64(1), jit=False).model.optimizer.learning_rate) == 1.0


class Own(keras.Sequential):
    def train_step(self, data):
        return {"loss": 0.0}


class OwnCompile(keras.Sequential):
    def compile(self, *arguments, **options):
        super().compile(*arguments, **options)


class OwnMetrics(keras.Sequential):
    @property
    def metrics(self):
        return []


def dict_input():
    i = keras.Input([8], name="a")
    return keras.Model({"a": i}, keras.layers.Dense(3)(i))


def of_a_strategy():
    with tf.distribute.MirroredStrategy(["cpu:0"]).scope():
        return net()


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
        ({"model": OwnCompile([keras.Input([8])])}, ValueError, "Keras' own compile"),
        ({"model": OwnMetrics([keras.Input([8])])}, ValueError, "Keras' own metrics"),
        ({"model": dict_input()}, ValueError, "a dict of inputs"),
        ({"model": of_a_strategy()}, ValueError, "Give that as `strategy`"),
        ({"metrics": "accuracy"}, TypeError, "a list of Keras metrics"),
        ({"metrics": {"out": "accuracy"}}, TypeError, "a list of Keras metrics"),
        ({"metrics": ["accuraci"]}, ValueError, "Received: 'accuraci'"),
        ({"metrics": [["accuracy"]]}, ValueError, "Received: ['accuracy']"),
        ({"loss": "mean"}, ValueError, "`loss` must be a loss that Keras has"),
        ({"loss": ["mse"]}, ValueError, "`loss` must be a loss that Keras has"),
        ({"model": net(dtype="float64"), "precision": "mixed_float16"}, ValueError, "float64"),
    ],
)
def test_solver_rejects_bad_arguments(options, error, message):
    with pytest.raises(error) as raised:
        tfbn.Solver(**{"model": net(), **options})
    assert message in str(raised.value)
