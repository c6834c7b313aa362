"""Time a training step on this machine: ours beside Keras', PyTorch's and JAX'.

Each peer trains the same two nets as `tfbn compare` does (784-32-32-10 with ReLU, with and without batch
norm, Adam at 0.01, batches of 32). All read the same arrays in memory, in the same order, or the same
`tf.data.Dataset`, which stands for data larger than memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfbn.bench import peers, timing
from tfbn.bench.peers import BATCH_SIZE, CLASSES, INPUTS
from tfbn.foundation.arguments import integer
from tfbn.runtime.devices import find_device
from tfbn.runtime.selftest import xla_works

EXAMPLES = 55_000
STEPS_PER_EPOCH = EXAMPLES // BATCH_SIZE


def solver(
    steps: int = STEPS_PER_EPOCH,
    repeats: int = 5,
    device: str = "auto",
    stream: bool = False,
    on_run: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Time a step of both nets, all peers alternately in one process.

    Args:
        steps: steps of a run. Default 1,718, an epoch.
        repeats: runs of each peer, after one that compiles and is not counted. Default 5.
        device: as in `tfbn.devices.find_device`. Default "auto": the first GPU, else the CPU. Peers that
            are not installed for the device are left out, and so is XLA where it fails.
        stream: whether to time `Solver.fit` and `keras.Model.fit` alone, on a dataset that shuffles, one
            net after the other. Default False.
        on_run: called with the name of each run. Default None.

    Returns:
        `rows`, one for each peer, and where the numbers come from. A row has `name`, `microseconds`
        (median, a step of both nets), `fastest`, `slowest`, `epochs_per_second`, `ratio` (its median over
        ours) and `loss` (mean over its last run, both nets).

    Raises:
        TypeError: `steps` or `repeats` is not an integer.
        ValueError: `steps` is below 1 or over an epoch, `repeats` is below 1, the device does not exist,
            or no network trains on it.
    """
    steps = integer("steps", steps, at_least=1, at_most=STEPS_PER_EPOCH)
    repeats = integer("repeats", repeats, at_least=1)
    x, y, order = _data(steps)
    device = find_device(device)
    with tf.device(device):
        runs = _stream_peers(x[order], y[order], device) if stream else _array_peers(x, y, order, device)
        seconds, losses = timing.alternate(runs, repeats, on_run=on_run)
    times = {name: np.asarray(values) / steps * 1e6 for name, values in seconds.items()}
    ours = float(np.median(times["tfbn"]))
    rows = [_row(name, values, ours, losses[name]) for name, values in times.items()]
    return {"rows": rows, "steps": steps, "repeats": repeats, "stream": stream, **timing.provenance(device)}


def _data(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, labels and the order of the rows of one run."""
    rng = np.random.default_rng(0)
    x = rng.random([EXAMPLES, INPUTS], dtype="float32")
    y = np.argmax((x - 0.5) @ rng.normal(size=[INPUTS, CLASSES]), axis=1).astype("int32")
    return x, y, rng.permutation(EXAMPLES)[: steps * BATCH_SIZE].astype("int32")


def _array_peers(x: np.ndarray, y: np.ndarray, order: np.ndarray, device: str) -> dict[str, peers.Run]:
    runs = {"tfbn": peers.tfbn_epoch(x, y, order, device)}
    runs |= _keras_peers({"x": x[order], "y": y[order], "batch_size": BATCH_SIZE}, device)
    torch_device, jax_device = timing.torch_device(device), peers.jax_device(device)
    if torch_device is not None:
        runs["PyTorch eager, fused Adam"] = peers.torch_epoch(x, y, order, torch_device)
    if jax_device is not None:
        for name, thread_per_net in (("JAX scan", False), ("JAX scan, a thread for each net", True)):
            runs[name] = peers.jax_epoch(x, y, order, jax_device, thread_per_net)
    return runs


def _stream_peers(x: np.ndarray, y: np.ndarray, device: str) -> dict[str, peers.Run]:
    examples = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(10_000, seed=0)
    batches = examples.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    return {"tfbn": peers.tfbn_stream(batches, device)} | _keras_peers({"x": batches}, device)


def _keras_peers(data: dict[str, Any], device: str) -> dict[str, peers.Run]:
    options = data | {"shuffle": False}
    # On a GPU, Keras would choose XLA by default.
    runs = {"keras.Model.fit": peers.keras_fit(options, jit_compile=False)}
    if xla_works(device):
        name = "keras.Model.fit, XLA, 200 steps a call"
        runs[name] = peers.keras_fit(options, jit_compile=True, steps_per_execution=200)
    return runs


def _row(name: str, microseconds: np.ndarray, ours: float, loss: float) -> dict[str, Any]:
    median = float(np.median(microseconds))
    return {
        "name": name,
        "microseconds": median,
        "fastest": float(microseconds.min()),
        "slowest": float(microseconds.max()),
        "epochs_per_second": 1e6 / (median * STEPS_PER_EPOCH),
        "ratio": median / ours,
        "loss": loss,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result of `solver` as a text table."""
    source = " of a tf.data.Dataset" if result["stream"] else ""
    title = (
        f"A training step of both nets, batch {BATCH_SIZE}{source}, on {result['device']}: "
        f"median of {result['repeats']} runs of {result['steps']} steps"
    )
    header = ["", "µs", "fastest", "slowest", "epochs/s", "x ours"]
    styles = dict(microseconds=".0f", fastest=".0f", slowest=".0f", epochs_per_second=".2f", ratio=".2f")
    rows = [
        [row["name"], *(format(row[key], style) for key, style in styles.items())] for row in result["rows"]
    ]
    return timing.titled_table(title, header, rows, labels=1)
