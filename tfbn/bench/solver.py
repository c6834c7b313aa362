"""How long a training step takes on this machine: ours beside Keras', PyTorch's and JAX'.

Each peer trains the same two nets as `tfbn compare` does (784-32-32-10 with ReLU, with and without batch
norm, Adam at 0.01, batches of 32) on the same arrays, in memory, in the same order; or from the same
`tf.data.Dataset`, as data come that memory does not hold.
"""

from __future__ import annotations

import concurrent.futures
import os

import keras
import numpy as np
import tensorflow as tf

from tfbn.bench import timing
from tfbn.foundation.provenance import is_installed
from tfbn.models import Model
from tfbn.runtime.devices import find_device
from tfbn.runtime.selftest import xla_works
from tfbn.training.solver import Solver

EXAMPLES, INPUTS, CLASSES, WIDTH, BATCH_SIZE, LEARNING_RATE = 55_000, 784, 10, 32, 32, 0.01
STEPS_AN_EPOCH = EXAMPLES // BATCH_SIZE


def solver(steps=STEPS_AN_EPOCH, repeats=5, device="auto", stream=False, on_run=None):
    """Time a step of both nets, all peers in turn in one process, so that the machine's moods hit all.

    Args:
        steps: int, steps a run. Default 1,718, an epoch.
        repeats: int, runs of each peer. The first run of each, which compiles, is not counted.
            Default 5.
        device: str, as in `tfbn.devices.find_device`. Default "auto": the first GPU, else the CPU. Peers
            that are not installed for it, or need XLA where that fails, are left out.
        stream: bool, whether to time `Solver.fit` and `keras.Model.fit` on a dataset that shuffles, one net
            after the other, with the others left out. Default False.
        on_run: function that is told the name of each run. Default None.

    Returns:
        dict: `rows`, one a peer with `name`, `microseconds` (median, a step of both nets),
        `fastest` and `slowest` run, `epochs_per_second`, `ratio` (its median over
        ours), `loss` (mean over its last run, both nets); and where they come from.

    Raises:
        ValueError: `steps` or `repeats` is below 1 or over an epoch, or there is no such
            device, or none that trains.
    """
    if not 1 <= steps <= STEPS_AN_EPOCH or repeats < 1:
        raise ValueError(
            f"`steps` must be from 1 to {STEPS_AN_EPOCH}, `repeats` 1 or more. "
            f"Received: steps={steps}, repeats={repeats}."
        )
    rng = np.random.default_rng(0)
    x = rng.random([EXAMPLES, INPUTS], dtype="float32")
    y = np.argmax((x - 0.5) @ rng.normal(size=[INPUTS, CLASSES]), axis=1).astype("int32")
    order = rng.permutation(EXAMPLES)[: steps * BATCH_SIZE].astype("int32")
    device = find_device(device)
    given = {"x": x[order], "y": y[order], "batch_size": BATCH_SIZE, "shuffle": False}
    if stream:
        examples = tf.data.Dataset.from_tensor_slices((given["x"], given["y"])).shuffle(10_000, seed=0)
        given = {"x": examples.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE), "shuffle": False}
    with tf.device(device):
        peers = {
            "tfbn": _ours_streaming(given["x"], device) if stream else _ours(x, y, order, device),
            # On a GPU, Keras would take XLA unasked.
            "keras.Model.fit": _keras(given, jit_compile=False),
        }
        if xla_works(device):
            peers["keras.Model.fit, XLA, 200 steps a call"] = _keras(
                given, jit_compile=True, steps_per_execution=200
            )
        torch_device, jax_device = (
            (None, None) if stream else (timing.torch_device(device), _jax_device(device))
        )
        if torch_device is not None:
            peers["PyTorch eager, fused Adam"] = _torch(x, y, order, torch_device)
        if jax_device is not None:
            peers["JAX scan"] = _jax(x, y, order, jax_device, a_thread_each=False)
            peers["JAX scan, a thread for each net"] = _jax(x, y, order, jax_device, a_thread_each=True)

        times, losses = timing.alternate(peers, repeats, on_run=on_run)
    times = {name: [seconds / steps * 1e6 for seconds in runs] for name, runs in times.items()}
    rows = []
    for name in peers:
        median = float(np.median(times[name]))
        rows.append(
            {
                "name": name,
                "microseconds": median,
                "fastest": min(times[name]),
                "slowest": max(times[name]),
                "epochs_per_second": 1e6 / (median * STEPS_AN_EPOCH),
                "ratio": median / float(np.median(times["tfbn"])),
                "loss": losses[name],
            }
        )
    return {"rows": rows, "steps": steps, "repeats": repeats, "stream": stream, **timing.provenance(device)}


def table(result):
    """The result of `solver` as text."""
    source = " of a tf.data.Dataset" if result["stream"] else ""
    lines = [
        f"A training step of both nets, batch {BATCH_SIZE}{source}, on {result['device']}: "
        f"median of {result['repeats']} alternating runs of {result['steps']} steps",
        f"{'':<40}{'µs':>8}{'fastest':>10}{'slowest':>10}{'epochs/s':>10}{'x ours':>8}",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['name']:<40}{row['microseconds']:>8.0f}{row['fastest']:>10.0f}{row['slowest']:>10.0f}"
            f"{row['epochs_per_second']:>10.2f}{row['ratio']:>8.2f}"
        )
    return "\n".join(lines)


def _both(run, threads=2):
    """A function that runs both nets, a thread each, and gives their mean loss."""
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    return lambda: float(np.mean(list(pool.map(run, (True, False)))))


def _solver(batchnorm, device):
    model = Model(INPUTS, CLASSES, (WIDTH, WIDTH), use_batchnorm=batchnorm, seed=0)
    return Solver(model, "adam", LEARNING_RATE, device=device)


def _ours(x, y, order, device):
    solvers = {batchnorm: _solver(batchnorm, device) for batchnorm in (True, False)}
    arrays = solvers[True].prepare(x, y)
    solvers[False].prepare(arrays)

    def run(batchnorm):
        return solvers[batchnorm].train_epoch(arrays, order, BATCH_SIZE)["loss"]

    return _both(run, threads=2 if device.startswith("cpu") else 1)  # As `tfbn.compare` does.


def _ours_streaming(dataset, device):
    solvers = [_solver(batchnorm, device) for batchnorm in (True, False)]
    return lambda: float(np.mean([solver.fit(dataset)["loss"] for solver in solvers]))


def _keras(given, **compile_options):
    def net(batchnorm):
        layers = [keras.Input([INPUTS])]
        for _ in range(2):
            layers += [keras.layers.Dense(WIDTH)]
            layers += [keras.layers.BatchNormalization()] if batchnorm else []
            layers += [keras.layers.ReLU()]
        model = keras.Sequential([*layers, keras.layers.Dense(CLASSES)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.Adam(LEARNING_RATE)
        model.compile(optimizer, loss, metrics=["accuracy"], **compile_options)
        return model

    nets = [net(True), net(False)]

    def run():
        fits = [model.fit(**given, verbose=0) for model in nets]
        return float(np.mean([fit.history["loss"] for fit in fits]))

    return run


def _torch(x, y, order, device):
    import torch
    from torch import nn

    def net(batchnorm):
        layers, width = [], INPUTS
        for _ in range(2):
            layers += [nn.Linear(width, WIDTH)]
            layers += [nn.BatchNorm1d(WIDTH, eps=1e-3, momentum=0.01)] if batchnorm else []
            layers += [nn.ReLU()]
            width = WIDTH
        return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)).to(device)

    nets = [net(True), net(False)]
    optimizers = [torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True) for model in nets]
    x, y, order = (torch.from_numpy(array).to(device) for array in (x, y.astype("int64"), order))

    def run():
        total = 0.0
        for batch in order.split(BATCH_SIZE):
            inputs, labels = x[batch], y[batch]
            for model, optimizer in zip(nets, optimizers, strict=True):
                loss = nn.functional.cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
        return float(total) * BATCH_SIZE / len(order) / 2

    return run


def _jax_device(device):
    """JAX' own name for a device; None where there is no JAX, or none that knows the device."""
    if not is_installed("jax"):
        return None
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Else it takes most of a GPU's memory.
    import jax

    kind, number = device.split(":")
    try:
        return jax.devices(kind)[0 if kind == "cpu" else int(number)]
    except (RuntimeError, IndexError):
        return None


def _jax(x, y, order, device, a_thread_each):
    import jax
    from jax import numpy as jnp

    def initial(batchnorm):
        rng = np.random.default_rng(0)
        parameters, averages = [], []
        for inputs, outputs in ((INPUTS, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES)):
            limit = np.sqrt(6 / (inputs + outputs))
            layer = {"kernel": rng.uniform(-limit, limit, [inputs, outputs]), "bias": np.zeros(outputs)}
            if batchnorm and len(parameters) < 2:
                layer |= {"gamma": np.ones(outputs), "beta": np.zeros(outputs)}
                averages.append((np.zeros(outputs), np.ones(outputs)))
            parameters.append(layer)
        zeros = jax.tree.map(np.zeros_like, parameters)
        state = parameters, averages, zeros, zeros, 0.0
        return jax.device_put(jax.tree.map(lambda value: jnp.asarray(value, "float32"), state), device)

    def loss_of(parameters, averages, inputs, labels):
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

    def train_step(state, inputs, labels):
        parameters, averages, first, second, count = state
        (loss, averages), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            parameters, averages, inputs, labels
        )
        count += 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
        rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        parameters = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-7), parameters, first, second
        )
        return (parameters, averages, first, second, count), loss

    @jax.jit
    def epoch(states, x, y, batches):
        def step(states, batch):
            results = [train_step(state, x[batch], y[batch]) for state in states]
            return [state for state, _ in results], jnp.mean(jnp.stack([loss for _, loss in results]))

        return jax.lax.scan(step, states, batches)

    x, y, batches = jax.device_put((x, y, order.reshape(-1, BATCH_SIZE)), device)

    def train(states):
        states[:], losses = epoch(states, x, y, batches)
        return float(losses.mean())

    if not a_thread_each:
        both = [initial(True), initial(False)]
        return lambda: train(both)
    single = {batchnorm: [initial(batchnorm)] for batchnorm in (True, False)}
    return _both(lambda batchnorm: train(single[batchnorm]))
