"""The range of pixels that a model takes: what its graph does to its input before it learns from it."""

import inspect
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfbn.foundation.arguments import choice
from tfbn.foundation.errors import first_line
from tfbn.foundation.pixels import RANGES, range_of
from tfbn.keras_internals import flatten_layers
from tfbn.layers import inspection
from tfbn.layers.masked_identity import MaskedIdentity
from tfbn.transforms.graphs import Graphs, Trace, called
from tfbn.transforms.plan import NOISE, SPATIAL

SCALING = (layers.Rescaling, layers.Normalization)
SCALING_OPERATIONS = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative"}
# The layers and operations that move pixels, in inference, and leave their range as it is.
_PLACES = ("Cropping", "ZeroPadding", "UpSampling", "AveragePooling", "MaxPooling")
_MOVING_NAMES = ("Rand", "AugMix", "CutMix", "MixUp", *_PLACES)
MOVING = (
    *(layers.CenterCrop, layers.Concatenate, layers.Flatten, layers.Identity, layers.Permute),
    *(layers.RepeatVector, layers.Reshape, layers.Resizing, MaskedIdentity, *NOISE, *SPATIAL),
    *(getattr(layers, name) for name in dir(layers) if name.startswith(_MOVING_NAMES)),
)
MOVING_OPERATIONS = {
    *("BroadcastTo", "Cast", "Concatenate", "ExpandDims", "Flip", "GetItem", "Moveaxis", "Pad", "Ravel"),
    *("Repeat", "Reshape", "Resize", "Squeeze", "Stack", "Swapaxes", "Tile", "Transpose"),
}
UNKNOWN_LENGTH = 32  # of the images that are followed, where a model leaves a length free
ROUNDING = 0.02  # of a width: 1/256 and 1/255 are both a scale for pixels
SMALLEST_STDDEV = 0.02  # of data, as a share of their range's width


DEFAULT = "0..1"  # in which tfbn's own networks take them


class _Unclear(Exception):
    """The reason why a model's graph does not show which range it takes."""


@dataclass(frozen=True)
class _Images:
    """A black image and one of 255 behind the layers that scale and move their pixels.

    Attributes:
        values: both images.
        scaled_by: the names of the layers and operations that scaled them.
    """

    values: np.ndarray
    scaled_by: tuple[str, ...] = ()


def pixel_range(
    model: keras.Model, scale: str | None = None, examples: np.ndarray | None = None
) -> tuple[str, str]:
    """Return the range of pixels to feed to `model`, a key of `RANGES`, and the reason for it.

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
    if len(inputs) > 1:
        return None, ""
    if inputs and inputs[0].dtype == "uint8":
        return "0..255", "the model takes uint8"
    try:
        try:
            graphs = Graphs(model)
        except ValueError:  # It has a `call` of its own.
            _check_nothing_hidden(model)
            return None, ""
        return _Reader(graphs).range()
    except _Unclear as unclear:
        return None, str(unclear)


class _Reader:
    """Follows two images through the graphs of a model, up to the layers that learn from them."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs, self._trace = graphs, Trace(graphs)
        self._ends: list[tuple[Any, _Images]] = []  # The layers that learn, and what they take.

    def range(self) -> tuple[str | None, str]:
        """Return the range that the model takes, and the reason; or None and ""."""
        (tensor,) = self._trace.inputs[self._graphs.model]
        shape = [length or UNKNOWN_LENGTH for length in tensor.shape[1:]]
        values = np.stack([np.full(shape, pixel, tensor.dtype) for pixel in (0, 255)])
        output = self._follow(self._graphs.model, _Images(values))
        ends = [*self._ends, *((None, images) for images in output)]
        scaled = dict(_range_of_scaled(images) for _, images in ends if not _is_raw(images))
        raw = [layer for layer, images in ends if _is_raw(images)]
        if len(scaled) + bool(raw and scaled) > 1:
            raise _Unclear("it scales them in several ways")
        for layer in raw:
            is_norm = isinstance(layer, inspection.BATCHNORM_CLASSES)
            if is_norm and (name := _range_of_statistics(*inspection.averages(layer))):
                return name, f"the averages of {layer.name!r} are of such pixels"
        return scaled.popitem() if scaled else (None, "")

    def _follow(self, model: keras.Model, images: _Images) -> list[_Images]:
        """Return the images in the output of a model with one input: one, or none."""
        states = {self._trace.inputs[model][0]: images}
        operations = set(self._graphs.plain[model].operations)
        for call in self._trace.calls:
            arriving = [states[tensor] for tensor in call.inputs if tensor in states]
            if not arriving or call.layer not in operations:
                continue
            leaving: list[_Images] = []
            if len(arriving) == len(call.inputs) and _is_followed(call):
                leaving = [self._apply(call, states)]
            elif len(call.inputs) == 1 and call.layer in self._graphs.plain:
                leaving = self._follow(call.layer, arriving[0])
            else:
                if len(arriving) == len(call.inputs):  # Else it joins them to what was learned.
                    _check_nothing_hidden(call.layer)
                self._ends += [(call.layer, images) for images in arriving]
            states |= dict(zip(call.outputs, leaving, strict=False))
        return [states[tensor] for tensor in self._trace.outputs[model] if tensor in states][:1]

    def _apply(self, call: Any, states: dict[Any, _Images]) -> _Images:
        """Return what a layer or operation makes of the images that arrive, in inference."""

        def values(leaf: Any) -> Any:
            return states[leaf].values if isinstance(leaf, keras.KerasTensor) else leaf

        args, kwargs = keras.tree.map_structure(values, (call.args, call.kwargs))
        options = inspect.signature(call.layer.call).parameters
        if isinstance(call.layer, keras.Layer) and "training" in options:
            kwargs["training"] = False
        try:
            output = keras.ops.convert_to_numpy(call.layer(*args, **kwargs))
        except Exception as error:
            raise _Unclear(f"{called(call.layer)} cannot be run alone, {first_line(error)}") from error
        names = dict.fromkeys(name for tensor in call.inputs for name in states[tensor].scaled_by)
        own = (call.layer.name,) if _scales(call.layer) else ()
        return _Images(output, (*names, *own))


def _scales(layer: keras.Operation) -> bool:
    if isinstance(layer, keras.Layer):
        return isinstance(layer, SCALING)
    return type(layer).__name__ in SCALING_OPERATIONS


def _is_followed(call: Any) -> bool:
    """Return whether a call scales or moves pixels: nothing in it was learned."""
    if _scales(call.layer):
        return len(call.inputs) == 1
    if isinstance(call.layer, keras.Layer):
        return isinstance(call.layer, MOVING)
    return type(call.layer).__name__ in MOVING_OPERATIONS


def _check_nothing_hidden(layer: keras.Operation) -> None:
    """Raise `_Unclear` for what may scale pixels out of sight: an unknown function, or a layer with one."""
    if not isinstance(layer, keras.Layer):
        raise _Unclear(f"the operation {called(layer)} comes first")
    for inner in flatten_layers(layer):
        if isinstance(inner, (*SCALING, layers.Lambda)):
            raise _Unclear(f"there is {called(inner)}" + (f" in {called(layer)}" if inner != layer else ""))
    ours = isinstance(layer, (keras.Model, *inspection.BATCHNORM_CLASSES))
    if not ours and getattr(layers, type(layer).__name__, None) is not type(layer) and not layer.weights:
        raise _Unclear(f"{called(layer)} comes first, whose class is not Keras'")


def _slope_and_shift(images: _Images) -> tuple[np.ndarray, np.ndarray]:
    """Return by what the pixels were multiplied, and what was added then."""
    black, white = (image.ravel().astype("float64") for image in images.values)
    pixels = black != white  # The others are padding.
    return (white - black)[pixels] / 255, black[pixels]


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
