"""Every private attribute of Keras and TensorFlow that the package uses, a function and a test each."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf


def flatten_layers(layer: Any, include_self: bool = True) -> list:
    """Return all layers within `layer`, with those in wrappers and custom layers, unlike `Model.layers`."""
    return list(layer._flatten_layers(include_self=include_self))


def consumers(layer: Any) -> list:
    """Return the operations that take the output of `layer`; a subclassed model has no graph, and none."""
    return [node.operation for node in layer._outbound_nodes]


@contextlib.contextmanager
def cells_called_once(layer: Any) -> Iterator[None]:
    """Have a `keras.layers.RNN`, which is eager, call its cells on the first step once.

    Keras' loop calls the cell once more for the shapes of the outputs. Before, it calls each of several
    stacked cells once more to prepare their dropout, which a cell does by itself when it is eager.
    """
    unroll, layer.unroll = layer.unroll, True
    layer._maybe_config_dropout_masks = lambda *_: None
    try:
        yield
    finally:
        del layer._maybe_config_dropout_masks
        layer.unroll = unroll


@contextlib.contextmanager
def map_calls_once() -> Iterator[None]:
    """Have `keras.ops.map` call its function on the first element once, eagerly and in this thread.

    Keras calls it once before the loop, for the types of the outputs. Here the loop takes these outputs.
    """
    from keras.src.backend import core

    original, thread = core.map, threading.get_ident()

    def replacement(f, xs):
        if threading.get_ident() != thread or not tf.executing_eagerly():
            return original(f, xs)
        number, first = 0, None

        def once(x):
            nonlocal number, first
            number += 1
            if number == 1:
                first = f(x)
            return first if number <= 2 else f(x)

        return original(once, xs)

    core.map = replacement
    try:
        yield
    finally:
        core.map = original


def under_xla() -> bool:
    """Return whether XLA will compile what is being traced.

    Return True if this TensorFlow cannot answer: code written for XLA is right elsewhere too, only slower.
    """
    try:
        from tensorflow.python.ops import control_flow_util

        return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
    except (ImportError, AttributeError):
        return True


def has_tangent(tensors: Sequence[tf.Tensor]) -> bool:
    """Return whether a `tf.autodiff.ForwardAccumulator` follows one of `tensors` here.

    Return True if this TensorFlow cannot answer: code for forward mode is right elsewhere, only slower.
    """
    try:
        from tensorflow.python.eager import forwardprop_util

        return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)
    except (ImportError, AttributeError):
        return True


def runs_onednn() -> bool:
    """Return whether TensorFlow's kernels on this machine are oneDNN's, as on newer CPUs.

    Return False if this TensorFlow cannot answer: code without its kernels is right elsewhere, only slower.
    """
    try:
        from tensorflow.python.util import _pywrap_util_port

        return bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):
        return False


def symbolic_build(model: Any, batch: tuple) -> None:
    """Create the variables of a compiled model's metrics from a batch, without running a step."""
    model._symbolic_build(data_batch=batch)


def mask_of(tensor: Any) -> Any:
    """Return the mask that Keras passes on with a tensor, or None without one."""
    return getattr(tensor, "_keras_mask", None)


def take_initial_epoch(model: Any) -> int:
    """Return the number of epochs that `keras.callbacks.BackupAndRestore` restored, and reset it to 0."""
    epoch, model._initial_epoch = getattr(model, "_initial_epoch", None), None
    return epoch or 0


def profiles_batches(callback: Any) -> bool:
    """Return whether a `keras.callbacks.TensorBoard` profiles batches; False if Keras cannot answer."""
    return getattr(callback, "_should_trace", False)
