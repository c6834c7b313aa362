import keras
import numpy as np
import pytest

import tfbn
from tfbn.comparison import observers


@pytest.fixture
def network(rng):
    model = tfbn.Model(4, 3, hidden_dims=(5, 6), activation="sigmoid", seed=0)
    for weight in model.weights:
        weight.assign(np.abs(rng.normal(size=weight.shape)) + 0.1)
    return model


@pytest.fixture
def inputs(network, rng):
    """Examples, and the inputs of both activations by float64 NumPy."""
    x = rng.normal(size=[57, 4])
    found, h = [], x
    for layer in network.layers:
        weights = [np.array(weight, "float64") for weight in layer.get_weights()]
        if isinstance(layer, keras.layers.Dense):
            h = h @ weights[0] + weights[1]
        elif isinstance(layer, tfbn.BatchNormalization):
            gamma, beta, mean, variance = weights
            h = (h - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
        elif isinstance(layer, keras.layers.Activation):
            found.append(h)
            h = 1 / (1 + np.exp(-h))
    return x.astype("float32"), found


def test_percentiles_equal_numpys(network, inputs):
    x, (_, last) = inputs
    expected = np.percentile(last, [15, 50, 85], axis=0).T
    np.testing.assert_allclose(observers.percentiles(network)(x), expected, rtol=1e-4, atol=1e-5)


def test_histograms_equal_numpys(network, inputs):
    x, expected = inputs
    found = observers.histograms(network)(x)
    assert len(found) == 2
    for histogram, values in zip(found, expected, strict=True):
        low, high, counts = (np.array(histogram[name]) for name in ("low", "high", "counts"))
        np.testing.assert_allclose([low, high], [values.min(), values.max()], rtol=1e-5)
        hand = np.histogram(values, 40, (low, high))[0]
        assert counts.sum() == values.size
        assert np.abs(np.cumsum(counts) - np.cumsum(hand)).max() <= 2, "but for rounding at a bin's edge"


def test_outputs_equal_the_models(rng):
    model = tfbn.Model(1, 1, seed=0)
    x = rng.normal(size=[9, 1]).astype("float32")
    np.testing.assert_allclose(observers.outputs(model)(x), model.predict(x, verbose=0).ravel(), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 3e38, float("nan"), float("inf")])
def test_histograms_count_values_that_are_not_finite(value):
    model = tfbn.Model(2, 2, hidden_dims=(3,), use_batchnorm=False)
    x = np.full([5, 2], value, "float32")
    (found,) = observers.histograms(model)(x)
    assert int(np.sum(found["counts"])) == 15
    assert float(found["low"]) <= float(found["high"])


@pytest.mark.parametrize("observe", [observers.percentiles, observers.histograms])
def test_observers_reject_a_model_without_activation_layers(observe):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, activation="relu")])
    with pytest.raises(ValueError, match="no activation to observe"):
        observe(model)
