"""The graphs of functional models: what is nested in them, and copies with layers left out."""

from __future__ import annotations

import keras


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
        for inner in layer._flatten_layers(include_self=False):
            names.setdefault(inner, f"{prefix}{layer.name}/{inner.name}")


def copy(model, graphs, gone, weights):
    """`model` with layers of its own, without the norms that are `gone`, and with new `weights`."""
    copies = {}
    ends = {tensor._keras_history[0] for graph in graphs.values() for tensor in graph.outputs}

    def copy_layer(layer):
        if layer not in copies:
            copies[layer] = make(layer)
        return copies[layer]

    def make(layer):
        if layer in graphs:
            return copy_graph(layer)
        if layer in ends & gone.keys():
            # It gives an output of the model its name.
            end = keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)
            return lambda x, **_: end(x)
        if layer in gone:
            return lambda x, **_: x
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
        return keras.Model(made.input, made.output, name=model.name, trainable=model.trainable)

    result = copy_graph(model)
    for layer, twin in copies.items():
        if layer in weights:
            twin.set_weights(weights[layer])
        elif isinstance(layer, keras.Layer) and layer not in graphs and layer not in gone:
            for old, new in zip(layer._flatten_layers(), twin._flatten_layers(), strict=True):
                # Unlike set_weights, loading also renews what a layer derives from its weights.
                store = {}
                old.save_own_variables(store)
                new.load_own_variables(store)
    return result


def called(layer):
    return f"{type(layer).__name__} {layer.name!r}"
