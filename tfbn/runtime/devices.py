"""Where and how a model runs: device, XLA or not, precision."""

from __future__ import annotations

import os

import keras
import tensorflow as tf

from tfbn.keras_internals import flatten_layers

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
POOLINGS = (
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
)


def find_device(name="auto"):
    """The full name of a device that TensorFlow has.

    Args:
        name: "auto" (default; the first GPU, else the CPU), "cpu", "gpu", or with a number: "gpu:1".

    Raises:
        ValueError: there is no such device; the message lists those that there are.

    GPUs are set to take memory as they need it, where TensorFlow has not started them yet.

    >>> find_device("cpu")
    'cpu:0'
    """
    known = available()
    wanted = str(name).lower()
    if wanted == "auto":
        return "gpu:0" if "gpu:0" in known else "cpu:0"
    if wanted in ("cpu", "gpu"):
        wanted += ":0"
    if wanted not in known:
        raise ValueError(f"No device {name!r}. Available: {', '.join(['auto', *known])}.")
    return wanted


def available():
    """The names of all devices, once TensorFlow has started them."""
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break  # Already started, with whatever its owner chose.
    devices = tf.config.list_logical_devices()
    return [short_name(device.name) for device in devices if device.device_type in ("CPU", "GPU")]


def short_name(name):
    """TensorFlow's "/device:CPU:0" as "cpu:0"."""
    return ":".join(name.lower().rsplit(":", 2)[-2:])


def describe_device(device):
    """A device with its hardware, such as "cpu:0 (2 cores)"."""
    return f"{device} ({hardware(device)})"


def hardware(device):
    """What a device is, such as "2 cores"."""
    cpu = device.startswith("cpu")
    return f"{os.cpu_count()} cores" if cpu else details(device).get("device_name", "GPU")


def details(device):
    """What TensorFlow knows of a GPU's hardware, a dict; empty for a CPU."""
    kind, number = device.split(":")
    if kind == "cpu":
        return {}
    physical = tf.config.list_physical_devices("GPU")[int(number)]
    return tf.config.experimental.get_device_details(physical)


def suits_xla(model, device):
    """Whether XLA makes the model's training faster: not where a CPU has to convolve."""
    return not (device.startswith("cpu") and convolves(model))


def convolves(model):
    """Whether a layer of the model is a convolution."""
    # Keras offers no public way to the layers within layers.
    return any(isinstance(layer, CONVOLUTIONS) for layer in flatten_layers(model))


def supports_empty_batch(model, device):
    """Whether the model's layers can train on a batch without examples, as far as is known."""
    windows = (*CONVOLUTIONS, *POOLINGS)
    return not (device.startswith("cpu") and any(isinstance(one, windows) for one in flatten_layers(model)))


def check_precision(precision):
    """Raise ValueError if `precision` is none of PRECISIONS, nor None."""
    if precision not in (None, *PRECISIONS):
        raise ValueError(
            f"Unknown precision {precision!r}. Known: {', '.join(PRECISIONS)}. For others build the "
            "model under keras.config.set_dtype_policy."
        )


def set_precision(model, precision):
    """Give every layer of `model` the Keras dtype policy `precision`; the weights stay float32."""
    check_precision(precision)
    policy = keras.dtype_policies.get(precision)
    # The model itself, too: Keras asks it whether the loss has to be scaled.
    for layer in flatten_layers(model):
        if layer.dtype_policy.variable_dtype != policy.variable_dtype:
            raise ValueError(
                f"`precision` {precision} keeps weights in {policy.variable_dtype}, but layer "
                f"{layer.name} has them in {layer.dtype_policy.variable_dtype}. Build the model in "
                f"float32, or under keras.config.set_dtype_policy({precision!r})."
            )
        layer.dtype_policy = policy
