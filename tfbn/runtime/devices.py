"""Where and how a model runs: device, XLA or not, precision."""

import os
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tfbn.keras_internals import flatten_layers

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
CONVOLUTIONS = (
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
)
POOLINGS = (
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
)


def find_device(name: str = "auto") -> str:
    """Return the full name of a device that TensorFlow has; raise ValueError, with a list, for others.

    `name` is "auto" (default; the first GPU, else the CPU), "cpu", "gpu", or with a number: "gpu:1". GPUs
    that TensorFlow has not started yet are set to take memory as they need it.
    """
    names = available()
    device = str(name).lower()
    if device == "auto":
        return "gpu:0" if "gpu:0" in names else "cpu:0"
    if device in ("cpu", "gpu"):
        device += ":0"
    if device not in names:
        raise ValueError(f"No device {name!r}. Available: {', '.join(['auto', *names])}.")
    return device


def available() -> list[str]:
    """Start TensorFlow's devices and return the names of all."""
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break  # Already started, with what its owner chose.
    devices = tf.config.list_logical_devices()
    return [short_name(device.name) for device in devices if device.device_type in ("CPU", "GPU")]


def short_name(name: str) -> str:
    """Return TensorFlow's "/device:CPU:0" as "cpu:0"."""
    return ":".join(name.lower().rsplit(":", 2)[-2:])


def describe_device(device: str) -> str:
    """Return a device with its hardware, such as "cpu:0 (2 cores)"."""
    return f"{device} ({hardware(device)})"


def hardware(device: str) -> str:
    """Return the hardware of a device, such as "2 cores"."""
    is_cpu = device.startswith("cpu")
    return f"{os.cpu_count()} cores" if is_cpu else details(device).get("device_name", "GPU")


def details(device: str) -> dict[str, Any]:
    """Return TensorFlow's details of a GPU; none for a CPU."""
    kind, number = device.split(":")
    if kind == "cpu":
        return {}
    physical = tf.config.list_physical_devices("GPU")[int(number)]
    return tf.config.experimental.get_device_details(physical)


def suits_xla(model: keras.Model, device: str) -> bool:
    """Return whether XLA makes the model's training faster: everywhere but for convolutions on a CPU."""
    return not (device.startswith("cpu") and has_layer(model, CONVOLUTIONS))


def supports_empty_batch(model: keras.Model, device: str) -> bool:
    """Return whether a batch may lack examples: not for convolutions and poolings on a CPU."""
    return not (device.startswith("cpu") and has_layer(model, CONVOLUTIONS + POOLINGS))


def has_layer(model: keras.Model, kinds: tuple) -> bool:
    """Return whether a layer of the model, or within its layers, is of one of the `kinds`."""
    return any(isinstance(layer, kinds) for layer in flatten_layers(model))


def check_precision(precision: str | None) -> None:
    """Raise ValueError unless `precision` is one of PRECISIONS, or None."""
    if precision not in (None, *PRECISIONS):
        raise ValueError(
            f"Unknown precision {precision!r}. Known: {', '.join(PRECISIONS)}. For others, build the "
            "model under keras.config.set_dtype_policy."
        )


def set_precision(model: keras.Model, precision: str) -> None:
    """Set every layer of `model` to the Keras dtype policy `precision`; the weights stay float32."""
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
