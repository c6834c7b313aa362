"""The layer's arguments: names and defaults of Keras, and an error for each mistake."""

import inspect

import keras
import numpy as np
import pytest

import tfbn

KERAS = keras.layers.BatchNormalization


def test_arguments_and_defaults_are_those_of_keras():
    theirs, ours = (
        inspect.signature(kind.__init__).parameters for kind in (KERAS, tfbn.BatchNormalization)
    )
    own = [name for name, parameter in ours.items() if name not in theirs]
    assert [name for name in ours if name not in own] == list(theirs)
    assert all(ours[name].default == parameter.default for name, parameter in theirs.items())
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own)
    assert not issubclass(tfbn.BatchNormalization, KERAS)
    assert tfbn.BatchNormalization.__bases__ == (keras.layers.Layer,)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"momentum": 1.5}, ValueError, "`momentum` must be within [0, 1]"),
        ({"momentum": -0.1}, ValueError, "momentum=-0.1"),
        ({"momentum": float("nan")}, ValueError, "momentum=nan"),
        ({"renorm_momentum": 2}, ValueError, "renorm_momentum=2"),
        ({"epsilon": 0}, ValueError, "epsilon=0"),
        ({"epsilon": -1}, ValueError, "`epsilon` must be a positive, finite number"),
        ({"epsilon": "small"}, TypeError, "epsilon='small'"),
        ({"momentum": "fast"}, TypeError, "momentum='fast'"),
        ({"axis": 1.5}, TypeError, "axis=1.5"),
        ({"axis": []}, ValueError, "axis=[]"),
        ({"axis": [1, 1]}, ValueError, "axis=[1, 1]"),
        ({"axis": [1, "2"]}, TypeError, "axis='2'"),
        ({"unbiased": 2}, TypeError, "unbiased=2"),
        ({"synchronized": "no"}, TypeError, "synchronized='no'"),
        ({"renorm": True, "renorm_clipping": [1, 2]}, TypeError, "renorm_clipping=[1, 2]"),
        ({"renorm": True, "renorm_clipping": {"rmax": "a"}}, TypeError, "rmax='a'"),
        ({"renorm": True, "renorm_clipping": {"rmax": float("nan")}}, ValueError, "rmax=nan"),
        ({"debias": "yes"}, TypeError, "debias='yes'"),
        ({"test_local_stats": None}, TypeError, "test_local_stats=None"),
        ({"virtual_batch_size": 0}, ValueError, "virtual_batch_size=0"),
        ({"virtual_batch_size": 2.0}, TypeError, "virtual_batch_size=2.0"),
        ({"single_value": "ignore"}, ValueError, "'moving'"),
        ({"renorm": True, "renorm_clipping": {"low": 1}}, ValueError, "['low']"),
        ({"renorm": True, "renorm_clipping": {"rmax": 1.0, "rmin": 2.0}}, ValueError, "rmax=1.0, rmin=2.0"),
        ({"renorm": True, "renorm_clipping": {"dmax": -1.0}}, ValueError, "dmax=-1.0"),
    ],
)
def test_layer_rejects_arguments_outside_their_range(options, error, message):
    with pytest.raises(error) as raised:
        tfbn.BatchNormalization(**options)
    assert message in str(raised.value)


def test_virtual_batch_size_may_be_an_integer_of_numpy():
    layer = tfbn.BatchNormalization(virtual_batch_size=np.int64(4))
    assert type(layer.get_config()["virtual_batch_size"]) is int


@pytest.mark.parametrize(
    "options",
    [
        {"renorm": True, "momentum": None},
        {"renorm": True, "unbiased": True},
        {"renorm": True, "debias": True},
        {"renorm": True, "virtual_batch_size": 4},
        {"renorm": True, "test_local_stats": True},
        {"renorm": True, "single_value": "moving"},
        {"debias": True, "momentum": None},
        {"debias": True, "momentum": 1},
        {"debias": True, "momentum": 1 - 1e-8},
        {"virtual_batch_size": 4, "synchronized": True},
    ],
    ids=str,
)
def test_layer_rejects_contradicting_options_with_their_reason(options):
    with pytest.raises(ValueError, match=r"`.*` does not go with `.*`: \w+.*\. Leave one out\."):
        tfbn.BatchNormalization(**options)


@pytest.mark.parametrize(
    ("axis", "shape", "message"),
    [
        (2, [None, 5], "`axis` must be within [-2, 1]"),
        (-3, [None, 5], "axis=-3"),
        (0, [None, 5], "must be known"),
        (-1, [None, 5, None], "(None, 5, None)"),
    ],
)
def test_layer_rejects_inputs_without_the_axis_or_its_length(axis, shape, message):
    for use in (lambda: tfbn.BatchNormalization(axis=axis).build(shape),
                lambda: tfbn.BatchNormalization(axis=axis)(keras.Input(shape[1:]))):  # fmt: skip
        with pytest.raises(ValueError) as raised:
            use()
        assert message in str(raised.value)


def test_layer_rejects_the_same_axis_twice_and_the_axis_of_ghost_batches():
    with pytest.raises(ValueError, match="must name different axes"):
        tfbn.BatchNormalization(axis=[-1, 2]).build([None, 4, 3])
    with pytest.raises(ValueError, match="splits the first axis"):
        tfbn.BatchNormalization(axis=[0, 2], virtual_batch_size=2).build([8, 4, 3])


def test_layer_rejects_axes_too_far_apart_for_tensorflow():
    with pytest.raises(ValueError, match="Put the channels side by side"):
        tfbn.BatchNormalization(axis=[1, 3, 5]).build([None, 2, 2, 2, 2, 2])
    with pytest.raises(ValueError, match="virtual_batch_size"):
        tfbn.BatchNormalization(axis=[1, 3], virtual_batch_size=2).build([None, 2, 2, 2, 2])


@pytest.mark.parametrize(
    ("shape", "mask"),
    [((4, 3), (5,)), ((4, 3), (4, 2)), ((4, 3), (4, 3, 1)), ((4, 6, 3), (6,)), ((4, 6, 3), (4, 3))],
)
def test_layer_rejects_a_mask_that_does_not_fit(shape, mask):
    with pytest.raises(ValueError) as raised:
        tfbn.BatchNormalization()(np.zeros(shape, "float32"), training=True, mask=np.ones(mask, bool))
    assert f"mask.shape={mask}" in str(raised.value) and f"{shape}" in str(raised.value)
