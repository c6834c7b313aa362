"""Check the layer's own arguments; `tfbn.foundation.arguments` has the checks that others share."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfbn.foundation.arguments import integer, number, scalar
from tfbn.layers.functional import DEFAULT_CLIPPING

SINGLE_VALUE_CHOICES = ("normalize", "warn", "moving", "raise")
MOST_BROADCAST_GROUPS = 5  # groups of neighbouring axes over which TensorFlow broadcasts
RENORM_AVERAGES = "renorm keeps averages of its own, of the standard deviation, to which it does not apply"
CONTRADICTIONS = [
    ("renorm=True", "momentum=None", RENORM_AVERAGES),
    ("renorm=True", "unbiased=True", RENORM_AVERAGES),
    ("renorm=True", "debias=True", RENORM_AVERAGES),
    ("renorm=True", "virtual_batch_size", "renorm corrects one batch by the averages, not several"),
    ("renorm=True", "test_local_stats=True", "renorm is for inference by the averages"),
    ("renorm=True", "single_value='moving'", "renorm normalises by its averages already"),
    ("debias=True", "momentum=None", "a mean over all batches contains nothing of its initial value"),
    ("debias=True", "momentum=1", "averages that never move have no updates to correct by"),
    ("virtual_batch_size", "synchronized=True", "one splits a replica's batch, the other joins them all"),
]


def check_axis(axis: Any) -> int | list[int]:
    """Return an integer, or a list of different integers."""
    if hasattr(axis, "tolist"):
        axis = axis.tolist()
    if not isinstance(axis, (list, tuple)):
        return integer("axis", axis)
    axes = [integer("axis", one) for one in axis]
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"`axis` must be an integer or a list of different integers. Received: axis={axes}."
        )
    return axes


def check_momentum(name: str, value: Any) -> float:
    """Return a number from 0 to 1 as a float."""
    if not 0 <= number(name, value) <= 1:
        raise ValueError(
            f"`{name}` must be within [0, 1]: the share of the average that an update keeps. "
            f"Received: {name}={value!r}. (PyTorch's momentum m is 1 - m here.)"
        )
    return number(name, value)


def check_renorm_clipping(renorm: bool, clipping: Any) -> Any:
    """Return the bounds that are not None; `clipping` unchanged without renorm."""
    if not renorm:
        return clipping
    # Keras' own tests, which the layer passes, expect these messages.
    if clipping is not None and not isinstance(clipping, dict):
        raise TypeError(f"`renorm_clipping` must be a dict. Received: renorm_clipping={clipping!r}.")
    bounds = {name: scalar(bound) for name, bound in (clipping or {}).items() if bound is not None}
    if unknown := sorted(bounds.keys() - DEFAULT_CLIPPING):
        raise ValueError(
            f"Received invalid keys for `renorm_clipping`: {unknown}. Allowed: {list(DEFAULT_CLIPPING)}."
        )
    for name, bound in bounds.items():
        if math.isnan(number(name, bound)):
            raise ValueError(f"{name} must be a number in `renorm_clipping`. Received: {name}={bound}.")
    rmax, rmin, dmax = (DEFAULT_CLIPPING | bounds).values()
    if rmax < rmin:
        raise ValueError(
            f"rmax should be at least rmin in `renorm_clipping`. Received: rmax={rmax}, rmin={rmin}."
        )
    if dmax < 0:
        raise ValueError(f"dmax should be non-negative in `renorm_clipping`. Received: dmax={dmax}.")
    return bounds


def check_combination(layer: Any) -> None:
    """Raise ValueError if two of a layer's options contradict each other."""
    flags = ("renorm", "unbiased", "debias", "test_local_stats", "synchronized")
    is_set = {f"{flag}=True": getattr(layer, flag) for flag in flags} | {
        "momentum=None": layer.momentum is None,
        # In float32, in which averages are kept, 1 - 1e-8 is 1, too.
        "momentum=1": np.float32(layer.momentum or 0) == 1,
        "virtual_batch_size": layer.virtual_batch_size is not None,
        "single_value='moving'": layer.single_value == "moving",
    }
    for one, other, reason in CONTRADICTIONS:
        if is_set[one] and is_set[other]:
            raise ValueError(f"`{one}` does not go with `{other}`: {reason}. Leave one out.")


def channel_lengths(layer: Any, input_shape: Sequence[int | None]) -> dict[int, int]:
    """Return the axes of the channels, counted from the first, with their lengths; check both."""
    axis, rank, has_ghosts = layer.axis, len(input_shape), layer.virtual_batch_size is not None
    axes = axis if isinstance(axis, list) else [axis]
    for one in axes:
        if not -rank <= one < rank:
            raise ValueError(
                f"`axis` must be within [{-rank}, {rank - 1}] for an input of shape {tuple(input_shape)}. "
                f"Received: axis={axis}. Name the axis of the channels."
            )
        if input_shape[one] is None:
            raise ValueError(
                f"The length of `axis` {one}, the channels, must be known. Received: an input of shape "
                f"{tuple(input_shape)}. Give the Input its full shape there, or choose another `axis`."
            )
    positions = sorted({one % rank for one in axes})
    if len(positions) < len(axes):
        raise ValueError(
            f"`axis` must name different axes. Received: axis={axis} for an input of rank {rank}."
        )
    if has_ghosts and 0 in positions:
        raise ValueError(
            "`virtual_batch_size` splits the first axis, so the channels cannot be there. Received: "
            f"axis={axis} for an input of rank {rank}."
        )
    is_channel = [True] * has_ghosts + [position in positions for position in range(rank)]
    if len(list(itertools.groupby(is_channel))) > MOST_BROADCAST_GROUPS:
        raise ValueError(
            f"TensorFlow does not broadcast over axes so far apart: axis={axis}, rank {rank}"
            f"{' and virtual_batch_size' if has_ghosts else ''}. Put the channels side by side with a "
            "Permute layer."
        )
    return {position: input_shape[position] or 0 for position in positions}
