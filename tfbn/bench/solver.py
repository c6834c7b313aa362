"""Time a training step on this machine: ours beside Keras', PyTorch's and JAX'.

Each peer trains the same two nets as `tfbn compare` does (784-32-32-10 with ReLU, with and without batch
norm, Adam at 0.01, batches of 32). All read the same arrays in memory, in the same order, or the same
`tf.data.Dataset`, which stands for data larger than memory.
"""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.bench import timing
from tfbn.foundation import arguments
from tfbn.foundation.provenance import is_installed
from tfbn.models import Model
from tfbn.runtime.devices import find_device
from tfbn.runtime.selftest import xla_works
from tfbn.training.solver import Solver

if is_installed("jax"):
    import jax
    from jax import numpy as jnp

EXAMPLES, INPUTS, CLASSES, WIDTH, BATCH_SIZE, LEARNING_RATE = 55_000, 784, 10, 32, 32, 0.01
STEPS_PER_EPOCH = EXAMPLES // BATCH_SIZE
Run = Callable[[], float]  # Trains both nets for one run and returns their mean loss.


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
        device: as in `tfbn.runtime.devices.find_device`. Default "auto": the first GPU, else the CPU. Peers
            that are not installed for the device are left out, and so is XLA where it fails.
        stream: whether to time `Solver.fit` and `keras.Model.fit` alone, on a dataset that shuffles, one
            net after the other. Default False.
        on_run: called with the name of each run. Default None.

    Returns:
        `rows`, one for each peer, and where the numbers come from. A row has `name`, `microseconds`
        (median, a step of both nets), `fastest`, `slowest`, `epochs_per_second`, `ratio` (its median over
        ours) and `loss` (mean over its last run, both nets).

    Raises:
        TypeError, ValueError: `steps` or `repeats` is not a positive integer, `steps` is over an epoch,
            the device does not exist, or no network trains on it.
    """
    steps = arguments.integer("steps", steps, at_least=1, at_most=STEPS_PER_EPOCH)
    repeats = arguments.integer("repeats", repeats, at_least=1)
    device = find_device(device)
    rng = np.random.default_rng(0)
    x = rng.random([EXAMPLES, INPUTS], dtype="float32")
    y = np.argmax((x - 0.5) @ rng.normal(size=[INPUTS, CLASSES]), axis=1).astype("int32")
    order = rng.permutation(EXAMPLES)[: steps * BATCH_SIZE].astype("int32")
    with tf.device(device):
        peers = _peers(x, y, order, device, stream)
        seconds, losses = timing.alternate(peers, repeats, on_run=on_run)
    times = {name: np.asarray(values) / steps * 1e6 for name, values in seconds.items()}
    medians = {name: float(np.median(values)) for name, values in times.items()}
    rows = [
        {
            "name": name,
            "microseconds": medians[name],
            "fastest": float(times[name].min()),
            "slowest": float(times[name].max()),
            "epochs_per_second": 1e6 / (medians[name] * STEPS_PER_EPOCH),
            "ratio": medians[name] / medians["tfbn"],
            "loss": losses[name],
        }
        for name in times
    ]
    return {"rows": rows, "steps": steps, "repeats": repeats, "stream": stream, **timing.provenance(device)}


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


def _peers(x: np.ndarray, y: np.ndarray, order: np.ndarray, device: str, stream: bool) -> dict[str, Run]:
    if stream:
        examples = tf.data.Dataset.from_tensor_slices((x[order], y[order])).shuffle(10_000, seed=0)
        data = {"x": examples.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)}
        runs = {"tfbn": _tfbn_stream(data["x"], device)}
    else:
        data = {"x": x[order], "y": y[order], "batch_size": BATCH_SIZE}
        runs = {"tfbn": _tfbn_epoch(x, y, order, device)}
    runs["keras.Model.fit"] = _keras_fit(data, jit_compile=False)  # On a GPU, XLA is Keras' default.
    if xla_works(device):
        options = dict(jit_compile=True, steps_per_execution=200)
        runs["keras.Model.fit, XLA, 200 steps a call"] = _keras_fit(data, **options)
    if stream:
        return runs
    torch_device, jax_device = timing.torch_device(device), _jax_device(device)
    if torch_device is not None:
        runs["PyTorch eager, fused Adam"] = _torch_epoch(x, y, order, torch_device)
    if jax_device is not None:
        runs["JAX scan"] = _jax_epoch(x, y, order, jax_device, thread_per_net=False)
        runs["JAX scan, a thread for each net"] = _jax_epoch(x, y, order, jax_device, thread_per_net=True)
    return runs


def _both(train: Callable[[bool], float], threads: int = 2) -> Run:
    """Return a function that trains both nets, in a thread each, and returns their mean loss."""
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    return lambda: float(np.mean(list(pool.map(train, (True, False)))))


def _solver(batchnorm: bool, device: str) -> Solver:
    model = Model(INPUTS, CLASSES, (WIDTH, WIDTH), use_batchnorm=batchnorm, seed=0)
    return Solver(model, "adam", LEARNING_RATE, device=device)


def _tfbn_epoch(x: np.ndarray, y: np.ndarray, order: np.ndarray, device: str) -> Run:
    """Return a run of `Solver.train_epoch` on the rows in `order`."""
    solvers = {batchnorm: _solver(batchnorm, device) for batchnorm in (True, False)}
    arrays = solvers[True].prepare(x, y)
    solvers[False].prepare(arrays)

    def train(batchnorm):
        return solvers[batchnorm].train_epoch(arrays, order, BATCH_SIZE)["loss"]

    return _both(train, threads=2 if device.startswith("cpu") else 1)  # As `tfbn.compare` does.


def _tfbn_stream(dataset: tf.data.Dataset, device: str) -> Run:
    """Return a run of `Solver.fit` on a dataset of batches, one net after the other."""
    solvers = [_solver(batchnorm, device) for batchnorm in (True, False)]
    return lambda: float(np.mean([solver.fit(dataset)["loss"] for solver in solvers]))


def _keras_fit(data: dict[str, Any], **compile_options: Any) -> Run:
    """Return a run of `keras.Model.fit`, one net after the other."""

    def build(batchnorm):
        layers = [keras.Input([INPUTS])]
        for _ in range(2):
            norm = [keras.layers.BatchNormalization()] if batchnorm else []
            layers += [keras.layers.Dense(WIDTH), *norm, keras.layers.ReLU()]
        model = keras.Sequential([*layers, keras.layers.Dense(CLASSES)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(LEARNING_RATE), loss, metrics=["accuracy"], **compile_options)
        return model

    nets = [build(True), build(False)]

    def run():
        fits = [net.fit(**data, shuffle=False, verbose=0) for net in nets]
        return float(np.mean([fit.history["loss"] for fit in fits]))

    return run


def _torch_epoch(x: np.ndarray, y: np.ndarray, order: np.ndarray, device: str) -> Run:
    """Return a run of PyTorch, eager with fused Adam, on the rows in `order`."""
    import torch

    def build(batchnorm):
        layers = []
        for inputs in (INPUTS, WIDTH):
            norm = [torch.nn.BatchNorm1d(WIDTH, eps=1e-3, momentum=0.01)] if batchnorm else []
            layers += [torch.nn.Linear(inputs, WIDTH), *norm, torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, CLASSES)).to(device)

    nets = [build(True), build(False)]
    optimizers = [torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True) for net in nets]
    x, y, order = (torch.from_numpy(array).to(device) for array in (x, y.astype("int64"), order))

    def run():
        total = 0.0
        for batch in order.split(BATCH_SIZE):
            inputs, labels = x[batch], y[batch]
            for net, optimizer in zip(nets, optimizers, strict=True):
                loss = torch.nn.functional.cross_entropy(net(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
        return float(total) * BATCH_SIZE / len(order) / 2

    return run


def _jax_device(device: str) -> Any:
    """Return JAX' device object; None where JAX is missing or does not see the device."""
    if not is_installed("jax"):
        return None
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Else it takes most of a GPU's memory.
    kind, number = device.split(":")
    try:
        return jax.devices(kind)[0 if kind == "cpu" else int(number)]
    except (RuntimeError, IndexError):
        return None


def _jax_epoch(x: np.ndarray, y: np.ndarray, order: np.ndarray, device: Any, thread_per_net: bool) -> Run:
    """Return a run of JAX: both nets in one compiled scan, or a scan and a thread for each net."""
    x, y, batches = jax.device_put((x, y, order.reshape(-1, BATCH_SIZE)), device)

    @jax.jit
    def scan(states, x, y, batches):
        def step(states, batch):
            results = [_jax_adam_step(state, x[batch], y[batch]) for state in states]
            return [state for state, _ in results], jnp.mean(jnp.stack([loss for _, loss in results]))

        return jax.lax.scan(step, states, batches)

    def train(states):
        states[:], losses = scan(states, x, y, batches)
        return float(losses.mean())

    states = [jax.device_put(_jax_state(batchnorm), device) for batchnorm in (True, False)]
    if not thread_per_net:
        return lambda: train(states)
    single = {True: states[:1], False: states[1:]}
    return _both(lambda batchnorm: train(single[batchnorm]))


def _jax_state(batchnorm: bool) -> tuple:
    """Return a net's parameters and moving averages, and Adam's moments and step count."""
    rng = np.random.default_rng(0)
    parameters: list[dict[str, np.ndarray]] = []
    averages = []
    for inputs, outputs in ((INPUTS, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES)):
        limit = np.sqrt(6 / (inputs + outputs))
        layer = {"kernel": rng.uniform(-limit, limit, [inputs, outputs]), "bias": np.zeros(outputs)}
        if batchnorm and len(parameters) < 2:
            layer |= {"gamma": np.ones(outputs), "beta": np.zeros(outputs)}
            averages.append((np.zeros(outputs), np.ones(outputs)))
        parameters.append(layer)
    zeros = jax.tree.map(np.zeros_like, parameters)
    state = parameters, averages, zeros, zeros, 0.0
    return jax.tree.map(lambda value: jnp.asarray(value, "float32"), state)


def _jax_adam_step(state, inputs, labels):
    parameters, averages, first, second, count = state
    gradient_of = jax.value_and_grad(_jax_loss, has_aux=True)
    (loss, averages), gradients = gradient_of(parameters, averages, inputs, labels)
    count += 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    steps = jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v) + 1e-7), first, second)
    parameters = jax.tree.map(jnp.subtract, parameters, steps)
    return (parameters, averages, first, second, count), loss


def _jax_loss(parameters, averages, inputs, labels):
    """Return the mean cross-entropy of a batch and the updated moving averages."""
    updated = []
    for index, layer in enumerate(parameters):
        inputs = inputs @ layer["kernel"] + layer["bias"]
        if "gamma" in layer:
            mean, variance = inputs.mean(0), inputs.var(0)
            inputs = layer["gamma"] * (inputs - mean) * jax.lax.rsqrt(variance + 1e-3) + layer["beta"]
            old_mean, old_variance = averages[index]
            updated.append((0.99 * old_mean + 0.01 * mean, 0.99 * old_variance + 0.01 * variance))
        if index < len(parameters) - 1:
            inputs = jax.nn.relu(inputs)
    of_label = jnp.take_along_axis(jax.nn.log_softmax(inputs), labels[:, None], 1)
    return -of_label.mean(), updated
