import keras
import pytest

from tfbn import devices


def test_devices_are_those_that_tensorflow_has():
    """The suite runs with two logical CPUs (conftest)."""
    assert devices.find_device("auto") == "cpu:0"
    assert devices.find_device("CPU") == "cpu:0"
    assert devices.find_device("cpu:1") == "cpu:1"
    for absent in ("gpu", "gpu:0", "cpu:2", "tpu", "", None):
        with pytest.raises(ValueError, match="Available: auto, cpu:0, cpu:1"):
            devices.find_device(absent)


def test_a_gpu_is_taken_and_made_to_grow(monkeypatch):
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
