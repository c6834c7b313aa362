import keras
import numpy as np
import pytest

import tfbn

BN = tfbn.BatchNormalization


def kinds(model):
    short = {"Dense": "dense", "Conv2D": "conv", "BatchNormalization": "norm", "Activation": "act"}
    names = [type(layer).__name__ for layer in model.layers]
    return " ".join(short[name] for name in names if name in short)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "dense norm act dense norm act dense"),
        ({"use_batchnorm": False}, "dense act dense act dense"),
        ({"norm_position": "after_activation"}, "dense act norm dense act norm dense"),
        ({"norm_position": "input"}, "norm dense act norm dense act norm dense"),
        ({"hidden_dims": (7,)}, "dense norm act dense"),
        (
            {"input_dim": (8, 8, 1), "conv_filters": (2,)},
            "conv norm act dense norm act dense norm act dense",
        ),
    ],
)
def test_layers_stand_where_the_arguments_say(arguments, expected):
    model = tfbn.Model(**{"input_dim": 6, "output_dim": 4, **arguments})
    assert kinds(model) == expected
    assert isinstance(model, keras.Model)
    x = np.zeros([3, *model.input_shape[1:]], "float32")
    assert model(x).shape == (3, 4)


@pytest.mark.parametrize(
    "kernel_initializer", ["glorot_uniform", "he_normal", 0.05, keras.initializers.Orthogonal()]
)
@pytest.mark.parametrize("position", ["before_activation", "after_activation", "input"])
def test_kernels_depend_on_the_seed_and_not_on_batchnorm(kernel_initializer, position):
    def kernels(**arguments):
        model = tfbn.Model(
            (8, 8, 1), 4, conv_filters=(3,), dropout=0.5, kernel_initializer=kernel_initializer, **arguments
        )
        return [weight.numpy() for weight in model.weights if weight.name == "kernel"]

    for seeds in ({"seed": 3}, {}):
        keras.utils.set_random_seed(5)
        plain = kernels(use_batchnorm=False, **seeds)
        keras.utils.set_random_seed(5)
        batchnorm = kernels(norm_position=position, **seeds)
        for one, other in zip(plain, batchnorm, strict=True):
            np.testing.assert_array_equal(one, other)
    assert any(
        (one != other).any() for one, other in zip(plain, kernels(use_batchnorm=False, seed=4), strict=True)
    )
    assert len({kernel.ravel()[0] for kernel in plain}) == len(plain), "layers must not share a seed"


def test_a_number_initializes_kernels_by_a_normal_distribution():
    kernel = (
        tfbn.Model(500, 2, hidden_dims=(400,), kernel_initializer=0.03, seed=0).layers[1].kernel.numpy()
    )
    assert kernel.mean() == pytest.approx(0, abs=3e-4)
    assert kernel.std() == pytest.approx(0.03, rel=0.01)
    assert np.mean(np.abs(kernel) < 0.03) == pytest.approx(0.6827, abs=0.01)


def test_weight_decay_dropout_and_bias_take_effect():
    model = tfbn.Model(
        6, 4, (5,), weight_decay=0.1, dropout=0.4, use_bias=False, use_batchnorm=False, seed=0
    )
    kernels = [weight.numpy().astype("float64") for weight in model.weights if weight.name == "kernel"]
    assert float(sum(model.losses)) == pytest.approx(0.1 * sum((kernel**2).sum() for kernel in kernels))
    assert [weight.name for weight in model.weights] == ["kernel", "kernel", "bias"]
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.4]
    x = np.ones([4, 6], "float32")
    assert (model(x, training=True) != model(x, training=True)).numpy().any()


def test_batchnorm_options_reach_every_norm():
    model = tfbn.Model(6, 4, batchnorm_options={"momentum": 0.5, "scale": False})
    norms = [layer for layer in model.layers if isinstance(layer, BN)]
    assert [(norm.momentum, norm.scale) for norm in norms] == [(0.5, False)] * 2


def test_keras_fits_saves_and_reloads_a_model(tmp_path, blobs):
    model = tfbn.Model(8, 3, dropout=0.1, weight_decay=1e-4, kernel_initializer=0.1, activation="tanh")
    model.layers[1].trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(*blobs.train, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is tfbn.Model
    assert again.get_config() == model.get_config()
    assert [layer.trainable for layer in again.layers] == [layer.trainable for layer in model.layers]
    np.testing.assert_array_equal(again(blobs.test.x), model(blobs.test.x))
    again.fit(*blobs.train, verbose=0)


def test_a_model_reloads_in_its_own_precision(tmp_path, blobs):
    model = tfbn.Model(8, 3, dtype="mixed_bfloat16")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again(blobs.test.x).dtype == "bfloat16"
    np.testing.assert_array_equal(again(blobs.test.x), model(blobs.test.x))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_dims": ()}, ValueError, "`hidden_dims` must not be empty"),
        (
            {"hidden_dims": (32, 0)},
            ValueError,
            "`hidden_dims[1]` must be an integer, 1 or more. Received: hidden_dims[1]=0",
        ),
        ({"hidden_dims": (-3,)}, ValueError, "hidden_dims[0]=-3"),
        ({"hidden_dims": (2.5,)}, TypeError, "hidden_dims[0]=2.5"),
        ({"hidden_dims": "32"}, TypeError, "`hidden_dims`"),
        ({"input_dim": 0}, ValueError, "`input_dim`"),
        ({"output_dim": 0}, ValueError, "`output_dim`"),
        ({"output_dim": (2, 3)}, ValueError, "`output_dim`"),
        (
            {"norm_position": "before"},
            ValueError,
            "['before_activation', 'after_activation', 'input']. Received: norm_position='before'",
        ),
        ({"dropout": 1.0}, ValueError, "dropout=1.0"),
        ({"weight_decay": -1}, ValueError, "weight_decay=-1"),
        ({"kernel_initializer": -0.1}, ValueError, "kernel_initializer=-0.1"),
        ({"kernel_initializer": "no_such"}, ValueError, "no_such"),
        ({"activation": "no_such"}, ValueError, "no_such"),
        ({"conv_filters": (4,)}, ValueError, "(height, width, channels)"),
        ({"conv_filters": (4, 4, 4), "input_dim": (6, 6, 1)}, ValueError, "6x6"),
        ({"batchnorm_options": {"momentum": 2}}, ValueError, "`momentum`"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"seed": True}, TypeError, "seed=True"),
    ],
)
def test_model_rejects_arguments_outside_their_range(arguments, error, message):
    with pytest.raises(error) as raised:
        tfbn.Model(**{"input_dim": 6, "output_dim": 4, **arguments})
    assert message in str(raised.value)
