"""Check arguments: each function returns the value, or raises with the name, the limits and the value.

TypeError is for a value of another type, ValueError for a value outside the limits. NumPy's scalars, and
arrays without an axis, are taken for what they hold.
"""

import math
import numbers
from collections.abc import Collection
from typing import Any


def scalar(value: Any) -> Any:
    """Return what a NumPy scalar, or an array without an axis, holds; anything else unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def integer(
    name: str, value: Any, at_least: int | None = None, at_most: int | None = None, reason: str = ""
) -> int:
    """Return `value` as an int. The message adds the limits' `reason`.

    >>> integer("epochs", 3, at_least=1)
    3
    """
    if at_least is None:
        limits = "" if at_most is None else f", {at_most:,} or less"
    else:
        limits = f", {at_least:,} or more" if at_most is None else f" from {at_least:,} to {at_most:,}"
    message = f"`{name}` must be an integer{limits}{reason and f', {reason}'}. Received: {name}={value!r}."
    value = scalar(value)
    # bool is a subclass of int, but True as a number of epochs is a mistake.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(message)
    whole = int(value)
    if (at_least is not None and whole < at_least) or (at_most is not None and whole > at_most):
        raise ValueError(message)
    return whole


def number(name: str, value: Any) -> float:
    """Return `value` as a float."""
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.")
    return float(value)


def positive_number(name: str, value: Any) -> float:
    """Return `value` as a finite float above 0."""
    if not 0 < number(name, value) < math.inf:
        raise ValueError(f"`{name}` must be a positive, finite number. Received: {name}={value!r}.")
    return number(name, value)


def is_finite_number(value: Any) -> bool:
    """Return whether `value` is a finite number.

    >>> is_finite_number(0.5), is_finite_number(float("nan")), is_finite_number(None)
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and math.isfinite(value)


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool; 0 and 1 are False and True.

    >>> flag("shuffle", 1)
    True
    """
    value = scalar(value)
    if not (isinstance(value, numbers.Integral) and value in (0, 1)):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={value!r}.")
    return bool(value)


def choice(name: str, value: Any, allowed: Collection[str]) -> str:
    """Return `value`, one of the strings in `allowed`; raise ValueError for anything else."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}. Received: {name}={value!r}.")
    return value
