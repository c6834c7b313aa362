"""`Arm`: one network of a comparison."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfbn.foundation.arguments import is_finite_number

EXAMPLE = "{'plain': lambda: tfbn.Model(784, 10, use_batchnorm=False)}"


@dataclass(frozen=True)
class Arm:
    """One network of a comparison.

    Args:
        build: function without arguments that returns a new `keras.Model`.
        series: the line of a figure that the arm belongs to, such as "batchnorm". Default None: the arm's
            own name.
        value: the arm's value of what a sweep varies. Default None.
        learning_rate: Default None: that of the comparison.
        program: name of the compiled program. Arms of one program are compiled once, and must differ in
            initial values and learning rate alone: in nothing that Keras does not store in a variable.
            Where the models' configurations show a difference, `compare` raises. Default None: a program
            of its own.
    """

    build: Callable[[], keras.Model]
    series: str | None = None
    value: float | str | None = None
    learning_rate: float | None = None
    program: str | None = None

    def to_dict(self, name: str, model: keras.Model, saved: dict[str, int] | None) -> dict[str, Any]:
        """Return the arm as results.json holds it; `saved` are seed and epoch of the saved weights."""
        try:
            architecture = json.loads(model.to_json())
        except (NotImplementedError, TypeError, ValueError):
            architecture = None  # Keras cannot serialize the model.
        return {
            "series": self.series or name,
            "value": self.value,
            "learning_rate": self.learning_rate,
            "parameters": model.count_params(),
            "architecture": architecture,
            "model": saved,
        }


def check_arms(arms: Mapping[str, Arm | Callable[[], keras.Model]]) -> dict[str, Arm]:
    """Return `arms` as a dict of names to `Arm`, or raise TypeError or ValueError."""
    if not isinstance(arms, dict) or not arms:
        raise TypeError(
            "`arms` must be a dict of names to functions that build a model, one or more, such as "
            f"{EXAMPLE}. Received: {arms!r}."
        )
    checked = {name: _check_arm(name, arm) for name, arm in arms.items()}
    places = [(arm.series or name, arm.value) for name, arm in checked.items()]
    if len(set(places)) < len(places):
        raise ValueError(
            "No two arms may have the same `series` and `value`. Received: "
            f"{max(places, key=places.count)} more than once."
        )
    return checked


def _check_arm(name: str, arm: Arm | Callable[[], keras.Model]) -> Arm:
    arm = arm if isinstance(arm, Arm) else Arm(arm)
    if not callable(arm.build) or isinstance(arm.build, keras.Model):
        raise TypeError(
            f"`arms` must be made of functions that build a model, such as {EXAMPLE}. Received: "
            f"{name!r}: {arm.build!r}."
        )
    is_word = isinstance(name, str) and re.fullmatch(r"[^\W_][\w.+=-]*", name)
    if not is_word or len(name.encode()) > 100 or name.endswith(".keras"):
        raise ValueError(
            "An arm's name becomes a file's name: up to 100 bytes of letters, digits and any of _ . + = - "
            f"are allowed, a letter or digit first, and no '.keras' at the end. Received: {name!r}."
        )
    numbers: list[Any] = [arm.value, arm.learning_rate]
    # NumPy's scalars, which JSON cannot hold, become Python's.
    value, rate = (number.item() if isinstance(number, np.generic) else number for number in numbers)
    for key in ("series", "program"):
        if not isinstance(getattr(arm, key), str | None):
            raise TypeError(f"`{key}` of arm {name!r} must be a string. Received: {getattr(arm, key)!r}.")
    if not (isinstance(value, str | None) or is_finite_number(value)):
        raise TypeError(
            f"`value` of arm {name!r} must be a finite number, a string or None. Received: {value!r}."
        )
    if rate is not None and not (is_finite_number(rate) and not isinstance(rate, bool) and rate >= 0):
        raise ValueError(
            f"`learning_rate` of arm {name!r} must be a number, 0 or more. Received: {rate!r}."
        )
    return replace(arm, value=value, learning_rate=rate)
