"""Every derivative of the layer, in every mode, against differences of the oracle in float64.

Along fixed random directions u, v and w: the derivative of a loss by u, by u and v, and by u, v and w,
where u moves one variable alone and v and w all of them. The ways to a second derivative are forward over
reverse, reverse over forward and reverse over reverse. ``-m ''`` runs all ranks in all ways.
"""

import functools

import numpy as np
import pytest
import reference
import tensorflow as tf
from parameters import thorough

import tfbn

SHAPES = {2: (6, 3), 3: (4, 3, 2), 4: (4, 3, 2, 3), 5: (2, 2, 3, 2, 2)}
CLIPPING = {"rmax": 1.4, "rmin": 0.8, "dmax": 0.4}
# The options of the layer, and whether it trains.
MODES = {
    "training": ({}, True),
    "inference": ({}, False),
    "inference, debiased": ({"debias": True, "momentum": 0.8}, False),
    "test_local_stats": ({"test_local_stats": True}, False),
    "renorm": ({"renorm": True, "renorm_clipping": CLIPPING, "renorm_momentum": 1.0}, True),
    "ghosts": ({"virtual_batch_size": 2}, True),
    "ghosts with a remainder": ({"virtual_batch_size": 3}, True),
    "masked": ({}, True),
    "synchronized": ({"synchronized": True}, True),
}
WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")
VARIABLES = ("x", *WEIGHTS)
ORDERS = (
    "reverse",
    "forward",
    "forward over reverse",
    "reverse over forward",
    "reverse over reverse",
    "third",
)
# TensorFlow's own reverse over forward is None, or lacks terms, where a function lies between the two.
ORDERS_THROUGH_A_FUNCTION = tuple(order for order in ORDERS if order != "reverse over forward")
TOLERANCE = 2e-4  # of the largest derivative of an order; the layer computes in float32


@pytest.fixture(autouse=True)
def with_all_kernels(monkeypatch):
    """Take the kernel of the gradient, too, whatever this machine runs."""
    monkeypatch.setattr("tfbn.layers.functional.runs_onednn", lambda: True)


class Case:
    """A layer in a mode, the values of its variables, the directions, and the loss in float64."""

    def __init__(self, mode, shape):
        rng = np.random.default_rng(5)
        self.options, self.training = MODES[mode]
        channels = shape[-1]
        self.values = {
            "x": rng.normal(0.5, 1.3, shape),
            "gamma": rng.uniform(0.5, 1.5, channels),
            "beta": rng.normal(size=channels),
            "moving_mean": rng.normal(size=channels),
            "moving_variance": rng.uniform(0.5, 2, channels),
        }
        self.values = {name: np.float64(np.float32(value)) for name, value in self.values.items()}
        self.directions = [
            {name: rng.normal(size=value.shape) for name, value in self.values.items()} for _ in range(3)
        ]
        self.factor = rng.normal(size=shape)
        self.mask = np.arange(shape[0]) % 3 != 1 if mode == "masked" else None
        self.oracle = reference.Layer(shape, **self.options)
        self.oracle.updates = self.oracle.updates + 7.0
        self.loss_in_float64(self.values)
        if "renorm" in self.options:  # Its corrections are constants to the gradient.
            self.oracle.frozen_renorm = self.oracle.last_renorm

    def layer(self):
        layer = tfbn.BatchNormalization(**self.options)
        layer.build([None, *self.factor.shape[1:]])
        for name in WEIGHTS:
            getattr(layer, name).assign(self.values[name])
        if "debias" in self.options:
            layer.count.assign(self.oracle.updates)
        return layer

    def loss_in_float64(self, values):
        oracle = self.oracle
        oracle.gamma, oracle.beta = values["gamma"], values["beta"]
        if self.training:
            y = oracle.train(values["x"], self.mask, update=False)
        else:
            oracle.moving_mean, oracle.moving_variance = values["moving_mean"], values["moving_variance"]
            y = oracle.infer(values["x"])
        return np.sum(self.factor * (y + y**2 / 2 + y**3 / 6))

    def loss(self, layer, x):
        y = layer(x, training=self.training, mask=None if self.mask is None else tf.constant(self.mask))
        return tf.reduce_sum(tf.constant(self.factor, "float32") * (y + y**2 / 2 + y**3 / 6))

    @functools.cached_property
    def expected(self):
        """The derivatives along u, along u and v, and along u, v and w; u moves one variable."""
        u, v, w = self.directions
        by = {1: {}, 2: {}, 3: {}}
        for name in VARIABLES:
            one = {name: u[name]}
            by[1][name] = difference(self.loss_in_float64, self.values, [one], 2e-3)
            by[2][name] = difference(self.loss_in_float64, self.values, [one, v], 5e-3)
            by[3][name] = difference(self.loss_in_float64, self.values, [one, v, w], 1e-2)
        return by


def difference(function, values, directions, size):
    """Differentiate `function` along `directions`, by central differences of fourth order, nested."""
    if not directions:
        return function(values)
    direction, *others = directions

    def at(steps):
        moved = {name: value + steps * size * direction.get(name, 0) for name, value in values.items()}
        return difference(function, moved, others, size)

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * size)


def derivatives(case, layer, call, orders):
    """Compute each of `orders` by TensorFlow's automatic differentiation, by name of the variable."""
    x = tf.constant(case.values["x"], "float32")
    variables = [x, *(getattr(layer, name).value for name in WEIGHTS)]
    u, v, w = ([tf.constant(d[name], "float32") for name in VARIABLES] for d in case.directions)

    def loss():
        return case.loss(call, x)

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(variables)
            value = function()
        return tape.gradient(value, variables)

    def product(function, direction):
        """Return a function that gives the derivative of `function` along `direction`, by reverse mode."""
        return lambda: tf.add_n(
            [
                tf.reduce_sum(a * b)
                for a, b in zip(gradients(function), direction, strict=True)
                if a is not None
            ]
        )

    def pushed_forward():
        with tf.autodiff.ForwardAccumulator(variables, v) as accumulator:
            value = loss()
        return accumulator.jvp(value)

    def by_variable(values):
        return {
            name: tf.reduce_sum(value * part) if value is not None else tf.constant(0.0)
            for name, value, part in zip(VARIABLES, values, u, strict=True)
        }

    def forward():
        results = {}
        for name, variable, part in zip(VARIABLES, variables, u, strict=True):
            with tf.autodiff.ForwardAccumulator(variable, part) as accumulator:
                value = loss()
            results[name] = accumulator.jvp(value, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return results

    def forward_over_reverse():
        with tf.autodiff.ForwardAccumulator(variables, v) as accumulator:
            values = gradients(loss)
        return by_variable([value if value is None else accumulator.jvp(value) for value in values])

    ways = {
        "reverse": lambda: by_variable(gradients(loss)),
        "forward": forward,
        "forward over reverse": forward_over_reverse,
        "reverse over forward": lambda: by_variable(gradients(pushed_forward)),
        "reverse over reverse": lambda: by_variable(gradients(product(loss, v))),
        "third": lambda: by_variable(gradients(product(product(loss, v), w))),
    }
    return {order: ways[order]() for order in orders}


def assert_derivatives(measured, expected):
    for order, values in measured.items():
        wanted = expected[{"reverse": 1, "forward": 1, "third": 3}.get(order, 2)]
        scale = max(abs(value) for value in wanted.values())
        for name, value in values.items():
            assert abs(float(value) - wanted[name]) < TOLERANCE * scale, (order, name)


@functools.cache
def case(mode, rank):
    return Case(mode, SHAPES[rank])


RANKS = [(mode, rank) for mode in MODES for rank in SHAPES]


def some(*modes):
    """Return all modes and ranks, of which usually images in `modes` are enough."""
    return thorough(RANKS, lambda mode, rank: mode in modes and rank == 4)


@pytest.mark.parametrize(("mode", "rank"), thorough(RANKS, lambda mode, rank: rank in (2, 4)))
def test_derivatives_equal_differences_eagerly(mode, rank):
    this = case(mode, rank)
    layer = this.layer()
    assert_derivatives(derivatives(this, layer, layer, ORDERS), this.expected)


def check_within_a_function(mode, rank, jit_compile):
    this = case(mode, rank)
    layer = this.layer()
    run = tf.function(
        lambda: derivatives(this, layer, layer, ORDERS), autograph=False, jit_compile=jit_compile
    )
    assert_derivatives(run(), this.expected)


def check_through_a_function(mode, rank, jit_compile):
    this = case(mode, rank)
    layer = this.layer()
    call = tf.function(layer, jit_compile=jit_compile)
    # TensorFlow needs a first trace without tapes.
    this.loss(call, tf.constant(this.values["x"], "float32"))
    measured = derivatives(this, layer, call, ORDERS_THROUGH_A_FUNCTION)
    assert_derivatives(measured, this.expected)


@pytest.mark.parametrize(("mode", "rank"), some("training", "inference", "masked", "renorm", "ghosts"))
def test_derivatives_equal_differences_in_a_graph(mode, rank):
    check_within_a_function(mode, rank, jit_compile=False)


@pytest.mark.parametrize(("mode", "rank"), some("training", "ghosts with a remainder"))
def test_derivatives_equal_differences_under_xla(mode, rank):
    check_within_a_function(mode, rank, jit_compile=True)


@pytest.mark.parametrize(("mode", "rank"), some("inference", "ghosts with a remainder"))
def test_derivatives_through_a_function_equal_differences(mode, rank):
    check_through_a_function(mode, rank, jit_compile=False)


@pytest.mark.parametrize(("mode", "rank"), some("training"))
def test_derivatives_through_a_function_under_xla_equal_differences(mode, rank):
    check_through_a_function(mode, rank, jit_compile=True)


# Where the kernels of the fast path, blocks of rows, or rows of unknown number make a difference.
ROWS = [(513, 3), (3, 15, 15, 2)]
LARGE = [
    *((shape, execution) for shape in ROWS for execution in ("graph", "XLA", "unknown batch size")),
    *((shape, "eager") for shape in [(2560, 256), (7, 32, 32, 80)]),
    *(((8, 32, 32, 64), execution) for execution in ("graph", "unknown batch size")),
]


@pytest.mark.parametrize(
    ("shape", "execution"), thorough(LARGE, lambda shape, execution: len(shape) == 4 or execution == "XLA")
)
def test_second_derivatives_of_large_inputs_equal_differences(rng, shape, execution):
    x, v, w = np.float64(np.float32(rng.normal(0.5, 1.3, [3, *shape])))
    layer = tfbn.BatchNormalization()
    layer.build([None, *shape[1:]])
    one, zero = np.ones(shape[-1]), np.zeros(shape[-1])

    def gradient(x):  # of sum(w * y**2) / 2
        y, *_ = reference.forward(x, one, zero, layer.epsilon)
        return reference.backward(x, w * y, one, layer.epsilon)[0]

    expected = (gradient(x + 1e-5 * v) - gradient(x - 1e-5 * v)) / 2e-5

    def products(x, v, w):
        def loss():
            return tf.reduce_sum(w * layer(x, training=True) ** 2) / 2

        with tf.autodiff.ForwardAccumulator(x, v) as pushed:
            value = loss()
        with tf.autodiff.ForwardAccumulator(x, v) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value_again = loss()
            forward_over_reverse = accumulator.jvp(tape.gradient(value_again, x))
        with tf.GradientTape() as tape:
            tape.watch(x)
            with tf.autodiff.ForwardAccumulator(x, v) as accumulator:
                value_again = loss()
            product = accumulator.jvp(value_again)
        return pushed.jvp(value), forward_over_reverse, tape.gradient(product, x)

    signature = [tf.TensorSpec([None, *shape[1:]])] * 3 if execution == "unknown batch size" else None
    run = products
    if execution != "eager":
        run = tf.function(products, input_signature=signature, jit_compile=execution == "XLA")
    slope, *both = run(*(tf.constant(array, "float32") for array in (x, v, w)))
    scale = np.linalg.norm(gradient(x)) * np.linalg.norm(v) / np.sqrt(x.size)
    assert abs(float(slope) - np.sum(gradient(x) * v)) < 1e-3 * scale
    for product in both:
        assert reference.error(product, expected) < 1e-4


@pytest.mark.parametrize("options", [{}, {"single_value": "moving"}, {"virtual_batch_size": 3}], ids=str)
@pytest.mark.parametrize("compile_", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_forward_over_forward_equals_reverse_over_reverse(rng, options, compile_):
    x, v, w = tf.constant(rng.normal(0.5, 1.3, [3, 6, 5]), "float32")
    layer = tfbn.BatchNormalization(**options)
    layer.build([None, 5])

    def loss():
        return tf.reduce_sum(w * layer(x, training=True) ** 3)

    def forward_twice():
        with tf.autodiff.ForwardAccumulator(x, v) as outer:
            with tf.autodiff.ForwardAccumulator(x, v) as inner:
                value = loss()
            slope = inner.jvp(value)
        return outer.jvp(slope)

    def reverse_twice():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = loss()
            slope = tf.reduce_sum(inner.gradient(value, x) * v)
        return tf.reduce_sum(outer.gradient(slope, x) * v)

    assert float(compile_(forward_twice)()) == pytest.approx(float(reverse_twice()), rel=1e-4)
