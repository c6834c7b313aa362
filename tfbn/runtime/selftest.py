"""Whether a device trains, with XLA and without: tiny networks try it before others train there."""

import functools
import os
import re
import subprocess
import sys
from typing import Any

import keras
import tensorflow as tf

from tfbn.foundation.errors import first_line, last_line, warn_caller
from tfbn.foundation.provenance import versions
from tfbn.foundation.tables import text_table
from tfbn.runtime import devices


def choose_jit(model: keras.Model, device: str, jit: bool | str = "auto") -> bool:
    """Return whether XLA compiles the training of `model`; for "auto" (default) as `suits_xla` answers.

    On a GPU a tiny network trains first, see `failure`. A CPU needs no test: its XLA comes with TensorFlow.
    ValueError is raised for a device that cannot train even without XLA.
    """
    if jit == "auto":
        jit = devices.suits_xla(model, device)
    if device.startswith("cpu"):
        return bool(jit)
    convolutions = devices.has_layer(model, devices.CONVOLUTIONS)
    check_trains(device, convolutions)
    return bool(jit) and xla_works(device, convolutions)


def check_trains(device: str, convolutions: bool = False) -> None:
    """Raise ValueError if a device does not train even without XLA, see `failure`."""
    reason = failure(device, convolutions, jit=False)
    if reason is not None:
        raise ValueError(
            f"`device` {device} cannot train: {reason}. Take the CPU (device='cpu', or --device cpu), or "
            "repair what `tfbn devices` shows."
        )


def xla_works(device: str, convolutions: bool = False) -> bool:
    """Return whether a device trains under XLA, see `failure`; if not, warn once."""
    reason = failure(device, convolutions)
    if reason is not None:
        _warn(f"XLA fails on {device}, which is used without it: {reason}")
    return reason is None


_warn = functools.cache(warn_caller)  # Once, however many networks train there.


def failure(device: str, convolutions: bool = False, jit: bool = True) -> str | None:
    """Return why a device does not train a tiny network, one line; None if it does.

    Each case is tried once a process: without `convolutions`, then with them if True, each under XLA if
    `jit` is True.
    """
    reason = _try(device, False, jit)
    return _try(device, True, jit) if convolutions and reason is None else reason


@functools.cache
def _try(device: str, convolutions: bool, jit: bool) -> str | None:
    if jit and _is_newer_than_tensorflow(device):
        return failure_elsewhere(device, convolutions)
    return failure_here(device, convolutions, jit)


def failure_here(device: str, convolutions: bool, jit: bool) -> str | None:
    """Return why the device does not train in this process, or None."""
    try:
        losses = _train(device, convolutions, jit)
    except tf.errors.OpError as error:
        return first_line(error)
    return None if losses == [1.0, 9.0] else f"the losses of its steps are {losses}, not [1.0, 9.0]"


def failure_elsewhere(device: str, convolutions: bool) -> str | None:
    """Return what `failure_here` does under XLA, from another process, which XLA may end."""
    script = (
        "import sys; from tfbn.runtime import devices, selftest; "
        f"sys.exit(selftest.failure_here(devices.find_device({device!r}), {convolutions}, True))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    return last_line(done.stderr) if done.returncode else None


def _is_newer_than_tensorflow(device: str) -> bool:
    """Return whether a GPU is of a generation that came after this TensorFlow.

    XLA can end the process there instead of raising ("LLVM ERROR: PTX version 8.5 does not support target
    'sm_120'"): https://github.com/tensorflow/tensorflow/issues/111958
    """
    built = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])  # ["sm_80", "compute_90"]
    numbers = [int(number) for name in built for number in re.findall("_([0-9]+)", name)]
    major, minor = devices.details(device).get("compute_capability", (0, 0))
    return bool(numbers) and 10 * major + minor > max(numbers)


def _train(device: str, convolutions: bool, jit: bool) -> list[float]:
    """Return the losses of two steps of SGD at a rate of 1, of 32 units with weights of 0; all data are 1.

    ::

        loss = mean((x @ w - 1)**2)                          = 1
        w - mean over 32 units of 2 * x * (x @ w - 1)        = 2 / 32
        loss = (64 inputs * 2 / 32 - 1)**2                   = 9

    Powers of two, which no precision rounds. A convolution whose windows have 64 values gives the same.
    """
    # With fewer inputs, XLA would write loops of its own and not call the libraries.
    shapes = ([4, 8, 8, 16], [2, 2, 16, 32]) if convolutions else ([32, 64], [64, 32])
    with tf.device(device):
        x, w = tf.ones(shapes[0]), tf.Variable(tf.zeros(shapes[1]))

        @tf.function(jit_compile=jit, autograph=False)
        def step() -> tf.Tensor:
            with tf.GradientTape() as tape:
                y = tf.nn.conv2d(x, w, 2, "VALID") if convolutions else x @ w
                loss = tf.reduce_mean(tf.square(y - 1))
            w.assign_sub(tape.gradient(loss, w))
            return loss

        return [float(step()), float(step())]


def survey() -> dict[str, Any]:
    """Return what there is to train on, as plain data.

    Of each device: memory_gib is what TensorFlow may take of a GPU, else None; compute_capability is an
    NVIDIA GPU's, else None; trains and xla are whether dense and convolutional networks train, without and
    with XLA; failure is why not, or None. `auto` is the device that "auto" takes. `cuda` and `cudnn` are
    the versions that TensorFlow was built for, or None.

    >>> survey()["devices"][0]["name"]
    'cpu:0'
    """
    rows, names, memory = [], devices.available(), _memory()
    for name in names:
        plain, xla = (failure(name, convolutions=True, jit=jit) for jit in (False, True))
        capability = devices.details(name).get("compute_capability")
        row = {"name": name, "hardware": devices.hardware(name), "memory_gib": memory.get(name)}
        row["compute_capability"] = capability and ".".join(map(str, capability))
        rows.append({**row, "trains": plain is None, "xla": xla is None, "failure": plain or xla})
    build = tf.sysconfig.get_build_info()
    return {
        "devices": rows,
        "auto": devices.find_device("auto"),
        "versions": versions(),
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
    }


def _memory() -> dict[str, float]:
    """Return the GiB that TensorFlow may take of each GPU, which only a session knows, by device name."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        gpus = [device for device in session.list_devices() if device.device_type == "GPU"]
    return {devices.short_name(gpu.name): gpu.memory_limit_bytes / 2**30 for gpu in gpus}


def table(result: dict[str, Any]) -> str:
    """Return the result of `survey` as text."""
    rows = result["devices"]
    cells = []
    for row in rows:
        memory = f"{row['memory_gib']:.1f} GiB" if row["memory_gib"] else ""
        trains, xla = ("yes" if row[key] else "no" for key in ("trains", "xla"))
        cells.append((row["name"], row["hardware"], memory, row["compute_capability"] or "", trains, xla))
    lines = [text_table(("device", "hardware", "memory", "capability", "trains", "XLA"), cells)]
    lines += [f"{row['name']} says: {row['failure']}" for row in rows if row["failure"]]
    lines += ["", f"--device auto takes {result['auto']}."]
    if result["cuda"] and not any(row["name"].startswith("gpu") for row in rows):
        lines += ["TensorFlow sees no GPU. One from NVIDIA needs its driver and pip install -e '.[gpu]'."]
    packages = dict(result["versions"])
    if result["cuda"]:
        packages["tensorflow"] += f", built for CUDA {result['cuda']} and cuDNN {result['cudnn']}"
    return "\n".join([*lines, "", text_table(("package", "version"), packages.items())])
