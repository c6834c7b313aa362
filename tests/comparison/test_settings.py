"""The arguments of `compare`."""

import inspect

import keras
import numpy as np
import pytest
from small_arms import ARMS, build

import tfbn
from tfbn.comparison.settings import Settings


def make(data, **options):
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(tfbn.compare).parameters.items()
        if name in inspect.signature(Settings).parameters
    }
    return Settings(**{**defaults, "arms": ARMS, "data": data, **options})


ONE = tfbn.Model(8, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"arms": {}}, TypeError, "one or more"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"epochs": 1.5}, TypeError, "epochs=1.5"),
        ({"epochs": np.bool_(True)}, TypeError, "epochs="),
        ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch=0"),
        ({"steps_per_epoch": True}, TypeError, "steps_per_epoch=True"),
        ({"arms": {"a": tfbn.Model(8, 3)}}, TypeError, "functions that build a model"),
        ({"arms": {"a": lambda: ONE}, "seeds": 2}, ValueError, "Build a new one"),
        ({"arms": {"a": lambda: ONE, "b": lambda: ONE}}, ValueError, "'b' returned a model that was used"),
        ({"arms": {"a": "net"}}, TypeError, "functions that build a model"),
        ({"arms": {"../a": build()}}, ValueError, "'../a'"),
        ({"arms": {1: build()}}, ValueError, "Received: 1"),
        ({"arms": {"x" * 101: build()}}, ValueError, "up to 100"),
        ({"arms": {"x": build(), "x.keras": build()}}, ValueError, "'x.keras'"),
        ({"arms": {"a": lambda: 5}}, TypeError, "keras.Model"),
        ({"arms": {"a": lambda: tfbn.Model(8, 2)}}, ValueError, "2 classes"),
        ({"arms": {"a": lambda: tfbn.Model(9, 3)}}, ValueError, "(None, 9)"),
        ({"data": ([1], [2])}, TypeError, "tfbn.data.Data"),
        ({"seeds": 0}, ValueError, "seeds=0"),
        ({"seeds": [1, 1]}, ValueError, "different"),
        ({"seeds": [-1]}, ValueError, "[-1]"),
        ({"seeds": 1.5}, ValueError, "seeds=1.5"),
        ({"seeds": True}, ValueError, "seeds=True"),
        ({"seeds": np.array([0.5, 1.5])}, ValueError, "seeds=array"),
        ({"seeds": [2**32]}, ValueError, "4294967296"),
        ({"observe": "outputs"}, ValueError, "names out of outputs, percentiles, histograms"),
        ({"vary": {"setting": "scale"}}, ValueError, "vary="),
        ({"reach": float("nan")}, ValueError, "reach=nan"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"batch_size": 204}, ValueError, "from 1 to 203"),
        ({"optimizer": "adma"}, ValueError, "Unknown optimizer 'adma'"),
        ({"device": "gpu:3"}, ValueError, "Available"),
        ({"precision": "int8"}, ValueError, "int8"),
    ],
)
def test_compare_rejects_bad_arguments(blobs, options, error, message):
    with pytest.raises(error) as raised:
        tfbn.compare(**{"arms": ARMS, "data": blobs, **options})
    assert message in str(raised.value)


INTEGERS = {
    "epochs": np.int64(2),
    "batch_size": np.int32(20),
    "steps_per_epoch": np.uint8(3),
}


@pytest.mark.parametrize(
    ("seeds", "plain"),
    [
        (np.int64(2), [0, 1]),
        (np.array(2), [0, 1]),
        (np.array([4, 7]), [4, 7]),
        ((np.uint32(4), 7), [4, 7]),
        (range(4, 6), [4, 5]),
    ],
    ids=repr,
)
def test_settings_take_numpys_integers(blobs, seeds, plain):
    settings = make(blobs, seeds=seeds, **INTEGERS)
    values = [settings.epochs, settings.batch_size, settings.steps_per_epoch, *settings.seeds]
    assert values == [2, 20, 3, *plain]
    assert {type(value) for value in values} == {int}


def test_numpys_numbers_give_a_result_that_can_be_saved(blobs, tmp_path):
    arm = tfbn.Arm(build(), value=np.float32(0.5), learning_rate=np.float32(0.25))
    numbers = {**INTEGERS, "seeds": np.array([3]), "reach": np.float32(0.5)}
    result = tfbn.compare({"a": arm}, blobs, jit=False, checkpoint_dir=tmp_path / "state", **numbers)
    again = tfbn.Comparison.load(result.save(tmp_path / "run", models=False))
    settings = again.about["settings"]
    assert [settings[name] for name in (*INTEGERS, "seeds", "reach")] == [2, 20, 3, [3], 0.5]
    assert [settings["arms"]["a"][name] for name in ("value", "learning_rate")] == [0.5, 0.25]
    plain = {"epochs": 2, "batch_size": 20, "steps_per_epoch": 3, "seeds": [3]}
    alone = tfbn.compare({"a": tfbn.Arm(build(), learning_rate=0.25)}, blobs, jit=False, **plain)
    assert alone.test == again.test


def test_settings_leave_the_callers_objects_alone(blobs):
    optimizer, vary = keras.optimizers.SGD(0.5), {"setting": "a", "label": "A", "log": False}
    settings = make(blobs, optimizer=optimizer, learning_rate=0.1, vary=vary)
    assert settings.optimizer is not optimizer and float(optimizer.learning_rate) == 0.5
    result = tfbn.compare(
        ARMS | {"plain": tfbn.Arm(build(False), value=1)}, blobs, epochs=1, seeds=1, vary=vary
    )
    vary["label"] = "changed"
    assert result.about["vary"]["label"] == "A"
