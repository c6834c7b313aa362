"""Random shapes, axes, masks, options and data against the float64 oracle.

50 cases by default; TFBN_RANDOM_CASES=10000 pytest tests/layers/test_random_cases.py for more.
"""

import os

import hypothesis
import numpy as np
import reference
import tensorflow as tf
from hypothesis import strategies as st

import tfbn

NUMBER = int(os.environ.get("TFBN_RANDOM_CASES", 50))
COMPILATIONS = {
    "eager": lambda step: step,
    "graph": lambda step: tf.function(step, reduce_retracing=True),
    "XLA": lambda step: tf.function(step, jit_compile=True),
}


@st.composite
def cases(draw):
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    shape[0] = draw(st.integers(0, 40))
    axes = list(range(1, len(shape)))
    axis = draw(st.sampled_from(axes) | st.lists(st.sampled_from(axes), min_size=1, unique=True))
    options = {
        "axis": axis,
        "momentum": draw(st.sampled_from([0.99, 0.9, 0.5, 0.0, 1.0, None])),
        "epsilon": draw(st.sampled_from([1e-3, 1e-5, 0.1])),
        "unbiased": draw(st.booleans()),
        "debias": draw(st.booleans()),
        "virtual_batch_size": draw(st.none() | st.integers(1, 12)),
        "test_local_stats": draw(st.booleans()),
        "single_value": draw(st.sampled_from(["normalize", "moving"])),
        "synchronized": draw(st.booleans()),
    }
    if options["debias"] and options["momentum"] in (None, 1.0):
        options["momentum"] = 0.7
    if options["virtual_batch_size"]:
        options["synchronized"] = False
        if isinstance(axis, list) and len(shape) == 5:  # TensorFlow does not broadcast over that
            options["virtual_batch_size"] = None
    if draw(st.integers(0, 4)) == 0:
        clipping = draw(st.sampled_from([None, {"rmax": 1.5, "rmin": 0.5, "dmax": 1.0}]))
        options = {key: options[key] for key in ("axis", "epsilon", "synchronized")}
        options |= {"renorm": True, "renorm_clipping": clipping, "momentum": 0.9}
    mask = None
    if draw(st.booleans()):
        mask = [draw(st.sampled_from([1, length])) for length in shape[: draw(st.integers(1, len(shape)))]]
    data = {
        "mean": draw(st.sampled_from([0.0, 1.0, -30.0, 1e4])),
        "stddev": draw(st.sampled_from([1e-2, 1.0, 1e2])),
        "seed": draw(st.integers(0, 2**16)),
        # A layer that forward mode follows takes other formulas.
        "forward": draw(st.integers(0, 7)) == 0,
        # Compiling takes long, so most run eagerly.
        "compilation": draw(st.sampled_from(["eager"] * 18 + ["graph", "XLA"])),
    }
    return shape, mask, options, data


@hypothesis.settings(max_examples=NUMBER, deadline=None, derandomize=True, database=None)
@hypothesis.given(cases())
def test_random_cases_equal_those_in_numpy(case):
    shape, mask_shape, options, data = case
    rng = np.random.default_rng(data["seed"])
    layer, oracle = tfbn.BatchNormalization(**options), reference.Layer(shape, **options)
    layer.build([None, *shape[1:]])
    for name in ("gamma", "beta"):
        values = rng.uniform(0.5, 1.5, oracle.gamma.shape).astype("float32")
        getattr(layer, name).assign(values.reshape(layer.gamma.shape))
        setattr(oracle, name, values.astype("float64"))

    def step(x, dy, mask, direction):
        if not data["forward"]:
            return backward(x, dy, mask)
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            y, dx = backward(x, dy, mask)
        return y, dx, accumulator.jvp(y)

    def backward(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        return y, tape.gradient(y, x, dy)

    run = COMPILATIONS[data["compilation"]](step)
    for _ in range(2):
        x = (data["mean"] + data["stddev"] * rng.normal(size=shape)).astype("float32")
        dy = rng.normal(size=shape).astype("float32")
        mask = None if mask_shape is None else rng.random(mask_shape) < 0.7
        before = {
            name: value.copy() for name, value in vars(oracle).items() if isinstance(value, np.ndarray)
        }
        expected = oracle.train(x, mask)
        direction = rng.normal(size=shape)
        y, dx, *jvp = run(tf.constant(x), tf.constant(dy), mask, tf.constant(direction, "float32"))
        assert_close(y, expected, oracle, x)
        after = vars(oracle).copy()
        vars(oracle).update(before)
        for product in (np.asarray(dx, "float64") * direction, *(tangents * dy for tangents in jvp)):
            assert_derivative(np.asarray(product, "float64").sum(), dx, oracle, x, dy, mask, direction)
        vars(oracle).update(after)
        for weight, wanted in oracle.weights().items():
            difference = np.abs(np.asarray(getattr(layer, weight), np.float64) - wanted).max()
            # A mean near zero is a sum that cancels: it is exact to the scale of its terms.
            terms = np.abs(x).max(initial=0) if weight == "moving_mean" else 0
            assert difference <= 3e-6 * max(np.abs(wanted).max(), 0.1 * terms), weight
    if not options.get("test_local_stats"):
        mean, variance = oracle.averages()
        # One multiplication and one addition: at a large mean inference rounds as its terms do.
        terms = np.abs(np.r_[data["mean"], mean]).max() / np.sqrt(variance.min() + oracle.epsilon)
        difference = np.abs(np.asarray(layer(x), np.float64) - oracle.infer(x))
        assert difference.size == 0 or difference.max() <= 2e-6 * (
            terms * 1.5 + np.abs(oracle.infer(x)).max()
        )


def assert_close(y, expected, oracle, x):
    if expected.size:
        # Where the moving averages stand in for single values, x may be far from them.
        largest = max(np.abs(expected).max(), 1e-3)
        if oracle.options.get("single_value") == "moving":
            largest += np.abs(x).max() / np.sqrt(oracle.averages()[1].min() + oracle.epsilon)
        assert np.abs(np.asarray(y, np.float64) - expected).max() < 5e-6 * largest


def assert_derivative(derivative, dx, oracle, x, dy, mask, direction):
    """Along one direction, against a difference of the oracle, scaled to the data."""
    if not x.size:
        return
    if oracle.options.get("renorm"):
        oracle.frozen_renorm = None
        oracle.train(x, mask, update=False)
        oracle.frozen_renorm = oracle.last_renorm
    wide, dx = x.astype("float64"), np.asarray(dx, np.float64)
    spread = max(wide.std(), 1e-3)
    size = spread * (1e-6 if np.abs(wide).max() < 1e4 * spread else 1e-4)  # else x + size is rounded
    ahead, behind = (
        np.sum(oracle.train(wide + sign * size * direction, mask, update=False) * dy) for sign in (1, -1)
    )
    oracle.frozen_renorm = None
    steepness = np.abs(oracle.gamma).max() / np.sqrt(oracle.epsilon)
    scale = np.linalg.norm(dx) * np.linalg.norm(direction) / np.sqrt(x.size)
    rounding = 1e-15 * abs(ahead) / size  # of the difference
    wrong = abs(derivative - (ahead - behind) / (2 * size))
    assert wrong < 2e-4 * scale + 1e-5 * steepness + rounding
