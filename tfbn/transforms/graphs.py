"""The graphs of functional models: what is nested in them, and copies with layers left out or replaced."""

from __future__ import annotations

import tempfile

import keras

from tfbn.keras_internals import flatten_layers
from tfbn.layers.masked_identity import MaskedIdentity


def collect(model):
    """`model` and the models nested in it as plain functional ones, and the names of all layers.

    Returns a dict of each model to its plain twin, which shares its layers, and a dict of each layer to its
    name, "model/layer" where it is nested. A model with a `call` of its own is in neither.
    """
    graphs, names = {}, {}
    _collect(model, "", graphs, names)
    return graphs, names


def _collect(model, prefix, graphs, names):
    sequential = isinstance(model, keras.Sequential)
    functional = model._functional if sequential else model
    if not hasattr(functional, "operations"):
        return
    plain = keras.Model(functional.input, functional.output, name=model.name)
    if type(model).call is not (keras.Sequential.call if sequential else type(plain).call):
        return
    graphs[model] = plain
    for layer in plain.layers:
        names.setdefault(layer, prefix + layer.name)
        if isinstance(layer, keras.Model):
            _collect(layer, f"{prefix}{layer.name}/", graphs, names)
        for inner in flatten_layers(layer, include_self=False):
            names.setdefault(inner, f"{prefix}{layer.name}/{inner.name}")


def copy(model, graphs, gone=(), weights=(), instead=()):
    """`model` with layers of its own, which has the weights and goes on with the random numbers of `model`.

    Args:
        model, graphs: the model, and what `collect` says of it.
        gone: dict or set of the norms to leave out.
        weights: dict of a layer to its new weights, a bias among them.
        instead: dict of a layer to the new one in its place, which takes on its weights.
    """
    copies = {}
    ends = {tensor._keras_history[0] for graph in graphs.values() for tensor in graph.outputs}

    def copy_layer(layer):
        if layer not in copies:
            copies[layer] = make(layer)
        return copies[layer]

    def make(layer):
        if layer in graphs:
            return copy_graph(layer)
        if layer in gone:
            return _without(layer, layer in ends)
        if layer in instead:
            return instead[layer]
        try:
            config = layer.get_config()
            return type(layer).from_config({**config, "use_bias": True} if layer in weights else config)
        except Exception as error:
            raise ValueError(
                f"{called(layer)} could not be copied from its configuration: {error} As for "
                "keras.models.load_model, its class needs get_config and from_config, and functions of "
                "your own have to stand in a keras.saving.custom_object_scope."
            ) from error

    def copy_graph(model):
        graph = graphs[model]
        inputs = keras.tree.map_structure(lambda t: copy_layer(t._keras_history[0]).output, graph.input)
        made = keras.models.clone_model(graph, inputs, clone_function=copy_layer)
        # Set later, `trainable` would overrule that of each layer.
        made = keras.Model(made.input, made.output, name=model.name, trainable=model.trainable)
        made.dtype_policy = model.dtype_policy  # by which `compile` decides whether to scale the loss
        return made

    result = copy_graph(model)
    for layer, twin in copies.items():
        if layer in weights:
            twin.set_weights(weights[layer])
        elif isinstance(layer, keras.Layer) and layer not in graphs and layer not in gone:
            for old, new in zip(flatten_layers(layer), flatten_layers(twin), strict=True):
                # Unlike set_weights, loading also renews what a layer derives from its weights.
                store = {}
                old.save_own_variables(store)
                new.load_own_variables(store)
                if hasattr(old, "save_assets"):  # a vocabulary
                    with tempfile.TemporaryDirectory() as folder:
                        old.save_assets(folder)
                        new.load_assets(folder)
            # What that leaves out: the state of random numbers.
            for old, new in zip(layer.variables, twin.variables, strict=True):
                new.assign(old)
    return result


def _without(norm, is_end):
    """What takes the place of `norm` in a graph: a function that hands on its inputs."""
    # The policy by name: Identity has no get_config for anything else.
    options = {"name": norm.name, "dtype": norm.dtype_policy.name}
    end, masked = keras.layers.Identity(**options), MaskedIdentity(**options)

    def call(inputs, training=None, mask=None):
        if not keras.backend.is_float_dtype(inputs.dtype):
            inputs = keras.ops.cast(inputs, norm.compute_dtype)
        if mask is not None and getattr(inputs, "_keras_mask", None) is None:
            return masked(inputs, mask=mask)
        # An output of the model has the name of its layer.
        return end(inputs) if is_end else inputs

    return call


def called(layer):
    return f"{type(layer).__name__} {layer.name!r}"
