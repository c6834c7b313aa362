"""Time one batch normalization layer on this machine: ours beside Keras', PyTorch's and a copy.

Training is forward, backward and the update of the averages, in one call of a compiled function. The call
itself costs 0.2 ms in ours and Keras' alike, so small shapes differ in the remaining time only.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.bench import timing
from tfbn.foundation.arguments import integer
from tfbn.layers.batch_normalization import BatchNormalization
from tfbn.runtime.devices import find_device
from tfbn.runtime.selftest import check_trains, xla_works

ELEMENTS_PER_RUN = 2**24  # of the input, in all calls of one timed run
PAUSE_SECONDS = 0.02
VECTOR_SHAPES = [(32, 128), (256, 1024), (4096, 256), (64, 100, 128)]
IMAGE_SHAPES = [(64, 32, 32, 32), (32, 56, 56, 64), (32, 7, 7, 512)]
SHAPES = [*((shape, -1) for shape in VECTOR_SHAPES + IMAGE_SHAPES), ((32, 64, 28, 28), 1)]
CASES = [
    *itertools.product(SHAPES, ("training", "inference"), ("graph", "XLA"), ("float32",), (0.0,)),
    *itertools.product(SHAPES, ("training",), ("graph",), ("float32",), (5.0,)),
    *itertools.product(SHAPES[4:6], ("training",), ("graph", "XLA"), ("mixed_bfloat16",), (0.0,)),
]


def layer(
    repeats: int = 7,
    device: str = "auto",
    cases: Iterable[tuple] = CASES,
    on_case: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Time a layer in each case, its peers alternately in one process.

    Args:
        repeats: runs of each peer in each case, after one that compiles and is not counted. Default 7.
        device: as in `tfbn.runtime.devices.find_device`. Default "auto": the first GPU, else the CPU.
        cases: ((shape, axis), "training" or "inference", "graph" or "XLA", dtype policy, mean of the
            standard normal inputs). Default `CASES`. Cases of XLA are left out where XLA fails.
        on_case: called with the description of each case. Default None.

    Returns:
        `rows`, one for each case with its settings, and where the numbers come from. A row has the median
        `milliseconds` of "tfbn", "keras", "torch" (eager; beside graph and float32 only, where installed
        for the device) and "copy" (of the input), and `ratio`, the same divided by tfbn's.

    Raises:
        TypeError, ValueError: `repeats` is not a positive integer, the device does not exist, or no network
            trains on it.
    """
    repeats = integer("repeats", repeats, at_least=1)
    device = find_device(device)
    check_trains(device)
    rows = []
    for (shape, axis), run, mode, dtype, mean in cases:
        if mode == "XLA" and not xla_works(device):
            continue
        case = dict(shape=list(shape), axis=axis, run=run, mode=mode, dtype=dtype, mean=mean)
        if on_case is not None:
            on_case(" ".join(_labels(case)))
        calls = min(100, max(1, ELEMENTS_PER_RUN // int(np.prod(shape))))
        with tf.device(device):
            peers = _peers(**case, calls=calls, torch_device=timing.torch_device(device))
            times, _ = timing.alternate(peers, repeats, pause=PAUSE_SECONDS)
        milliseconds = {name: float(np.median(seconds)) / calls * 1e3 for name, seconds in times.items()}
        ratio = {name: value / milliseconds["tfbn"] for name, value in milliseconds.items()}
        rows.append(case | {"milliseconds": milliseconds, "ratio": ratio})
    return {"rows": rows, "repeats": repeats, **timing.provenance(device)}


def table(result: dict[str, Any]) -> str:
    """Return the result of `layer` as a text table."""
    device, repeats = result["device"], result["repeats"]
    title = f"One layer, milliseconds, on {device}: median of {repeats} alternating runs"
    header = ["shape", "case", "tfbn", "Keras", "torch", "copy", "Keras/tfbn", "torch/tfbn"]
    columns = [("milliseconds", name) for name in ("tfbn", "keras", "torch", "copy")]
    columns += [("ratio", name) for name in ("keras", "torch")]
    rows = [
        [*_labels(row), *(f"{row[key][name]:.2f}" if name in row[key] else "" for key, name in columns)]
        for row in result["rows"]
    ]
    return timing.titled_table(title, header, rows, labels=2)


def _labels(case: dict[str, Any]) -> tuple[str, str]:
    shape = "x".join(map(str, case["shape"])) + (" first" if case["axis"] == 1 else "")
    mean = f" mean {case['mean']:.0f}" if case["mean"] else ""
    dtype = " bfloat16" if case["dtype"] == "mixed_bfloat16" else ""
    return shape, f"{case['run']} {case['mode']}{mean}{dtype}"


def _peers(shape, axis, run, mode, dtype, mean, calls, torch_device):
    """Return a function for each peer that calls its layer or copy `calls` times."""
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype("float32") for _ in range(2))
    x += mean
    compute_dtype = keras.dtype_policies.get(dtype).compute_dtype
    tensors = [tf.cast(value, compute_dtype) for value in (x, dy)]

    def repeated(function, *inputs):
        def run():
            outputs = [function(*inputs) for _ in range(calls)]
            tf.test.experimental.sync_devices()  # A GPU returns from a call before it is done.
            return outputs[-1]

        return run

    peers = {}
    for name, kind in {"tfbn": BatchNormalization, "keras": keras.layers.BatchNormalization}.items():
        peers[name] = repeated(_step(kind, shape, axis, run, mode, dtype, mean), *tensors)
    if mode == "graph" and dtype == "float32" and torch_device is not None:
        peers["torch"] = _torch(x, dy, axis, run, mean, calls, torch_device)
    copy = tf.function(lambda x: tf.raw_ops.DeepCopy(x=x), autograph=False)
    peers["copy"] = repeated(copy, tensors[0])
    return peers


def _step(kind, shape, axis, run, mode, dtype, mean):
    """Return a compiled function of the input and the gradient of the output."""
    # With this beta the output has the mean of the input.
    layer = kind(axis=axis, dtype=dtype, beta_initializer=keras.initializers.Constant(mean))
    layer.build(shape)

    def train(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        # All are returned, because TensorFlow skips what is not.
        return y, *tape.gradient(y, [x, *layer.trainable_variables], dy)

    def infer(x, dy):
        return [layer(x, training=False)]

    step = train if run == "training" else infer
    signature = [tf.TensorSpec([None, *shape[1:]], layer.compute_dtype)] * 2
    return tf.function(step, signature, jit_compile=mode == "XLA", autograph=False)


def _torch(x, dy, axis, run, mean, calls, device="cpu"):
    """Return a function that calls PyTorch's layer, channels first; its result waits for the device."""
    import torch

    def tensor(value):
        value = np.ascontiguousarray(value if axis == 1 else np.moveaxis(value, -1, 1))
        return torch.from_numpy(value).to(device)

    kind = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[dy.ndim]
    x, dy = tensor(x).requires_grad_(run == "training"), tensor(dy)
    layer = kind(dy.shape[1], eps=1e-3, momentum=0.01).to(device)
    torch.nn.init.constant_(layer.bias, mean)

    def train():
        for _ in range(calls):
            x.grad = None
            layer.zero_grad()
            layer(x).backward(dy)
        return float(x.grad.ravel()[0])

    def infer():
        layer.eval()
        with torch.inference_mode():
            for _ in range(calls):
                y = layer(x)
        return float(y.ravel()[0])

    return train if run == "training" else infer
