"""Several replicas against one device, which Keras' own train_on_batch trains with the whole batch."""

import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import parameters
import pytest
import tensorflow as tf

import tfbn
from tfbn.runtime import strategies

STEPS = 50
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Rows of a batch over two replicas: 4 and 4, 3 and 4, 32 and 33, none and 1.
SIZES = (8, 7, 65, 1)


def dense(norm):
    """Without biases ahead of the norm: Adam would make steps of what rounding leaves of their gradient."""
    layers = []
    for _ in range(2):
        layers += [keras.layers.Dense(16, use_bias=False), *norm(), keras.layers.Activation("relu")]
    layers[0].kernel_regularizer = keras.regularizers.L2(1e-3)
    return keras.Sequential([keras.Input([8]), *layers, keras.layers.Dense(3)])


def conv(norm):
    return keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            keras.layers.Conv2D(4, 3, use_bias=False),
            *norm(),
            keras.layers.Activation("relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


NORMS = {
    "plain": list,
    "ours": lambda: [tfbn.BatchNormalization(momentum=0.9, synchronized=True)],
    "keras": lambda: [keras.layers.BatchNormalization(momentum=0.9, synchronized=True)],
}


def examples(size, shape=(8,)):
    rng = np.random.default_rng(size)
    return rng.normal(size=[size, *shape]).astype("float32"), rng.integers(0, 3, size)


def build(network, norm):
    keras.utils.set_random_seed(1)
    return network(NORMS[norm])


def optimizer(name):
    return keras.optimizers.SGD(0.05) if name == "sgd" else keras.optimizers.Adam(0.01)


def truth(model, name, batches):
    """The losses by Keras on one device, which trains `model`."""
    model.compile(optimizer(name), loss=LOSS)
    return [float(model.train_on_batch(*batch)) for batch in batches]


def batches_of(size, shape=(8,)):
    x, y = examples(203, shape)
    rows = [np.arange(step * size, (step + 1) * size) % 203 for step in range(STEPS)]
    return [(x[some], y[some]) for some in rows]


def usual(norm, size, name):
    """Every size, and each of the other norms once."""
    return name == ("adam" if size == 7 else "sgd") if norm == "ours" else (size, name) == (7, "sgd")


@pytest.mark.parametrize(
    ("norm", "size", "name"), parameters.thorough(itertools.product(NORMS, SIZES, ["sgd", "adam"]), usual)
)
def test_two_replicas_equal_one_device(two_replicas, norm, size, name):
    batches = batches_of(size)
    expected = build(dense, norm)
    losses = truth(expected, name, batches)
    with two_replicas.scope():
        model = build(dense, norm)
    solver = tfbn.Solver(model, name, {"sgd": 0.05, "adam": 0.01}[name], strategy=two_replicas)
    np.testing.assert_allclose([solver.train(*batch) for batch in batches], losses, atol=1e-5)
    for ours, theirs in zip(model.variables, expected.variables, strict=True):
        for value in two_replicas.experimental_local_results(ours.value):
            np.testing.assert_allclose(value, theirs, atol=1e-5, err_msg=ours.path)


@pytest.mark.parametrize("size", [8, 5])
def test_convolutions_equal_one_device(two_replicas, size):
    batches = batches_of(size, (8, 8, 1))
    expected = build(conv, "ours")
    losses = truth(expected, "sgd", batches)
    with two_replicas.scope():
        model = build(conv, "ours")
    solver = tfbn.Solver(model, "sgd", 0.05, strategy=two_replicas)
    np.testing.assert_allclose([solver.train(*batch) for batch in batches], losses, atol=1e-5)
    for ours, theirs in zip(model.variables, expected.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="leaves some of 2 replicas without a row"):
        solver.train(*(values[:1] for values in batches[0]))


def test_epochs_with_a_smaller_last_batch_equal_keras_fit(two_replicas):
    """203 = 25 * 8 + 3: the last batch is of one row and of two."""
    x, y = examples(203)
    expected = build(dense, "ours")
    expected.compile(optimizer("sgd"), loss=LOSS, metrics=["accuracy"])
    theirs = expected.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history
    for given in ((x, y), (tf.data.Dataset.from_tensor_slices((x, y)).batch(8),)):
        with two_replicas.scope():
            model = build(dense, "ours")
        solver = tfbn.Solver(model, "sgd", 0.05, strategy=two_replicas)
        history = solver.fit(*given, batch_size=8, epochs=3, shuffle=False)
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(history[name], theirs[name], atol=1e-5)
        # 203 examples in batches of 202 would leave a rest of one.
        found = solver.evaluate(x, y, batch_size=202)
        np.testing.assert_allclose(found, expected.evaluate(x, y, verbose=0), atol=1e-5)
    assert history.about["strategy"] == {"name": "mirrored", "replicas": 2, "workers": 1}


def test_compare_on_two_replicas_equals_one_device(two_replicas, blobs, tmp_path):
    arms = {
        "batchnorm": lambda: tfbn.Model(8, 3, (6,), use_bias=False),
        "plain": lambda: tfbn.Model(8, 3, (6,), use_batchnorm=False),
        "waits": lambda: keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(3)]),
    }
    options = dict(epochs=2, batch_size=25, seeds=2, checkpoint_dir=tmp_path / "state")
    spread = tfbn.compare(arms, blobs, strategy=two_replicas, **options)
    alone = tfbn.compare(arms, blobs, jit=False, **{**options, "checkpoint_dir": None})
    assert len(spread.records) == len(alone.records) == 12
    for kind in ("records", "test"):
        for ours, theirs in zip(getattr(spread, kind), getattr(alone, kind), strict=True):
            for name, value in theirs.items():
                if name != "seconds":
                    assert ours[name] == (value if name == "arm" else pytest.approx(value, abs=1e-5))
    for arm, model in spread.models.items():
        assert not hasattr(model.variables[0].value, "values")  # An ordinary model.
        theirs = alone.models[arm].predict(blobs.test.x, verbose=0)
        np.testing.assert_allclose(model.predict(blobs.test.x, verbose=0), theirs, atol=1e-5)
    assert spread.about["strategy"]["replicas"] == 2 and alone.about["strategy"] is None
    again = tfbn.compare(arms, blobs, strategy=two_replicas, **options)
    assert again.records == spread.records
    with pytest.raises(ValueError, match="another training: strategy"):
        tfbn.compare(arms, blobs, **options)


def test_model_synchronizes_its_norms_in_a_scope_of_several_replicas(two_replicas):
    def kinds(**options):
        model = tfbn.Model(8, 3, (6,), **options)
        return [layer.synchronized for layer in model.layers if isinstance(layer, tfbn.BatchNormalization)]

    assert kinds() == [False]
    with two_replicas.scope():
        assert kinds() == [True]
        assert kinds(batchnorm_options={"synchronized": False}) == [False]
        assert kinds(batchnorm_options={"virtual_batch_size": 4}) == [False]


def test_solver_rejects_options_that_a_strategy_excludes(two_replicas):
    outside = build(dense, "plain")
    with two_replicas.scope():
        model = build(dense, "plain")
    for options, message in [
        (dict(device="cpu"), "`device` comes from the strategy"),
        (dict(jit=True), "`jit` must be 'auto' or False"),
        (dict(optimizer=keras.optimizers.SGD()), "The variables of the optimizer are not the strategy's"),
        (dict(loss=keras.losses.MeanSquaredError(reduction="sum")), "mean over the batch"),
    ]:
        with pytest.raises(ValueError, match=message):
            tfbn.Solver(model, strategy=two_replicas, **options)
    with pytest.raises(ValueError, match="The variables of the model are not the strategy's"):
        tfbn.Solver(outside, strategy=two_replicas)
    with two_replicas.scope(), pytest.raises(ValueError, match="`clipnorm` would be applied by each"):
        tfbn.Solver(model, keras.optimizers.SGD(clipnorm=1.0), strategy=two_replicas)
    with pytest.raises(TypeError, match="`strategy` must be"):
        tfbn.Solver(outside, strategy=tf.distribute.OneDeviceStrategy("cpu:0"))


@pytest.mark.parametrize(
    "loss",
    [keras.losses.Dice(), lambda y, y_pred: tf.reduce_mean(tf.square(y - y_pred))],
    ids=["dice", "function"],
)
def test_solver_rejects_a_loss_of_the_whole_batch(two_replicas, loss):
    x, y = examples(8)
    y = np.eye(3, dtype="float32")[y]
    with two_replicas.scope():
        model = build(dense, "plain")
    solver = tfbn.Solver(model, "sgd", 0.1, loss=loss, metrics=[], strategy=two_replicas)
    with pytest.raises(ValueError, match="must give a value for each example"):
        solver.train(x, y)


def test_overflow_on_one_replica_is_one_on_all(two_replicas):
    """In float16 a gradient beyond 65,504 costs the step; Keras asks the first replica alone."""
    x, y = examples(8)
    x[5] *= 1e4  # On the second.

    def solver(strategy):
        model = keras.Sequential([keras.Input([8]), keras.layers.Dense(3, kernel_initializer="ones")])
        return tfbn.Solver(model, "sgd", 1e-6, precision="mixed_float16", strategy=strategy)

    with two_replicas.scope():
        shared = solver(two_replicas)
    alone = solver(None)
    losses = [[one.train(x, y) for _ in range(6)] for one in (alone, shared)]
    scales = [one.model.optimizer.dynamic_scale.numpy() for one in (alone, shared)]
    assert scales[0] == scales[1] < 2**15, "the first steps overflowed"
    np.testing.assert_allclose(*losses, rtol=2e-3)
    for one, other in zip(alone.model.variables, shared.model.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not set"),
        ("{", "cannot be understood"),
        ('{"cluster": {"worker": ["a:1"]}}', "cannot be understood"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "index 1, but 1"),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "host:port"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "neither worker nor chief"),
    ],
)
def test_wrong_tf_config_is_an_error_with_an_example(text, message):
    with pytest.raises(ValueError, match=message) as error:
        strategies.check_tf_config(text)
    assert strategies.TF_CONFIG_EXAMPLE in str(error.value)
    strategies.check_tf_config(strategies.TF_CONFIG_EXAMPLE)


WORKER = """
import sys
import keras, numpy as np, tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
import tfbn
sys.path[:0] = {tests!r}
from test_strategies import batches_of, build, dense, examples
found = {{}}
for norm in ("plain", "ours"):
    with strategy.scope():
        model = build(dense, norm)
    solver = tfbn.Solver(model, "sgd", 0.05, strategy=strategy)
    found[f"{{norm}}-loss"] = [solver.train(*batch) for batch in batches_of(7)]
    for variable in model.variables:
        found[f"{{norm}}-{{variable.path}}"] = variable.numpy()
data = tfbn.data.Data(*(examples(size) for size in (60, 41, 31)))
arms = {{"batchnorm": lambda: tfbn.Model(8, 3, (6,), use_bias=False)}}
for epochs in (2, 2):  # The second time from the checkpoint, which the chief alone has.
    result = tfbn.compare(arms, data, epochs=epochs, batch_size=15, seeds=2, strategy=strategy,
                          checkpoint_dir="state")
    found["records"] = [[r["train_loss"], r["validation_loss"]] for r in result.records]
    found["test"] = [r["loss"] for r in result.test]
np.savez(sys.argv[1], **found)
"""


def start_workers(tmp_path, arguments):
    """Two processes on this machine, each with a folder of its own."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    processes = []
    for index in range(2):
        (tmp_path / f"{index}").mkdir()
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                [sys.executable, *arguments(index)],
                cwd=tmp_path / f"{index}",
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    script = WORKER.format(tests=[os.path.dirname(__file__), os.path.dirname(parameters.__file__)])
    processes = start_workers(tmp_path, lambda index: ["-c", script, str(tmp_path / f"{index}.npz")])
    try:
        for process in processes:
            _, errors = process.communicate(timeout=150)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    first, second = (np.load(tmp_path / f"{index}.npz") for index in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    for norm in ("plain", "ours"):
        expected = build(dense, norm)
        losses = truth(expected, "sgd", batches_of(7))
        np.testing.assert_allclose(first[f"{norm}-loss"], losses, atol=1e-5)
        values = [first[name] for name in first if name.startswith(norm) and not name.endswith("-loss")]
        for value, variable in zip(values, expected.variables, strict=True):
            np.testing.assert_allclose(value, variable, atol=1e-5, err_msg=variable.path)
    data = tfbn.data.Data(*(examples(size) for size in (60, 41, 31)))
    arms = {"batchnorm": lambda: tfbn.Model(8, 3, (6,), use_bias=False)}
    alone = tfbn.compare(arms, data, epochs=2, batch_size=15, seeds=2, jit=False)
    theirs = [[r["train_loss"], r["validation_loss"]] for r in alone.records]
    np.testing.assert_allclose(first["records"], theirs, atol=1e-5)
    assert any((tmp_path / "0").rglob("ckpt-*.index"))
    assert not any((tmp_path / "1").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.thorough)]
)
def test_workers_end_with_a_message_when_another_dies(tmp_path, number):
    command = "-m tfbn compare --train-size 500 --epochs 2000 --seeds 1 --strategy multiworker --out out"
    chief, worker = start_workers(tmp_path, lambda index: shlex.split(command))
    try:
        for line in chief.stdout:
            if "epoch  2" in line:
                break
        worker.send_signal(number)
        start = time.monotonic()
        _, errors = chief.communicate(timeout=120)
        assert time.monotonic() - start < 120
        assert worker.wait(timeout=60) == (143 if number == signal.SIGTERM else -number)
        assert chief.returncode == 2
        assert errors.splitlines()[-1].startswith("Error: Another worker is gone")
        assert "Traceback" not in errors
        assert any((tmp_path / "0").rglob("ckpt-*.index"))  # From which it could go on.
        assert not any((tmp_path / "1").iterdir())
    finally:
        chief.kill()
        worker.kill()


@pytest.mark.slow
def test_workers_with_different_settings_do_not_train(tmp_path):
    command = "-m tfbn compare --train-size 500 --epochs 2 --seeds 1 --strategy multiworker --out out"
    more = {0: "", 1: " --learning-rate 0.1 --batch-size 50"}
    chief, worker = start_workers(tmp_path, lambda index: shlex.split(command + more[index]))
    try:
        errors = worker.communicate(timeout=120)[1]
        assert worker.returncode == 2
        assert "Error: This worker was not started as the chief was: batch_size was 32 and is 50" in errors
        assert "learning_rate was 0.01 and is 0.1" in errors and "Traceback" not in errors
        _, errors = chief.communicate(timeout=120)
        assert chief.returncode == 2
        assert errors.splitlines()[-1].startswith("Error: Another worker is gone")
        assert not (tmp_path / "out").exists()
    finally:
        for process in (chief, worker):
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_interrupt_ends_the_wait_for_workers(tmp_path):
    command = "-m tfbn compare --strategy multiworker --out out"
    chief, worker = start_workers(tmp_path, lambda index: shlex.split(command))
    worker.kill()
    worker.communicate()
    try:
        for line in chief.stdout:
            if "Waiting for the workers" in line:
                break
        time.sleep(3)  # Now it is in C++.
        chief.send_signal(signal.SIGINT)
        chief.communicate(timeout=60)
        assert chief.returncode == -signal.SIGINT
        assert not any((tmp_path / "0").iterdir())
    finally:
        chief.kill()
        chief.communicate()


def test_a_second_strategy_trains_without_collectives_or_is_refused_in_a_line(python):
    """TensorFlow numbers the collectives of each strategy from the same number."""
    losses = python(
        """
import keras, numpy as np, tensorflow as tf, tfbn
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=[32, 8]).astype("float32")
y = np.argmax(x[:, :3], 1)

def train(width, strategy=None):
    if strategy is None:
        model = tfbn.Model(8, 3, (width,), seed=0)
    else:
        with strategy.scope():
            model = tfbn.Model(8, 3, (width,), seed=0)
    return tfbn.Solver(model, strategy=strategy, jit=False).fit(x, y, batch_size=16)["loss"][0]

devices = ["cpu:0", "cpu:1"]
train(6, tf.distribute.MirroredStrategy(devices))
try:
    train(7, tf.distribute.MirroredStrategy(devices))
except ValueError as error:
    assert str(error).count("\\n") == 0 and "ReductionToOneDevice" in str(error), error
else:
    raise AssertionError("TensorFlow tells the collectives of two strategies apart now.")
apart = tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
print(train(7, apart), train(7))
"""
    )
    second, alone = map(float, losses.split())
    assert second == pytest.approx(alone, rel=1e-5)
