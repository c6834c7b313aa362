"""Every private attribute of Keras and TensorFlow that the package uses, a function each.

`tests/test_keras_internals.py` tests them one by one, and so fails on the release that changes one.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def flatten_layers(layer: Any, include_self: bool = True) -> list:
    """Return all layers within `layer`, those inside wrappers and layers of one's own included.

    The public `Model.layers` leaves those out.
    """
    return list(layer._flatten_layers(include_self=include_self))


def under_xla() -> bool:
    """Return whether XLA will compile what is being traced.

    True where TensorFlow no longer tells: what is written for XLA is right outside of it, too, only slower.
    """
    try:
        from tensorflow.python.ops import control_flow_util
    except ImportError:
        return True
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def symbolic_build(model: Any, batch: tuple) -> None:
    """Create the variables of a compiled model's metrics from a batch, without running a step."""
    model._symbolic_build(data_batch=batch)


def mask_of(tensor: Any) -> Any:
    """Return the mask that Keras passes on with a tensor, or None without one."""
    return getattr(tensor, "_keras_mask", None)
