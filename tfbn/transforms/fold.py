"""`fold`: move batch norm layers into the layers beside them, for inference."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from dataclasses import dataclass

import keras
import numpy as np

from tfbn.foundation import arguments
from tfbn.keras_internals import flatten_layers
from tfbn.layers import inspection
from tfbn.transforms import graphs
from tfbn.transforms.graphs import called

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
# At its borders a transposed convolution adds up fewer products, so that a shift ahead of it is no bias.
TAKERS = {
    "before": (keras.layers.Dense, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE),
    "after": (keras.layers.Dense, *CONVOLUTIONS, *DEPTHWISE, *SEPARABLE),
}
# What hands its input on in inference. An Activation does so if it is linear.
PASSING = (
    keras.layers.Activation,
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
# The rounding of a deep network, as a share of its largest output.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
EXAMPLES = 32  # on which the two models are compared, at most


@dataclass(frozen=True)
class Folding:
    """What `fold` did to each batch norm layer. Layers of nested models are named "model/layer".

    Attributes:
        folded: dict of the name of a batch norm layer to that of the layer it went into.
        kept: dict of the name of a batch norm layer to the reason why it stayed.
        difference: float, the largest difference of an output, as a share of the largest output.
        tolerance: float, the difference that was allowed.
    """

    folded: dict
    kept: dict
    difference: float
    tolerance: float

    def table(self):
        """The same as text, at most 100 columns wide."""
        rows = {name: f"into {taker}" for name, taker in self.folded.items()}
        rows |= {name: f"kept: {reason}" for name, reason in self.kept.items()}
        width = min(max(map(len, rows)), 40)
        lines = [
            textwrap.fill(f"{name:<{width}}  {text}", 100, subsequent_indent=" " * (width + 2))
            for name, text in rows.items()
        ]
        lines.append(
            f"{len(self.folded)} of {len(rows)} batch norm layers folded; outputs differ by "
            f"{self.difference:.1e} of the largest (allowed: {self.tolerance:.0e})"
        )
        return "\n".join(lines)


class _Obstacle(Exception):
    """Why a batch norm layer cannot be folded."""


def fold(model, data=None, tolerance=None):
    """A copy of a trained model without the batch norm layers that a layer beside them can take in.

    In inference, batch norm is ``x * scale + shift``, channel by channel, with

        scale = gamma / sqrt(moving_variance + epsilon)
        shift = beta - moving_mean * scale

    So it goes into the layer before it, whose activation is linear, or else into the one after it:

        before:  kernel = kernel * scale                bias = bias * scale + shift
        after:   kernel = kernel * scale (by input)     bias = bias + sum(kernel * shift)

    Layers that take it in: Dense, convolutions, depthwise and separable ones; before it also transposed
    ones; after it only where they do not pad, since padding adds zeros that batch norm would have moved.
    Dropout and the like may stand in between. All other batch norm layers stay; the result says why.

    The copy is for inference. It can be trained, but learns otherwise, and regularizers, constraints and
    dropout apply to what has been folded. It is a plain functional model, whatever the class of `model`,
    and not compiled. Where a batch norm layer that went gave an output its name, an Identity layer does.
    `model` itself stays as it is.

    Args:
        model: a functional or Sequential `keras.Model`, also a nested one, with `tfbn.BatchNormalization`
            or `keras.layers.BatchNormalization` layers.
        data: inputs as `model` takes them, without labels; on the first 32 examples the two models are
            compared. Default None: standard normal numbers; real data is the better proof.
        tolerance: float > 0, the largest difference allowed, as a share of the largest output. Default
            None: 1e-5 in float32, 1e-12 in float64, 1e-2 in float16 and 5e-2 in bfloat16, by the least
            exact layer of `model`.

    Returns:
        A `keras.Model` with the names of `model`, its inputs, outputs and remaining layers. Its attribute
        `folding` is a `Folding`, which is not saved with the model.

    Raises:
        TypeError: `model` is no `keras.Model`; `tolerance` is no number.
        ValueError: `model` is not built, has no batch norm layer or no known graph, or holds a layer that
            cannot be copied; `data` is needed or does not fit; the outputs differ by more than `tolerance`
            or are not finite. There is no model then.

    >>> layers = [keras.layers.Dense(2), keras.layers.BatchNormalization()]
    >>> model = keras.Sequential([keras.Input([3]), *layers])
    >>> folded = fold(model)
    >>> folded.folding.folded == {layers[1].name: layers[0].name}
    True
    >>> len(model.weights), len(folded.weights)
    (6, 2)

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2, for the layer before.
    """
    norms = inspection.find_batchnorms(model)
    if tolerance is None:
        tolerance = _default_tolerance(model)
    elif not 0 < arguments.number("tolerance", tolerance) < float("inf"):
        raise ValueError(f"`tolerance` must be a positive number. Received: tolerance={tolerance!r}.")
    plain, names = graphs.collect(model)
    if model not in plain:
        raise ValueError(
            f"The graph of model {model.name!r} is unknown: {type(model).__name__} has its own `call`. "
            "Build the model from keras.Input, as a functional or Sequential one. To export it as it is, "
            "give fold=False."
        )
    data = _examples(plain[model], data)
    takers, reasons, weights = _plan(plain.values())
    copy = graphs.copy(model, plain, takers, weights)
    difference = _difference(model, copy, data)
    if difference > tolerance:
        raise ValueError(
            f"The folded model's outputs differ by {difference:.1e} of the largest output; allowed is "
            f"tolerance={tolerance:.1e}. Give a larger `tolerance` if rounding explains it, as in a deep "
            "model or with variances close to 0; else keep the model as it is."
        )
    unknown = "it is inside a layer whose graph is unknown"
    copy.folding = Folding(
        folded={names[norm]: names[takers[norm]] for norm in norms if norm in takers},
        kept={names[norm]: reasons.get(norm, unknown) for norm in norms if norm not in takers},
        difference=difference,
        tolerance=tolerance,
    )
    return copy


def _default_tolerance(model):
    # A model's own policy says nothing of its layers, and an input computes nothing.
    idle = (keras.Model, keras.layers.InputLayer)
    layers = [layer for layer in flatten_layers(model) if not isinstance(layer, idle)]
    return max(TOLERANCES.get(layer.compute_dtype, 0) for layer in layers)


def _plan(models):
    """Which layer takes in which norm.

    Returns three dicts: of a norm to its taker, of a norm to the reasons against it, and of a taker to its
    new weights: its kernels and its bias, float64.
    """
    # A layer may have been called in other models, too. A dict keeps the order, from the inputs on.
    nodes = {
        node: None
        for graph in models
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
    }
    calls = Counter(node.operation for node in nodes)
    uses = defaultdict(list)  # of a tensor: the nodes it goes to, and None for leaving the model
    for node in nodes:
        for tensor in node.input_tensors:
            uses[tensor].append(node)
    for graph in models:
        for tensor in graph.outputs:
            uses[tensor].append(None)

    takers, reasons, weights = {}, {}, {}
    waiting = [node for node in nodes if isinstance(node.operation, inspection.BATCHNORM_CLASSES)]
    while True:
        kept = []
        for node in waiting:
            try:
                takers[node.operation] = _fold(node, uses, calls, takers, weights)
            except _Obstacle as obstacle:
                reasons[node.operation] = str(obstacle)
                kept.append(node)
        if len(kept) == len(waiting):
            return takers, reasons, weights
        waiting = kept  # A norm that is gone makes way for those on either side of it.


def _fold(node, uses, calls, gone, weights):
    """Fold the norm called at `node` into the `weights` of a neighbour, which is returned."""
    norm = node.operation
    if type(norm) not in inspection.BATCHNORM_CLASSES:
        raise _Obstacle(f"its class {type(norm).__name__} may compute something else")
    if getattr(norm, "test_local_stats", False):
        raise _Obstacle("it has test_local_stats=True: the batch's moments count in inference, too")
    _check_call(node, calls)
    shape, dtype = node.outputs[0].shape, node.arguments.args[0].dtype
    if not keras.backend.is_float_dtype(dtype):
        raise _Obstacle(f"its input is {dtype}")
    obstacles = []
    for side in TAKERS:
        try:
            neighbour = _neighbour(node, side, uses, calls, gone)
            layer = neighbour.operation
            axis = _channel_axis(layer, len(shape))
            if not {a for a in inspection.channel_axes(norm, len(shape)) if shape[a] != 1} <= {axis}:
                raise _Obstacle(f"{called(layer)} has its channels on axis {axis}, not {norm.axis}")
        except _Obstacle as obstacle:
            obstacles.append(f"{side} it, {obstacle}")
            continue
        if layer not in weights:
            bias = [] if layer.use_bias else [np.zeros(neighbour.outputs[0].shape[axis])]
            weights[layer] = [np.asarray(weight, "float64") for weight in layer.get_weights()] + bias
        scale, shift = (np.broadcast_to(v.ravel(), shape[axis]) for v in inspection.scale_and_shift(norm))
        fold_into = _fold_into_previous if side == "before" else _fold_into_next
        fold_into(layer, weights[layer], scale, shift)
        return layer
    raise _Obstacle("; ".join(obstacles))


def _neighbour(node, side, uses, calls, gone):
    """The call of the layer that may take in the norm called at `node`."""
    norm = node.operation
    while True:
        tensor = node.arguments.args[0] if side == "before" else node.outputs[0]
        source, index, _ = tensor._keras_history
        if isinstance(source, keras.layers.InputLayer):
            raise _Obstacle("there is the input of its model")
        if None in uses[tensor]:
            raise _Obstacle(f"the output of {called(source)} is an output of its model")
        if len(uses[tensor]) > 1:
            raise _Obstacle(f"the output of {called(source)} goes to several layers")
        node = source._inbound_nodes[index] if side == "before" else uses[tensor][0]
        layer = node.operation
        takes = type(layer) in TAKERS[side]
        if not takes and type(layer) not in PASSING and layer not in gone:
            raise _Obstacle(f"{called(layer)} cannot take it in")
        _check_call(node, calls)
        if layer.compute_dtype != norm.compute_dtype:
            raise _Obstacle(f"{called(layer)} computes in {layer.compute_dtype}, not {norm.compute_dtype}")
        linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
        if not linear and not (takes and side == "after"):
            raise _Obstacle(f"{called(layer)} is not linear")
        if takes:
            if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
                raise _Obstacle(f"{called(layer)} has LoRA or quantized weights")
            # A kernel of one point never reaches past the border, whatever `padding` says.
            if side == "after" and max(getattr(layer, "kernel_size", [1])) > 1 and layer.padding != "valid":
                raise _Obstacle(f"{called(layer)} pads its input")
            return node


def _check_call(node, calls):
    layer, call = node.operation, node.arguments
    if calls[layer] > 1:
        raise _Obstacle(f"{called(layer)} is called more than once")
    # In inference a mask changes nothing, nor does `training`, unless it is set for good.
    unset = (None, False)
    options = [k for k, v in call.kwargs.items() if k != "mask" and not any(v is u for u in unset)]
    if options:
        raise _Obstacle(f"{called(layer)} is called with its own {', '.join(options)}")
    if len(call.args) != 1 or not isinstance(call.args[0], keras.KerasTensor):
        raise _Obstacle(f"{called(layer)} is called with more than one tensor")


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
        if type(layer) not in CONVOLUTIONS:
            return values[:, None]
        # Each output sees the inputs of its own group alone.
        return np.repeat(values.reshape(layer.groups, -1).T, layer.filters // layer.groups, axis=1)

    moved = np.sum(kernel * by_input(shift), axis=tuple(range(kernel.ndim - 2)))
    if type(layer) in SEPARABLE:
        moved = moved.ravel() @ weights[1].reshape(-1, layer.filters)
    elif type(layer) in DEPTHWISE:
        moved = moved.ravel()
    else:
        moved = moved.sum(0)
    weights[0] = kernel * by_input(scale)
    weights[-1] = weights[-1] + moved


def _examples(model, data):
    """The first examples of `data`, or standard normal ones, in the structure of the model's inputs."""
    if data is not None:
        data = keras.tree.map_structure(lambda leaf: np.atleast_1d(leaf)[:EXAMPLES], data)
        if [leaf.size > 0 for leaf in keras.tree.flatten(data)] != [True] * len(model.inputs):
            raise ValueError(
                f"`data` must be inputs as model {model.name!r} takes them, without labels: one example or "
                f"more of {[tensor.name for tensor in model.inputs]}."
            )
        return data
    rng = np.random.default_rng(0)

    def normal(tensor):
        if not keras.backend.is_float_dtype(tensor.dtype):
            raise ValueError(
                f"Input {tensor.name!r} of model {model.name!r} is {tensor.dtype}: random numbers may not "
                "do. Give a batch of inputs as `data`."
            )
        unknown = 32 if len(tensor.shape) > 3 else 16
        return rng.normal(size=[length or unknown for length in tensor.shape])

    return keras.tree.map_structure(normal, model.input)


def _difference(model, copy, data):
    """The largest difference of an output, as a share of the largest one, over all outputs."""
    outputs = [keras.tree.flatten(each(data, training=False)) for each in (model, copy)]
    differences = []
    for pair in zip(*outputs, strict=True):
        old, new = (np.asarray(keras.ops.convert_to_numpy(output), "float64") for output in pair)
        if not np.isfinite([old, new]).all():
            raise ValueError(
                "The outputs of the model, or of the folded one, are not all finite on the data, so that "
                "they cannot be compared. Look at the moving averages (a negative variance?) and the data."
            )
        differences.append(np.max(np.abs(new - old)) / (np.max(np.abs(old)) or 1))
    return float(max(differences))
