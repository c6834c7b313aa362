"""Check the layer's own arguments; `tfbn.foundation.arguments` has the checks that others share."""

from __future__ import annotations

import math
import struct

from tfbn.foundation.arguments import integer, number

SINGLE_VALUE = ("normalize", "warn", "moving", "raise")
OWN_AVERAGES = "renorm keeps averages of its own, of the standard deviation, to which it does not apply"
CONTRADICTIONS = [
    ("renorm=True", "momentum=None", OWN_AVERAGES),
    ("renorm=True", "unbiased=True", OWN_AVERAGES),
    ("renorm=True", "debias=True", OWN_AVERAGES),
    ("renorm=True", "virtual_batch_size", "renorm corrects one batch by the averages, not several"),
    ("renorm=True", "test_local_stats=True", "renorm is for inference by the averages"),
    ("renorm=True", "single_value='moving'", "renorm normalises by its averages already"),
    ("debias=True", "momentum=None", "a mean over all batches holds nothing of its initial value"),
    ("debias=True", "momentum=1", "averages that never move have no updates to correct by"),
    ("virtual_batch_size", "synchronized=True", "one parts a replica's batch, one joins them all"),
]


def axes(name, value):
    """An int, or a list of different ints."""
    if not isinstance(value, (list, tuple)):
        return integer(name, value)
    value = [integer(name, axis) for axis in value]
    if not value or len(set(value)) < len(value):
        raise ValueError(
            f"`{name}` must be an integer or a list of different integers. Received: {name}={value}."
        )
    return value


def momentum(name, value):
    if not 0 <= number(name, value) <= 1:
        raise ValueError(
            f"`{name}` must be within [0, 1]: the share of the average that an update keeps. "
            f"Received: {name}={value!r}. (PyTorch's momentum m is 1 - m here.)"
        )
    return float(value)


def positive(name, value):
    if not 0 < number(name, value) < float("inf"):
        raise ValueError(
            f"`{name}` must be a positive, finite number. Received: {name}={value!r}. The default is 0.001."
        )
    return float(value)


def renorm_clipping(renorm, clipping):
    """The bounds given; `clipping` as it came if there is no renorm to clip."""
    if not renorm:
        return clipping
    if clipping is not None and not isinstance(clipping, dict):
        raise TypeError(f"`renorm_clipping` must be a dict. Received: renorm_clipping={clipping!r}.")
    clipping = {name: bound for name, bound in (clipping or {}).items() if bound is not None}
    allowed = ["rmax", "rmin", "dmax"]
    if set(clipping) - set(allowed):
        raise ValueError(
            "Received invalid keys for `renorm_clipping`: "
            f"{sorted(set(clipping) - set(allowed))}. Allowed: {allowed}."
        )
    for name, bound in clipping.items():
        if math.isnan(number(name, bound)):
            raise ValueError(f"{name} must be a number in `renorm_clipping`. Received: {name}={bound}.")
    rmin, rmax = clipping.get("rmin", 0.0), clipping.get("rmax", float("inf"))
    if rmax < rmin:
        raise ValueError(
            f"rmax should be at least rmin in `renorm_clipping`. Received: rmax={rmax}, rmin={rmin}."
        )
    if clipping.get("dmax", 0.0) < 0:
        raise ValueError(
            f"dmax should be non-negative in `renorm_clipping`. Received: dmax={clipping['dmax']}."
        )
    return clipping


def refuse_contradictions(layer):
    given = {
        "renorm=True": layer.renorm,
        "momentum=None": layer.momentum is None,
        # In float32, in which averages are kept, 1 - 1e-8 is 1, too.
        "momentum=1": struct.unpack("f", struct.pack("f", layer.momentum or 0))[0] == 1,
        "unbiased=True": layer.unbiased,
        "debias=True": layer.debias,
        "virtual_batch_size": layer.virtual_batch_size is not None,
        "test_local_stats=True": layer.test_local_stats,
        "single_value='moving'": layer.single_value == "moving",
        "synchronized=True": layer.synchronized,
    }
    for one, other, reason in CONTRADICTIONS:
        if given[one] and given[other]:
            raise ValueError(f"`{one}` does not go with `{other}`: {reason}. Leave one out.")
