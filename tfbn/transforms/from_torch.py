"""`from_torch`: a layer from the arrays of PyTorch's."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfbn.foundation import arguments
from tfbn.layers.batch_normalization import BatchNormalization

# PyTorch's keys by the names of Keras' weights. Each pair is there or not as a whole.
AFFINE_KEYS = {"gamma": "weight", "beta": "bias"}
AVERAGES_KEYS = {"moving_mean": "running_mean", "moving_variance": "running_var"}
STATE_KEYS = {*AFFINE_KEYS.values(), *AVERAGES_KEYS.values(), "num_batches_tracked"}


def from_torch(
    state: Mapping[str, Any],
    ndim: int = 4,
    axis: int = -1,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    values_per_batch: int | None = None,
    name: str | None = None,
) -> BatchNormalization:
    """Build a `BatchNormalization` that does what PyTorch's ``nn.BatchNorm1d``, ``2d`` or ``3d`` does.

    The conventions differ: PyTorch's momentum is the share of the new value, Keras' that of the old one,

        momentum = 1 - momentum_of_torch

    PyTorch keeps the variance with Bessel's correction, hence ``unbiased=True``. Epsilon means the same;
    its default here is PyTorch's. Momentum and epsilon are not part of PyTorch's state.

    Args:
        state: the layer's ``state_dict()``, with tensors or arrays of length C: "weight" and "bias"
            unless ``affine=False``; "running_mean" and "running_var" unless ``track_running_stats=False``
            (then the batch's own statistics serve in inference, too). "num_batches_tracked" is read where
            `momentum` is None.
        ndim: the rank of the layer's input. Default 4, images; 2 for ``[N, C]``.
        axis: the axis of the channels. Default -1, as in Keras. Use 1 where the input is laid out as in
            PyTorch.
        momentum: PyTorch's, or None for the average over all batches. Default 0.1, as in PyTorch.
        eps: PyTorch's epsilon. Default 1e-5, as in PyTorch.
        values_per_batch: the values a channel in each batch (N, or N * H * W) that PyTorch has seen.
            Needed for a momentum of None: tfbn's average weighs by values, PyTorch's by batches.
        name: the layer's name. Default None: Keras makes one.

    Returns:
        A layer that is built for inputs of rank `ndim` with C channels.

    Raises:
        ValueError: an array is missing, not needed, or of another length than the others.

    >>> state = {"weight": [2.0], "bias": [1.0], "running_mean": [3.0], "running_var": [4.0]}
    >>> layer = from_torch(state, ndim=2)
    >>> round(float(layer(np.array([[5.0]], "float32"))[0, 0]), 3)
    3.0

    Source: the documentation of ``torch.nn.BatchNorm2d``.
    """
    arrays = {key: np.asarray(value, "float64") for key, value in state.items() if value is not None}
    channels = _check_arrays(arrays)
    ndim, axis = arguments.integer("ndim", ndim, at_least=2), arguments.integer("axis", axis)
    if not -ndim <= axis < ndim:
        raise ValueError(f"`axis` must be one of its axes for ndim={ndim}. Received: axis={axis}.")
    if values_per_batch is not None:
        arguments.integer("values_per_batch", values_per_batch, at_least=1)
    batches = int(arrays.get("num_batches_tracked", 0))
    if momentum is None and batches and values_per_batch is None:
        raise ValueError(
            "`values_per_batch` is needed with momentum=None: only with the number of values in each of "
            f"the {batches} batches can their average go on. Received: values_per_batch=None."
        )
    layer = BatchNormalization(
        axis=axis,
        momentum=None if momentum is None else 1 - arguments.number("momentum", momentum),
        epsilon=eps,
        center="weight" in arrays,
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


def _check_arrays(arrays: dict[str, np.ndarray]) -> int:
    """Return the number of channels."""
    unknown = set(arrays) - STATE_KEYS
    shapes = {key: array.shape for key, array in arrays.items() if key != "num_batches_tracked"}
    if unknown or len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(
            "`state` must be the state_dict of one batch norm layer: arrays of one length, named "
            f"{', '.join(sorted(STATE_KEYS))}. Received: {sorted(unknown) or shapes}. Take the part of one "
            "layer, without its prefix."
        )
    for one, other in (AFFINE_KEYS.values(), AVERAGES_KEYS.values()):
        if (one in arrays) != (other in arrays):
            raise ValueError(
                f"`state` must have both {one!r} and {other!r} or neither. Received: {sorted(arrays)}."
            )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("`state` must hold finite numbers. Received NaN or infinity.")
    return next(iter(shapes.values()))[0]
