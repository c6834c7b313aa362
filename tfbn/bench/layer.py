"""How long one batch normalization layer takes on this machine: ours beside Keras', PyTorch's and a copy.

Training is forward, backward and the update of the averages, in one call of a compiled function. A call
costs 0.2 ms by itself, ours and Keras' alike: small shapes are compared by what is left.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import tensorflow as tf

from tfbn.bench import timing
from tfbn.layers.batch_normalization import BatchNormalization
from tfbn.runtime.devices import find_device
from tfbn.runtime.selftest import check_trains, xla_works

ELEMENTS = 2**24  # a layer, in one timed run
PAUSE = 0.02  # seconds
SHAPES = [
    ((32, 128), -1),
    ((256, 1024), -1),
    ((4096, 256), -1),
    ((64, 100, 128), -1),
    ((64, 32, 32, 32), -1),
    ((32, 56, 56, 64), -1),
    ((32, 7, 7, 512), -1),
    ((32, 64, 28, 28), 1),
]
CASES = [
    *itertools.product(SHAPES, ("training", "inference"), ("graph", "XLA"), ("float32",), (0.0,)),
    *itertools.product(SHAPES, ("training",), ("graph",), ("float32",), (5.0,)),
    *itertools.product(SHAPES[4:6], ("training",), ("graph", "XLA"), ("mixed_bfloat16",), (0.0,)),
]


def layer(repeats=7, device="auto", cases=CASES, on_case=None):
    """Time a layer in each case, its peers in turn in one process.

    Args:
        repeats: int, runs of each peer in each case. The first, which compiles, is not counted.
            Default 7.
        device: str, as in `tfbn.devices.find_device`. Default "auto": the first GPU, else the CPU.
        cases: list of ((shape, axis), "training" or "inference", "graph" or "XLA", dtype policy, mean
            of the standard normal inputs). Default `CASES`. Those of XLA are left out where it fails.
        on_case: function that is told each case. Default None.

    Returns:
        dict: `rows`, one a case with its settings, `milliseconds` of "tfbn", "keras", "torch" (eager,
        beside graph and float32, where installed for the device) and "copy" (of the input), medians, and
        `ratio`, the same over tfbn's; and where they come from.

    Raises:
        ValueError: `repeats` is below 1, or there is no such device, or none that trains.
    """
    device = find_device(device)
    check_trains(device)
    rows = []
    for (shape, axis), run, mode, dtype, mean in cases:
        if mode == "XLA" and not xla_works(device):
            continue
        case = dict(shape=list(shape), axis=axis, run=run, mode=mode, dtype=dtype, mean=mean)
        if on_case is not None:
            on_case(_words(case))
        calls = min(100, max(1, ELEMENTS // int(np.prod(shape))))
        with tf.device(device):
            peers = _peers(**case, calls=calls, torch_device=timing.torch_device(device))
            times, _ = timing.alternate(peers, repeats, pause=PAUSE)
        milliseconds = {name: float(np.median(seconds)) / calls * 1e3 for name, seconds in times.items()}
        ratio = {name: value / milliseconds["tfbn"] for name, value in milliseconds.items()}
        rows.append(case | {"milliseconds": milliseconds, "ratio": ratio})
    return {"rows": rows, "repeats": repeats, **timing.provenance(device)}


def table(result):
    """The result of `layer` as text."""
    lines = [
        f"One layer, milliseconds, on {result['device']}: median of {result['repeats']} alternating runs",
        f"{'':<43}{'tfbn':>7}{'Keras':>7}{'torch':>7}{'copy':>7}{'Keras/tfbn':>12}{'torch/tfbn':>12}",
    ]
    for row in result["rows"]:
        cells = [
            f"{row['milliseconds'][name]:>7.2f}" if name in row["milliseconds"] else f"{'':>7}"
            for name in ("tfbn", "keras", "torch", "copy")
        ]
        cells += [
            f"{row['ratio'][name]:>12.2f}" if name in row["ratio"] else "" for name in ("keras", "torch")
        ]
        lines.append(f"{_words(row):<43}{''.join(cells)}")
    return "\n".join(lines)


def _words(case):
    shape = "x".join(map(str, case["shape"])) + (" first" if case["axis"] == 1 else "")
    mean = f" mean {case['mean']:.0f}" if case["mean"] else ""
    dtype = " bfloat16" if case["dtype"] == "mixed_bfloat16" else ""
    return f"{shape:<18}{case['run']} {case['mode']}{mean}{dtype}"


def _peers(shape, axis, run, mode, dtype, mean, calls, torch_device):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype("float32") for _ in range(2))
    x += mean
    compute_dtype = keras.dtype_policies.get(dtype).compute_dtype
    tensors = [tf.cast(value, compute_dtype) for value in (x, dy)]

    def calls_of(function, *inputs):
        def run():
            outputs = [function(*inputs) for _ in range(calls)]
            tf.test.experimental.sync_devices()  # A GPU returns from a call before it is done.
            return outputs[-1]

        return run

    kinds = {"tfbn": BatchNormalization, "keras": keras.layers.BatchNormalization}
    peers = {
        name: calls_of(_step(kind, shape, axis, run, mode, dtype, mean), *tensors)
        for name, kind in kinds.items()
    }
    if mode == "graph" and dtype == "float32" and torch_device is not None:
        peers["torch"] = _torch(x, dy, axis, run, mean, calls, torch_device)
    copy = tf.function(lambda x: tf.raw_ops.DeepCopy(x=x), autograph=False)
    peers["copy"] = calls_of(copy, tensors[0])
    return peers


def _step(kind, shape, axis, run, mode, dtype, mean):
    """A compiled function of the input and the gradient of the output."""
    # The output is then like the input, and as wide of zero.
    layer = kind(axis=axis, dtype=dtype, beta_initializer=keras.initializers.Constant(mean))
    layer.build(shape)

    def train(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, *tape.gradient(y, [x, *layer.trainable_variables], dy)  # what is not returned is not run

    def infer(x, dy):
        return [layer(x, training=False)]

    spec = tf.TensorSpec([None, *shape[1:]], layer.compute_dtype)
    return tf.function(
        train if run == "training" else infer,
        input_signature=[spec, spec],
        jit_compile=mode == "XLA",
        autograph=False,
    )


def _torch(x, dy, axis, run, mean, calls, device="cpu"):
    """PyTorch's layer in its own layout, channels first; the number returned waits for the device."""
    import torch
    from torch import nn

    def tensor(value):
        value = np.ascontiguousarray(value if axis == 1 else np.moveaxis(value, -1, 1))
        return torch.from_numpy(value).to(device)

    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[dy.ndim]
    x, dy = tensor(x).requires_grad_(run == "training"), tensor(dy)
    layer = kind(dy.shape[1], eps=1e-3, momentum=0.01).to(device)
    nn.init.constant_(layer.bias, mean)

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
