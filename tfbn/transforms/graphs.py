"""The graphs of functional models: read them, and copy them with layers left out or replaced."""

import functools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import keras

from tfbn.keras_internals import flatten_layers, mask_of
from tfbn.layers.masked_identity import MaskedIdentity


class Graphs:
    """A model and the models nested in it, but for those with a `call` of their own.

    Attributes:
        model: the outermost model.
        plain: each model -> a plain functional model of the same layers.
        names: each layer -> its name, "model/layer" where it is nested.
    """

    def __init__(self, model: keras.Model, advice: str = ""):
        self.model = model
        self.plain: dict[keras.Model, keras.Model] = {}
        self.names: dict[keras.Layer, str] = {}
        self._collect(model, "")
        if model not in self.plain:
            raise ValueError(
                f"The graph of model {model.name!r} is unknown: {type(model).__name__} has its own `call`. "
                f"Build the model from keras.Input, as a functional or Sequential one. {advice}".rstrip()
            )

    def _collect(self, model, prefix):
        sequential = isinstance(model, keras.Sequential)
        if not hasattr(model, "inputs" if sequential else "operations"):
            return
        if sequential:
            (inputs,) = model.inputs
            outputs = keras.tree.pack_sequence_as(model.compute_output_spec(inputs), model.outputs)
        else:
            inputs, outputs = model.input, model.output
        plain = keras.Model(inputs, outputs, name=model.name)
        if type(model).call is not (keras.Sequential if sequential else type(plain)).call:
            return
        self.plain[model] = plain
        for layer in plain.layers:
            name = prefix + layer.name
            self.names.setdefault(layer, name)
            if isinstance(layer, keras.Model):
                self._collect(layer, f"{name}/")
            for inner in flatten_layers(layer, include_self=False):
                self.names.setdefault(inner, f"{name}/{inner.name}")


class Call(keras.Operation):
    """A call of a layer in a graph, whose `outputs`, in a flat list, have the shapes of the layer's."""

    def __init__(self, layer: keras.Operation, args: tuple, kwargs: dict[str, Any]):
        super().__init__()
        self.layer, self.args, self.kwargs = layer, args, kwargs
        leaves = keras.tree.flatten((args, kwargs))
        self.inputs = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
        self.outputs = keras.tree.flatten(self(*args, **kwargs))

    def compute_output_spec(self, *args, **kwargs):
        # `input` and `output` are those of the first call. Inputs of another shape need another call.
        first = keras.tree.flatten(self.layer.input)
        alike = [(t.shape, t.dtype) for t in first] == [(t.shape, t.dtype) for t in self.inputs]
        outputs = self.layer.output if alike else self.layer(*args, **kwargs)
        return keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype), outputs)


class Trace:
    """The calls in several graphs, and how their tensors connect them, without new calls of the layers.

    Attributes:
        calls: all calls, in order. The same call in two graphs is one.
        counts: each layer -> the number of its calls.
        producers: each tensor -> the call that gives it. The input of a model has none.
        uses: each tensor -> the calls that take it, and None for each model whose output it is.
        inputs, outputs: each model -> its tensors.
    """

    def __init__(self, graphs: Graphs):
        self._calls: dict[tuple, Call] = {}
        self.inputs: dict[keras.Model, list[keras.KerasTensor]] = {}
        self.outputs: dict[keras.Model, list[keras.KerasTensor]] = {}
        self.uses: dict[keras.KerasTensor, list[Call | None]] = defaultdict(list)

        @functools.cache  # Models that are nested side by side may have the same input.
        def new_input(tensor):
            return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)

        for model, plain in graphs.plain.items():
            inputs = keras.tree.map_structure(new_input, plain.input)
            options = {"clone_function": lambda layer: layer, "call_function": self._record}
            self.inputs[model] = keras.tree.flatten(inputs)
            self.outputs[model] = keras.models.clone_model(plain, inputs, **options).outputs
            for tensor in self.outputs[model]:
                self.uses[tensor].append(None)
        self.calls = list(self._calls.values())
        self.counts = Counter(call.layer for call in self.calls)
        self.producers = {tensor: call for call in self.calls for tensor in call.outputs}

    def _record(self, layer, *args, **kwargs):
        key = (layer, *kwargs, *map(id, keras.tree.flatten((args, kwargs))))
        if key not in self._calls:
            call = self._calls[key] = Call(layer, args, kwargs)
            for tensor in call.inputs:
                self.uses[tensor].append(call)
        return self._calls[key].outputs


def copy(
    graphs: Graphs,
    gone: Collection = (),
    weights: Mapping | None = None,
    instead: Mapping | None = None,
    policy: str | None = None,
) -> keras.Model:
    """Copy a model with layers of its own, each once, its weights and the state of its random numbers.

    Args:
        graphs: those of the model.
        gone: the batch norm layers to leave out.
        weights: a layer -> its new weights, a bias among them.
        instead: a layer -> the new one in its place, which gets its weights.
        policy: the dtype policy in place of float32. Default None: that of each layer.
    """
    weights = weights or {}
    plain_models = graphs.plain.values()
    ends = {layer for plain in plain_models for layer in plain.layers if layer.name in plain.output_names}
    copies = {norm: _bypass(norm, norm in ends, policy) for norm in gone} | dict(instead or {})

    def copy_layer(layer):
        if layer not in copies:
            is_model = layer in graphs.plain
            copies[layer] = (
                copy_graph(layer) if is_model else _initial_copy(layer, layer in weights, policy)
            )
        return copies[layer]

    def copy_graph(model):
        plain = graphs.plain[model]
        input_layers = [layer for layer in plain.layers if isinstance(layer, keras.layers.InputLayer)]
        twins = {layer.output: copy_layer(layer).output for layer in input_layers}
        inputs = keras.tree.map_structure(twins.get, plain.input)
        copy = keras.models.clone_model(plain, inputs, clone_function=copy_layer)
        # Set later, `trainable` would override that of each layer.
        copy = keras.Model(copy.input, copy.output, name=model.name, trainable=model.trainable)
        copy.dtype_policy = model.dtype_policy  # by which `compile` decides whether to scale the loss
        return copy

    result = copy_graph(graphs.model)
    for layer, twin in copies.items():
        if layer in weights:
            twin.set_weights(weights[layer])
        elif isinstance(layer, keras.Layer) and layer not in graphs.plain and layer not in gone:
            _copy_state(layer, twin)
    return result


def _initial_copy(layer, with_bias, policy):
    try:
        config = layer.get_config() | ({"use_bias": True} if with_bias else {})
        return type(layer).from_config(_with_policy(config, policy) if policy else config)
    except Exception as error:
        raise ValueError(
            f"{called(layer)} could not be copied from its configuration: {error} As for "
            "keras.models.load_model, its class needs get_config and from_config, and functions of "
            "your own have to stand in a keras.saving.custom_object_scope."
        ) from error


def _with_policy(config, policy):
    """Return a configuration with `policy` for float32, also in those of wrapped layers."""
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(part, policy) for part in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config["config"].get("name") == "float32":
        return config | {"config": {"name": policy}}
    return {key: _with_policy(part, policy) for key, part in config.items()}


def _copy_state(layer, twin):
    for old, new in zip(flatten_layers(layer), flatten_layers(twin), strict=True):
        # Unlike set_weights, loading also renews what a layer derives from its weights.
        store = {}
        old.save_own_variables(store)
        new.load_own_variables(store)
        if hasattr(old, "save_assets"):  # a vocabulary
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                new.load_assets(folder)
    # The state of random numbers is not among them.
    for old, new in zip(_ordered(layer, twin), _ordered(twin, layer), strict=True):
        new.assign(old)


def _ordered(layer, other):
    """Return the variables of `layer` in an order that `other`, its copy or original, has, too."""
    shapes = [[variable.shape for variable in one.variables] for one in (layer, other)]
    if shapes[0] == shapes[1]:
        return layer.variables
    # One of them was quantized after it was built.
    return sorted(layer.variables, key=lambda variable: variable.name)


def _bypass(norm, gives_output, policy):
    """Return a function that takes the place of `norm` in a graph and returns its inputs."""
    # The policy by name: Identity has no get_config for anything else.
    options = {"name": norm.name, "dtype": policy or norm.dtype_policy.name}
    end, masked = keras.layers.Identity(**options), MaskedIdentity(**options)

    def call(inputs, training=None, mask=None):
        if not keras.backend.is_float_dtype(inputs.dtype):
            inputs = keras.ops.cast(inputs, end.compute_dtype)
        if mask is not None and mask_of(inputs) is None:
            return masked(inputs, mask=mask)
        # An output of the model has the name of its layer.
        return end(inputs) if gives_output else inputs

    return call


def called(layer: keras.Operation) -> str:
    """Return a layer's class and name, for messages."""
    return f"{type(layer).__name__} {layer.name!r}"
