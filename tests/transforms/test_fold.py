import keras
import numpy as np
import pytest
from keras import layers as L
from parameters import thorough

import tfbn
from tfbn.layers import inspection
from tfbn.transforms import fold as module
from tfbn.transforms import plan
from tfbn.transforms.fold import fold
from tfbn.transforms.tolerances import Tolerance

BN = tfbn.BatchNormalization


def scramble(model, seed=0):
    """Random statistics, gammas, betas and biases, so that nothing is a 0 or a 1 by chance."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, inspection.BATCHNORM_CLASSES):
            for weight in layer.weights:
                if weight.name in ("gamma", "moving_variance"):
                    weight.assign(rng.uniform(0.5, 1.5, weight.shape))
                if weight.name in ("beta", "moving_mean"):
                    weight.assign(rng.normal(size=weight.shape))
        elif isinstance(layer, plan.TAKERS["before"]) and layer.use_bias:
            layer.bias.assign(rng.normal(size=layer.bias.shape))
    return model


def chain(shape, *stack, **options):
    """A functional model of one layer after the other, scrambled."""
    inputs = x = keras.Input(shape, **options)
    for layer in stack:
        x = layer(x)
    return scramble(keras.Model(inputs, x))


def inputs_of(model, size=5):
    rng = np.random.default_rng(7)
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(lambda t: rng.normal(size=[size, *t.shape[1:]]), structure)


def assert_same(model, folded, rtol=1e-5):
    x = inputs_of(model)
    old, new = (each(x, training=False) for each in (model, folded))
    keras.tree.assert_same_structure(old, new)
    for one, other in zip(keras.tree.flatten(old), keras.tree.flatten(new), strict=True):
        one, other = (np.asarray(keras.ops.convert_to_numpy(value), "float64") for value in (one, other))
        np.testing.assert_allclose(other, one, rtol=0, atol=rtol * np.abs(one).max())
        assert one.std(0).max() > 1e-3 * np.abs(one).max(), "a model blind to its input proves nothing"


def norms_left(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, inspection.BATCHNORM_CLASSES)]


BEFORE = [
    (L.Dense, (4,), dict(units=6)),
    (L.Dense, (5, 3, 4), dict(units=6)),
    (L.Conv1D, (9, 4), dict(filters=6, kernel_size=3, padding="causal", dilation_rate=2)),
    (L.Conv2D, (9, 8, 4), dict(filters=6, kernel_size=3, padding="same", strides=2, groups=2)),
    (L.Conv3D, (5, 6, 4, 4), dict(filters=6, kernel_size=3)),
    (L.Conv1DTranspose, (5, 4), dict(filters=6, kernel_size=3, strides=2)),
    (L.Conv2DTranspose, (5, 4, 4), dict(filters=6, kernel_size=3, padding="same", strides=2)),
    (L.Conv3DTranspose, (3, 4, 3, 4), dict(filters=6, kernel_size=2)),
    (L.DepthwiseConv1D, (9, 4), dict(kernel_size=3, depth_multiplier=3, padding="same")),
    (L.DepthwiseConv2D, (7, 6, 4), dict(kernel_size=(3, 2), depth_multiplier=2, strides=2)),
    (L.SeparableConv1D, (9, 4), dict(filters=6, kernel_size=3, depth_multiplier=2)),
    (L.SeparableConv2D, (7, 6, 4), dict(filters=6, kernel_size=3, padding="same", depth_multiplier=2)),
]
AFTER = [
    (L.Dense, (4,), dict(units=6, activation="relu")),
    (L.Dense, (5, 3, 4), dict(units=6)),
    (L.Conv1D, (9, 4), dict(filters=6, kernel_size=3, dilation_rate=2, activation="tanh")),
    (L.Conv2D, (9, 8, 4), dict(filters=6, kernel_size=3, strides=2, groups=2)),
    (L.Conv2D, (9, 8, 4), dict(filters=6, kernel_size=1, strides=2, padding="same")),
    (L.Conv3D, (5, 6, 4, 4), dict(filters=6, kernel_size=3)),
    (L.DepthwiseConv1D, (9, 4), dict(kernel_size=3, depth_multiplier=3)),
    (L.DepthwiseConv2D, (7, 6, 4), dict(kernel_size=(3, 2), depth_multiplier=2, dilation_rate=2)),
    (L.SeparableConv1D, (9, 4), dict(filters=6, kernel_size=3, depth_multiplier=2, activation="relu")),
    (L.SeparableConv2D, (7, 6, 4), dict(filters=6, kernel_size=3, depth_multiplier=2)),
]
FLAGS = [
    (BN, True, {}),
    (BN, False, {"center": False}),
    (L.BatchNormalization, True, {"scale": False}),
    (L.BatchNormalization, False, {"epsilon": 0.1}),
]


@pytest.mark.parametrize(("norm", "use_bias", "flags"), FLAGS)
@pytest.mark.parametrize(
    ("side", "kind", "shape", "options"),
    [("before", *case) for case in BEFORE] + [("after", *case) for case in AFTER],
)
def test_fold_moves_a_norm_into_each_kind_of_layer(side, kind, shape, options, norm, use_bias, flags):
    # float64, so that a small mistake does not pass for rounding.
    layer = kind(**options, use_bias=use_bias, dtype="float64", name="taker")
    stack = [layer, norm(dtype="float64", name="norm", **flags)]
    model = chain(shape, *(stack if side == "before" else stack[::-1]))
    folded = fold(model)
    assert folded.folding.folded == {"norm": "taker"} and folded.folding.kept == {}
    assert folded.folding.tolerance == 1e-12
    assert not norms_left(folded) and type(folded.get_layer("taker")) is kind
    assert_same(model, folded, rtol=1e-12)


def test_folded_weights_match_the_formula_on_both_sides():
    rng = np.random.default_rng(2)
    x, k, b = rng.normal(size=[7, 4]), rng.normal(size=[4, 6]), rng.normal(size=6)
    for side, channels in (("before", 6), ("after", 4)):
        gamma, beta, mean = rng.normal(size=[3, channels])
        variance = rng.uniform(0.5, 1.5, channels)
        dense, norm = L.Dense(6, name="dense"), BN(epsilon=0.01)
        model = chain((4,), *([dense, norm] if side == "before" else [norm, dense]))
        dense.set_weights([k, b])
        norm.set_weights([gamma, beta, mean, variance])

        def normalized(z, mean=mean, variance=variance, gamma=gamma, beta=beta):
            return (z - mean) / np.sqrt(variance + 0.01) * gamma + beta

        expected = normalized(x @ k + b) if side == "before" else normalized(x) @ k + b
        kernel, bias = fold(model).get_layer("dense").get_weights()
        np.testing.assert_allclose(x @ kernel + bias, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "kind", "shape", "options"),
    [
        (side, *case)
        for side, cases in (("before", BEFORE), ("after", AFTER))
        for case in cases
        if case[0] is not L.Dense and case[2].get("padding") != "causal"
    ],
)
def test_fold_gives_the_same_weights_for_channels_first(side, kind, shape, options, monkeypatch):
    # The CPU does not run these, but their kernels are laid out as those of channels last.
    monkeypatch.setattr(module, "_prove", lambda *_: (0.0, Tolerance(1e-5, "fixed")))
    weights = []
    for data_format, axis in (("channels_last", -1), ("channels_first", 1)):
        keras.utils.set_random_seed(3)
        layer = kind(**options, data_format=data_format, name="taker")
        stack = [layer, BN(axis=axis)]
        placed = shape if axis == -1 else (shape[-1], *shape[:-1])
        folded = fold(chain(placed, *(stack if side == "before" else stack[::-1])))
        assert len(folded.folding.folded) == 1, folded.folding.table()
        weights.append(folded.get_layer("taker").get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("shape", "axis", "size"),
    [((1, 4), [1, 2], 4), ((5, 4), -1, 4), ((5, 4), [2], 4), ((1, 4), 1, 1)],
)
def test_fold_accepts_axes_that_amount_to_the_channels(shape, axis, size):
    model = chain(shape, L.Dense(4), BN(axis=axis, name="norm"))
    assert model.get_layer("norm").moving_mean.shape.num_elements() == size
    folded = fold(model)
    assert not folded.folding.kept
    assert_same(model, folded)


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [L.Dense(6), BN(), L.BatchNormalization(), BN(), L.ReLU(), L.Dense(3)],
        lambda: [L.Dense(6, activation="relu"), BN(), BN(), L.Dropout(0.2), BN(), L.Dense(3)],
        lambda: [BN(), L.Dense(6), L.GaussianNoise(0.1), L.Identity(), BN(), L.Dense(3), BN()],
        lambda: [L.Dense(6), L.Activation("linear"), L.AlphaDropout(0.1), BN(), L.GaussianDropout(0.1)],
        lambda: [L.Dense(6), L.ActivityRegularization(l2=0.1), BN(momentum=None), BN(debias=True)],
    ],
)
def test_fold_passes_chains_of_norms_and_layers_idle_in_inference(stack):
    model = chain((4,), *stack())
    for layer in inspection.find_batchnorms(model):
        if hasattr(layer, "count"):
            layer.count.assign(np.full(layer.count.shape, 7.0))
    folded = fold(model)
    assert not folded.folding.kept and not norms_left(folded)
    assert_same(model, folded)


class OwnDense(L.Dense):
    pass


class OwnNorm(L.BatchNormalization):
    pass


def with_lora():
    layer = L.Dense(4, name="d")
    layer.build((None, 4))
    layer.enable_lora(2)
    return layer


def quantized():
    layer = L.Dense(4, name="d")
    layer.build((None, 4))
    layer.quantize("int8")
    return layer


@pytest.mark.parametrize(
    ("shape", "stack", "reason"),
    [
        (
            (4,),
            lambda: [L.Dense(4, activation="relu", name="d"), BN()],
            "before it, Dense 'd' is not linear",
        ),
        ((4,), lambda: [L.Dense(4), L.Activation("relu", name="a"), BN()], "Activation 'a' is not linear"),
        ((4,), lambda: [L.Dense(4), L.ReLU(name="r"), BN()], "ReLU 'r' cannot take it in"),
        ((4,), lambda: [OwnDense(4, name="d"), BN()], "OwnDense 'd' cannot take it in"),
        ((4,), lambda: [L.Dense(4), OwnNorm()], "its class OwnNorm may compute something else"),
        ((4,), lambda: [L.Dense(4), BN(test_local_stats=True)], "test_local_stats=True"),
        ((4,), lambda: [with_lora(), BN()], "Dense 'd' has LoRA or quantized weights"),
        ((4,), lambda: [quantized(), BN()], "Dense 'd' has LoRA or quantized weights"),
        (
            (4,),
            lambda: [L.Dense(4, dtype="float64", name="d"), BN()],
            "'d' computes in float64, not float32",
        ),
        ((5, 4), lambda: [L.Dense(4, name="d"), BN(axis=1)], "Dense 'd' has its channels on axis 2, not 1"),
        ((5, 4), lambda: [L.Dense(4, name="d"), BN(axis=[1, 2])], "axis 2, not [1, 2]"),
        (
            (4,),
            lambda: [BN(name="n"), L.ReLU()],
            "before it, there is the input of its model; after it, ReLU",
        ),
        (
            (4,),
            lambda: [L.ReLU(), BN(name="n")],
            "after it, the output of BatchNormalization 'n' is an output",
        ),
        ((6, 6, 2), lambda: [BN(), L.Conv2D(2, 3, padding="same", name="c")], "Conv2D 'c' pads its input"),
        ((6, 2), lambda: [BN(), L.Conv1D(2, 3, padding="causal", name="c")], "Conv1D 'c' pads its input"),
        ((6, 6, 2), lambda: [BN(), L.ZeroPadding2D(), L.Conv2D(2, 3)], "ZeroPadding2D"),
        (
            (6, 6, 2),
            lambda: [BN(), L.Conv2DTranspose(2, 3, name="c")],
            "Conv2DTranspose 'c' cannot take it in",
        ),
        (
            (6, 2),
            lambda: [L.TimeDistributed(BN(name="n"), name="t")],
            "it is inside a layer whose graph is",
        ),
        (
            (4,),
            lambda: [L.Dense(4), lambda x: BN(name="n")(x, training=True)],
            "is called with its own training",
        ),
        (
            (4,),
            lambda: [L.Dense(4), lambda x: L.Dropout(0.5, name="o")(x, training=True), BN()],
            "Dropout 'o' is called with its own training",
        ),
    ],
)
def test_fold_names_the_reason_why_a_norm_stays(shape, stack, reason):
    model = chain(shape, *stack())
    folded = fold(model)
    assert folded.folding.folded == {}
    (kept,) = folded.folding.kept.values()
    assert reason in kept
    assert len(norms_left(folded)) == 1
    assert_same(model, folded)


def branch(inputs):
    y = L.Dense(4, name="d")(inputs)
    return L.Add()([y, BN()(y)])


def norm_to_two(inputs):
    y = BN(name="n")(L.ReLU()(inputs))
    return L.Add()([L.Dense(4)(y), L.Dense(4)(y)])


def raw_output(inputs):
    y = L.Dense(4, name="d")(inputs)
    return [y, BN()(y)]


def two_tensors(inputs):
    one, other = L.Identity(name="i")([L.Dense(4)(inputs), inputs])
    return L.Add()([L.ReLU()(BN()(one)), other])


def shared_dense(inputs):
    dense = L.Dense(4, name="d")
    return BN()(dense(L.ReLU()(dense(inputs))))


def shared_norm(inputs):
    norm = BN(name="n")
    return norm(L.Dense(4)(norm(L.Dense(4)(inputs))))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (branch, "the output of Dense 'd' goes to several layers"),
        (norm_to_two, "the output of BatchNormalization 'n' goes to several layers"),
        (raw_output, "the output of Dense 'd' is an output of its model"),
        (two_tensors, "Identity 'i' is called with more than one tensor"),
        (shared_dense, "Dense 'd' is called more than once"),
        (shared_norm, "BatchNormalization 'n' is called more than once"),
    ],
)
def test_fold_keeps_norms_at_branches_and_shared_layers(graph, reason):
    inputs = keras.Input((4,))
    model = scramble(keras.Model(inputs, graph(inputs)))
    folded = fold(model)
    assert folded.folding.folded == {}
    assert reason in next(iter(folded.folding.kept.values()))
    assert_same(model, folded)


def test_fold_ignores_calls_in_other_models():
    inputs = keras.Input((4,))
    dense, norm = L.Dense(4), BN()
    model = scramble(keras.Model(inputs, norm(dense(inputs))))
    keras.Model(inputs, L.ReLU()(norm(dense(L.ReLU()(inputs)))))
    assert len(fold(model).folding.folded) == 1


def test_fold_keeps_structures_of_inputs_and_outputs_and_masks():
    inputs = {"a": keras.Input((6, 3), name="a"), "b": keras.Input((6, 3), name="b")}
    a = L.Masking()(inputs["a"])
    a = BN(name="bn_a")(L.Dense(4, name="da")(a))
    b = BN(name="bn_b")(keras.ops.relu(L.Conv1D(4, 1, name="cb")(inputs["b"])) + 1)
    both = L.Concatenate()([a, L.Dense(4, name="db")(b)])
    model = scramble(keras.Model(inputs, {"y": L.GRU(3)(both), "z": [a, keras.ops.sum(both, axis=1)]}))
    folded = fold(model)
    assert folded.folding.folded == {"bn_a": "da", "bn_b": "db"}
    assert folded.output_names == model.output_names
    assert [tensor.name for tensor in folded.inputs] == ["a", "b"]
    assert_same(model, folded)


def nested(levels=1):
    shared = keras.Sequential([keras.Input((4,)), L.Dense(4, name="d"), BN(name="bn")], name="shared")
    inner_inputs = keras.Input((4,))
    x = L.Dense(4, name="d")(shared(inner_inputs) if levels == 2 else inner_inputs)
    inner = keras.Model(inner_inputs, L.ReLU()(BN(name="bn")(x)), name="inner")
    inputs = keras.Input((4,))
    y = L.Add()([shared(shared(inputs)), inner(inputs)])
    return scramble(keras.Model(inputs, BN(name="bn")(L.Dense(2, name="d")(y)), name="outer"))


def test_fold_keeps_nested_models_shared():
    model = nested(levels=2)  # which Keras does not reload
    model.get_layer("inner").trainable = False
    folded = fold(model)
    assert folded.folding.folded == {"bn": "d", "shared/bn": "shared/d", "inner/bn": "inner/d"}
    assert folded.get_layer("inner").get_layer("shared") is folded.get_layer("shared")
    assert [layer.name for layer in folded.layers if "Identity" not in str(type(layer))] == [
        layer.name for layer in model.layers if layer.name != "bn"
    ]
    assert not folded.get_layer("inner").trainable and folded.get_layer("d").trainable
    assert_same(model, folded)


class Unknown(keras.Model):
    """A model whose graph nobody knows but its `call`."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.norm = L.Dense(4), BN(name="bn")

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build((None, 4))

    def call(self, x):
        return self.norm(self.dense(x))

    def get_config(self):
        return {"name": self.name}


class OwnCall(keras.Model):
    """A functional model that computes something else than its graph."""

    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


def test_fold_rejects_a_model_with_its_own_call_but_not_one_around_it():
    model = Unknown(name="mine")
    model(np.zeros([2, 4]))
    with pytest.raises(
        ValueError, match=r"The graph of model 'mine' is unknown: Unknown has its own `call`"
    ):
        fold(model)
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r"OwnCall has its own `call`"):
        fold(OwnCall(inputs, BN()(L.Dense(4)(inputs))))
    outer = chain((4,), Unknown(name="mine"), L.Dense(3, name="d"), BN(name="bn"))
    folded = fold(outer)
    assert folded.folding.folded == {"bn": "d"}
    assert folded.folding.kept == {"mine/bn": "it is inside a layer whose graph is unknown"}
    assert_same(outer, folded)


@pytest.mark.parametrize(
    "build",
    [
        lambda: chain((8,), L.Dense(4), BN(), L.ReLU(), L.Dense(2)),
        lambda: keras.Sequential([keras.Input((8,)), L.Dense(4), BN(), L.Dense(2)]),
        lambda: tfbn.Model(8, 3),
        nested,
    ],
)
def test_fold_leaves_the_model_and_its_copy_trains_saves_and_loads(build, tmp_path):
    model = build()
    model.compile("sgd", "mse")
    x = inputs_of(model)
    before, outputs, names = model.get_weights(), model(x), [layer.name for layer in model.layers]
    folded = fold(model)
    assert type(folded) is type(keras.Model(model.inputs, model.outputs)) and folded.name == model.name
    assert folded.output_names == keras.Model(model.inputs, model.outputs).output_names
    folded.save(tmp_path / "folded.keras")
    again = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(again(x), folded(x))
    assert not folded.compiled
    folded.compile("sgd", "mse", jit_compile=False)
    folded.fit(x, np.asarray(outputs) + 1, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(model(x), outputs)
    assert [layer.name for layer in model.layers] == names and model.compiled
    assert model.layers[-1].output is not None


def test_fold_copies_derived_states_and_frozen_layers():
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 5, size=[50, 4]))
    model = chain((4,), normalization, L.Dense(4, name="d", trainable=False), BN(), L.Dense(2, name="e"))
    folded = fold(model)
    assert [folded.get_layer(name).trainable for name in "de"] == [False, True]
    assert_same(model, folded)


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        ("float16", 1e-2),
        ("mixed_float16", 1e-2),
        ("mixed_bfloat16", 5e-2),
        ("bfloat16", 5e-2),
        ("float64", 1e-12),
    ],
)
def test_default_tolerance_follows_the_precision(policy, tolerance):
    model = scramble(tfbn.Model((8, 8, 1), 3, conv_filters=(4,), dtype=policy))
    folded = fold(model)
    assert folded.folding.tolerance == tolerance and len(folded.folding.folded) == 3
    assert [w.dtype for w in folded.weights] == [w.dtype for w in model.weights if "norm" not in w.path]
    assert folded(inputs_of(model)).dtype == model(inputs_of(model)).dtype
    assert_same(model, folded, tolerance)


@pytest.mark.parametrize("position", ["before_activation", "after_activation", "input"])
@pytest.mark.parametrize("conv_filters", [(), (4, 6)])
def test_fold_of_models_of_this_package(position, conv_filters):
    model = scramble(
        tfbn.Model((16, 16, 1), 3, conv_filters=conv_filters, norm_position=position, dropout=0.1)
    )
    folded = fold(model)
    left = [name for name, reason in folded.folding.kept.items()]
    # Pooling, flattening and padding are in the way of what does not stand right behind a convolution.
    expected = {("after_activation", (4, 6)): 2, ("input", (4, 6)): 2}
    assert len(left) == expected.get((position, conv_filters), 0), folded.folding.table()
    assert_same(model, folded)


@pytest.fixture
def policy():
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


NETWORKS = [("MobileNetV2", 52), ("ResNet50", 53), ("EfficientNetB0", 49)]


@pytest.mark.parametrize(
    ("name", "count", "dtype"),
    thorough(
        [(*network, dtype) for network in NETWORKS for dtype in ("float32", "float64")],
        lambda name, count, dtype: name == "MobileNetV2",
    ),
)
def test_fold_of_keras_applications(name, count, dtype, policy):
    policy(dtype)
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(96, 96, 3), classifier_activation=None)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, size=[8, 96, 96, 3])
    norms = inspection.find_batchnorms(model)
    # Statistics of data, without which so deep a model hardly sees its input.
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    for norm in norms:
        _, beta, mean, variance = norm.get_weights()
        spread = np.sqrt(variance)
        norm.set_weights(
            [
                rng.uniform(0.5, 1.5, beta.shape),
                rng.normal(size=beta.shape) * 0.1,
                mean + spread * rng.normal(size=mean.shape) * 0.1,
                variance * rng.uniform(0.5, 1.5, mean.shape),
            ]
        )
    folded = fold(model, data=x, tolerance=None if dtype == "float32" else 1e-8)
    assert len(folded.folding.folded) == count and not folded.folding.kept
    assert not norms_left(folded)
    if dtype == "float64":
        outputs = model(x, training=False).numpy()
        assert outputs.std(0).max() > 0.01 * np.abs(outputs).max(), (
            "a model blind to its input proves nothing"
        )


def test_fold_rejects_outputs_that_differ(monkeypatch):
    model = chain((4,), L.Dense(4), BN())
    with pytest.raises(ValueError, match=r"differ by .* allowed is tolerance=1.0e-30"):
        fold(chain((64,), L.Dense(64), BN(), L.Dense(3)), tolerance=1e-30)
    right = inspection.scale_and_shift
    monkeypatch.setattr(inspection, "scale_and_shift", lambda norm: [1.001 * v for v in right(norm)])
    with pytest.raises(ValueError, match=r"differ by 1.0e-03 .* allowed is tolerance=1.0e-06"):
        fold(model)
    assert fold(model, tolerance=0.01).folding.difference == pytest.approx(1e-3, rel=0.01)


def cancelling():
    """A model of which float32 rounds 1e-5 and more: a large bias, which the norm takes away."""
    model = chain((16,), L.Dense(8, name="dense"), BN(name="norm"))
    model.get_layer("dense").bias.assign(np.full(8, 1e3))
    model.get_layer("norm").moving_mean.assign(np.full(8, 1e3))
    return model


def test_tolerance_grows_with_the_rounding_of_the_model():
    folding = fold(cancelling()).folding
    assert folding.tolerance_basis == "measured"
    assert 1e-5 < folding.difference < folding.tolerance < 1e-2
    assert "(measured tolerance:" in folding.table()


@pytest.mark.parametrize(("error", "where"), [(1e-2, "differ by"), (1e-6, "differ in float64 by 1.0e-06")])
def test_fold_rejects_a_wrong_kernel_of_a_model_that_rounds_much(monkeypatch, error, where):
    right = inspection.scale_and_shift
    monkeypatch.setattr(
        inspection, "scale_and_shift", lambda norm: [(1 + error) * value for value in right(norm)]
    )
    with pytest.raises(ValueError, match=where + ".* Rounding in float32 alone moves the outputs"):
        fold(cancelling())


def test_fold_rejects_data_that_do_not_exercise_the_model():
    model = chain((4,), L.Dense(4, kernel_initializer="zeros", bias_initializer="ones"), BN())
    with pytest.raises(ValueError, match="do not exercise the model"):
        fold(model)


def embedding():
    return chain((5,), L.Embedding(10, 4), L.Dense(4), BN(), dtype="int32")


def broken():
    model = chain((4,), L.Dense(4), BN(name="n"))
    model.get_layer("n").moving_variance.assign([-1.0] * 4)
    return model


@pytest.mark.parametrize(
    ("build", "options", "error", "message"),
    [
        (lambda: "model", {}, TypeError, "must be a keras.Model"),
        (lambda: chain((4,), L.Dense(2)), {}, ValueError, "no batch normalization layer"),
        (lambda: keras.Sequential([L.Dense(2), BN()]), {}, ValueError, "no weights yet"),
        (nested, {"tolerance": 0}, ValueError, "tolerance=0"),
        (nested, {"tolerance": float("nan")}, ValueError, "tolerance=nan"),
        (nested, {"tolerance": "1"}, TypeError, "`tolerance` must be a number"),
        (embedding, {}, ValueError, "is int32"),
        (nested, {"data": np.zeros([0, 4])}, ValueError, "one example or more"),
        (nested, {"data": (np.zeros([2, 4]), np.zeros([2]))}, ValueError, "without labels"),
        (nested, {"data": np.full([2, 4], np.nan)}, ValueError, "not all finite"),
        (broken, {}, ValueError, "not all finite"),
        (
            lambda: chain((4,), L.Dense(4), BN(), L.Lambda(lambda x: x)),
            {},
            ValueError,
            "could not be copied",
        ),
    ],
)
def test_fold_rejects_bad_input(build, options, error, message):
    with pytest.raises(error) as raised:
        fold(build(), **options)
    assert message in str(raised.value)


def test_fold_compares_on_the_first_examples_of_data():
    model = embedding()
    folded = fold(model, data=np.arange(500).reshape(100, 5) % 10)
    assert len(folded.folding.folded) == 1
    x = np.arange(10).reshape(2, 5)
    np.testing.assert_allclose(folded(x), model(x), atol=1e-6)
    assert len(module._examples(model, np.ones([100, 5]))) == 32
    ints = chain((4,), BN(name="n"), L.Dense(2), dtype="int32")
    assert fold(ints, data=np.arange(8).reshape(2, 4)).folding.kept == {"n": "its input is int32"}


def test_fold_generates_data_for_free_lengths():
    model = chain((None, None, 3), L.Conv2D(4, 3), BN(), L.GlobalAveragePooling2D())
    assert fold(model).folding.difference < 1e-5


def test_table_lists_every_norm_within_the_width(monkeypatch):
    kept = {
        "a_long_name_of_a_nested_model/batch_normalization_17": "before it, "
        + "Dense 'd' is not linear " * 6
    }
    folding = module.Folding({"bn": "dense"}, kept, 1.234e-7, 1e-5)
    monkeypatch.setenv("COLUMNS", "100")
    lines = folding.table().splitlines()
    assert lines[2].split() == ["bn", "into", "dense"]
    assert lines[-1] == (
        "1 of 2 batch norm layers folded; outputs differ by 1.2e-07 of the largest (allowed: 1e-05)"
    )
    assert max(map(len, lines)) <= 100 and "kept: before it," in folding.table()
