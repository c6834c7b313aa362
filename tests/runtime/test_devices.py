import itertools
import subprocess
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbn
from tfbn.bench import layer as bench_layer
from tfbn.runtime import devices, selftest

pytestmark = pytest.mark.xla


def test_find_device_accepts_the_devices_of_tensorflow():
    """The suite runs with two logical CPUs (conftest)."""
    assert devices.find_device("auto") == "cpu:0"
    assert devices.find_device("CPU") == "cpu:0"
    assert devices.find_device("cpu:1") == "cpu:1"
    for absent in ("gpu", "gpu:0", "cpu:2", "tpu", "", None):
        with pytest.raises(ValueError, match="Available: auto, cpu:0, cpu:1"):
            devices.find_device(absent)


def test_find_device_takes_the_gpu_and_lets_its_memory_grow(monkeypatch):
    """No GPU here: TensorFlow's answers are played, ours are tested."""
    grown = []
    device = type("Device", (), {})

    def logical():
        names = {"/device:CPU:0": "CPU", "/device:GPU:0": "GPU", "/device:GPU:1": "GPU"}
        return [type("D", (), {"name": name, "device_type": kind}) for name, kind in names.items()]

    monkeypatch.setattr(devices.tf.config, "list_physical_devices", lambda kind: [device, device])
    monkeypatch.setattr(devices.tf.config, "list_logical_devices", logical)
    experimental = devices.tf.config.experimental
    monkeypatch.setattr(experimental, "set_memory_growth", lambda gpu, value: grown.append(value))
    monkeypatch.setattr(experimental, "get_device_details", lambda gpu: {"device_name": "Great 9000"})
    assert devices.find_device("auto") == devices.find_device("gpu") == "gpu:0"
    assert devices.find_device("gpu:1") == "gpu:1"
    assert devices.find_device("cpu") == "cpu:0"
    assert grown == [True] * 8
    assert devices.describe_device("gpu:1") == "gpu:1 (Great 9000)"
    conv = keras.Sequential([keras.Input([8, 8, 1]), keras.layers.Conv2D(2, 3)])
    assert devices.suits_xla(conv, "gpu:0")
    assert not devices.suits_xla(conv, "cpu:0")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that TensorFlow, not finding it, plays on the CPU; gives the steps that were tried there."""
    tried = []

    def train(device, convolutions, jit):
        tried.append((device, convolutions, jit))
        return known(device, convolutions, jit)

    known = selftest._train
    details = {"device_name": "Great 9000", "compute_capability": (9, 0)}
    monkeypatch.setattr(selftest, "_train", train)
    monkeypatch.setattr(devices, "available", lambda: ["cpu:0", "gpu:0"])
    monkeypatch.setattr(devices, "details", lambda device: details if device == "gpu:0" else {})
    forget()
    yield tried
    forget()


TRY, WARN = selftest._try, selftest._warn


def forget():
    TRY.cache_clear()
    WARN.cache_clear()


def fail(monkeypatch, fails, message):
    """Let the tiny step fail where `fails(convolutions, jit)` on the GPU, and say in what."""
    known = selftest._train

    def train(device, convolutions, jit):
        losses = known(device, convolutions, jit)
        if device == "gpu:0" and fails(convolutions, jit):
            where = f"{' under XLA' * jit}{' with convolutions' * convolutions}"
            raise tf.errors.InternalError(None, None, f"{message}{where} [Op:__inference_step_9]\nand more")
        return losses

    monkeypatch.setattr(selftest, "_train", train)


def net(*layers):
    kernel = keras.initializers.GlorotUniform(1)
    layers = [*layers, keras.layers.Dense(3, kernel_initializer=kernel)]
    return keras.Sequential([keras.Input([8]), *layers])


def convolutional():
    return net(keras.layers.Reshape([8, 1]), keras.layers.Conv1D(2, 3), keras.layers.Flatten())


def test_gpu_that_works_is_tried_once(gpu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for build in (net, net, convolutional, convolutional):
            assert tfbn.Solver(build(), device="gpu").jit is True
    assert gpu == [("gpu:0", conv, jit) for conv, jit in itertools.product((False, True), repeat=2)]
    assert tfbn.Solver(net(), jit=False, device="gpu").jit is False


def test_cpu_is_not_tried(gpu):
    for build, jit, expected in ((net, "auto", True), (convolutional, "auto", False), (net, False, False)):
        assert tfbn.Solver(build(), jit=jit, device="cpu").jit is expected
    assert tfbn.Solver(convolutional(), jit=True, device="cpu").jit is True
    assert not gpu


@pytest.mark.parametrize("jit", ["auto", True])
def test_solvers_train_without_xla_where_it_fails_and_warn_once(blobs, gpu, monkeypatch, jit):
    fail(monkeypatch, lambda convolutions, jit: jit, "libdevice not found")
    with pytest.warns(UserWarning) as told:
        solvers = [tfbn.Solver(build(), "sgd", jit=jit) for build in (net, net, convolutional)]
        history = solvers[0].fit(blobs, epochs=2)
    assert [str(warning.message) for warning in told] == [
        "XLA fails on gpu:0, which is used without it: libdevice not found under XLA"
    ]
    assert told[0].filename == __file__
    assert [solver.jit for solver in solvers] == [False] * 3
    assert len(gpu) == len(set(gpu)), "each step once"
    assert history.about["device"] == "gpu:0 (Great 9000)"
    assert history.about["jit"] is False
    expected = tfbn.Solver(net(), "sgd", jit=False, device="cpu").fit(blobs, epochs=2)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)


def test_comparison_trains_without_xla_where_it_fails_and_warns_once(blobs, gpu, monkeypatch):
    fail(monkeypatch, lambda convolutions, jit: jit, "libdevice not found")
    with pytest.warns(UserWarning) as told:
        result = tfbn.compare({"one": net, "other": net}, blobs, epochs=1, batch_size=50, seeds=2)
    assert len(told) == 1
    assert result.about["jit"] == {"one": False, "other": False}
    assert result.about["device"] == "gpu:0 (Great 9000)"


def test_convolutions_are_tried_where_a_model_has_them(gpu, monkeypatch):
    fail(monkeypatch, lambda convolutions, jit: convolutions and jit, "no DNN library")
    assert tfbn.Solver(net()).jit is True
    with pytest.warns(UserWarning, match="without it: no DNN library under XLA with convolutions$"):
        assert tfbn.Solver(keras.Sequential([convolutional()])).jit is False
    assert tfbn.Solver(net()).jit is True


@pytest.mark.parametrize("jit", [True, False])
def test_device_that_cannot_train_is_one_clear_error(gpu, monkeypatch, jit):
    fail(monkeypatch, lambda convolutions, jit: True, "CUDA_ERROR_INVALID_PTX")
    with warnings.catch_warnings(), pytest.raises(ValueError) as raised:
        warnings.simplefilter("error")
        tfbn.Solver(net(), jit=jit)
    assert str(raised.value) == (
        "`device` gpu:0 cannot train: CUDA_ERROR_INVALID_PTX. "
        "Take the CPU (device='cpu', or --device cpu), or repair what `tfbn devices` shows."
    )
    with pytest.raises(ValueError, match="gpu:0 cannot train: CUDA_ERROR_INVALID_PTX"):
        bench_layer.layer()
    row = selftest.survey()["devices"][1]
    assert (row["trains"], row["xla"], row["failure"]) == (False, False, "CUDA_ERROR_INVALID_PTX")
    assert tfbn.Solver(net(), device="cpu").jit is True


def test_failure_reports_wrong_losses(gpu, monkeypatch):
    monkeypatch.setattr(selftest, "_train", lambda device, convolutions, jit: [1.0, 1.0])
    assert selftest.failure("gpu:0") == "the losses of its steps are [1.0, 1.0], not [1.0, 9.0]"


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("convolutions", [True, False])
def test_losses_of_the_tiny_step_are_those_of_keras(monkeypatch, convolutions, jit):
    """On the device that it is told; the losses are those of Keras' own SGD."""
    weights, variable = [], tf.Variable
    monkeypatch.setattr(
        devices.tf, "Variable", lambda value: weights.append(variable(value)) or weights[-1]
    )
    found = selftest._train("cpu:1", convolutions, jit)
    assert weights[0].device.endswith("CPU:1")
    monkeypatch.undo()
    layers, shape = [keras.layers.Dense(32, kernel_initializer="zeros")], [32, 64]
    if convolutions:
        layers, shape = [keras.layers.Conv2D(32, 2, 2, kernel_initializer="zeros")], [4, 8, 8, 16]
    layers[0].use_bias = False
    model = keras.Sequential([keras.Input(shape[1:]), *layers])
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    x, y = np.ones(shape), np.ones([shape[0], *model.output_shape[1:]])
    losses = [model.train_on_batch(x, y) for _ in range(2)]
    assert found == losses == [1.0, 9.0]


BUILT = ["sm_60", "sm_89", "compute_90"]


@pytest.mark.parametrize(
    ("capability", "built", "newer"),
    [
        ((12, 0), BUILT, True),
        ((10, 0), BUILT, True),
        ((9, 0), BUILT, False),
        ((8, 6), BUILT, False),
        ((12, 0), [*BUILT, "sm_120a"], False),
        ((12, 0), None, False),
        (None, BUILT, False),
    ],
)
def test_gpus_that_came_after_tensorflow_are_recognised(monkeypatch, capability, built, newer):
    details = {} if capability is None else {"compute_capability": capability}
    build = {} if built is None else {"cuda_compute_capabilities": built}
    monkeypatch.setattr(devices, "details", lambda device: details)
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)
    assert selftest._is_newer_than_tensorflow("gpu:0") is newer


def test_xla_is_tried_in_another_process_where_it_may_end_it(gpu, monkeypatch):
    """A flag that XLA does not know makes it abort, as a GPU does that its compiler does not know."""
    monkeypatch.setattr(selftest, "_is_newer_than_tensorflow", lambda device: device == "gpu:0")
    elsewhere = selftest.failure_elsewhere
    monkeypatch.setattr(selftest, "failure_elsewhere", lambda device, conv: elsewhere("cpu:0", conv))
    monkeypatch.setenv("XLA_FLAGS", "--nonsense")
    with pytest.warns(UserWarning, match=r"gpu:0.*Unknown flag in XLA_FLAGS: --nonsense$"):
        solver = tfbn.Solver(net())
    assert solver.jit is False
    assert gpu == [("gpu:0", False, False)], "here without XLA only"


def test_failure_elsewhere_runs_failure_here(monkeypatch):
    scripts = []
    ended = subprocess.CompletedProcess([], 0, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda call, **_: scripts.append(call[2]) or ended)
    assert selftest.failure_elsewhere("cpu:0", True) is None
    assert selftest.failure_elsewhere("gpu:7", False) is None
    with pytest.raises(SystemExit) as success:
        exec(scripts[0])
    assert success.value.code is None
    with pytest.raises(ValueError, match="No device 'gpu:7'"):
        exec(scripts[1])


def test_survey_and_its_table_describe_the_devices(gpu, monkeypatch):
    fail(monkeypatch, lambda convolutions, jit: convolutions and jit, "no DNN library")
    monkeypatch.setattr(selftest, "_memory", lambda: {"gpu:0": 76.5})
    found = selftest.survey()
    works = {"memory_gib": None, "compute_capability": None, "trains": True, "xla": True, "failure": None}
    cpu, gpu = found["devices"]
    assert cpu == {"name": "cpu:0", "hardware": cpu["hardware"], **works}
    assert gpu == {
        "name": "gpu:0",
        "hardware": "Great 9000",
        "memory_gib": 76.5,
        "compute_capability": "9.0",
        "trains": True,
        "xla": False,
        "failure": "no DNN library under XLA with convolutions",
    }
    assert found["auto"] == "gpu:0"
    assert found["versions"]["tensorflow"] == tf.__version__
    assert found["cuda"] == tf.sysconfig.get_build_info().get("cuda_version")
    lines = selftest.table(found).splitlines()
    assert lines[0].split() == ["device", "hardware", "memory", "capability", "trains", "XLA"]
    assert lines[3].split() == ["gpu:0", "Great", "9000", "76.5", "GiB", "9.0", "yes", "no"]
    for heading, text in (("memory", "76.5 GiB"), ("capability", "9.0"), ("trains", "yes"), ("XLA", "no")):
        assert lines[3].index(text) == lines[0].index(heading)
    assert lines[4] == "gpu:0 says: no DNN library under XLA with convolutions"
    assert "--device auto takes gpu:0." in lines
    assert not [line for line in lines if "sees no GPU" in line]
    assert len(lines) < 24 and max(map(len, lines)) < 100


def test_memory_is_that_of_gpus(monkeypatch):
    """TensorFlow's answer is played, in its own class where there is a GPU."""
    assert selftest._memory() == {}
    session = tf.compat.v1.Session(graph=tf.Graph())
    kind = type(session.list_devices()[0])
    place = "/job:localhost/replica:0/task:0/device"
    known = [kind(f"{place}:CPU:0", "CPU", 2**28, 1), kind(f"{place}:GPU:1", "GPU", 3 * 2**30, 2)]
    monkeypatch.setattr(tf.compat.v1.Session, "list_devices", lambda self: known)
    assert selftest._memory() == {"gpu:1": 3.0}
