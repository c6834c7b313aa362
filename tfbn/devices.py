"""Where and how a model runs: device, XLA, precision."""

from __future__ import annotations

import os

import keras
import tensorflow as tf

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
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break  # Already started, with whatever its owner chose.
    available = [
        ":".join(device.name.lower().rsplit(":", 2)[-2:])
        for device in tf.config.list_logical_devices()
        if device.device_type in ("CPU", "GPU")
    ]
    wanted = str(name).lower()
    if wanted == "auto":
        return "gpu:0" if "gpu:0" in available else "cpu:0"
    if wanted in ("cpu", "gpu"):
        wanted += ":0"
    if wanted not in available:
        raise ValueError(f"No device {name!r}. Available: {', '.join(['auto', *available])}.")
    return wanted


def describe_device(device):
    """A device with its hardware, such as "cpu:0 (2 cores)"."""
    kind, number = device.split(":")
    if kind == "cpu":
        return f"{device} ({os.cpu_count()} cores)"
    physical = tf.config.list_physical_devices("GPU")[int(number)]
    details = tf.config.experimental.get_device_details(physical)
    return f"{device} ({details.get('device_name', 'GPU')})"


def suits_xla(model, device):
    """Whether XLA makes the model's training faster: not where a CPU has to convolve."""
    # Keras offers no public way to the layers within layers.
    layers = model._flatten_layers()
    return not (device.startswith("cpu") and any(isinstance(one, CONVOLUTIONS) for one in layers))


def takes_no_rows(model, device):
    """Whether the model's layers can train on a batch without examples, as far as is known."""
    windows = (*CONVOLUTIONS, *POOLINGS)
    return not (
        device.startswith("cpu") and any(isinstance(one, windows) for one in model._flatten_layers())
    )


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
    for layer in model._flatten_layers():
        if layer.dtype_policy.variable_dtype != policy.variable_dtype:
            raise ValueError(
                f"`precision` {precision} keeps weights in {policy.variable_dtype}, but layer "
                f"{layer.name} has them in {layer.dtype_policy.variable_dtype}. Build the model in "
                f"float32, or under keras.config.set_dtype_policy({precision!r})."
            )
        layer.dtype_policy = policy
