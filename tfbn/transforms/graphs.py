"""The graphs of functional models: read them, and copy them with layers left out or replaced."""

import functools
import itertools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from tfbn.keras_internals import flatten_layers, mask_of
from tfbn.layers.masked_identity import MaskedIdentity


@dataclass(frozen=True)
class Graphs:
    """A model and the models nested in it, but for those with a `call` of their own.

    Attributes:
        model: the outermost model.
        plain: each model -> a plain functional model of the same layers.
        names: each layer -> its name, "model/layer" where it is nested.
    """

    model: keras.Model
    plain: dict[keras.Model, keras.Model]
    names: dict[keras.Layer, str]


def collect(model: keras.Model, advice: str = "") -> Graphs:
    """Return the graphs of `model` and of the models nested in it.

    Raises:
        ValueError: `model` has a `call` of its own. `advice` ends the message.
    """
    graphs = Graphs(model, {}, {})
    _collect(model, "", graphs)
    if model not in graphs.plain:
        raise ValueError(
            f"The graph of model {model.name!r} is unknown: {type(model).__name__} has its own `call`. "
            f"Build the model from keras.Input, as a functional or Sequential one. {advice}".rstrip()
        )
    return graphs


def _collect(model, prefix, graphs):
    plain = _plain(model)
    if plain is None:
        return
    graphs.plain[model] = plain
    for layer in plain.layers:
        graphs.names.setdefault(layer, prefix + layer.name)
        if isinstance(layer, keras.Model):
            _collect(layer, f"{prefix}{layer.name}/", graphs)
        for inner in flatten_layers(layer, include_self=False):
            graphs.names.setdefault(inner, f"{prefix}{layer.name}/{inner.name}")


def _plain(model):
    """Return a plain functional model of the same layers, or None if the graph is unknown."""
    sequential = isinstance(model, keras.Sequential)
    if not hasattr(model, "inputs" if sequential else "operations"):
        return None
    if sequential:
        (inputs,) = model.inputs
        outputs = keras.tree.pack_sequence_as(model.compute_output_spec(inputs), model.outputs)
    else:
        inputs, outputs = model.input, model.output
    plain = keras.Model(inputs, outputs, name=model.name)
    return plain if type(model).call is (keras.Sequential if sequential else type(plain)).call else None


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a layer in a graph; `inputs` and `outputs` are the tensors, in a flat list."""

    layer: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


class Trace:
    """The calls in several graphs, and how their tensors connect them.

    The tensors are stand-ins: a trace adds no calls to the layers of the model.

    Attributes:
        calls: all calls, in order. The same call in two graphs is one.
        counts: each layer -> the number of its calls.
        producers: each tensor -> the call that gives it. The input of a model has none.
        uses: each tensor -> the calls that take it, and None for each model whose output it is.
    """

    def __init__(self, graphs: Graphs):
        self._calls: dict[tuple, Call] = {}
        self._input, self._stand_in = functools.cache(_input), functools.cache(_StandIn)
        models = [self._trace(plain) for plain in graphs.plain.values()]
        self.calls = list(self._calls.values())
        self.counts = Counter(call.layer for call in self.calls)
        self.producers = {tensor: call for call in self.calls for tensor in call.outputs}
        self.uses: dict[keras.KerasTensor, list[Call | None]] = defaultdict(list)
        for call in self.calls:
            for tensor in call.inputs:
                self.uses[tensor].append(call)
        for tensor in itertools.chain.from_iterable(model.outputs for model in models):
            self.uses[tensor].append(None)

    def _trace(self, plain):
        inputs = keras.tree.map_structure(self._input, plain.input)
        options = {"clone_function": self._stand_in, "call_function": self._record}
        return keras.models.clone_model(plain, inputs, **options)

    def _record(self, stand_in, *args, **kwargs):
        key = (stand_in, *kwargs, *map(id, keras.tree.flatten((args, kwargs))))
        if key not in self._calls:
            outputs = keras.tree.flatten(stand_in(*args, **kwargs))
            self._calls[key] = Call(stand_in.layer, args, kwargs, _tensors(args, kwargs), outputs)
        return self._calls[key].outputs


def _input(tensor):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


class _StandIn(keras.Operation):
    """An operation whose outputs have the shapes of the outputs of `layer`."""

    def __init__(self, layer):
        super().__init__(name=layer.name)
        self.layer = layer

    def compute_output_spec(self, *args, **kwargs):
        # `input` and `output` are those of the first call. Inputs of another shape need another call.
        first, inputs = keras.tree.flatten(self.layer.input), _tensors(args, kwargs)
        alike = [(t.shape, t.dtype) for t in first] == [(t.shape, t.dtype) for t in inputs]
        outputs = self.layer.output if alike else self.layer(*args, **kwargs)
        return keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype), outputs)


def _tensors(args, kwargs):
    return [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]


def copy(
    graphs: Graphs, gone: Collection = (), weights: Mapping | None = None, instead: Mapping | None = None
) -> keras.Model:
    """Copy a model with layers of its own, its weights and the state of its random numbers.

    Args:
        graphs: the model, from `collect`.
        gone: the batch norm layers to leave out.
        weights: a layer -> its new weights, a bias among them.
        instead: a layer -> the new one in its place, which gets its weights.
    """
    copier = _Copier(graphs, gone, weights or {}, instead or {})
    result = copier.copy_graph(graphs.model)
    for layer, twin in copier.copies.items():
        if layer in copier.weights:
            twin.set_weights(copier.weights[layer])
        elif isinstance(layer, keras.Layer) and layer not in graphs.plain and layer not in gone:
            _copy_state(layer, twin)
    return result


@dataclass
class _Copier:
    """Copies each layer once, so that a shared layer stays shared."""

    graphs: Graphs
    gone: Collection
    weights: Mapping
    instead: Mapping
    copies: dict = field(default_factory=dict)

    def copy_graph(self, model):
        plain = self.graphs.plain[model]
        layers = {
            layer.output: layer for layer in plain.layers if isinstance(layer, keras.layers.InputLayer)
        }
        inputs = keras.tree.map_structure(lambda t: self.copy_layer(layers[t]).output, plain.input)
        copy = keras.models.clone_model(plain, inputs, clone_function=self.copy_layer)
        # Set later, `trainable` would override that of each layer.
        copy = keras.Model(copy.input, copy.output, name=model.name, trainable=model.trainable)
        copy.dtype_policy = model.dtype_policy  # by which `compile` decides whether to scale the loss
        return copy

    def copy_layer(self, layer):
        if layer not in self.copies:
            self.copies[layer] = self._copied(layer)
        return self.copies[layer]

    def _copied(self, layer):
        if layer in self.graphs.plain:
            return self.copy_graph(layer)
        if layer in self.gone:
            return _bypass(layer, self._gives_output(layer))
        if layer in self.instead:
            return self.instead[layer]
        try:
            config = layer.get_config() | ({"use_bias": True} if layer in self.weights else {})
            return type(layer).from_config(config)
        except Exception as error:
            raise ValueError(
                f"{called(layer)} could not be copied from its configuration: {error} As for "
                "keras.models.load_model, its class needs get_config and from_config, and functions of "
                "your own have to stand in a keras.saving.custom_object_scope."
            ) from error

    def _gives_output(self, layer):
        models = self.graphs.plain.values()
        return any(layer in model.layers and layer.name in model.output_names for model in models)


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
    for old, new in zip(layer.variables, twin.variables, strict=True):
        new.assign(old)


def _bypass(norm, gives_output):
    """Return a function that takes the place of `norm` in a graph and returns its inputs."""
    # The policy by name: Identity has no get_config for anything else.
    options = {"name": norm.name, "dtype": norm.dtype_policy.name}
    end, masked = keras.layers.Identity(**options), MaskedIdentity(**options)

    def call(inputs, training=None, mask=None):
        if not keras.backend.is_float_dtype(inputs.dtype):
            inputs = keras.ops.cast(inputs, norm.compute_dtype)
        if mask is not None and mask_of(inputs) is None:
            return masked(inputs, mask=mask)
        # An output of the model has the name of its layer.
        return end(inputs) if gives_output else inputs

    return call


def called(layer: keras.Operation) -> str:
    """Return a layer's class and name, for messages."""
    return f"{type(layer).__name__} {layer.name!r}"
