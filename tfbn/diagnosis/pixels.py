"""The range of pixels that a model takes: what its graph does to its input before it learns from it."""

import re
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfbn.foundation.arguments import choice
from tfbn.foundation.errors import first_line
from tfbn.foundation.pixels import RANGES, range_of
from tfbn.keras_internals import flatten_layers
from tfbn.layers import inspection
from tfbn.transforms.graphs import called

# TensorFlow's operations that scale pixels, where all else that they take is constant.
SCALING = ("Add", "AddV2", "BiasAdd", "Div", "DivNoNan", "Mul", "Neg", "RealDiv", "Sub")
# Those that move pixels, and leave their range as it is.
MOVING = (
    *("Identity", "IdentityN", "StopGradient", "PreventGradient", "CheckNumerics", "EnsureShape", "Cast"),
    *("Reshape", "Squeeze", "ExpandDims", "Transpose", "ConcatV2", "Pack", "Unpack", "Split", "SplitV"),
    *("StridedSlice", "Slice", "GatherV2", "GatherNd", "Tile", "BroadcastTo", "Pad", "PadV2", "MirrorPad"),
    *("ReverseV2", "Roll", "AvgPool", "AvgPool3D", "MaxPool", "MaxPool3D", "ResizeBilinear"),
    *("ResizeBicubic", "ResizeNearestNeighbor", "ResizeArea", "ScaleAndTranslate", "SpaceToBatchND"),
    *("BatchToSpaceND", "SpaceToDepth", "DepthToSpace", "ImageProjectiveTransformV3", "CropAndResize"),
)
SHAPES = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")  # They give no pixels.
# Those that learn from pixels, where one of their inputs is a weight, frozen ones too.
LEARNING = (
    *("Conv", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"),
    *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"),
    *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
)
# Keras' layers that may scale inside a loop or a function.
HIDING = (layers.Rescaling, layers.Normalization, layers.Lambda, layers.TFSMLayer, layers.JaxLayer)
UNKNOWN_LENGTH = 32  # of the images that are followed, where a model leaves a length free
ROUNDING = 0.02  # of a width: 1/256 and 1/255 are both a scale for pixels
SMALLEST_STDDEV = 0.02  # of data, as a share of their range's width
DEFAULT = "0..1"  # in which tfbn's own networks take them


class _Unclear(Exception):
    """The reason why a model's graph does not show which range it takes."""


_End = tuple[Any, tf.Tensor, tuple[str, ...]]  # What learns or None, the pixels, what scaled them.


class _Images(NamedTuple):
    """A black and a white image, of 255, as `layer` takes them, behind what scaled them, by name."""

    layer: Any
    scaled_by: tuple[str, ...]
    black: np.ndarray
    white: np.ndarray


def pixel_range(
    model: keras.Model, scale: str | None = None, examples: np.ndarray | None = None
) -> tuple[str, str]:
    """Return the range of pixels to feed to `model`, a key of `RANGES`, and the reason for it.

    The model is traced in inference, also one with a `call` of its own: what its operations do to pixels
    before they meet a weight shows the range.

    Args:
        scale: the range, if somebody said it. Default None: what the model's graph shows, else the range of
            `examples`, else "0..1".
        examples: pixels as they are fed to the model, if there are any.

    Raises:
        ValueError: the graph has signs of a range, but not of which, or `examples` are of another range.

    >>> stack = [keras.Input([8, 8, 3]), layers.Rescaling(1 / 255, name="to_one"), layers.Conv2D(4, 3)]
    >>> pixel_range(keras.Sequential(stack))
    ('0..255', "the model scales them by 'to_one'")
    """
    reason = "as asked for"
    if scale is None:
        scale, reason = _seen(model)
        if scale is None and examples is not None and (scale := range_of(examples)):
            reason = "the data are"
        elif scale is None and reason:
            raise ValueError(
                f"Model {model.name!r} does not show which range of pixels it takes: {reason}. Choose one, "
                f"--scale (in Python `scale`) {', '.join(RANGES)}."
            )
        elif scale is None:
            scale, reason = DEFAULT, "the model does not scale them"
    choice("scale", scale, RANGES)
    if examples is not None and range_of(examples) not in (None, scale):
        raise ValueError(
            f"The data are pixels of {range_of(examples)}, but model {model.name!r} is to take {scale}: "
            f"{reason}. Give data as you feed them to the model, or choose their range as `scale`."
        )
    return scale, reason


def _seen(model: keras.Model) -> tuple[str | None, str]:
    """Return the range that a model shows, and by what; or None, and what is unclear, if anything."""
    inputs = getattr(model, "inputs", None) or []
    if inputs and inputs[0].dtype == "uint8" and len(inputs) == 1:
        return "0..255", "the model takes uint8"
    try:
        shape, dtype = _input(model, inputs)
        return (None, "") if shape is None else _range(_ends(model, shape, dtype))
    except _Unclear as unclear:
        return None, str(unclear)


def _input(model: keras.Model, inputs: list) -> tuple[tuple | None, str]:
    """Return the shape and type of the model's input; None if there are several."""
    if inputs:
        return (tuple(inputs[0].shape) if len(inputs) == 1 else None), inputs[0].dtype
    config = model.get_build_config()
    if not config:
        raise _Unclear("it was not called on data yet")
    shape = config.get("input_shape")
    is_one = isinstance(shape, (tuple, list)) and all(isinstance(size, int | None) for size in shape)
    return ((None, *shape[1:]) if is_one else None), model.input_dtype


def _ends(model: keras.Model, shape: tuple, dtype: str) -> list[_Images]:
    """Return images where the model learns from them: traced in inference, it runs up to there."""
    found: list[_End] = []

    @tf.autograph.experimental.do_not_convert
    def run(x):
        outputs = keras.tree.flatten(model(x, training=False))
        found[:] = _Reader(model, x.graph).follow(x, outputs)
        return [tensor for _, tensor, _ in found]

    batch = [size or UNKNOWN_LENGTH for size in (shape[0] or 1, *shape[1:])]
    is_eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # Else a tf.function in the model hides its operations.
    try:
        traced = tf.function(run).get_concrete_function(tf.TensorSpec(shape, dtype))
        images = [traced(tf.cast(tf.fill(batch, pixel), dtype)) for pixel in (0, 255)]
    except _Unclear:
        raise
    except Exception as error:  # Whatever a `call` may raise.
        raise _Unclear(f"it cannot be traced, {first_line(error)}") from error
    finally:
        tf.config.run_functions_eagerly(is_eager)
    return [
        _Images(layer, names, *(np.ravel(image).astype("float64") for image in both))
        for (layer, _, names), *both in zip(found, *images, strict=True)
    ]


class _Reader:
    """Follows the pixels through the operations of a model, up to those that learn from them."""

    def __init__(self, model: keras.Model, graph: Any) -> None:
        inner_last = flatten_layers(model)
        self._layers = {layer.name: layer for layer in inner_last}
        self._scaled_by: dict[Any, tuple[str, ...]] = {}  # Pixels -> the names of what scaled them.
        # Weights and features -> their layer or None, and whether they are surely no constants.
        self._learned: dict[Any, tuple[Any, bool]] = {}
        self._ends: list[_End] = []
        owners: dict[int, tuple[Any, bool]] = {}
        for layer in inner_last:
            is_norm = isinstance(layer, inspection.BATCHNORM_CLASSES)
            for weight in layer.weights:
                copies = getattr(weight.value, "values", [weight.value])  # Several if it is distributed.
                owners |= {id(copy.handle): (layer, is_norm or weight.trainable) for copy in copies}
        for outer, inner in graph.captures:
            if id(outer) in owners:
                self._learned[inner.ref()] = owners[id(outer)]

    def follow(self, x: tf.Tensor, outputs: list) -> list[_End]:
        """Return where the pixels `x` end: in operations that learn, or in an output."""
        self._scaled_by[x.ref()] = ()
        needed = _operations_before(outputs)
        for operation in x.graph.get_operations():
            if operation in needed and operation.type not in SHAPES:
                self._pass(operation)
        self._end(None, [y for y in outputs if y.ref() in self._scaled_by])
        return self._ends

    def _pass(self, operation: tf.Operation) -> None:
        """Note what the outputs of an operation are, pixels or learned, or raise `_Unclear`."""
        inputs, outputs = list(operation.inputs), [tensor.ref() for tensor in operation.outputs]
        pixels = [tensor for tensor in inputs if tensor.ref() in self._scaled_by]
        learned = [self._learned[tensor.ref()] for tensor in inputs if tensor.ref() in self._learned]
        layer = self._layer(operation)
        moves = operation.type in MOVING or _scales(operation, pixels)
        tables: tuple[dict, ...] = (self._scaled_by, self._learned)
        if operation.type == "IdentityN":  # Of a custom gradient, which takes weights too.
            for x, output in zip(inputs, outputs, strict=True):
                for table in tables:
                    table |= {output: table[x.ref()]} if x.ref() in table else {}
        elif not pixels:
            sure = any(is_sure for _, is_sure in learned)
            self._learned |= dict.fromkeys(outputs, (learned[0][0], sure)) if learned else {}
        elif _learns(operation, learned) or (_is_plain(layer) and layer.weights and not moves):
            self._end(learned[0][0] if learned else None, pixels)
            self._learned |= dict.fromkeys(outputs, (None, True))
        elif moves or _is_plain(layer):
            names = [name for tensor in pixels for name in self._scaled_by[tensor.ref()]]
            if operation.type in SCALING:
                is_model = layer is None or isinstance(layer, keras.Model)
                names.append(operation.name.rpartition("/")[2] if is_model else layer.name)
            self._scaled_by |= dict.fromkeys(outputs, tuple(dict.fromkeys(names)))
        else:
            place = f" in {called(layer)}" if layer else ""
            raise _Unclear(f"the operation {operation.type}{place} comes first")

    def _end(self, layer: Any, pixels: list) -> None:
        self._ends += [(layer, tensor, self._scaled_by[tensor.ref()]) for tensor in pixels]

    def _layer(self, operation: tf.Operation) -> Any:
        """Return the innermost layer with an operation, by the name's scopes; None if they name none."""
        for scope in reversed(operation.name.split("/")[:-1]):
            for name in (re.sub(r"_\d+$", "", scope), scope):  # TensorFlow numbers the calls.
                if name in self._layers:
                    return self._layers[name]
        return None


def _operations_before(tensors: list) -> set:
    found: set = set()
    waiting = [tensor.op for tensor in tensors]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [tensor.op for tensor in operation.inputs]
    return found


def _learns(operation: tf.Operation, learned: list) -> bool:
    """Return whether an operation joins pixels with what was `learned`, in sight."""
    if any(value.HasField("func") for value in operation.node_def.attr.values()):
        return False  # A function, a loop or a branch may hide a scale.
    return bool(learned) and (operation.type in LEARNING or any(is_sure for _, is_sure in learned))


def _scales(operation: tf.Operation, pixels: list) -> bool:
    """Return whether an operation multiplies `pixels` by constants, or adds some."""
    if operation.type not in SCALING or len(pixels) != 1:
        return False
    return "Div" not in operation.type or pixels[0] is operation.inputs[0]


def _is_plain(layer: keras.Layer | None) -> bool:
    """Return whether a layer and those in it are Keras' own and scale nothing out of sight."""
    return layer is not None and all(
        getattr(layers, type(inner).__name__, None) is type(inner) and not isinstance(inner, HIDING)
        for inner in flatten_layers(layer)
    )


def _range(ends: list[_Images]) -> tuple[str | None, str]:
    """Return the range that the model takes, and the reason; or None and ""."""
    scaled = dict(_range_of_scaled(images) for images in ends if not _is_raw(images))
    raw = [images.layer for images in ends if _is_raw(images)]
    if len(scaled) + bool(raw and scaled) > 1:
        raise _Unclear("it scales them in several ways")
    for layer in raw:
        is_norm = isinstance(layer, inspection.BATCHNORM_CLASSES)
        if is_norm and (name := _range_of_statistics(*inspection.averages(layer))):
            return name, f"the averages of {layer.name!r} are of such pixels"
    return scaled.popitem() if scaled else (None, "")


def _slope_and_shift(images: _Images) -> tuple[np.ndarray, np.ndarray]:
    """Return by what the pixels were multiplied, and what was added then."""
    pixels = images.black != images.white  # The others are padding.
    return (images.white - images.black)[pixels] / 255, images.black[pixels]


def _is_raw(images: _Images) -> bool:
    slope, shift = _slope_and_shift(images)
    return np.allclose(slope, 1) and np.allclose(shift, 0)


def _range_of_scaled(images: _Images) -> tuple[str, str]:
    """Return the range that was scaled to what networks take, and by what."""
    slope, shift = _slope_and_shift(images)
    by = " and ".join(map(repr, images.scaled_by))
    usual = (
        name
        for name, limits in RANGES.items()
        if _is_usual(name, *np.sort([slope * limit + shift for limit in limits], axis=0))
    )
    name = next(usual, None) or _range_of_statistics(-shift / slope, slope**-2.0)
    if name is None:
        raise _Unclear(f"{by} scales them in no usual way")
    return name, f"the model scales them by {by}"


def _is_usual(name: str, low: np.ndarray, high: np.ndarray) -> bool:
    """Return whether the range `name`, scaled to `low` and `high`, is as networks take pixels.

    That is from -1 to 1, or a width of 1 or 255 around zero; of 0..255 also a width of 2; of -1..1 a width
    that begins at 0.
    """
    width = high - low
    rounding = ROUNDING * width

    def equal(values: np.ndarray, *targets: float) -> bool:
        return any((abs(values - target) <= rounding).all() for target in targets)

    if name == "-1..1":
        return equal(low, 0) and equal(high, 1, 255)
    if not ((low <= rounding).all() and (high >= -rounding).all()):
        return False
    return equal(width, 1, 255) or (equal(width, 2) and (name == "0..255" or equal(low, -1)))


def _range_of_statistics(means: np.ndarray, variances: np.ndarray) -> str | None:
    """Return the range of pixels that can have these statistics, by channel; None if none can.

    Within [low, high] the variance is at most (high - mean) (mean - low), for black and white pixels. A
    positive mean is not of -1..1: averages that lag look like that.
    Source: Bhatia and Davis 2000, A better bound on the variance.
    """
    mean, variance = means.mean(), variances.mean() + means.var()
    for name, (low, high) in RANGES.items():
        most, least = (high - mean) * (mean - low), (SMALLEST_STDDEV * (high - low)) ** 2
        if least <= variance <= most * (1 + ROUNDING) and (low == 0 or mean < 0):
            return name
    return None
