"""Signatures: what two models must share to be trained by one compiled program."""

import json
from typing import Any

import keras

from tfbn.keras_internals import flatten_layers

# The keys of a configuration that refer to layers by name, and those that only a layer's configuration has.
REFERENCE_KEYS = ("keras_history", "input_layers", "output_layers")
LAYER_KEYS = {"trainable", "batch_shape", "inbound_nodes", "layers"}


def signature(model: keras.Model, adapted: bool = False) -> str | None:
    """Return a model's configuration without names and initial values, as a string.

    The signature is None where the configuration does not describe the program: for layers and functions
    that are not Keras', and for layers that were adapted to data, unless `adapted` states that their data
    are the same.

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
        return json.dumps(_stripped(json.loads(model.to_json()), {}))
    except (NotImplementedError, TypeError, ValueError):  # Not all of it is Keras'.
        return None


def describe_network(model: keras.Model) -> str:
    """Return a description of a network without the values of its weights.

    >>> def build(name):
    ...     return keras.Sequential([keras.Input([2]), keras.layers.Dense(3, name)])
    >>> describe_network(build("relu")) == describe_network(build("tanh"))
    False
    """
    layers = [type(layer).__qualname__ for layer in flatten_layers(model)]
    shapes = [(list(variable.shape), str(variable.dtype)) for variable in model.variables]
    return json.dumps([signature(model, adapted=True), layers, shapes])


def _stripped(config: Any, numbers: dict[str, int], is_reference: bool = False) -> Any:
    """Return `config` without initial values, its layers numbered in their order of appearance."""
    if isinstance(config, list):
        return [_stripped(item, numbers, is_reference) for item in config]
    if is_reference and isinstance(config, str):
        return numbers.setdefault(config, len(numbers))
    if is_reference or not isinstance(config, dict):
        return config
    if "module" in config and (config["module"] or "keras").split(".")[0] not in ("keras", "tfbn"):
        raise ValueError(f"{config['class_name']} is not Keras'.")
    if config.get("class_name") == "__lambda__":
        raise ValueError("The configuration of a function does not include what it refers to.")
    references = ("name", *REFERENCE_KEYS) if config.keys() & LAYER_KEYS else REFERENCE_KEYS
    return {
        key: _stripped(value, numbers, key in references)
        for key, value in config.items()
        if key not in ("seed", "compile_config") and not key.endswith("_initializer")
    }
