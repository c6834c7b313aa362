"""`without_batchnorm` and `convert`: a model's twin without batch norm, or with Keras' for tfbn's."""

from __future__ import annotations

import inspect

import keras

from tfbn.foundation import arguments
from tfbn.layers import inspection
from tfbn.layers.batch_normalization import BatchNormalization
from tfbn.transforms import graphs

CLASSES_BY_PACKAGE = {"tfbn": BatchNormalization, "keras": keras.layers.BatchNormalization}


def without_batchnorm(model):
    """The twin of `model` without its batch norm layers, for training the network with and without them.

    All other layers are copied: names, arguments, weights (to the bit), which are frozen, masks, and the
    state of random numbers. Nothing is shared with `model`, which stays as it is. Nothing makes up for
    the layers that went, so that the twin computes something else: to take batch norm out of a trained
    model and keep its outputs, use `fold`.

    A dense or convolutional layer built with ``use_bias=False`` still has none, and with the norm went its
    `beta`. For a comparison of the norm alone, build `model` with biases: ahead of a norm they have no
    effect, and the twin has them.

    The twin is a plain functional model, whatever the class of `model` and its `train_step`, and not
    compiled. Where a batch norm layer that went gave an output its name, an Identity layer does. Where one
    was given a mask that its input does not have, a layer that hands on that mask stands in; it loads after
    ``import tfbn``.

    Args:
        model: a functional or Sequential `keras.Model`, also a nested one, with `tfbn.BatchNormalization`
            or `keras.layers.BatchNormalization` layers.

    Returns:
        A `keras.Model` with the name of `model`, its inputs and outputs.

    Raises:
        TypeError: `model` is no `keras.Model`.
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
    plain, norms = _reach(model, CLASSES_BY_PACKAGE)
    return graphs.copy(model, plain, gone=norms)


def convert(model, to="tfbn"):
    """A copy of `model` in which Keras' batch norm layers are tfbn's, or tfbn's are Keras'.

    The layers keep their names, arguments and weights, moving averages included, and give the same outputs,
    in inference and in training, up to rounding. (With a dtype of float16 or bfloat16, though not a mixed
    one, Keras keeps the weights in that precision and tfbn in float32, so that going to Keras rounds
    them.) All other layers are copied, too. Nothing is shared with `model`, which stays as it is.

    The copy is a plain functional model, whatever the class of `model` (a `tfbn.Model`, say) and its
    `train_step`, and not compiled. With Keras' layers alone it loads where tfbn is not installed.

    Args:
        model: a functional or Sequential `keras.Model`, also a nested one.
        to: "tfbn" (default) or "keras", whose layers the copy has.

    Returns:
        A `keras.Model` with the names of `model`, its layers, inputs and outputs.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: `to` is something else; `model` is not built, has no layer to convert or no known graph;
            one of these layers is out of reach, inside a wrapper or a layer with a `call` of its own, or of
            a class of its own, or has an option that the other package's layer does not take; a layer
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
    plain, norms = _reach(
        model, {package: kind for package, kind in CLASSES_BY_PACKAGE.items() if package != to}
    )
    instead = {norm: _converted(norm, name, to) for norm, name in norms.items()}
    return graphs.copy(model, plain, instead=instead)


def _reach(model, kinds):
    """The graphs in `model`, from `graphs.collect`, and the names of the norms of these `kinds` in them.

    Raises for norms of these kinds elsewhere in the model, which a copy of its graphs would keep.
    """
    inspection.find_batchnorms(model)
    plain, names = graphs.collect(model)
    if model not in plain:
        raise ValueError(
            f"The graph of model {model.name!r} is unknown: {type(model).__name__} has its own `call`. "
            "Build the model from keras.Input, as a functional or Sequential one."
        )
    norms = {layer: name for layer, name in names.items() if isinstance(layer, tuple(kinds.values()))}
    if not norms:
        raise ValueError(
            f"The graph of model {model.name!r} has no batch normalization layer of {' or '.join(kinds)}, "
            "and so nothing would change. Use the model as it is."
        )
    reached = {layer for graph in plain.values() for layer in graph.layers}
    hidden = [name for layer, name in norms.items() if layer not in reached]
    if hidden:
        raise ValueError(
            f"Batch norm layers of model {model.name!r} are out of reach, in a wrapper or a layer with a "
            f"`call` of its own: {', '.join(hidden)}. Build the model with each of them called on a tensor "
            "of its graph (batch norm needs no TimeDistributed: it takes inputs of any rank)."
        )
    for layer, name in norms.items():
        if type(layer) not in kinds.values():
            raise ValueError(
                f"Layer {name!r} is of the class {type(layer).__name__}, which may compute something else "
                "than batch norm. Build the model with BatchNormalization itself in its place."
            )
    return plain, norms


def _converted(norm, name, to):
    """A new layer of the package `to` with the arguments of `norm`."""
    config = norm.get_config()
    if to == "keras":
        config = _for_keras(config, name)
    try:
        return CLASSES_BY_PACKAGE[to](**config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{to} has no layer that does as {name!r}: {error} Change it in the code that builds the model."
        ) from error


def _for_keras(config, name):
    """The configuration of a layer of tfbn's as one of Keras'."""
    theirs = inspect.signature(keras.layers.BatchNormalization).parameters
    ours = inspect.signature(BatchNormalization).parameters
    refused = {
        key: value
        for key, value in config.items()
        if key in ours and key not in theirs and value != ours[key].default
    }
    if config["momentum"] is None:
        refused["momentum"] = None
    axis = config["axis"]
    if isinstance(axis, list) and len(axis) > 1:
        refused["axis"] = axis
    if refused:
        given = ", ".join(f"{key}={value!r}" for key, value in refused.items())
        raise ValueError(
            f"Layer {name!r} has {given}, which keras.layers.BatchNormalization does not do. Leave that at "
            "its default in the code that builds the model; or keep tfbn's layer, and give the model to "
            "`export` or `fold` to run it where tfbn is not installed."
        )
    config = {key: value for key, value in config.items() if key in theirs or key not in ours}
    return {**config, "axis": axis[0] if isinstance(axis, list) else axis}
