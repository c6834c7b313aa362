import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfbn
from tfbn.layers import inspection

OURS, THEIRS = tfbn.BatchNormalization, L.BatchNormalization
BATCHNORM_CLASSES = {"tfbn": OURS, "keras": THEIRS}
OTHER = {"tfbn": THEIRS, "keras": OURS}


def identity(name=None, **_):
    return L.Identity(name=name)


# Networks as functions of a norm: one of BATCHNORM_CLASSES, or `identity`.


def chain(norm):
    inputs = keras.Input((4,))
    x = L.Dropout(0.3, seed=1)(L.ReLU()(norm(name="n1", momentum=0.8)(L.Dense(6, name="d1")(inputs))))
    return keras.Model(inputs, L.Dense(3, name="d2")(norm(name="n2", epsilon=0.1)(x)), name="chain")


def sequential(norm):
    stack = [L.Conv2D(4, 3, use_bias=False, name="c"), norm(name="n"), L.ReLU(), L.Flatten()]
    return keras.Sequential([keras.Input((6, 6, 2)), *stack, L.Dense(3, name="d")], name="stack")


def residual(norm):
    inputs = keras.Input((8, 8, 2))
    x = norm(name="n0")(L.Conv2D(4, 3, padding="same", use_bias=False, name="c0")(inputs))
    for i in (1, 2):
        y = L.ReLU()(norm(name=f"n{i}a")(L.Conv2D(4, 3, padding="same", name=f"c{i}a")(x)))
        y = norm(name=f"n{i}b", scale=False)(L.DepthwiseConv2D(3, padding="same", name=f"c{i}b")(y))
        x = keras.ops.relu(L.Add()([x, y]))
    x = L.Concatenate()([x, norm(name="n3", center=False)(x)])
    return keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x)))


def shared(norm):
    inputs, layer, both = keras.Input((4,)), L.Dense(4, name="d"), norm(name="n")
    x = both(keras.ops.tanh(layer(both(keras.ops.tanh(layer(inputs))))))
    return keras.Model(inputs, L.Dense(2, name="e")(x))


def several(norm):
    inputs = {"a": keras.Input((6, 3), name="a"), "b": keras.Input((6, 3), name="b")}
    a = norm(name="na", axis=1)(L.Dense(4, name="da")(inputs["a"]))
    b = L.Conv1D(4, 1, name="cb")(inputs["b"])
    both = L.Concatenate()([a, norm(name="nb")(b)])
    return keras.Model(inputs, {"y": L.GRU(3, name="g")(both), "z": [a, norm(name="nz")(b)]})


def nested(norm):
    x = keras.Input((4,))
    inner = keras.Model(x, norm(name="n")(L.Dense(4, name="d")(x) ** 2), name="inner")
    stack = [L.Dense(4, name="d"), norm(name="n"), L.ReLU()]
    block = keras.Sequential([keras.Input((4,)), *stack], name="block")
    inputs = keras.Input((4,))
    y = L.Add()([block(block(inputs)), inner(inputs)])
    return keras.Model(inputs, norm(name="n")(L.Dense(2, name="d")(y)) + 1, name="outer")


def masked(norm):
    inputs = keras.Input((6, 3))
    x = norm(name="n1")(L.Dense(4, name="d")(L.Masking()(inputs)))
    return keras.Model(inputs, norm(name="n2")(L.GRU(3, name="g", return_sequences=True)(x)))


LEFT = {several: ["na", "nz"], nested: ["inner/n"], masked: ["n2"]}
NETS = [chain, sequential, residual, shared, several, nested, masked]


def scrambled(model):
    """Random weights everywhere, so that nothing is a 0 or a 1 by chance."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        positive = weight.name in ("gamma", "moving_variance", "moving_stddev", "renorm_stddev")
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) if positive else rng.normal(size=weight.shape))
    return model


def inputs_of(model, size=8):
    rng = np.random.default_rng(7)

    def values(tensor):
        x = rng.normal(1, 2, size=[size, *tensor.shape[1:]]).astype("float32")
        if x.ndim == 3:
            x[::2, 4:] = 0  # what Masking masks
        return x

    return keras.tree.map_structure(values, model.inputs[0] if len(model.inputs) == 1 else model.input)


def outputs_of(model, x, **options):
    outputs = keras.tree.flatten(model(x, **options))
    return [np.asarray(keras.ops.convert_to_numpy(output), "float64") for output in outputs]


def state(model):
    return [variable.numpy() for variable in model.variables]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(one, other, rtol):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=rtol * np.abs(a).max())


def by_name(model, prefix=""):
    """The arrays of each layer that is neither a norm nor an input, by its name."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= by_name(layer, f"{prefix}{layer.name}/")
        elif not isinstance(layer, (*inspection.BATCHNORM_CLASSES, L.InputLayer)):
            found[prefix + layer.name] = layer.get_weights()
    return found


def layers_in(model, kinds=L.Layer):
    return [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, kinds)]


def assert_untouched(model, before, x, outputs, copy):
    assert_equal(before, state(model))
    assert_equal(outputs, outputs_of(model, x, training=False))
    assert not set(layers_in(model)) & set(layers_in(copy))
    assert not {id(v) for v in model.variables} & {id(v) for v in copy.variables}


@pytest.fixture
def policy():
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("kind", BATCHNORM_CLASSES)
@pytest.mark.parametrize("net", NETS)
def test_without_batchnorm_gives_the_network_built_without(net, kind):
    model, reference = scrambled(net(BATCHNORM_CLASSES[kind])), net(identity)
    x = inputs_of(model)
    before, outputs = state(model), outputs_of(model, x, training=False)
    twin = tfbn.without_batchnorm(model)
    assert not layers_in(twin, inspection.BATCHNORM_CLASSES)
    expected, found = by_name(model), by_name(twin)
    for name, weights in expected.items():
        assert_equal(weights, found.pop(name))
    # An output has the name of its layer, and so a norm that gives one leaves an Identity.
    assert found == {name: [] for name in LEFT.get(net, [])}
    reference.set_weights([array for weights in expected.values() for array in weights])
    for training in (False, True):
        assert_equal(outputs_of(reference, x, training=training), outputs_of(twin, x, training=training))
    keras.tree.assert_same_structure(model(x), twin(x))
    assert_untouched(model, before, x, outputs, twin)
    assert twin.name == model.name and not twin.compiled
    assert twin.output_names == keras.Model(model.inputs, model.outputs).output_names


def test_twin_without_biases_is_warned_of_by_name():
    def build(**options):
        stack = [L.Dense(4, name="hidden", **options), L.BatchNormalization(), L.ReLU(), L.Dense(2)]
        return keras.Sequential([keras.Input([3]), *stack])

    with pytest.warns(UserWarning, match=r"has no biases in hidden, which the `beta`"):
        twin = tfbn.without_batchnorm(build(use_bias=False))
    assert not twin.get_layer("hidden").use_bias
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tfbn.without_batchnorm(build())


def test_twin_trains_as_the_network_built_without(blobs):
    # A network of this package has its kernels from the seed, with and without batch norm.
    def build(use_batchnorm):
        return tfbn.Model(8, 3, hidden_dims=(6, 5), use_batchnorm=use_batchnorm, dropout=0.2)

    arms = {"twin": lambda: tfbn.without_batchnorm(build(True)), "plain": lambda: build(False)}
    result = tfbn.compare(arms, blobs, epochs=2, seeds=2, jit=False)
    numbers = [
        [
            (r["seed"], r["epoch"], r["train_loss"], r["validation_loss"])
            for r in result.records
            if r["arm"] == arm
        ]
        for arm in arms
    ]
    assert len(numbers[0]) == 4 and numbers[0] == numbers[1]
    assert_equal(*(model.get_weights() for model in result.models.values()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("to", BATCHNORM_CLASSES)
@pytest.mark.parametrize("net", NETS)
def test_converted_layers_give_the_same_in_inference_and_training(net, to, dtype, policy):
    policy(dtype)
    model = scrambled(net(OTHER[to]))
    x = inputs_of(model)
    before, outputs = state(model), outputs_of(model, x, training=False)
    copy = tfbn.convert(model, to=to)
    assert len(layers_in(copy, BATCHNORM_CLASSES[to])) == len(layers_in(model, OTHER[to]))
    assert not layers_in(copy, OTHER[to])
    names = [layer.name for layer in layers_in(model)]
    assert sorted(layer.name for layer in layers_in(copy)) == sorted(names)
    assert copy.name == model.name and not copy.compiled
    assert_equal(before, state(copy))
    assert [v.dtype for v in copy.variables] == [v.dtype for v in model.variables]
    assert_close(outputs, outputs_of(copy, x, training=False), {"float32": 1e-6, "float64": 1e-13}[dtype])
    keras.tree.assert_same_structure(model(x), copy(x))
    assert_untouched(model, before, x, outputs, copy)
    # Keras adds 1e-7 to the number of values that a mask leaves.
    rtol = 1e-12 if dtype == "float64" and net is not masked else 1e-5
    trained = outputs_of(model, x, training=True)
    assert np.abs(trained[0] - outputs[0]).max() > 0.01
    assert_close(trained, outputs_of(copy, x, training=True), rtol)
    assert_close(state(model), state(copy), rtol)
    assert any((old != new).any() for old, new in zip(before, state(copy), strict=True))


OPTIONS = [
    {"momentum": 0.0, "epsilon": 1e-5, "name": "mine"},
    {"momentum": 1.0, "axis": 1},
    {"center": False, "scale": False},
    {"axis": -1, "trainable": False},
    {"beta_initializer": "ones", "gamma_initializer": keras.initializers.Constant(2.0)},
    {"moving_mean_initializer": "ones", "moving_variance_initializer": keras.initializers.Constant(3.0)},
    {"beta_regularizer": keras.regularizers.L1(0.1), "gamma_regularizer": "l2"},
    {"gamma_constraint": keras.constraints.NonNeg(), "beta_constraint": "max_norm"},
    {"activity_regularizer": keras.regularizers.L2(0.1)},
    {"renorm": True},
    {"renorm": True, "renorm_clipping": {"rmin": 0.5, "rmax": 2.0, "dmax": 1.0}, "renorm_momentum": 0.7},
    {"dtype": "float64"},
    {"dtype": "mixed_float16"},
    {"dtype": keras.DTypePolicy("mixed_bfloat16")},
]


@pytest.mark.parametrize("to", BATCHNORM_CLASSES)
@pytest.mark.parametrize("options", OPTIONS, ids=", ".join)
def test_convert_keeps_arguments_both_ways(options, to):
    model = keras.Sequential([keras.Input((5, 4)), OTHER[to](**options)])
    model.layers[0].set_weights(scrambled(model).get_weights())
    copy = tfbn.convert(model, to=to)
    old, new = model.layers[0], copy.layers[1]
    assert type(new) is BATCHNORM_CLASSES[to] and new.name == old.name
    keys = set(THEIRS().get_config()) | {"activity_regularizer"}
    config = {key: value for key, value in old.get_config().items() if key in keys}
    config["renorm_clipping"] = config["renorm_clipping"] or new.renorm_clipping
    assert {key: new.get_config().get(key) for key in config} == config
    assert [w.name for w in new.weights] == [w.name for w in old.weights]
    assert [w.dtype for w in new.weights] == [w.dtype for w in old.weights]
    assert [w.trainable for w in new.weights] == [w.trainable for w in old.weights]
    x = inputs_of(model)
    rtol = 1e-2 if "16" in new.compute_dtype + old.compute_dtype else 1e-5
    for training in (False, True, True):
        assert_close(outputs_of(model, x, training=training), outputs_of(copy, x, training=training), rtol)
        assert_close(model.losses, copy.losses, 1e-5)
    assert_close(state(model), state(copy), 1e-5)
    # And back, without a loss.
    again = tfbn.convert(copy, to="keras" if to == "tfbn" else "tfbn")
    assert again.layers[1].get_config() == {**old.get_config(), "renorm_clipping": old.renorm_clipping}
    assert_equal(state(copy), state(again))


def test_convert_keeps_synchronized_and_an_axis_in_a_list():
    model = keras.Sequential([keras.Input((5, 4)), OURS(synchronized=True, axis=[1], name="n")])
    layer = tfbn.convert(model, to="keras").get_layer("n")
    assert layer.synchronized and layer.axis == 1 and layer.gamma.shape == (5,)
    assert (
        tfbn.convert(keras.Sequential([keras.Input((4,)), THEIRS(synchronized=True)]))
        .layers[1]
        .synchronized
    )


def test_convert_to_keras_rounds_weights_of_half_precision():
    model = scrambled(keras.Sequential([keras.Input((4,)), OURS(dtype="float16", name="n")]))
    theirs = tfbn.convert(model, to="keras")
    assert {w.dtype for w in theirs.weights} == {"float16"}
    assert_equal([w.astype("float16") for w in state(model)], state(theirs))
    ours = tfbn.convert(theirs)
    assert {w.dtype for w in ours.weights} == {"float32"}
    assert_equal(state(theirs), state(ours))


def with_every_state():
    """Frozen layers, seeds drawn at random, and states that are no plain weights."""
    words = L.StringLookup(output_mode="one_hot", name="words")
    words.adapt(tf.constant([["a"], ["b"], ["c"]]))
    inputs = keras.Input((1,), dtype="string")
    x = L.Dropout(0.5)(L.Dense(8, name="frozen", trainable=False)(words(inputs)))
    adapter = L.Dense(8, name="adapter")
    y = adapter(x)
    adapter.enable_lora(2)
    return scrambled(keras.Model(inputs, [x, OURS(name="n", trainable=False)(y), L.Dense(2, name="d")(y)]))


@pytest.mark.parametrize("function", [tfbn.without_batchnorm, lambda model: tfbn.convert(model, "keras")])
def test_copies_have_all_states(function):
    model = with_every_state()
    x = tf.constant([["a"], ["c"], ["b"], ["z"]])
    model(x, training=True)  # Random numbers have been drawn.
    copy = function(model)
    for training in (False, True, True):
        expected, found = (outputs_of(each, x, training=training) for each in (model, copy))
        assert_equal(expected[::2], found[::2])  # those that no norm has a part in
        assert expected[0].std(0).max() > 0.01
    weights = {weight.path: weight for weight in copy.weights}
    for weight in model.weights:
        if not weight.path.startswith("n/"):
            assert weights[weight.path].trainable == weight.trainable
            assert_equal([weight.numpy()], [weights[weight.path].numpy()])
    assert not copy.get_layer("frozen").trainable and copy.get_layer("d").trainable


@pytest.mark.parametrize("function", [tfbn.without_batchnorm, lambda model: tfbn.convert(model, "keras")])
def test_copies_keep_frozen_models_and_precision(function):
    model = nested(OURS)
    model.get_layer("block").trainable = False
    copy = function(model)
    assert not copy.get_layer("block").trainable and copy.get_layer("inner").trainable
    assert copy.trainable and not copy.get_layer("block").trainable_weights
    half = function(tfbn.Model(8, 3, dtype="mixed_float16"))
    assert type(half) is type(model) and half(np.zeros([2, 8])).dtype == tf.float16
    half.compile("sgd", "mse")
    assert isinstance(half.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("kind", BATCHNORM_CLASSES)
def test_twin_keeps_a_mask_given_to_the_norm_alone(kind, tmp_path):
    # The mask reaches pooling in the middle, and at the end the loss.
    inputs, mask = keras.Input((5, 3)), keras.Input((5,), dtype="bool", name="mask")
    x = L.Dropout(0.1)(BATCHNORM_CLASSES[kind](name="n")(L.Dense(4, name="d")(inputs), mask=mask))
    model = keras.Model([inputs, mask], [L.GlobalAveragePooling1D()(x), x])
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=[2, 5, 3]), rng.normal(size=[2, 5, 4])
    kept = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    twin = tfbn.without_batchnorm(model)
    twin.save(tmp_path / "twin.keras")
    steps = x @ model.get_layer("d").kernel.numpy()
    mean = np.array([one[keep].mean(0) for one, keep in zip(steps, kept, strict=True)])
    for each in (twin, keras.models.load_model(tmp_path / "twin.keras")):
        np.testing.assert_allclose(each([x, kept])[0], mean, rtol=1e-5, atol=1e-6)
        each.compile("sgd", [None, "mse"], jit_compile=False)
        losses = np.square(steps - target).mean(-1)
        loss = each.evaluate([x, kept], [mean, target], verbose=0)
        np.testing.assert_allclose(np.atleast_1d(loss)[0], losses[kept].mean(), rtol=1e-5)


def test_twin_casts_integers_as_a_norm_does():
    model = keras.Sequential(
        [keras.Input((6, 6, 3), dtype="uint8"), OURS(), L.Conv2D(2, 3, name="c"), L.Flatten()]
    )
    x = np.random.default_rng(0).integers(0, 255, [2, 6, 6, 3], dtype="uint8")
    expected = L.Flatten()(tf.nn.conv2d(x.astype("float32"), model.get_layer("c").kernel, 1, "VALID"))
    np.testing.assert_allclose(tfbn.without_batchnorm(model)(x), expected, rtol=1e-5)


def test_convert_and_without_batchnorm_of_keras_applications():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    x = np.random.default_rng(0).uniform(0, 255, [16, 32, 32, 3]).astype("float32")
    model(x, training=True)
    copy = tfbn.convert(model)
    back = tfbn.convert(copy, to="keras")
    plain = tfbn.without_batchnorm(model)
    assert len(layers_in(copy, OURS)) == len(layers_in(model, THEIRS)) == 52
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    assert_equal(state(model), state(copy))
    outputs = outputs_of(model, x, training=False)
    assert_close(outputs, outputs_of(copy, x, training=False), 1e-5)
    assert_equal(outputs, outputs_of(back, x, training=False))
    assert not layers_in(plain, inspection.BATCHNORM_CLASSES)
    assert len(plain.weights) == len(model.weights) - 4 * 52 and plain.output_shape == (None, 10)


FRESH = """
import sys, json, numpy as np, keras
folder = sys.argv[1]
x = np.load(folder + "/x.npy")
for name in ("keras", "plain", "tfbn"):
    if name == "tfbn":
        assert "tfbn" not in sys.modules
        import tfbn
    model = keras.models.load_model(f"{folder}/{name}.keras")
    np.testing.assert_array_equal(model(x), np.load(f"{folder}/{name}.npy"))
    kinds = sorted({type(layer).__module__.split(".")[0] for layer in model.layers})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    before = model.get_weights()
    model.fit(x, np.arange(len(x)) % 3, verbose=0)
    assert any((old != new).any() for old, new in zip(before, model.get_weights()))
    print(json.dumps([name, kinds]))
"""


def test_copies_load_and_train_in_a_fresh_process(tmp_path, python):
    model = scrambled(
        tfbn.Model((8, 8, 1), 3, conv_filters=(4,), dropout=0.1, norm_position="after_activation")
    )
    x = np.random.default_rng(0).normal(size=[30, 8, 8, 1]).astype("float32")
    np.save(tmp_path / "x.npy", x)
    theirs = tfbn.convert(model, to="keras")
    made = {"keras": theirs, "plain": tfbn.without_batchnorm(model), "tfbn": tfbn.convert(theirs)}
    for name, each in made.items():
        each.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", each(x))
    lines = [json.loads(line) for line in python(FRESH, tmp_path).splitlines()]
    assert lines == [["keras", ["keras"]], ["plain", ["keras"]], ["tfbn", ["keras", "tfbn"]]]


class OwnNorm(THEIRS):
    pass


class OwnOurs(OURS):
    pass


class OwnLayer(L.Layer):
    """A layer with a norm inside, which only its `call` knows of."""

    def __init__(self, kind=OURS, **options):
        super().__init__(**options)
        self.inner = kind(name="bn")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


class OwnCall(keras.Model):
    """A functional model that computes something else than its graph."""

    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


class Subclassed(keras.Model):
    """A model whose graph nobody knows but its `call`."""

    def __init__(self):
        super().__init__(name="mine")
        self.norm = OURS(name="bn")

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        return self.norm(x)


def stack(shape, *layers):
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name="model")


def inside_a_call_of_its_own():
    inputs = keras.Input((4,))
    return stack((4,), OwnCall(inputs, OURS(name="bn")(L.Dense(4)(inputs)), name="own"), L.Dense(2))


def subclassed():
    model = Subclassed()
    model.build((None, 4))
    return model


UNREACHABLE = [
    (lambda kind: stack((5, 4), L.TimeDistributed(kind(name="bn"), name="t"), L.Dense(2)), "t/bn"),
    (
        lambda kind: stack((4,), OwnLayer(kind, name="own"), kind(name="n"), OwnLayer(kind, name="more")),
        "own/bn, more/bn",
    ),
    (
        lambda kind: stack((4,), stack((4,), OwnLayer(kind, name="own"), kind(name="n"))),
        "model/own/bn",
    ),
]


@pytest.mark.parametrize("to", [None, *BATCHNORM_CLASSES])
@pytest.mark.parametrize(("build", "names"), UNREACHABLE)
def test_error_names_norms_out_of_reach(build, names, to):
    model = build(OTHER.get(to, OURS))
    with pytest.raises(ValueError, match=r"are out of reach") as raised:
        tfbn.convert(model, to=to) if to else tfbn.without_batchnorm(model)
    assert f"of its own: {names}. Build" in str(raised.value)


def test_convert_accepts_norms_out_of_reach_that_need_no_conversion():
    model = stack((5, 4), L.TimeDistributed(OURS(name="bn"), name="t"), OwnOurs(name="o"), THEIRS(name="n"))
    with keras.saving.custom_object_scope({"OwnOurs": OwnOurs}):
        copy = tfbn.convert(model)
    assert len(layers_in(copy, OURS)) == 3 and not layers_in(copy, THEIRS)
    x = inputs_of(model)
    assert_close(outputs_of(model, x), outputs_of(copy, x), 1e-6)


def to_keras(model):
    return tfbn.convert(model, to="keras")


@pytest.mark.parametrize(
    ("function", "build", "error", "message"),
    [
        (tfbn.without_batchnorm, lambda: "model", TypeError, "must be a keras.Model. Received: 'model'"),
        (tfbn.convert, lambda: L.Dense(2), TypeError, "must be a keras.Model"),
        (tfbn.without_batchnorm, lambda: stack((4,), L.Dense(2)), ValueError, "no batch normalization"),
        (tfbn.convert, lambda: stack((4,), L.Dense(2)), ValueError, "no batch normalization"),
        (tfbn.convert, lambda: stack((4,), OURS()), ValueError, "no batch normalization layer of keras,"),
        (to_keras, lambda: stack((4,), THEIRS()), ValueError, "no batch normalization layer of tfbn,"),
        (tfbn.without_batchnorm, lambda: keras.Sequential([OURS()]), ValueError, "no weights yet"),
        (
            tfbn.without_batchnorm,
            subclassed,
            ValueError,
            "graph of model 'mine' is unknown: Subclassed has",
        ),
        (to_keras, subclassed, ValueError, "graph of model 'mine' is unknown: Subclassed has"),
        (tfbn.without_batchnorm, inside_a_call_of_its_own, ValueError, "of its own: own/bn. Build"),
        (to_keras, inside_a_call_of_its_own, ValueError, "of its own: own/bn. Build"),
        (
            tfbn.without_batchnorm,
            lambda: stack((4,), OwnNorm(name="n")),
            ValueError,
            "'n' is of the class OwnN",
        ),
        (
            tfbn.without_batchnorm,
            lambda: stack((4,), OwnOurs(name="n")),
            ValueError,
            "'n' is of the class OwnO",
        ),
        (tfbn.convert, lambda: stack((4,), OwnNorm(name="n")), ValueError, "'n' is of the class OwnNorm"),
        (to_keras, lambda: stack((4,), OwnOurs(name="n")), ValueError, "'n' is of the class OwnOurs"),
        (
            tfbn.convert,
            lambda: stack((4,), stack((4,), THEIRS(epsilon=0, name="n"))),
            ValueError,
            "tfbn has no layer that does as 'model/n': `epsilon` must be a positive",
        ),
    ],
)
def test_convert_and_without_batchnorm_reject_bad_input(function, build, error, message):
    with pytest.raises(error) as raised:
        function(build())
    assert message in str(raised.value)


@pytest.mark.parametrize("to", ["torch", "Keras", None, 3, ["keras"]])
def test_convert_rejects_an_unknown_package(to):
    with pytest.raises(ValueError, match=r"`to` must be one of \['tfbn', 'keras'\]. Received: to="):
        tfbn.convert(stack((4,), THEIRS()), to=to)


@pytest.mark.parametrize(
    ("shape", "options", "named"),
    [
        ((4,), {"momentum": None}, "momentum=None"),
        ((4,), {"unbiased": True}, "unbiased=True"),
        ((4,), {"debias": True}, "debias=True"),
        ((4,), {"virtual_batch_size": 4}, "virtual_batch_size=4"),
        ((4,), {"test_local_stats": True}, "test_local_stats=True"),
        ((4,), {"single_value": "warn"}, "single_value='warn'"),
        ((5, 4), {"axis": [1, 2]}, "axis=[1, 2]"),
        (
            (5, 4),
            {"unbiased": True, "momentum": None, "axis": (1, -1)},
            "unbiased=True, momentum=None, axis=[1, -1]",
        ),
    ],
)
def test_convert_rejects_options_that_keras_lacks(shape, options, named):
    model = stack(shape, OURS(name="fine"), stack(shape, OURS(name="n", **options)))
    with pytest.raises(ValueError) as raised:
        to_keras(model)
    assert f"Layer 'model/n' has {named}, which keras" in str(raised.value)
    assert not layers_in(tfbn.without_batchnorm(model), inspection.BATCHNORM_CLASSES)
