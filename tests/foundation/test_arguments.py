"""Argument checks: tables of right values beside wrong ones."""

import numpy as np
import pytest

from tfbn.foundation import arguments


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.int32(3)], ids=repr)
def test_integer_returns_an_int(value):
    result = arguments.integer("epochs", value, at_least=3, at_most=3)
    assert result == 3 and type(result) is int


@pytest.mark.parametrize(
    "value", [3.0, np.float64(3), "3", None, True, np.True_, [3], np.array([3])], ids=repr
)
def test_integer_rejects_other_types(value):
    with pytest.raises(TypeError) as raised:
        arguments.integer("epochs", value, at_least=1)
    assert str(raised.value) == f"`epochs` must be an integer, 1 or more. Received: epochs={value!r}."


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (0, dict(at_least=1), "an integer, 1 or more."),
        (np.int64(-2), dict(at_least=0), "an integer, 0 or more."),
        (4, dict(at_most=3), "an integer, 3 or less."),
        (5001, dict(at_least=1, at_most=5000), "an integer from 1 to 5,000."),
        (0, dict(at_least=1, at_most=9, reason="the examples"), "an integer from 1 to 9, the examples."),
    ],
)
def test_integer_rejects_values_outside_the_limits(value, limits, message):
    with pytest.raises(ValueError) as raised:
        arguments.integer("epochs", value, **limits)
    assert str(raised.value) == f"`epochs` must be {message} Received: epochs={value!r}."


def test_integer_without_limits_takes_any_integer():
    assert [arguments.integer("shift", value) for value in (-(10**30), 0, 10**30)] == [-(10**30), 0, 10**30]


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int8(2), float("inf")], ids=repr)
def test_number_returns_a_float(value):
    result = arguments.number("momentum", value)
    assert result == value and type(result) is float


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], 1j], ids=repr)
def test_number_rejects_other_types(value):
    with pytest.raises(TypeError) as raised:
        arguments.number("momentum", value)
    assert str(raised.value) == f"`momentum` must be a number. Received: momentum={value!r}."


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, True), (np.float32(2), True), (3, True), (float("nan"), False), (-np.inf, False), ("1", False)],
    ids=repr,
)
def test_is_finite_number(value, expected):
    assert arguments.is_finite_number(value) is expected


@pytest.mark.parametrize("value", [2, 1.0, None, "no", np.array([True])], ids=repr)
def test_flag_rejects_other_types(value):
    with pytest.raises(TypeError, match=r"`pooled` must be True or False\. Received: pooled="):
        arguments.flag("pooled", value)
    assert arguments.flag("pooled", True) is True


@pytest.mark.parametrize("value", ["cpus", "", None, 1, ["cpu"]], ids=repr)
def test_choice_rejects_values_that_are_not_allowed(value):
    with pytest.raises(ValueError) as raised:
        arguments.choice("device", value, ("cpu", "gpu"))
    assert str(raised.value) == f"`device` must be one of ['cpu', 'gpu']. Received: device={value!r}."
    assert arguments.choice("device", "gpu", ("cpu", "gpu")) == "gpu"
