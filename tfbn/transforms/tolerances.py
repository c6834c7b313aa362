"""How far the outputs of a correct copy of a model may differ: measured by what float32 itself does."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfbn.foundation.errors import warn_caller
from tfbn.keras_internals import flatten_layers
from tfbn.transforms import graphs

# The rounding of a deep network, as a share of its largest output, where it is not measured.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
# Two correct ways to compute a model in float32 differed by up to 3 times its own rounding in twelve of
# Keras' applications. The least is what a single layer rounds.
ROUNDING_FACTOR, LEAST_TOLERANCE = 10, 1e-6
LARGE_TOLERANCE = 1e-2  # above which equality in float32 says little
KNOWN_PACKAGES = (
    "keras",
    "tfbn",
)  # whose layers compute in float64 from end to end if their policy says so


@dataclass(frozen=True)
class Tolerance:
    """The largest difference allowed, as a share of the largest output.

    Attributes:
        value: the difference.
        basis: "given" by the caller, "measured" on the model, or "fixed" by its precision.
        rounding: the measured difference of the model's outputs from those in float64, or None.
        twin: a copy of the model in float64, or None where nothing was measured.
    """

    value: float
    basis: str
    rounding: float | None = None
    twin: keras.Model | None = None


def measure(model: keras.Model, data: Any) -> Tolerance:
    """Return the tolerance for a model on a batch: a multiple of what float32 rounds, by a float64 copy.

    It is fixed by the precision of the least exact layer if a layer does not compute in float32, or the
    model cannot be copied to float64: with layers of other packages, a Lambda, or a graph that is unknown.
    """
    # A model's own policy says nothing of its layers, and an input computes nothing.
    idle = (keras.Model, keras.layers.InputLayer)
    layers = [layer for layer in flatten_layers(model) if not isinstance(layer, idle)]
    precisions = {layer.compute_dtype for layer in layers} & set(TOLERANCES)
    fixed = Tolerance(
        max((TOLERANCES[name] for name in precisions), default=TOLERANCES["float32"]), "fixed"
    )
    if precisions != {"float32"} or not all(map(_is_copied_to_float64, layers)):
        return fixed
    try:
        collected = graphs.Graphs(model)
        if not all(map(_is_copied_to_float64, _operations(collected))):
            return fixed
        twin = graphs.copy(collected, policy="float64")
    except Exception:
        # The graph is unknown, or a layer's configuration does not say all: that is no fault of the model.
        return fixed
    rounding = difference(run(model, data), run(twin, data))
    if not np.isfinite(rounding):
        return fixed
    value = max(LEAST_TOLERANCE, ROUNDING_FACTOR * rounding)
    if value > LARGE_TOLERANCE:
        warn_caller(
            f"Rounding in float32 alone moves the outputs of model {model.name!r} by {rounding:.1e} of the "
            f"largest, as in an untrained deep model: a difference of up to {value:.1e} is allowed, and "
            "only the comparison of a folded model in float64 is exact. Pass a `tolerance` or other data."
        )
    return Tolerance(value, "measured", rounding, twin)


def _is_copied_to_float64(operation: keras.Operation) -> bool:
    names_a_precision = isinstance(operation, keras.layers.Lambda) or type(operation).__name__ == "Cast"
    return type(operation).__module__.split(".")[0] in KNOWN_PACKAGES and not names_a_precision


def _operations(collected: graphs.Graphs) -> list[keras.Operation]:
    return [operation for plain in collected.plain.values() for operation in plain.operations]


def run(model: keras.Model, data: Any) -> list[np.ndarray]:
    """Return the outputs of a model in inference, in float64."""
    outputs = keras.tree.flatten(model(data, training=False))
    return [np.asarray(keras.ops.convert_to_numpy(output), "float64") for output in outputs]


def difference(outputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Return the largest difference of an output, as a share of the largest one, over all outputs."""
    differences = [
        np.max(np.abs(new - old)) / (np.max(np.abs(old)) or 1)
        for new, old in zip(outputs, expected, strict=True)
    ]
    return float(np.max(differences))


def check_exercised(data: Any, outputs: list[np.ndarray], tolerance: Tolerance, name: str) -> None:
    """Raise ValueError if all examples have the same outputs, on which a wrong model goes unseen.

    The same means to the bit, or within what was measured as rounding. A single example passes.
    """
    inputs = [np.asarray(leaf) for leaf in keras.tree.flatten(data)]
    if len(inputs[0]) == 1:
        return
    largest = difference(outputs, [np.broadcast_to(output[:1], output.shape) for output in outputs])
    if largest <= (tolerance.rounding or 0):
        raise ValueError(
            f"The data do not exercise the model: the outputs of {name!r} are the same for all "
            f"{len(inputs[0])} examples, and a wrong copy could give them, too. Received: outputs that "
            f"vary by {largest:.1e} of the largest. Pass real examples as `data`, of several classes, "
            "scaled as in training. If their outputs are the same, too, look at the weights and averages."
        )
