"""What a comparison compares: arms, a network each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np

from tfbn.foundation.arguments import is_finite_number


@dataclass(frozen=True)
class Arm:
    """One network of a comparison.

    Args:
        build: function that takes nothing and returns a new `keras.Model`.
        series: str, the line of a figure that it belongs to, such as "batchnorm". Default None: the arm's
            own name.
        value: number or str, what a sweep varies, as it is in this arm. Default None.
        learning_rate: float. Default None: that of the comparison.
        program: str. Arms of one name are compiled once and must differ in initial values and learning
            rate alone: in nothing that Keras does not take for a variable's value. Where the models'
            configurations tell, this is checked. Default None: a program of its own.
    """

    build: Callable
    series: str | None = None
    value: float | str | None = None
    learning_rate: float | None = None
    program: str | None = None


def check_arms(arms):
    """`arms` as a dict of names to `Arm`, from functions or `Arm`.

    Raises:
        TypeError, ValueError: it is no such dict, or a name makes no file name.
    """
    example = "{'plain': lambda: tfbn.Model(784, 10, use_batchnorm=False)}"
    if not isinstance(arms, dict) or not arms:
        raise TypeError(
            "`arms` must be a dict of names to functions that build a model, one or more, such as "
            f"{example}. Received: {arms!r}."
        )
    checked = {}
    for name, arm in arms.items():
        arm = arm if isinstance(arm, Arm) else Arm(arm)
        if not callable(arm.build) or isinstance(arm.build, keras.Model):
            raise TypeError(
                f"`arms` must be made of functions that build a model, such as {example}. Received: "
                f"{name!r}: {arm.build!r}."
            )
        known = isinstance(name, str) and re.fullmatch(r"[^\W_][\w.+=-]*", name)
        if not known or len(name.encode()) > 100 or name.endswith(".keras"):
            raise ValueError(
                "An arm's name becomes a file's name: up to 100 bytes of letters, digits and any of _ . + "
                f"= - are allowed, a letter or digit first, and no '.keras' at the end. Received: {name!r}."
            )
        if isinstance(arm.value, np.generic):
            arm = replace(arm, value=arm.value.item())
        for key in ("series", "program"):
            if not isinstance(getattr(arm, key), str | None):
                raise TypeError(f"`{key}` of arm {name!r} must be a text. Received: {getattr(arm, key)!r}.")
        if not (isinstance(arm.value, str | None) or is_finite_number(arm.value)):
            raise TypeError(
                f"`value` of arm {name!r} must be a finite number, a text or None. Received: {arm.value!r}."
            )
        rate = arm.learning_rate
        if rate is not None and not (is_finite_number(rate) and not isinstance(rate, bool) and rate >= 0):
            raise ValueError(
                f"`learning_rate` of arm {name!r} must be a number, 0 or more. Received: {rate!r}."
            )
        checked[name] = arm
    places = [(arm.series or name, arm.value) for name, arm in checked.items()]
    if len(set(places)) < len(places):
        raise ValueError(
            "No two arms may have the same `series` and `value`. Received: "
            f"{max(places, key=places.count)} more than once."
        )
    return checked
