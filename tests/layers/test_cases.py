"""One table of cases, every option among them, however a layer is compiled, saved and shared."""

import copy
import inspect
import json

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from parameters import thorough

import tfbn

RENORM = {"renorm": True, "momentum": 0.7, "renorm_momentum": 0.6}
CLIPPING = {"rmax": 1.2, "rmin": 0.8, "dmax": 0.3}
CASES = {
    "dense": ((32, 5), {}),
    "dense, one channel": ((32, 1), {}),
    "steps": ((8, 6, 5), {}),
    "images": ((4, 6, 6, 3), {}),
    "volumes": ((2, 4, 3, 4, 5), {}),
    "large images": ((8, 32, 32, 64), {}),  # Large enough for the kernels of the fast path.
    "large dense": ((2560, 256), {}),
    "channels first, steps": ((8, 5, 6), {"axis": 1}),
    "channels first, images": ((4, 3, 6, 6), {"axis": 1}),
    "channels first, volumes": ((2, 5, 3, 4, 2), {"axis": 1}),
    "channels in the middle": ((3, 4, 5, 2), {"axis": 2}),
    "two axes": ((6, 4, 5, 3), {"axis": [1, 3]}),
    "all axes but the batch's": ((16, 4, 3), {"axis": [-1, 1]}),
    "no scale": ((16, 5), {"scale": False}),
    "no center": ((16, 5), {"center": False}),
    "momentum, epsilon": ((16, 5), {"momentum": 0.3, "epsilon": 0.1}),
    "cumulative": ((16, 5), {"momentum": None}),
    "cumulative, unbiased": ((4, 3, 3, 5), {"momentum": None, "unbiased": True}),
    "unbiased": ((16, 5), {"unbiased": True}),
    "debias": ((16, 5), {"debias": True}),
    "debias, unbiased": ((4, 3, 3, 5), {"debias": True, "unbiased": True, "momentum": 0.9}),
    "ghosts": ((16, 5), {"virtual_batch_size": 8}),
    "ghosts with a remainder": ((18, 5), {"virtual_batch_size": 8}),
    "ghosts of images": ((5, 4, 4, 3), {"virtual_batch_size": 2, "unbiased": True}),
    "ghosts, cumulative": ((7, 4, 3), {"virtual_batch_size": 3, "momentum": None, "axis": 1}),
    "local": ((16, 5), {"test_local_stats": True}),
    "local images": ((4, 3, 4, 4), {"test_local_stats": True, "axis": 1}),
    "single, moving": ((1, 5), {"single_value": "moving"}),
    "not single, moving": ((16, 5), {"single_value": "moving", "debias": True}),
    "renorm": ((16, 5), RENORM),
    "renorm, clipped": ((4, 5, 5, 3), RENORM | {"renorm_clipping": CLIPPING}),
    "synchronized": ((16, 5), {"synchronized": True}),
}  # fmt: skip
MASKS = {
    "steps": (8, 6),
    "images": (4,),
    "channels first, images": (4, 1, 6),
    "two axes": (6, 1, 5, 1),
    "cumulative": (16, 1),
    "unbiased": (16,),
    "debias": (16, 5),
    "ghosts with a remainder": (18,),
    "ghosts, cumulative": (7, 4),
    "local": (16,),
    "not single, moving": (16,),
    "renorm": (16,),
    "synchronized": (16,),
}
BOTH = [(name, False) for name in CASES] + [(name, True) for name in MASKS]
IDS = [name + (", masked" if masked else "") for name, masked in BOTH]
COMPILATIONS = {
    "eager": lambda step: step,
    "graph": lambda step: tf.function(step, reduce_retracing=True),
    "XLA": lambda step: tf.function(step, jit_compile=True),
}


def twins(name, rng, **options):
    """Our layer and the oracle, with the same gamma and beta."""
    shape, case = CASES[name]
    layer = tfbn.BatchNormalization(**case | options)
    layer.build([None, *shape[1:]])
    oracle = reference.Layer(shape, **{k: v for k, v in case.items() if k not in ("scale", "center")})
    for weight, attribute in ((layer.gamma, "gamma"), (layer.beta, "beta")):
        if weight is not None:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
            setattr(oracle, attribute, weight.numpy().astype("float64").ravel())
    return layer, oracle


def batch(name, rng, masked, mean=3.0):
    shape = CASES[name][0]
    x, dy = rng.normal(mean, 2, shape).astype("float32"), rng.normal(size=shape).astype("float32")
    mask = rng.random(MASKS[name]) < 0.7 if masked else None
    return x, dy, mask


def assert_averages(layer, oracle, tolerance=2e-6):
    for weight, expected in oracle.weights().items():
        assert reference.error(getattr(layer, weight), expected) < tolerance, weight


# XLA takes long to compile; what it might get wrong is in these.
BY_XLA = ("dense", "large images", "channels first, images", "cumulative, unbiased", "renorm, clipped")
BY_XLA_MASKED = ("steps", "ghosts with a remainder")


def usual(name, masked, compilation):
    return {
        "eager": True,
        "graph": masked or name not in ("dense, one channel", "no scale", "no center", "renorm"),
        "XLA": name in (BY_XLA_MASKED if masked else BY_XLA),
    }[compilation]


@pytest.mark.parametrize(
    ("name", "masked", "compilation"),
    thorough([(*case, compilation) for case in BOTH for compilation in COMPILATIONS], usual),
)
def test_outputs_averages_and_gradients_equal_those_in_numpy(name, masked, compilation, rng):
    layer, oracle = twins(name, rng)

    def step(x, dy, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        gradients = tape.gradient(y, [x, *layer.trainable_variables], dy)
        return y, gradients, layer(x, training=False, mask=mask)

    run = COMPILATIONS[compilation](step)
    for size in (slice(None), slice(None), slice(0, -(-CASES[name][0][0] // 2))):
        x, dy, mask = batch(name, rng, masked)
        x, dy, mask = x[size], dy[size], None if mask is None else mask[size]
        before = copy.deepcopy(oracle)
        y, gradients, inferred = run(tf.constant(x), tf.constant(dy), mask)
        assert reference.error(y, oracle.train(x, mask)) < 2e-6
        assert_averages(layer, oracle)
        assert reference.error(inferred, oracle.infer(x, mask)) < 2e-6
        names = ["x", *(variable.name for variable in layer.trainable_variables)]
        assert_gradients(dict(zip(names, gradients, strict=True)), before, x, dy, mask, rng)


def assert_gradients(measured, oracle, x, dy, mask, rng):
    """dx, dgamma and dbeta along a random direction, against a difference of the float64 oracle."""
    if oracle.options.get("renorm"):  # The corrections are constants to the gradient.
        oracle.train(x, mask, update=False)
        oracle.frozen_renorm = oracle.last_renorm
    point = {"x": x.astype("float64"), "gamma": oracle.gamma, "beta": oracle.beta}

    def loss(moved):
        oracle.gamma, oracle.beta = moved["gamma"], moved["beta"]
        return np.sum(oracle.train(moved["x"], mask, update=False) * dy)

    for variable, gradient in measured.items():
        gradient = np.asarray(gradient, np.float64).reshape(point[variable].shape)
        direction = rng.normal(size=gradient.shape)
        ahead, behind = (
            loss(point | {variable: point[variable] + sign * 1e-5 * direction}) for sign in (1, -1)
        )
        expected = (ahead - behind) / 2e-5
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction) / np.sqrt(gradient.size)
        assert abs(np.sum(gradient * direction) - expected) <= 1e-5 * max(scale, 1), variable


def model_of(name):
    layer, _ = twins(name, np.random.default_rng(1))
    inputs = keras.Input(CASES[name][0][1:])
    return keras.Model(inputs, layer(inputs)), layer


def test_saved_layers_reload_in_a_fresh_process(rng, tmp_path, python):
    """.keras needs `import tfbn` alone; a SavedModel not even that, and takes any batch size."""
    arrays, shown = {}, {}
    for number, name in enumerate(CASES):
        model, layer = model_of(name)
        for _ in range(2):
            model(batch(name, rng, False)[0], training=True)
        # Another batch size than that of training. With one of its own, SavedModels could not tell.
        x = rng.normal(3, 2, [3, *CASES[name][0][1:]]).astype("float32")
        arrays[f"x{number}"], arrays[f"y{number}"] = x, model(x)
        model.save(tmp_path / f"{number}.keras")
        model.export(tmp_path / f"{number}", verbose=False)
        shown[str(number)] = json.dumps(layer.get_config(), sort_keys=True)
    np.savez(tmp_path / "arrays.npz", **arrays)
    printed = python(
        """
import json
import sys
import numpy as np
import tensorflow as tf
arrays = np.load("arrays.npz")
number = len(arrays) // 2
errors = {}
def error(one, other):
    return float(np.abs(one - other).max() / np.abs(other).max())
sys.modules["tfbn"] = None  # Importing it fails.
for i in range(number):
    served = tf.saved_model.load(str(i))
    errors[f"SavedModel {i}"] = error(served.serve(arrays[f"x{i}"]), arrays[f"y{i}"])
del sys.modules["tfbn"]
import keras
import tfbn
configs = {}
for i in range(number):
    model = keras.models.load_model(f"{i}.keras")
    errors[f"keras {i}"] = error(model(arrays[f"x{i}"]), arrays[f"y{i}"])
    configs[i] = json.dumps(model.layers[-1].get_config(), sort_keys=True)
print(json.dumps([errors, configs]))
"""
    )
    errors, configs = json.loads(printed)
    assert len(errors) == 2 * len(CASES)
    assert max(errors.values()) < 1e-6, errors
    assert configs == shown


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_half_precision_equals_full_up_to_the_output(name, dtype, rng):
    """Computed in float32 on the rounded input: only the output is rounded."""
    half, oracle = twins(name, rng, dtype=dtype)
    x = tf.cast(batch(name, rng, False)[0], half.compute_dtype)
    y = half(x, training=True)
    assert y.dtype == half.compute_dtype
    assert {weight.dtype for weight in half.weights} == {"float32"}
    step = {"float16": 2**-10, "bfloat16": 2**-7}[half.compute_dtype]
    assert reference.error(y, oracle.train(np.asarray(x, np.float64))) < step
    assert_averages(half, oracle)


@pytest.mark.parametrize("name", CASES)
def test_a_frozen_layer_infers_and_trains_on_once_thawed(name, rng):
    """Frozen, it infers and keeps its averages, whatever `training` says; thawed, it goes on."""
    layer, oracle = twins(name, rng)
    x, _, _ = batch(name, rng, False)
    layer(x, training=True), oracle.train(x)
    layer.trainable = False
    assert not layer.trainable_variables
    assert reference.error(layer(x, training=True), oracle.infer(x)) < 2e-6
    assert_averages(layer, oracle)
    layer.trainable = True
    assert reference.error(layer(x, training=True), oracle.train(x)) < 2e-6
    assert_averages(layer, oracle)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_called_twice_moves_its_averages_in_order(name, rng):
    """Each call normalises by its own batch and moves the averages, in order."""
    layer, oracle = twins(name, rng)
    xs = [batch(name, rng, False, mean)[0] for mean in (3.0, -1.0)]
    ys = tf.function(lambda *xs: [layer(x, training=True) for x in xs])(*xs)
    for y, x in zip(ys, xs, strict=True):
        assert reference.error(y, oracle.train(x)) < 2e-6
    assert_averages(layer, oracle)


@pytest.mark.parametrize("name", CASES)
def test_config_survives_json(name):
    _, options = CASES[name]
    layer = tfbn.BatchNormalization(**options, name="norm")
    again = tfbn.BatchNormalization.from_config(json.loads(json.dumps(layer.get_config())))
    assert again.get_config() == layer.get_config()
    assert {key: layer.get_config()[key] for key in options} == options


def test_table_has_every_option():
    tried = {key for _, options in CASES.values() for key in options}
    ours = inspect.signature(tfbn.BatchNormalization.__init__).parameters.values()
    theirs = inspect.signature(keras.layers.BatchNormalization.__init__).parameters
    assert {p.name for p in ours if p.name not in theirs and p.kind is p.KEYWORD_ONLY} <= tried
