"""`from_torch`: a layer from the arrays of PyTorch's."""

from __future__ import annotations

import numpy as np

from tfbn.foundation import arguments
from tfbn.layers.batch_normalization import BatchNormalization

WEIGHTS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
NAMES = {*WEIGHTS.values(), "num_batches_tracked"}


def from_torch(state, ndim=4, axis=-1, momentum=0.1, eps=1e-5, values_per_batch=None, name=None):
    """A built `BatchNormalization` that does what PyTorch's ``nn.BatchNorm1d``, ``2d`` or ``3d`` does.

    The conventions differ: PyTorch's momentum is the share of the new value, Keras' that of the old one,

        momentum = 1 - momentum_of_torch

    PyTorch keeps the variance with Bessel's correction, hence ``unbiased=True``. Epsilon means the same;
    its default here is PyTorch's. Momentum and epsilon are no part of PyTorch's state.

    Args:
        state: dict, the layer's ``state_dict()`` with tensors or arrays of length C: "weight" and "bias"
            unless ``affine=False``; "running_mean" and "running_var" unless
            ``track_running_stats=False``, as which the batch's own statistics serve in inference, too;
            "num_batches_tracked" is read where `momentum` is None.
        ndim: int, the rank of the layer's input. Default 4, images; 2 for ``[N, C]``.
        axis: int, the axis of the channels. Default -1, as in Keras. Give 1 where the input is laid out as
            in PyTorch.
        momentum: float, or None for the average over all batches: PyTorch's. Default 0.1.
        eps: float. Default 1e-5.
        values_per_batch: int, the values a channel in each batch (N, or N * H * W) that PyTorch has
            seen. Needed for a momentum of None: tfbn's average weighs by values, PyTorch's by batches.
        name: str, the layer's name. Default None: one that Keras makes.

    Returns:
        `BatchNormalization`, built for inputs of rank `ndim` with C channels.

    Raises:
        ValueError: an array is missing, not needed, or of another length than the others.

    >>> state = {"weight": [2.0], "bias": [1.0], "running_mean": [3.0], "running_var": [4.0]}
    >>> layer = from_torch(state, ndim=2)
    >>> round(float(layer(np.array([[5.0]], "float32"))[0, 0]), 3)
    3.0

    Source: the documentation of ``torch.nn.BatchNorm2d``.
    """
    arrays = {key: np.asarray(value, "float64") for key, value in state.items() if value is not None}
    unknown, lengths = set(arrays) - NAMES, {key: array.shape for key, array in arrays.items()}
    lengths.pop("num_batches_tracked", None)
    if unknown or not lengths or len(set(lengths.values())) > 1 or len(next(iter(lengths.values()))) != 1:
        raise ValueError(
            "`state` must be the state_dict of one batch norm layer: arrays of one length, named "
            f"{', '.join(sorted(NAMES))}. Received: {sorted(unknown) or lengths}. Take the part of one "
            "layer, without its prefix."
        )
    for one, other in (("weight", "bias"), ("running_mean", "running_var")):
        if (one in arrays) != (other in arrays):
            raise ValueError(
                f"`state` must have both {one!r} and {other!r} or neither. Received: {sorted(arrays)}."
            )
    ndim, axis = arguments.integer("ndim", ndim), arguments.integer("axis", axis)
    if ndim < 2 or not -ndim <= axis < ndim:
        raise ValueError(
            f"`ndim` must be 2 or more, and `axis` one of its axes. Received: ndim={ndim}, axis={axis}."
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("`state` must hold finite numbers. Received NaN or infinity.")
    if values_per_batch is not None:
        arguments.integer("values_per_batch", values_per_batch, at_least=1)
    affine, tracked = "weight" in arrays, "running_mean" in arrays
    batches = int(arrays.get("num_batches_tracked", 0))
    if momentum is None and batches and values_per_batch is None:
        raise ValueError(
            f"`values_per_batch` must be given with momentum=None: an average over {batches} batches goes "
            "on only if it is known how many values they held."
        )
    layer = BatchNormalization(
        axis=axis,
        momentum=None if momentum is None else 1 - arguments.number("momentum", momentum),
        epsilon=eps,
        center=affine,
        scale=affine,
        unbiased=True,
        test_local_stats=not tracked,
        name=name,
    )
    (channels,) = next(iter(lengths.values()))
    shape = [None] * ndim
    shape[axis] = channels
    layer.build(shape)
    for weight, key in WEIGHTS.items():
        if key in arrays:
            getattr(layer, weight).assign(arrays[key])
    if momentum is None:
        layer.count.assign(np.full(channels, float(batches * (values_per_batch or 0))))
    return layer
