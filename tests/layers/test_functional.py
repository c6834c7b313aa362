"""Batch normalization of tensors: outputs, and derivatives up to the third, against float64."""

import platform
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf
from parameters import thorough

from tfbn.keras_internals import runs_onednn
from tfbn.layers.functional import batch_normalize, renorm_corrections
from tfbn.layers.moments import moments

EPSILON = 1e-3
SHAPES = [
    ((64, 5), -1),
    ((8, 6, 5), -1),
    ((8, 5, 6), 1),
    ((4, 6, 6, 3), -1),
    ((4, 3, 6, 6), 1),
    ((2, 3, 4, 5, 6), 2),
]


def case(rng, shape, axis, masked, dtype=np.float32, mean=0.0, stddev=1.0):
    """Input, its axes to reduce, a mask, gamma, beta and dy, all random."""
    channels = shape[axis]
    broadcast = [1] * len(shape)
    broadcast[axis] = channels
    mask = rng.random(shape[:1] + (1,) * (len(shape) - 1)) < 0.7 if masked else None
    if masked:
        mask[0] = True
        mask = np.broadcast_to(mask, shape)
    return {
        "x": (mean + stddev * rng.normal(size=shape)).astype(dtype),
        "axes": [a for a in range(len(shape)) if a != axis % len(shape)],
        "mask": mask,
        "gamma": rng.normal(1, 0.3, channels).astype(dtype).reshape(broadcast),
        "beta": rng.normal(size=channels).astype(dtype).reshape(broadcast),
        "dy": rng.normal(size=shape).astype(dtype),
    }


def normalized(x, gamma, beta, axes, mask):
    return batch_normalize(x, moments(x, axes, mask), gamma, beta, EPSILON, axes, mask)


def outputs_and_gradients(axes):
    def step(x, gamma, beta, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch((x, gamma, beta))
            y = normalized(x, gamma, beta, axes, mask)
        return y, tape.gradient(y, (x, gamma, beta), dy)

    return step


COMPILATIONS = {
    "eager": outputs_and_gradients,
    "graph": lambda axes: tf.function(outputs_and_gradients(axes)),
    "XLA": lambda axes: tf.function(outputs_and_gradients(axes), jit_compile=True),
}


def right(c, axis):
    """y, dx, dgamma and dbeta in float64."""
    gamma, beta = c["gamma"].ravel(), c["beta"].ravel()
    y, _, _ = reference.forward(c["x"], gamma, beta, EPSILON, axis, c["mask"])
    return [y, *reference.backward(c["x"], c["dy"], gamma, EPSILON, axis, c["mask"])]


def errors(step, c, wanted):
    """Of y, dx, dgamma and dbeta, each relative to the scale of what is wanted."""
    mask = None if c["mask"] is None else tf.constant(c["mask"])
    y, gradients = step(*(tf.constant(c[name]) for name in ("x", "gamma", "beta", "dy")), mask)
    return [
        reference.error(tf.reshape(measured, expected.shape), expected)
        for measured, expected in zip((y, *gradients), wanted, strict=True)
    ]


@pytest.mark.parametrize("compilation", COMPILATIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_forward_and_backward_follow_the_paper(rng, shape, axis, masked, compilation):
    c = case(rng, shape, axis, masked)
    assert max(errors(COMPILATIONS[compilation](c["axes"]), c, right(c, axis))) < 2e-6


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((256, 8), -1), ((2560, 200), -1), ((8, 32, 32, 64), -1), ((16, 8, 8, 4), 1)]
)
def test_results_are_exact_however_far_the_mean_is_from_zero(rng, shape, axis, masked):
    """The second and third shape are large enough for the kernels of the fast path."""
    steps = {}
    for mean in (0.0, 1.0, 1e2, 1e3, 1e4):
        for stddev in (1e-2, 1.0, 1e2):
            c = case(rng, shape, axis, masked, mean=mean, stddev=stddev)
            steps = steps or {compilation: make(c["axes"]) for compilation, make in COMPILATIONS.items()}
            wanted = right(c, axis)
            for compilation, step in steps.items():
                assert max(errors(step, c, wanted)) < 2e-6, (compilation, mean, stddev)


def test_gradients_are_as_exact_with_the_other_kernels_of_tensorflow(python, monkeypatch):
    """In a process of its own, with oneDNN where this one is without it, or without."""
    asked = not runs_onednn()
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", str(int(asked)))
    printed = python(
        f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(reference.__file__).parent)]!r}
import numpy as np, test_functional as t
from tfbn.keras_internals import runs_onednn
c = t.case(np.random.default_rng(0), (64, 32, 32, 32), -1, False, mean=100.0)
print(int(runs_onednn()), max(t.errors(t.outputs_and_gradients(c["axes"]), c, t.right(c, -1))))
"""
    )
    answer, error = map(float, printed.split())
    assert answer == asked or platform.machine() != "x86_64"
    assert error < 2e-6


def derivatives(axes, mask):
    """Functions of x, gamma and beta: the output, and first to third derivatives of losses of it."""

    def first(x, gamma, beta):
        return normalized(x, gamma, beta, axes, mask)

    def slope(function, power):
        def derivative(x, gamma, beta):
            with tf.GradientTape() as tape:
                tape.watch((x, gamma))
                loss = tf.reduce_sum(function(x, gamma, beta) ** power)
            dx, dgamma = tape.gradient(loss, (x, gamma))
            return tf.concat([tf.reshape(dx, [-1]), tf.reshape(dgamma, [-1])], 0)

        return derivative

    second = slope(first, 3)
    third = slope(second, 2)
    return first, second, third, slope(third, 2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_equal_finite_differences(rng, masked, order):
    c = case(rng, (6, 3), -1, masked, dtype=np.float64)
    function = derivatives(c["axes"], c["mask"])[order - 1]
    arguments = [tf.constant(c[name]) for name in ("x", "gamma", "beta")]
    measured, by_differences = tf.test.compute_gradient(function, arguments, delta=1e-5)
    for one, other in zip(measured, by_differences, strict=True):
        assert reference.error(one, other) < 1e-6


@pytest.mark.parametrize(
    ("order", "mean"), thorough([(2, 0.0), (2, 50.0), (3, 0.0), (3, 50.0)], lambda order, mean: mean > 0)
)
def test_derivatives_of_the_fast_path_equal_those_without_it(rng, monkeypatch, order, mean):
    """In float32 by TensorFlow's kernels as in float64 without them, whose differences are tested above."""
    monkeypatch.setattr("tfbn.layers.functional.runs_onednn", lambda: True)  # whatever this machine runs
    c = case(rng, (8, 15, 16, 288), -1, masked=False, mean=mean)  # of no known multiple of 64 rows

    def derivative(dtype, batch):
        arguments = [tf.constant(c[name], dtype) for name in ("x", "gamma", "beta")]
        shapes = [[batch, 15, 16, 288], *(argument.shape for argument in arguments[1:])]
        signature = [tf.TensorSpec(shape, dtype) for shape in shapes]
        return tf.function(derivatives(c["axes"], None)[order], input_signature=signature)(*arguments)

    expected = derivative(tf.float64, None)
    for batch in (8, None):
        measured = derivative(tf.float32, batch)
        for part in (slice(c["x"].size), slice(c["x"].size, None)):  # by x, and the larger one by gamma
            assert reference.error(measured[part], expected[part]) < 1e-5, (batch, part)


@pytest.mark.parametrize(
    ("clipping", "r", "d"),
    [({}, 4.0, -3.0), ({"rmax": 3.0, "dmax": 2.0}, 3.0, -2.0), ({"rmin": 5.0}, 5.0, -3.0)],
)
def test_renorm_corrections_are_clipped(clipping, r, d):
    corrections = renorm_corrections(tf.constant(-5.0), tf.constant(8.0), 1.0, 2.0, clipping)
    assert [float(value) for value in corrections] == [r, d]
