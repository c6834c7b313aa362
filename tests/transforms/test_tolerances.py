import keras
import numpy as np
import pytest

import tfbn
from tfbn.transforms.tolerances import Tolerance, check_exercised, measure

L = keras.layers


def chain(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def test_rounding_is_the_difference_from_float64(rng):
    model = chain([64], L.Dense(64, "tanh"), tfbn.BatchNormalization(), L.Dense(5))
    x = rng.normal(size=[20, 64]).astype("float32")
    first, norm, last = (
        [weight.astype("float64") for weight in layer.get_weights()] for layer in model.layers
    )
    gamma, beta, mean, variance = norm
    hidden = np.tanh(x.astype("float64") @ first[0] + first[1])
    expected = ((hidden - mean) / np.sqrt(variance + 1e-3) * gamma + beta) @ last[0] + last[1]
    outputs = np.asarray(model(x, training=False), "float64")
    rounding = np.abs(outputs - expected).max() / np.abs(expected).max()
    tolerance = measure(model, x)
    assert tolerance.basis == "measured" and tolerance.rounding == pytest.approx(rounding, rel=1e-6)
    assert tolerance.value == max(1e-6, 10 * tolerance.rounding)
    np.testing.assert_allclose(tolerance.twin(x, training=False), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [L.TimeDistributed(L.Dense(3)), L.Bidirectional(L.GRU(4)), L.Dense(2)],
        lambda: [chain([5, 4], L.Dense(3), L.LayerNormalization()), L.Flatten(), L.Dense(2)],
        lambda: [L.Dense(3), tfbn.BatchNormalization(), L.Activation("relu", dtype="float32")],
    ],
)
def test_copy_computes_in_float64_from_end_to_end(rng, stack):
    model, x = chain([5, 4], *stack()), rng.normal(size=[3, 5, 4])
    twin = measure(model, x).twin
    before = twin(x).numpy()
    assert before.dtype == "float64"
    # A change that float32 does not see.
    twin.weights[0].assign(twin.weights[0] * (1 + 1e-12))
    assert 0 < np.abs(twin(x) - before).max() < 1e-9


@keras.saving.register_keras_serializable(package="test_tolerances")
class Own(L.Layer):
    def call(self, x):
        return x


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (lambda: chain([4], L.Dense(2, dtype="mixed_bfloat16")), 5e-2),
        (lambda: chain([4], L.Dense(2), L.Dense(2, dtype="float16")), 1e-2),
        (lambda: chain([4], L.Dense(2, dtype="float64")), 1e-12),
        (lambda: chain([4], L.Dense(2), Own()), 1e-5),
        (lambda: chain([4], L.Dense(2), L.Lambda(lambda x: x)), 1e-5),
        (lambda: keras.Model(x := keras.Input([4]), keras.ops.cast(x, "float32")), 1e-5),
        (Subclassed, 1e-5),
    ],
)
def test_tolerance_is_fixed_where_it_cannot_be_measured(rng, build, value):
    assert measure(build(), rng.normal(size=[3, 4])) == Tolerance(value, "fixed")


@pytest.mark.parametrize(
    ("outputs", "rounding", "refused"),
    [
        ([[[1.0, 2.0]] * 3], None, True),
        ([[[1.0, 2.0], [1.0, 2.0 + 1e-7]]], None, False),
        ([[[1.0, 2.0], [1.0, 2.0 + 1e-7]]], 1e-7, True),
        ([[[1.0, 2.0]] * 3, [[0.0], [0.0], [1.0]]], 1e-7, False),
        ([[[1.0, 2.0]]], 1e-7, False),
    ],
)
def test_equal_outputs_of_several_examples_are_rejected(outputs, rounding, refused):
    outputs, tolerance = [np.array(output) for output in outputs], Tolerance(1e-5, "given", rounding)
    different = np.arange(len(outputs[0]))[:, None]
    for inputs in (different, np.zeros_like(different)):
        if refused:
            with pytest.raises(
                ValueError, match=r"The data do not exercise the model.* 'model' .*Pass real"
            ):
                check_exercised(inputs, outputs, tolerance, "model")
        else:
            check_exercised(inputs, outputs, tolerance, "model")
