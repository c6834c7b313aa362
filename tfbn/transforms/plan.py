"""The plan of `fold`: which layer takes in which batch norm layer, and its new weights."""

import keras
import numpy as np
from keras import layers

from tfbn.layers import inspection
from tfbn.runtime.devices import CONVOLUTIONS
from tfbn.transforms.graphs import Call, Graphs, Trace, called

TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
# The layers that can take in a norm, by their side of it. At its borders a transposed convolution adds up
# fewer products, so that a shift ahead of it is not a bias.
TAKERS = {
    "before": (layers.Dense, *CONVOLUTIONS),
    "after": (layers.Dense, *(kind for kind in CONVOLUTIONS if kind not in TRANSPOSED)),
}
NOISE = (layers.AlphaDropout, layers.Dropout, layers.GaussianDropout, layers.GaussianNoise)
SPATIAL = (layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
# The layers that return their input in inference, Activation if it is linear.
PASSING = (layers.Activation, layers.ActivityRegularization, layers.Identity, *NOISE, *SPATIAL)


class _Obstacle(Exception):
    """The reason why a batch norm layer cannot be folded."""


class Plan:
    """Which layer takes in which batch norm layer.

    Attributes:
        takers: a batch norm layer -> the layer that takes it in.
        reasons: a batch norm layer -> the reason why it stays, if it does.
        weights: a layer that takes in others -> its new weights in float64: its kernels and its bias.
    """

    def __init__(self, graphs: Graphs):
        self.trace = Trace(graphs)
        self.takers: dict[keras.Layer, keras.Layer] = {}
        self.reasons: dict[keras.Layer, str] = {}
        self.weights: dict[keras.Layer, list[np.ndarray]] = {}
        waiting: list[Call] = []
        left = [call for call in self.trace.calls if isinstance(call.layer, inspection.BATCHNORM_CLASSES)]
        # A norm that is gone makes way for those on either side of it.
        while len(left) != len(waiting):
            waiting, left = left, []
            for call in waiting:
                try:
                    self._fold(call)
                except _Obstacle as obstacle:
                    self.reasons[call.layer] = str(obstacle)
                    left.append(call)

    def _fold(self, call):
        """Fold the norm of a call into a neighbour."""
        side, neighbour = self._find_taker(call)
        layer, norm, shape = neighbour.layer, call.layer, call.outputs[0].shape
        axis = _channel_axis(layer, len(shape))
        if layer not in self.weights:
            bias = [] if layer.use_bias else [np.zeros(neighbour.outputs[0].shape[axis])]
            self.weights[layer] = [np.asarray(weight, "float64") for weight in layer.get_weights()] + bias
        scale, shift = (np.broadcast_to(v.ravel(), shape[axis]) for v in inspection.scale_and_shift(norm))
        fold_into = _fold_into_previous if side == "before" else _fold_into_next
        fold_into(layer, self.weights[layer], scale, shift)
        self.takers[norm] = layer

    def _find_taker(self, call):
        """Return the side of a norm on which a layer can take it in, and the call of that layer."""
        norm = call.layer
        if type(norm) not in inspection.BATCHNORM_CLASSES:
            raise _Obstacle(f"its class {type(norm).__name__} may compute something else")
        if getattr(norm, "test_local_stats", False):
            raise _Obstacle("it has test_local_stats=True: the batch's moments count in inference, too")
        self._check_call(call)
        if not keras.backend.is_float_dtype(call.args[0].dtype):
            raise _Obstacle(f"its input is {call.args[0].dtype}")
        obstacles = []
        for side in TAKERS:
            try:
                return side, self._neighbour(call, side)
            except _Obstacle as obstacle:
                obstacles.append(f"{side} it, {obstacle}")
        raise _Obstacle("; ".join(obstacles))

    def _check_call(self, call):
        name = called(call.layer)
        if self.trace.counts[call.layer] > 1:
            raise _Obstacle(f"{name} is called more than once")
        # In inference a mask changes nothing, nor does `training`, unless it is set for good.
        options = [k for k, v in call.kwargs.items() if k != "mask" and v is not None and v is not False]
        if options:
            raise _Obstacle(f"{name} is called with its own {', '.join(options)}")
        if len(call.args) != 1 or not isinstance(call.args[0], keras.KerasTensor):
            raise _Obstacle(f"{name} is called with more than one tensor")

    def _neighbour(self, norm_call, side):
        """Return the call of the layer that may take in a norm, past layers that do nothing."""
        norm, call = norm_call.layer, norm_call
        while True:
            call = self._next(call, side)
            layer = call.layer
            takes = type(layer) in TAKERS[side]
            if not takes and type(layer) not in PASSING and layer not in self.takers:
                raise _Obstacle(f"{called(layer)} cannot take it in")
            self._check_call(call)
            if (dtype := layer.compute_dtype) != norm.compute_dtype:
                raise _Obstacle(f"{called(layer)} computes in {dtype}, not {norm.compute_dtype}")
            linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
            if not linear and not (takes and side == "after"):
                raise _Obstacle(f"{called(layer)} is not linear")
            if takes:
                _check_taker(layer, side, norm, norm_call.outputs[0].shape)
                return call

    def _next(self, call, side):
        """Return the call beside `call`, if their tensor goes nowhere else."""
        tensor = call.args[0] if side == "before" else call.outputs[0]
        source = self.trace.producers.get(tensor)
        if source is None:
            raise _Obstacle("there is the input of its model")
        users = self.trace.uses[tensor]
        if None in users:
            raise _Obstacle(f"the output of {called(source.layer)} is an output of its model")
        if len(users) > 1:
            raise _Obstacle(f"the output of {called(source.layer)} goes to several layers")
        return source if side == "before" else users[0]


def _check_taker(layer, side, norm, shape):
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise _Obstacle(f"{called(layer)} has LoRA or quantized weights")
    # A kernel of one point never reaches past the border, whatever `padding` says.
    if side == "after" and max(getattr(layer, "kernel_size", [1])) > 1 and layer.padding != "valid":
        raise _Obstacle(f"{called(layer)} pads its input")
    axis = _channel_axis(layer, len(shape))
    if not {a for a in inspection.channel_axes(norm, len(shape)) if shape[a] != 1} <= {axis}:
        raise _Obstacle(f"{called(layer)} has its channels on axis {axis}, not {norm.axis}")


def _channel_axis(layer, rank):
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _fold_into_previous(layer, weights, scale, shift):
    by_output = scale
    if type(layer) in DEPTHWISE:  # [..., inputs, depth_multiplier]
        by_output = scale.reshape(-1, layer.depth_multiplier)
    if type(layer) in TRANSPOSED:  # [..., outputs, inputs]
        by_output = scale[:, None]
    weights[-2] = weights[-2] * by_output
    weights[-1] = weights[-1] * scale + shift


def _fold_into_next(layer, weights, scale, shift):
    kernel = weights[0]  # [..., inputs, outputs]

    def by_input(values):
        if type(layer) in (layers.Dense, *DEPTHWISE, *SEPARABLE):
            return values[:, None]
        # Each output sees the inputs of its own group alone.
        return np.repeat(values.reshape(layer.groups, -1).T, layer.filters // layer.groups, axis=1)

    moved = np.sum(kernel * by_input(shift), axis=tuple(range(kernel.ndim - 2)))
    moved = moved.ravel() if type(layer) in (*DEPTHWISE, *SEPARABLE) else moved.sum(0)
    if type(layer) in SEPARABLE:
        moved = moved @ weights[1].reshape(-1, layer.filters)
    weights[0] = kernel * by_input(scale)
    weights[-1] = weights[-1] + moved
