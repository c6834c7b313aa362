"""The peers of `bench.solver`: functions that train both nets for one run and return their mean loss.

Both nets are those of `tfbn compare`: 784-32-32-10 with ReLU, with and without batch norm, Adam at 0.01.
"""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbn.foundation.provenance import is_installed
from tfbn.models import Model
from tfbn.training.solver import Solver

INPUTS, CLASSES, WIDTH, BATCH_SIZE, LEARNING_RATE = 784, 10, 32, 32, 0.01

if is_installed("jax"):
    import jax

Run = Callable[[], float]


def _both(train: Callable[[bool], float], threads: int = 2) -> Run:
    """Return a function that trains both nets, in a thread each, and returns their mean loss."""
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    return lambda: float(np.mean(list(pool.map(train, (True, False)))))


def _solver(batchnorm: bool, device: str) -> Solver:
    model = Model(INPUTS, CLASSES, (WIDTH, WIDTH), use_batchnorm=batchnorm, seed=0)
    return Solver(model, "adam", LEARNING_RATE, device=device)


def tfbn_epoch(x: np.ndarray, y: np.ndarray, order: np.ndarray, device: str) -> Run:
    """Return a run of `Solver.train_epoch` on the rows in `order`."""
    solvers = {batchnorm: _solver(batchnorm, device) for batchnorm in (True, False)}
    arrays = solvers[True].prepare(x, y)
    solvers[False].prepare(arrays)

    def train(batchnorm):
        return solvers[batchnorm].train_epoch(arrays, order, BATCH_SIZE)["loss"]

    return _both(train, threads=2 if device.startswith("cpu") else 1)  # As `tfbn.compare` does.


def tfbn_stream(dataset: tf.data.Dataset, device: str) -> Run:
    """Return a run of `Solver.fit` on a dataset of batches, one net after the other."""
    solvers = [_solver(batchnorm, device) for batchnorm in (True, False)]
    return lambda: float(np.mean([solver.fit(dataset)["loss"] for solver in solvers]))


def keras_fit(fit_options: dict[str, Any], **compile_options: Any) -> Run:
    """Return a run of `keras.Model.fit`, one net after the other."""
    nets = [_keras_net(True, compile_options), _keras_net(False, compile_options)]

    def run():
        fits = [net.fit(**fit_options, verbose=0) for net in nets]
        return float(np.mean([fit.history["loss"] for fit in fits]))

    return run


def _keras_net(batchnorm: bool, compile_options: dict[str, Any]) -> keras.Model:
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


def torch_epoch(x: np.ndarray, y: np.ndarray, order: np.ndarray, device: str) -> Run:
    """Return a run of PyTorch, eager with fused Adam, on the rows in `order`."""
    import torch
    from torch import nn

    nets = [_torch_net(batchnorm).to(device) for batchnorm in (True, False)]
    optimizers = [torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True) for net in nets]
    x, y, order = (torch.from_numpy(array).to(device) for array in (x, y.astype("int64"), order))

    def run():
        total = 0.0
        for batch in order.split(BATCH_SIZE):
            inputs, labels = x[batch], y[batch]
            for net, optimizer in zip(nets, optimizers, strict=True):
                loss = nn.functional.cross_entropy(net(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
        return float(total) * BATCH_SIZE / len(order) / 2

    return run


def _torch_net(batchnorm: bool) -> Any:
    from torch import nn

    layers, width = [], INPUTS
    for _ in range(2):
        layers += [nn.Linear(width, WIDTH)]
        layers += [nn.BatchNorm1d(WIDTH, eps=1e-3, momentum=0.01)] if batchnorm else []
        layers += [nn.ReLU()]
        width = WIDTH
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def jax_device(device: str) -> Any:
    """Return JAX' device object; None where JAX is missing or does not see the device."""
    if not is_installed("jax"):
        return None
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Else it takes most of a GPU's memory.
    kind, number = device.split(":")
    try:
        return jax.devices(kind)[0 if kind == "cpu" else int(number)]
    except (RuntimeError, IndexError):
        return None


def jax_epoch(x: np.ndarray, y: np.ndarray, order: np.ndarray, device: Any, thread_per_net: bool) -> Run:
    """Return a run of JAX: both nets in one compiled scan, or a scan and a thread for each net."""
    x, y, batches = jax.device_put((x, y, order.reshape(-1, BATCH_SIZE)), device)
    scan = jax.jit(_jax_scan)

    def train(states):
        states[:], losses = scan(states, x, y, batches)
        return float(losses.mean())

    states = {batchnorm: jax.device_put(_jax_state(batchnorm), device) for batchnorm in (True, False)}
    if not thread_per_net:
        both = list(states.values())
        return lambda: train(both)
    single = {batchnorm: [state] for batchnorm, state in states.items()}
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
    return jax.tree.map(lambda value: jax.numpy.asarray(value, "float32"), state)


def _jax_scan(states, x, y, batches):
    """Train each net on each batch; return the states and the nets' mean loss of each batch."""

    def step(states, batch):
        results = [_jax_train_step(state, x[batch], y[batch]) for state in states]
        return [state for state, _ in results], jax.numpy.mean(
            jax.numpy.stack([loss for _, loss in results])
        )

    return jax.lax.scan(step, states, batches)


def _jax_train_step(state, inputs, labels):
    """Take one step of Adam on one batch."""
    parameters, averages, first, second, count = state
    gradient_of = jax.value_and_grad(_jax_loss, has_aux=True)
    (loss, averages), gradients = gradient_of(parameters, averages, inputs, labels)
    count += 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    rate = LEARNING_RATE * jax.numpy.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    parameters = jax.tree.map(
        lambda p, m, v: p - rate * m / (jax.numpy.sqrt(v) + 1e-7), parameters, first, second
    )
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
    of_label = jax.numpy.take_along_axis(jax.nn.log_softmax(inputs), labels[:, None], 1)
    return -of_label.mean(), updated
