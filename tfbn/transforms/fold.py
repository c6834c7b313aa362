"""`fold`: move batch norm layers into the layers beside them, for inference."""

import functools
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfbn.foundation import arguments
from tfbn.foundation.tables import text_table
from tfbn.layers import inspection
from tfbn.transforms import graphs
from tfbn.transforms.plan import Plan
from tfbn.transforms.tolerances import Tolerance, check_exercised, difference, measure, run

EXACT_TOLERANCE = 1e-8  # in float64, where a correct fold of a deep network differs by 1e-13 to 1e-11
COMPARED_EXAMPLES = 32  # at most
UNKNOWN_LENGTH, UNKNOWN_IMAGE_LENGTH = 16, 32  # in generated inputs, where a model leaves a length free


@dataclass(frozen=True)
class Folding:
    """What `fold` did to each batch norm layer. Layers of nested models are named "model/layer".

    Attributes:
        folded: the name of a batch norm layer -> the name of the layer that took it in.
        kept: the name of a batch norm layer -> the reason why it stayed.
        difference: the largest difference of an output, as a share of the largest output.
        tolerance: the difference that was allowed.
        tolerance_basis: "measured" on the model, "fixed" by its precision, or "given".
    """

    folded: dict[str, str]
    kept: dict[str, str]
    difference: float
    tolerance: float
    tolerance_basis: str = "given"

    def table(self) -> str:
        """Return a text table of the layers, as wide as the terminal, and a line on the outputs."""
        rows = [(name, f"into {taker}") for name, taker in self.folded.items()]
        rows += [(name, f"kept: {reason}") for name, reason in self.kept.items()]
        basis = "measured tolerance" if self.tolerance_basis == "measured" else "allowed"
        return (
            f"{text_table(('batch norm layer', 'folded'), rows)}\n"
            f"{len(self.folded)} of {len(rows)} batch norm layers folded; outputs differ by "
            f"{self.difference:.1e} of the largest ({basis}: {self.tolerance:.0e})"
        )


def fold(model: keras.Model, data: Any = None, tolerance: float | None = None) -> keras.Model:
    """Copy a trained model without the batch norm layers that a layer beside them can take in.

    In inference, batch norm is ``x * scale + shift``, channel by channel, with

        scale = gamma / sqrt(moving_variance + epsilon)
        shift = beta - moving_mean * scale

    It goes into the layer before it, whose activation is linear, or else into the layer after it:

        before:  kernel = kernel * scale                bias = bias * scale + shift
        after:   kernel = kernel * scale (by input)     bias = bias + sum(kernel * shift)

    Dense layers and convolutions take it in, depthwise and separable ones, too; transposed ones only before
    it. The layer after it must not pad: padding adds zeros, which batch norm would have moved. Dropout and
    the like may stand in between. The result says why all other batch norm layers stay.

    The copy is for inference. It can be trained, but learns differently: regularizers, constraints and
    dropout then apply to the folded weights. It is a plain functional model, whatever the class of `model`,
    and not compiled. An Identity layer replaces a folded one that named an output. `model` stays as it is.

    Args:
        model: a functional or Sequential `keras.Model`, also a nested one, with `tfbn.BatchNormalization`
            or `keras.layers.BatchNormalization` layers.
        data: inputs as `model` takes them, without labels. The two models are compared on the first 32
            examples. Default None: standard normal numbers; real data is the better proof.
        tolerance: the largest difference allowed, as a share of the largest output, above 0. Default None:
            measured. A float64 copy of `model` shows what float32 rounds on the data: 10 times that is
            allowed, and 1e-6 at least. In float64 the fold itself must be exact to 1e-8. Where that cannot
            be measured (layers of your own, other precisions), the default is fixed by the least exact
            layer: 1e-5 in float32, 1e-12 in float64, 1e-2 in float16, 5e-2 in bfloat16.

    Returns:
        A model with the names of `model`, its inputs, outputs and remaining layers. Its attribute `folding`
        is a `Folding`, which is not saved with the model.

    Raises:
        TypeError: `model` is not a `keras.Model`; `tolerance` is not a number.
        ValueError: `model` is not built, has no batch norm layer or no known graph, or holds a layer that
            cannot be copied; `data` is needed or does not fit; the outputs differ by more than `tolerance`,
            are not finite, or are the same for all examples.

    >>> layers = [keras.layers.Dense(2), keras.layers.BatchNormalization()]
    >>> model = keras.Sequential([keras.Input([3]), *layers])
    >>> folded = fold(model)
    >>> folded.folding.folded == {layers[1].name: layers[0].name}
    True
    >>> len(model.weights), len(folded.weights)
    (6, 2)

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2, for the layer before.
    """
    if tolerance is None:
        return fold_within(model, data, None)
    return fold_within(model, data, Tolerance(arguments.positive_number("tolerance", tolerance), "given"))


def fold_within(model: keras.Model, data: Any, tolerance: Tolerance | None) -> keras.Model:
    """Fold as `fold` does, within a tolerance that may have been measured before; None measures it."""
    norms = inspection.find_batchnorms(model)
    collected = graphs.Graphs(model, advice="To export it as it is, use fold=False.")
    data = _examples(collected.plain[model], data)
    plan = Plan(collected)
    copy_folded = functools.partial(graphs.copy, collected, gone=plan.takers, weights=plan.weights)
    copy = copy_folded()
    difference, tolerance = _prove(model, copy, copy_folded, data, tolerance)
    names, unknown = collected.names, "it is inside a layer whose graph is unknown"
    folded = {names[norm]: names[plan.takers[norm]] for norm in norms if norm in plan.takers}
    kept = {names[norm]: plan.reasons.get(norm, unknown) for norm in norms if norm not in plan.takers}
    copy.folding = Folding(folded, kept, difference, tolerance.value, tolerance.basis)
    return copy


def _examples(model: keras.Model, data: Any) -> Any:
    """Return the first examples of `data`, or normal ones, in the structure of the model's inputs."""
    rng = np.random.default_rng(0)

    def normal(tensor):
        if not keras.backend.is_float_dtype(tensor.dtype):
            raise ValueError(
                f"Input {tensor.name!r} of model {model.name!r} is {tensor.dtype}: random numbers may not "
                "do. Pass a batch of inputs as `data`."
            )
        unknown = UNKNOWN_IMAGE_LENGTH if len(tensor.shape) > 3 else UNKNOWN_LENGTH
        return rng.normal(size=[length or unknown for length in tensor.shape])

    if data is None:
        return keras.tree.map_structure(normal, model.input)
    data = keras.tree.map_structure(lambda leaf: np.atleast_1d(leaf)[:COMPARED_EXAMPLES], data)
    if [leaf.size > 0 for leaf in keras.tree.flatten(data)] != [True] * len(model.inputs):
        raise ValueError(
            f"`data` must be inputs as model {model.name!r} takes them, without labels: one example or "
            f"more of {[tensor.name for tensor in model.inputs]}."
        )
    return data


def _prove(model, copy, copy_folded, data, tolerance):
    """Return the difference of a folded `copy` and the tolerance, or raise."""
    tolerance = tolerance or measure(model, data)
    expected, outputs = run(model, data), run(copy, data)
    if not all(np.isfinite(output).all() for output in (*outputs, *expected)):
        raise ValueError(
            "The outputs of the model or of the folded one are not all finite on the data, so they "
            "cannot be compared. Look at the moving averages (a negative variance?) and the data."
        )
    check_exercised(data, expected, tolerance, model.name)
    found = difference(outputs, expected)
    _check_difference(found, tolerance.value, "", tolerance.rounding)
    if tolerance.twin is not None:
        exact = difference(run(copy_folded(policy="float64"), data), run(tolerance.twin, data))
        _check_difference(exact, EXACT_TOLERANCE, " in float64", tolerance.rounding)
    return found, tolerance


def _check_difference(difference: float, allowed: float, where: str, rounding: float | None) -> None:
    """Raise ValueError where the outputs differ by more than is allowed."""
    if difference <= allowed:
        return
    cause = "" if rounding is None else f" Rounding in float32 alone moves the outputs by {rounding:.1e}."
    raise ValueError(
        f"The folded model's outputs differ{where} by {difference:.1e} of the largest output; allowed is "
        f"tolerance={allowed:.1e}.{cause} Use a larger `tolerance` if rounding explains it, as in a deep "
        "model or with variances close to 0; else keep the model as it is."
    )
