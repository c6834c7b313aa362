"""What two models have to share to be trained by one program."""

from __future__ import annotations

import json

from tfbn.keras_internals import flatten_layers

# Where a configuration calls layers by their names, and what only a layer's configuration has.
REFERENCES = ("keras_history", "input_layers", "output_layers")
OF_LAYERS = {"trainable", "batch_shape", "inbound_nodes", "layers"}


def signature(model, adapted=False):
    """What a model's configuration says of its compiled program: its layers, less names and initial values.

    Models of different signatures cannot be trained by one program. None for a model whose configuration
    does not tell: layers and functions of one's own, and layers that were adapted to data, unless `adapted`
    says that their data are known to be the same.

    >>> import keras
    >>> narrow, wide = (keras.Sequential([keras.Input([2]), keras.layers.Dense(n)]) for n in (3, 4))
    >>> signature(narrow) == signature(wide)
    False
    >>> other = keras.Sequential([keras.Input([2]), keras.layers.Dense(3, kernel_initializer="zeros")])
    >>> signature(narrow) == signature(other)
    True
    """
    if not adapted and any(hasattr(layer, "adapt") for layer in flatten_layers(model)):
        return None
    try:
        return json.dumps(_bare(json.loads(model.to_json()), {}))
    except (NotImplementedError, TypeError, ValueError):  # Not all of it is Keras'.
        return None


def describe_network(model):
    """What is known of a network, its weights' values aside, as a text.

    >>> import keras
    >>> def build(name):
    ...     return keras.Sequential([keras.Input([2]), keras.layers.Dense(3, name)])
    >>> describe_network(build("relu")) == describe_network(build("tanh"))
    False
    """
    layers = [type(layer).__qualname__ for layer in flatten_layers(model)]
    shapes = [(list(variable.shape), str(variable.dtype)) for variable in model.variables]
    return json.dumps([signature(model, adapted=True), layers, shapes])


def _bare(config, names):
    """`config` without initial values, and with layers numbered in the order of their appearance."""
    if isinstance(config, list):
        return [_bare(item, names) for item in config]
    if not isinstance(config, dict):
        return config
    if "module" in config and (config["module"] or "keras").split(".")[0] not in ("keras", "tfbn"):
        raise ValueError(f"{config['class_name']} is not Keras'.")
    if config.get("class_name") == "__lambda__":
        raise ValueError("The configuration of a function does not tell what it refers to.")
    called = ("name", *REFERENCES) if config.keys() & OF_LAYERS else REFERENCES
    return {
        key: _numbered(value, names) if key in called else _bare(value, names)
        for key, value in config.items()
        if key not in ("seed", "compile_config") and not key.endswith("_initializer")
    }


def _numbered(value, names):
    if isinstance(value, list):
        return [_numbered(item, names) for item in value]
    return names.setdefault(value, len(names)) if isinstance(value, str) else value
