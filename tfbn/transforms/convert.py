"""Batch norm exchanged: a model's twin without it or with another package's, a layer from PyTorch's."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from tfbn.foundation import arguments
from tfbn.layers import inspection
from tfbn.layers.batch_normalization import BatchNormalization
from tfbn.transforms import graphs

CLASSES_BY_PACKAGE = {"tfbn": BatchNormalization, "keras": keras.layers.BatchNormalization}
# PyTorch's keys by the names of Keras' weights. Each pair is there or not as a whole.
AFFINE_KEYS = {"gamma": "weight", "beta": "bias"}
AVERAGES_KEYS = {"moving_mean": "running_mean", "moving_variance": "running_var"}
STATE_KEYS = {*AFFINE_KEYS.values(), *AVERAGES_KEYS.values(), "num_batches_tracked"}


def without_batchnorm(model: keras.Model) -> keras.Model:
    """Copy `model` without its batch norm layers, for training the network with and without them.

    All other layers are copied: names, arguments, weights (to the bit), whether they are frozen, masks, and
    the state of random numbers. Nothing is shared with `model`, which stays as it is. Removing batch norm
    changes the outputs. To take it out of a trained model and keep the outputs, use `fold`.

    A layer built with ``use_bias=False`` still has no bias, and `beta` is removed with the norm. To compare
    the norm alone, build `model` with biases. Ahead of a norm they have no effect, and the twin has them.

    The twin is a plain functional model with the names of `model`, its inputs and outputs, whatever the
    class of `model` and its `train_step`, and not compiled. An Identity layer replaces a removed one that
    named an output. A layer that passes on masks replaces one called with a mask that its input lacks.

    Args:
        model: a functional or Sequential `keras.Model`, also a nested one, with `tfbn.BatchNormalization`
            or `keras.layers.BatchNormalization` layers.

    Raises:
        TypeError: `model` is not a `keras.Model`.
        ValueError: `model` is not built, has no batch norm layer or no known graph; one of its batch norm
            layers is out of reach, inside a wrapper or a layer with a `call` of its own, or of a class of
            its own; a layer cannot be copied.

    >>> def build():
    ...     stack = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    ...     return keras.Sequential([keras.Input([4]), *stack, keras.layers.Dense(2)])
    >>> arms = {"batchnorm": build, "plain": lambda: without_batchnorm(build())}  # for `tfbn.compare`
    >>> [type(layer).__name__ for layer in arms["plain"]().layers]
    ['InputLayer', 'Dense', 'ReLU', 'Dense']
    """
    collected, norms = _reach(model, CLASSES_BY_PACKAGE)
    return graphs.copy(collected, gone=norms)


def convert(model: keras.Model, to: str = "tfbn") -> keras.Model:
    """Copy `model` with tfbn's batch norm layers in place of Keras', or with Keras' in place of tfbn's.

    The layers keep their names, arguments and weights, moving averages included. They give the same outputs
    up to rounding, in inference and in training. Keras keeps the weights of a layer with a dtype of float16
    or bfloat16 (not a mixed one) in that precision, tfbn in float32; going to Keras rounds them. All other
    layers are copied, too. Nothing is shared with `model`, which stays as it is.

    The copy is a plain functional model with the names of `model`, its layers, inputs and outputs, whatever
    the class of `model` (a `tfbn.Model`, say) and its `train_step`, and not compiled. With Keras' layers
    alone it loads where tfbn is not installed.

    Args:
        model: a functional or Sequential `keras.Model`, also a nested one.
        to: "tfbn" (default) or "keras", the package of the copy's batch norm layers.

    Raises:
        TypeError: `model` is not a `keras.Model`.
        ValueError: `to` is something else; `model` is not built, has no layer to convert or no known graph;
            one of these layers is out of reach, inside a wrapper or a layer with a `call` of its own, or of
            a class of its own, or has an option that the other package's layer does not support; a layer
            cannot be copied.

    >>> model = keras.Sequential([keras.Input([4]), keras.layers.BatchNormalization(name="norm")])
    >>> ours = convert(model)
    >>> type(ours.get_layer("norm")) is BatchNormalization
    True
    >>> theirs = convert(ours, to="keras")
    >>> type(theirs.get_layer("norm")) is keras.layers.BatchNormalization
    True
    """
    arguments.choice("to", to, CLASSES_BY_PACKAGE)
    collected, norms = _reach(model, [package for package in CLASSES_BY_PACKAGE if package != to])
    instead = {norm: _converted(norm, name, to) for norm, name in norms.items()}
    return graphs.copy(collected, instead=instead)


def from_torch(
    state: Mapping[str, Any],
    ndim: int = 4,
    axis: int = -1,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    values_per_batch: int | None = None,
    name: str | None = None,
) -> BatchNormalization:
    """Build a `BatchNormalization` that does what PyTorch's ``nn.BatchNorm1d``, ``2d`` or ``3d`` does.

    The conventions differ: PyTorch's momentum is the share of the new value, Keras' that of the old one,

        momentum = 1 - momentum_of_torch

    PyTorch keeps the variance with Bessel's correction, hence ``unbiased=True``. Epsilon means the same;
    its default here is PyTorch's. Momentum and epsilon are not part of PyTorch's state.

    Args:
        state: the layer's ``state_dict()``, with tensors or arrays of length C: "weight" and "bias"
            unless ``affine=False``; "running_mean" and "running_var" unless ``track_running_stats=False``
            (then the batch's own statistics serve in inference, too). "num_batches_tracked" is read where
            `momentum` is None.
        ndim: the rank of the inputs that the layer is built for. Default 4, images; 2 for ``[N, C]``.
        axis: the axis of the channels. Default -1, as in Keras; 1 for inputs laid out as in PyTorch.
        momentum: PyTorch's, or None for the average over all batches. Default 0.1, as in PyTorch.
        eps: PyTorch's epsilon. Default 1e-5, as in PyTorch.
        values_per_batch: the values a channel in each batch (N, or N * H * W) that PyTorch has seen.
            Needed for a momentum of None: tfbn's average weighs by values, PyTorch's by batches.
        name: the layer's name. Default None: Keras makes one.

    Raises:
        ValueError: an array is missing, not needed, or of another length than the others.

    >>> state = {"weight": [2.0], "bias": [1.0], "running_mean": [3.0], "running_var": [4.0]}
    >>> layer = from_torch(state, ndim=2)
    >>> round(float(layer(np.array([[5.0]], "float32"))[0, 0]), 3)
    3.0

    Source: the documentation of ``torch.nn.BatchNorm2d``.
    """
    arrays = {key: np.asarray(value, "float64") for key, value in state.items() if value is not None}
    channels = _check_arrays(arrays)
    ndim, axis = arguments.integer("ndim", ndim, at_least=2), arguments.integer("axis", axis)
    if not -ndim <= axis < ndim:
        raise ValueError(f"`axis` must be one of its axes for ndim={ndim}. Received: axis={axis}.")
    if values_per_batch is not None:
        arguments.integer("values_per_batch", values_per_batch, at_least=1)
    batches = int(arrays.get("num_batches_tracked", 0))
    if momentum is None and batches and values_per_batch is None:
        raise ValueError(
            "`values_per_batch` is needed with momentum=None: only with the number of values in each of "
            f"the {batches} batches can their average go on. Received: values_per_batch=None."
        )
    layer = BatchNormalization(
        axis=axis,
        momentum=None if momentum is None else 1 - arguments.number("momentum", momentum),
        epsilon=eps,
        center="weight" in arrays,
        scale="weight" in arrays,
        unbiased=True,
        test_local_stats="running_mean" not in arrays,
        name=name,
    )
    layer.build([channels if index == axis % ndim else None for index in range(ndim)])
    for weight, key in (AFFINE_KEYS | AVERAGES_KEYS).items():
        if key in arrays:
            getattr(layer, weight).assign(arrays[key])
    if momentum is None:
        layer.count.assign(np.full(channels, float(batches * (values_per_batch or 0))))
    return layer


def _reach(model: keras.Model, packages: Collection[str]) -> tuple[graphs.Graphs, dict[keras.Layer, str]]:
    """Return the graphs in `model`, and the names of the norms of these `packages`, all within reach."""
    inspection.find_batchnorms(model)
    collected = graphs.Graphs(model)
    kinds = tuple(CLASSES_BY_PACKAGE[package] for package in packages)
    norms = {layer: name for layer, name in collected.names.items() if isinstance(layer, kinds)}
    if not norms:
        raise ValueError(
            f"The graph of model {model.name!r} has no batch normalization layer of "
            f"{' or '.join(packages)}, and so nothing would change. Use the model as it is."
        )
    reached = {layer for graph in collected.plain.values() for layer in graph.layers}
    hidden = [name for layer, name in norms.items() if layer not in reached]
    if hidden:
        raise ValueError(
            f"Batch norm layers of model {model.name!r} are out of reach, in a wrapper or a layer with a "
            f"`call` of its own: {', '.join(hidden)}. Build the model with each of them called on a tensor "
            "of its graph (batch norm needs no TimeDistributed: it takes inputs of any rank)."
        )
    for layer, name in norms.items():
        if type(layer) not in kinds:
            raise ValueError(
                f"Layer {name!r} is of the class {type(layer).__name__}, which may compute something else "
                "than batch norm. Build the model with BatchNormalization itself in its place."
            )
    return collected, norms


def _converted(norm: keras.Layer, name: str, to: str) -> keras.Layer:
    config = norm.get_config() if to == "tfbn" else _for_keras(norm.get_config(), name)
    try:
        return CLASSES_BY_PACKAGE[to](**config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{to} has no layer that does as {name!r}: {error} Change it in the code that builds the model."
        ) from error


def _for_keras(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration of a layer of tfbn's as a configuration of Keras' layer."""
    config.pop("axes", None)  # `axis` once more
    ours, theirs = (inspect.signature(kind).parameters for kind in CLASSES_BY_PACKAGE.values())
    own = [key for key in config if key in ours and key not in theirs]
    unsupported = [key for key in own if config[key] != ours[key].default]
    if config["momentum"] is None:
        unsupported.append("momentum")
    axes = config["axis"] if isinstance(config["axis"], list) else [config["axis"]]
    if len(axes) > 1:
        unsupported.append("axis")
    if unsupported:
        options = ", ".join(f"{key}={config[key]!r}" for key in unsupported)
        raise ValueError(
            f"Layer {name!r} has {options}, which keras.layers.BatchNormalization does not support. Leave "
            "that at its default in the code that builds the model. To run tfbn's layer where tfbn is not "
            "installed, use `export` or `fold`."
        )
    return {key: value for key, value in config.items() if key not in own} | {"axis": axes[0]}


def _check_arrays(arrays: dict[str, np.ndarray]) -> int:
    """Return the number of channels."""
    unknown = set(arrays) - STATE_KEYS
    shapes = {key: array.shape for key, array in arrays.items() if key != "num_batches_tracked"}
    if unknown or len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(
            "`state` must be the state_dict of one batch norm layer: arrays of one length, named "
            f"{', '.join(sorted(STATE_KEYS))}. Received: {sorted(unknown) or shapes}. Take the part of one "
            "layer, without its prefix."
        )
    for one, other in (AFFINE_KEYS.values(), AVERAGES_KEYS.values()):
        if (one in arrays) != (other in arrays):
            raise ValueError(
                f"`state` must have both {one!r} and {other!r} or neither. Received: {sorted(arrays)}."
            )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("`state` must hold finite numbers. Received NaN or infinity.")
    return next(iter(shapes.values()))[0]
