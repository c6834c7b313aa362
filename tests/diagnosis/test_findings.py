"""What `diagnose` says: codes and sentences, in an order that harms nobody who follows the first."""

import re

import keras
import numpy as np
import pytest

import tfbn
from tfbn.diagnosis import CODES


@pytest.fixture(scope="module")
def trained(blobs):
    """A network of which accuracy is good and whose averages are right."""
    keras.utils.set_random_seed(0)
    model = tfbn.Model(8, 3, (16,))
    tfbn.Solver(model, learning_rate=0.05).fit(blobs, epochs=5)
    return tfbn.recalibrate(model, blobs.train)


@pytest.fixture
def model(trained):
    copy = keras.models.clone_model(trained)
    copy.set_weights(trained.get_weights())
    return copy


@pytest.fixture
def data(blobs):
    return tuple(np.asarray(part) for part in blobs.train)


def test_a_sound_model_has_no_code(model, data):
    diagnosis = tfbn.diagnose(model, data)
    assert diagnosis.codes == [] and "No fault found" in diagnosis.findings[0]


def test_one_class_is_said_first_and_recalibrating_is_not_advised(model, data):
    x, y = data
    diagnosis = tfbn.diagnose(model, (x[y == 1], y[y == 1]))
    assert diagnosis.codes[:2] == ["data", "worse"] and "drift" in diagnosis.codes
    assert diagnosis.findings[0].startswith("All labels are class 1.")
    assert "would do harm" in diagnosis.findings[1]
    assert not any("Recalibrate" in finding for finding in diagnosis.findings)


def test_another_scale_is_said_first_and_recalibrating_is_not_advised(model, data):
    x, y = data
    dense = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    dense.bias.assign(np.zeros(16))
    tfbn.recalibrate(model, data)
    for factor, wording in (
        (1 / 255, r"at least \d+\.?\d* times as wide"),
        (255, r"at least 25\d times as narrow"),
    ):
        diagnosis = tfbn.diagnose(model, (factor * x, y), steps=10_000)
        assert diagnosis.codes[0] == "data"
        assert re.search(wording, diagnosis.findings[0])
        assert not any("Recalibrate" in finding or "to blame" in finding for finding in diagnosis.findings)


def norm(model):
    return next(layer for layer in model.layers if isinstance(layer, tfbn.BatchNormalization))


def test_wrong_averages_are_blamed_where_recalibrating_helps(model, data):
    norm(model).moving_mean.assign_add(3 * np.ones(16))
    diagnosis = tfbn.diagnose(model, data, steps=10_000)
    assert diagnosis.codes[:2] == ["better", "drift"]
    assert "the moving averages are to blame" in diagnosis.findings[0]
    assert "Recalibrate." in diagnosis.findings[1]


def test_wrong_averages_that_change_no_prediction_make_little_difference(model, data):
    gamma = np.ones(16)
    gamma[0] = 0
    norm(model).gamma.assign(gamma)
    norm(model).moving_mean.assign_add(3 * (gamma == 0))  # Of a channel that has no influence.
    diagnosis = tfbn.diagnose(model, data, steps=10_000)
    assert diagnosis.codes[0] == "drift" and diagnosis.codes[-1] == "equal"
    assert "little difference" in diagnosis.findings[-1]


def test_nan_in_the_last_weights_is_found(model, data):
    bias = model.layers[-1].bias.numpy()
    bias[1] = np.nan
    model.layers[-1].bias.assign(bias)
    diagnosis = tfbn.diagnose(model, data)
    assert diagnosis.codes[0] == "nan"
    assert model.layers[-1].bias.path in diagnosis.findings[0]


def test_a_loss_that_is_not_finite_is_found(model, data):
    diagnosis = tfbn.diagnose(model, data, loss=lambda y, output: np.float32(np.inf))
    assert diagnosis.codes[0] == "nan" and "The loss is NaN or infinite" in diagnosis.findings[0]


def test_codes_are_listed_and_in_the_json(model, data):
    x, y = data
    diagnosis = tfbn.diagnose(model, (x[y == 1], y[y == 1]))
    assert set(diagnosis.codes) <= set(CODES) and len(diagnosis.codes) == len(diagnosis.findings)
    assert diagnosis.to_dict()["codes"] == diagnosis.codes


def test_outputs_that_are_not_finite_are_found(rng):
    x = rng.normal(0, 1, [64, 3]).astype("float32")
    inputs = keras.Input([3])
    model = keras.Model(inputs, keras.ops.log(tfbn.BatchNormalization()(inputs)))
    diagnosis = tfbn.diagnose(tfbn.recalibrate(model, x), x)
    assert diagnosis.codes == ["nan"] and "Outputs are NaN or infinite" in diagnosis.findings[0]


def trained_norm(x, steps, momentum=0.99):
    """A norm after as many steps on batches like `x`."""
    layer = tfbn.BatchNormalization(momentum=momentum)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    for _ in range(steps):
        layer(x, training=True)
    return model


@pytest.mark.parametrize("steps", [300, 900])
def test_a_lag_does_not_hide_another_scale(rng, steps):
    x = rng.normal(0, 1, [200, 3]).astype("float32")
    model = trained_norm(x, steps)
    diagnosis = tfbn.diagnose(model, 255 * x, steps=steps)
    assert diagnosis.codes[0] == "data" and not any("Recalibrate" in said for said in diagnosis.findings)


def test_a_lag_alone_is_not_another_scale(rng):
    x = rng.normal(0, 100, [200, 3]).astype("float32")  # The averages start at a variance of 1.
    diagnosis = tfbn.diagnose(trained_norm(x, 50), x, steps=50)
    assert diagnosis.codes == ["lag"] and "Recalibrate" in diagnosis.findings[0]


def test_another_mean_is_other_data(rng):
    x = rng.normal(0, 1, [200, 3]).astype("float32")
    diagnosis = tfbn.diagnose(trained_norm(x, 900), x + 20, steps=900)
    assert diagnosis.codes[0] == "data" and "standard deviations away" in diagnosis.findings[0]


def test_a_regression_has_no_classes(rng):
    x = rng.normal(0, 1, [64, 3]).astype("float32")
    model = keras.Sequential([keras.Input([3]), tfbn.BatchNormalization(), keras.layers.Dense(1)])
    diagnosis = tfbn.diagnose(tfbn.recalibrate(model, x), (x, np.ones(64, "int32")), loss="mse")
    assert diagnosis.codes == []
