"""Whether a device trains, and under XLA: tiny networks that are trained on it before others are."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import warnings

import tensorflow as tf

from tfbn.foundation.errors import first_line, last_line
from tfbn.foundation.provenance import versions
from tfbn.runtime import devices


def choose_jit(model, device, jit="auto"):
    """Whether XLA compiles the training of `model`, once the device has shown that it can.

    A GPU trains a tiny network first, see `failure`. A CPU has nothing to show: its XLA comes with
    TensorFlow.

    Args:
        model: `keras.Model`.
        device: str, as `find_device` gives it.
        jit: True, False or "auto" (default; what `suits_xla` says).

    Raises:
        ValueError: the device cannot train even without XLA.

    >>> import keras
    >>> choose_jit(keras.Sequential([keras.Input([2]), keras.layers.Dense(2)]), "cpu:0")
    True
    """
    if jit == "auto":
        jit = devices.suits_xla(model, device)
    if device.startswith("cpu"):
        return jit
    convolutions = devices.convolves(model)
    check_trains(device, convolutions)
    return jit and xla_works(device, convolutions)


def check_trains(device, convolutions=False):
    """Raise ValueError if a device does not train even without XLA, see `failure`."""
    reason = failure(device, convolutions, jit=False)
    if reason is not None:
        raise ValueError(
            f"`device` {device} cannot train: {reason}. Take the CPU (device='cpu', or --device cpu), or "
            "repair what `tfbn devices` shows."
        )


def xla_works(device, convolutions=False):
    """Whether a device trains under XLA, see `failure`; where it does not, a warning says so, once."""
    reason = failure(device, convolutions)
    if reason is not None:
        _warn(device, reason)
    return reason is None


@functools.cache  # However many networks train there.
def _warn(device, reason):
    warnings.warn(f"XLA fails on {device}, which is used without it: {reason}", stacklevel=5)


def failure(device, convolutions=False, jit=True):
    """Why a device does not train a tiny network, a line; None if it does. Tried once a process.

    Args:
        device: str, as `find_device` gives it.
        convolutions: bool, whether to try them, too. Default False.
        jit: bool, whether XLA compiles the step. Default True.

    >>> failure("cpu:0", jit=False)
    """
    reason = _try(device, False, jit)
    return _try(device, True, jit) if convolutions and reason is None else reason


@functools.cache
def _try(device, convolutions, jit):
    if jit and _is_newer_than_tensorflow(device):
        return failure_elsewhere(device, convolutions)
    return failure_here(device, convolutions, jit)


def failure_here(device, convolutions, jit):
    try:
        losses = _train(device, convolutions, jit)
    except tf.errors.OpError as error:
        return first_line(error)
    return None if losses == [1.0, 9.0] else f"the losses of its steps are {losses}, not [1.0, 9.0]"


def failure_elsewhere(device, convolutions):
    """`failure_here` under XLA, in another process, which that may end."""
    script = (
        "import sys; from tfbn.runtime import devices, selftest; "
        f"sys.exit(selftest.failure_here(devices.find_device({device!r}), {convolutions}, True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    return last_line(done.stderr) if done.returncode else None


def _is_newer_than_tensorflow(device):
    """Whether a GPU is of a generation that came after this TensorFlow.

    XLA can end the process there rather than raise ("LLVM ERROR: PTX version 8.5 does not support target
    'sm_120'"): https://github.com/tensorflow/tensorflow/issues/111958
    """
    built = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])  # ["sm_80", "compute_90"]
    known = [int(number) for name in built for number in re.findall("_([0-9]+)", name)]
    major, minor = devices.details(device).get("compute_capability", (0, 0))
    return bool(known) and 10 * major + minor > max(known)


def _train(device, convolutions, jit):
    """The losses of two steps of SGD at a rate of 1, of 32 units with weights of 0; all data are 1.

    ::

        loss = mean((x @ w - 1)**2)                          = 1
        w - mean over 32 units of 2 * x * (x @ w - 1)        = 2 / 32
        loss = (64 inputs * 2 / 32 - 1)**2                   = 9

    Powers of two, which no precision rounds. A convolution whose windows have 64 values does the same.
    """
    # With fewer inputs, XLA would write loops of its own and not call the libraries.
    shapes = ([4, 8, 8, 16], [2, 2, 16, 32]) if convolutions else ([32, 64], [64, 32])
    with tf.device(device):
        x, w = tf.ones(shapes[0]), tf.Variable(tf.zeros(shapes[1]))

        @tf.function(jit_compile=jit, autograph=False)
        def step():
            with tf.GradientTape() as tape:
                y = tf.nn.conv2d(x, w, 2, "VALID") if convolutions else x @ w
                loss = tf.reduce_mean(tf.square(y - 1))
            w.assign_sub(tape.gradient(loss, w))
            return loss

        return [float(step()), float(step())]


def survey():
    """What there is to train on, as plain data.

    Returns:
        dict: `devices`, a list of dicts of name, hardware, memory_gib (which TensorFlow may take of a
        GPU; None for a CPU), compute_capability (of an NVIDIA GPU, else None), trains and xla (whether
        dense and convolutional networks do, without and with XLA) and failure (why not, or None); `auto`,
        the device that "auto" takes; `versions`; and `cuda` and `cudnn`, the versions that TensorFlow was
        built for, None where it was built without.

    >>> survey()["devices"][0]["name"]
    'cpu:0'
    """
    names, memory = devices.available(), _memory()
    rows = []
    for name in names:
        plain, xla = (failure(name, convolutions=True, jit=jit) for jit in (False, True))
        capability = devices.details(name).get("compute_capability")
        rows.append(
            {
                "name": name,
                "hardware": devices.hardware(name),
                "memory_gib": memory.get(name),
                "compute_capability": capability and ".".join(map(str, capability)),
                "trains": plain is None,
                "xla": xla is None,
                "failure": plain or xla,
            }
        )
    build = tf.sysconfig.get_build_info()
    return {
        "devices": rows,
        "auto": devices.find_device("auto"),
        "versions": versions(),
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
    }


def _memory():
    """The GiB that TensorFlow may take of each GPU, by the names of the devices."""
    # Only a session tells.
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        found = session.list_devices()
    gpus = [device for device in found if device.device_type == "GPU"]
    return {devices.short_name(gpu.name): gpu.memory_limit_bytes / 2**30 for gpu in gpus}


def table(found):
    """The result of `survey` as text."""
    rows = found["devices"]
    width = max(len("hardware"), *(len(row["hardware"]) for row in rows)) + 2
    lines = [f"{'device':<8}{'hardware':<{width}}{'memory':<10}{'capability':<12}{'trains':<8}XLA"]
    for row in rows:
        memory = f"{row['memory_gib']:.1f} GiB" if row["memory_gib"] else ""
        trains, xla = ("yes" if row[key] else "no" for key in ("trains", "xla"))
        capability = row["compute_capability"] or ""
        lines.append(
            f"{row['name']:<8}{row['hardware']:<{width}}{memory:<10}{capability:<12}{trains:<8}{xla}"
        )
    lines += [f"{row['name']} says: {row['failure']}" for row in rows if row["failure"]]
    lines += ["", f"--device auto takes {found['auto']}."]
    built = f", built for CUDA {found['cuda']} and cuDNN {found['cudnn']}" if found["cuda"] else ""
    if built and not any(row["name"].startswith("gpu") for row in rows):
        lines.append(
            "TensorFlow sees no GPU. One from NVIDIA needs its driver and pip install -e '.[gpu]'."
        )
    lines.append("")
    for name, version in found["versions"].items():
        lines.append(f"{name:<21}{version}{built if name == 'tensorflow' else ''}")
    return "\n".join(lines)
