"""Batch norm layers from the state of PyTorch's, which need not be installed."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfbn.foundation import arguments
from tfbn.foundation.errors import first_line
from tfbn.layers.batch_normalization import BatchNormalization

# PyTorch's keys by the names of Keras' weights.
AFFINE_KEYS = {"gamma": "weight", "beta": "bias"}
AVERAGES_KEYS = {"moving_mean": "running_mean", "moving_variance": "running_var"}
COUNT_KEY = "num_batches_tracked"
STATE_KEYS = {*AFFINE_KEYS.values(), *AVERAGES_KEYS.values(), COUNT_KEY}
LARGEST_NUMBER = float(np.finfo("float32").max)


def from_torch(
    state: Mapping[str, Any],
    ndim: int = 4,
    axis: int = -1,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    values_per_batch: int | None = None,
    name: str | None = None,
) -> BatchNormalization | dict[str, BatchNormalization]:
    """Build a `BatchNormalization` that does what PyTorch's ``nn.BatchNorm1d``, ``2d`` or ``3d`` does.

    The conventions differ: PyTorch's momentum is the share of the new value, Keras' that of the old one,

        momentum = 1 - momentum_of_torch

    PyTorch keeps the variance with Bessel's correction, hence ``unbiased=True``. Epsilon means the same;
    its default here is PyTorch's. Momentum and epsilon are not part of PyTorch's state.

    The state of a whole model, whose keys have prefixes ("features.1.weight"), gives a dict of its batch
    norm layers by prefix, in order, even of one. A prefix is kept as PyTorch wrote it ("module.features.1"
    under DataParallel), and names the layer. A layer is recognised by "running_mean" and "running_var" with
    no other keys than those below. A norm with ``track_running_stats=False`` is therefore left out: its
    state is that of a LayerNorm. An InstanceNorm that tracks statistics has the keys of a BatchNorm and is
    taken for one, with the same outputs in inference, not in training. SyncBatchNorm is a BatchNorm.

    The options below apply to every layer. For layers that differ, call once for each kind and pick by
    prefix: ``from_torch(state, ndim=2)["classifier.1"]``.

    Args:
        state: ``state_dict()`` of a layer or a model, with tensors or arrays; tensors of any precision and
            device, also with ``keep_vars=True``. A layer's has arrays of length C: "weight" and "bias"
            unless ``affine=False``, without "bias" for ``bias=False``; "running_mean" and "running_var"
            unless ``track_running_stats=False`` (then the batch's own statistics serve in inference, too).
            "num_batches_tracked" is used where `momentum` is None.
        ndim: the rank of the inputs that the layer is built for. Default 4, images; 2 for ``[N, C]``.
        axis: the axis of the channels. Default -1, as in Keras; 1 for inputs laid out as in PyTorch.
        momentum: PyTorch's, or None for the average over all batches. Default 0.1, as in PyTorch.
        eps: PyTorch's epsilon, above 0. Default 1e-5, as in PyTorch.
        values_per_batch: the values a channel in each batch (N, or N * H * W) that PyTorch has seen.
            Needed for a momentum of None: tfbn's average weighs by values, PyTorch's by batches.
        name: the layer's name, for the state of one layer. Default None: Keras makes one.

    Raises:
        TypeError: `state` is not a dict, or an option not of its type.
        ValueError: an array is missing, not needed, or of another length than the others; a value is not
            finite in float32, a variance negative; an option is out of range; no layer is recognised.

    >>> state = {"weight": [2.0], "bias": [1.0], "running_mean": [3.0], "running_var": [4.0]}
    >>> layer = from_torch(state, ndim=2)
    >>> round(float(layer(np.array([[5.0]], "float32"))[0, 0]), 3)
    3.0
    >>> model = {"0.weight": [[1.0]]} | {f"1.{key}": value for key, value in state.items()}
    >>> list(from_torch(model, ndim=2))
    ['1']

    Source: the documentation of ``torch.nn.BatchNorm2d``.
    """
    options = _options(ndim, axis, momentum, eps, values_per_batch)
    if not isinstance(state, Mapping):
        raise TypeError(
            "`state` must be a dict of names and tensors. "
            f"Received: {type(state).__name__}. Pass `layer.state_dict()`."
        )
    if not any("." in key for key in state):
        return _layer(state, name, **options)
    if name is not None:
        raise ValueError(
            f"`name` is for the state of one layer; here prefixes do. Received: name={name!r}."
        )
    layers = {}
    for prefix, part in _batchnorm_states(state).items():
        try:
            layers[prefix] = _layer(part, prefix or None, **options)
        except ValueError as error:
            raise ValueError(f"Layer {prefix!r}: {error}") from error
    return layers


def _options(ndim, axis, momentum, eps, values_per_batch):
    """Return the options of `from_torch` that hold for each layer, checked."""
    ndim, axis = arguments.integer("ndim", ndim, at_least=2), arguments.integer("axis", axis)
    if not -ndim <= axis < ndim:
        raise ValueError(f"`axis` must be one of its axes for ndim={ndim}. Received: axis={axis}.")
    if values_per_batch is not None:
        arguments.integer("values_per_batch", values_per_batch, at_least=1)
    if arguments.number("eps", eps) == 0:
        raise ValueError(
            "`eps` must be above 0, unlike in PyTorch: a channel of equal values would be divided by 0. "
            f"Received: eps={eps!r}. Use eps=1e-12, which float32 does not notice beside other variances."
        )
    return {
        "ndim": ndim,
        "axis": axis,
        "momentum": None if momentum is None else arguments.number("momentum", momentum),
        "eps": eps,
        "values_per_batch": values_per_batch,
    }


def _batchnorm_states(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the states of the batch norm layers in that of a model, by prefix."""
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in state.items():
        prefix, _, name = key.rpartition(".")
        parts[prefix][name] = value
    norms = {
        prefix: part
        for prefix, part in parts.items()
        if set(AVERAGES_KEYS.values()) <= set(part) <= STATE_KEYS
    }
    if not norms:
        raise ValueError(
            "`state` has no batch norm layer: no prefix has running_mean and running_var, with no other "
            f"keys than {', '.join(sorted(STATE_KEYS))}. Received prefixes: {', '.join(list(parts)[:5])}, "
            "... For a layer with track_running_stats=False, pass its part of the state without its prefix."
        )
    return norms


def _layer(state, name, ndim, axis, momentum, eps, values_per_batch):
    """Return the layer for the state of one, whose keys have no prefix."""
    arrays = {key: _array(key, value) for key, value in state.items() if value is not None}
    channels = _check_arrays(arrays)
    batches = int(arrays[COUNT_KEY].item()) if COUNT_KEY in arrays else 0
    if momentum is None and batches and values_per_batch is None:
        raise ValueError(
            "`values_per_batch` is needed with momentum=None: only with the number of values in each of "
            f"the {batches} batches can their average go on. Received: values_per_batch=None."
        )
    layer = BatchNormalization(
        axis=axis,
        momentum=None if momentum is None else 1 - momentum,
        epsilon=eps,
        center="bias" in arrays,
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


def _array(key: str, value: Any) -> np.ndarray:
    """Return a value of a state in float64."""
    try:
        if hasattr(value, "detach"):
            # NumPy reads no tensor that is on a GPU, needs gradients or is of bfloat16.
            value = value.detach().cpu().double().numpy()
        return np.asarray(value, "float64")
    except Exception as error:
        raise ValueError(
            f"{key!r} of `state` is not an array of numbers ({first_line(error)}). "
            f"Received: {type(value).__name__}. Pass the state of a batch norm layer that has its values."
        ) from error


def _check_arrays(arrays: dict[str, np.ndarray]) -> int:
    """Return the number of channels."""
    unknown = set(arrays) - STATE_KEYS
    shapes = {key: array.shape for key, array in arrays.items() if key != COUNT_KEY}
    if unknown or len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(
            "`state` must be the state_dict of one batch norm layer, or of a model, with prefixes: arrays "
            f"of one length, named {', '.join(sorted(STATE_KEYS))}. "
            f"Received: {sorted(unknown) or shapes}. Pass `layer.state_dict()`."
        )
    one, other = AVERAGES_KEYS.values()
    if (one in arrays) != (other in arrays):
        raise ValueError(
            f"`state` must have both {one!r} and {other!r} or neither. Received: {sorted(arrays)}."
        )
    for key, array in arrays.items():
        if not (np.abs(array) <= LARGEST_NUMBER).all():
            raise ValueError(
                f"{key!r} of `state` must hold numbers that are finite in float32. Received: up to "
                f"{np.abs(array).max():.3g}. Look at the training in PyTorch: it may have diverged."
            )
    if (arrays.get("running_var", np.zeros(1)) < 0).any():
        raise ValueError(
            "'running_var' of `state` must hold variances, 0 or more. "
            f"Received: {arrays['running_var'].min():.3g}. Look at what wrote the state."
        )
    batches = arrays.get(COUNT_KEY, np.zeros(()))
    if batches.size != 1 or batches.item() < 0 or batches.item() % 1:
        raise ValueError(
            f"{COUNT_KEY!r} of `state` must be a number of batches, an integer, 0 or more. "
            f"Received: {batches.tolist()}. Leave it out: it is needed with momentum=None only."
        )
    return next(iter(shapes.values()))[0]
