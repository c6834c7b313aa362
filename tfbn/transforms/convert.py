"""Batch norm exchanged: a model's twin without it, or with another package's."""

import inspect
from collections.abc import Collection
from typing import Any

import keras

from tfbn.foundation import arguments
from tfbn.foundation.errors import warn_caller
from tfbn.layers import inspection
from tfbn.layers.batch_normalization import BatchNormalization
from tfbn.transforms import graphs

CLASSES_BY_PACKAGE = {"tfbn": BatchNormalization, "keras": keras.layers.BatchNormalization}


def without_batchnorm(model: keras.Model) -> keras.Model:
    """Copy `model` without its batch norm layers, for training the network with and without them.

    All other layers are copied: names, arguments, weights (to the bit), whether they are frozen, masks, and
    the state of random numbers. Nothing is shared with `model`, which stays as it is. Removing batch norm
    changes the outputs. To take it out of a trained model and keep the outputs, use `fold`.

    A layer built with ``use_bias=False`` still has no bias, and `beta` is removed with the norm: a warning
    names those ahead of a norm. To compare the norm alone, build `model` with biases. Ahead of a norm they
    have no effect, and the twin has them.

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
    trace = graphs.Trace(collected)
    inputs = [tensor for call in trace.calls if call.layer in norms for tensor in call.inputs[:1]]
    before = [trace.producers[tensor].layer for tensor in inputs if tensor in trace.producers]
    unbiased = [layer for layer in dict.fromkeys(before) if getattr(layer, "use_bias", None) is False]
    if unbiased:
        names = ", ".join(collected.names[layer] for layer in unbiased[:3])
        names += f" and {len(unbiased) - 3} more" * (len(unbiased) > 3)
        warn_caller(
            f"The twin of {model.name!r} has no biases in {names}, which the `beta` of the norms replaced. "
            "To compare the norm alone, build these layers with use_bias=True."
        )
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
