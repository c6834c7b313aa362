"""Arrays as data: three splits with labels or targets, checked; the order of the batches. NumPy only."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Examples `x` ``[N, ...]`` as float32 and their labels `y` ``[N]`` as int32, or targets as float32."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Data:
    """Three splits and where they came from.

    Args:
        train, validation, test: `Split`, or pairs of arrays ``(x, y)``.
        name: str, the set's name, such as "mnist".
        source: str, where the arrays came from: "TFDS mnist/3.0.1", or the embedded sample.
        title: str, the name to put on a figure. Default None: `name`.
        classes: int, the number of classes; 0 for a regression, whose `y` are numbers of any shape.
            Default None: one more than the largest label.

    Raises:
        ValueError: a split is empty or does not fit the others, an input is NaN or infinite, or a
            label is outside the classes.

    >>> x, y = np.zeros([6, 2]), [0, 1, 2, 0, 1, 2]
    >>> data = Data(train=(x, y), validation=(x, y), test=(x, y), name="zeros")
    >>> data.input_shape, data.classes, data.train.x.dtype.name
    ((2,), 3, 'float32')
    """

    train: Split
    validation: Split
    test: Split
    name: str = "arrays"
    source: str = "arrays"
    title: str | None = None
    classes: int | None = None

    def __post_init__(self):
        for name, (x, y) in self.splits().items():
            object.__setattr__(self, name, Split(*check_examples(x, y, None, what=f"{name} ")))
        classes = self.classes
        if classes is None:
            one_hot = self.train.y.ndim == 2 and self.train.y.shape[1] > 1
            classes = self.train.y.shape[1] if one_hot else 1 + int(max(y.max() for _, y in self._splits()))
        if isinstance(classes, bool) or not isinstance(classes, (int, np.integer)) or classes < 0:
            raise ValueError(f"`classes` must be an integer, 0 or more. Received: classes={classes!r}.")
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "title", self.title or self.name)
        for name, (x, y) in self.splits().items():
            y = as_classes(y, classes, what=f"{name} ") if classes else y.astype("float32", copy=False)
            object.__setattr__(self, name, Split(x.astype("float32", copy=False), y))
        shapes = {name: x.shape[1:] for name, (x, _) in self.splits().items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"The splits must hold examples of one shape. Received: {shapes}.")

    def _splits(self):
        return self.train, self.validation, self.test

    def splits(self):
        """The splits by name."""
        return dict(zip(("train", "validation", "test"), self._splits(), strict=True))

    @property
    def input_shape(self):
        """The shape of one example."""
        return self.train.x.shape[1:]

    @functools.cached_property
    def sha256(self):
        """SHA-256 of the bytes of all arrays: train, validation, test; `x` before `y`."""
        digest = hashlib.sha256()
        for split in self._splits():
            for array in split:
                digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def about(self):
        """What a result should say of its data, as a dict."""
        sizes = {name: len(split.y) for name, split in self.splits().items()}
        about = {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            **sizes,
            "classes": self.classes,
            "sha256": self.sha256,
        }
        if self.is_curve:
            arrays = {"x": self.train.x, "y": self.train.y, "validation_x": self.validation.x}
            about["curve"] = {name: array.ravel().tolist() for name, array in arrays.items()}
        return about

    @property
    def is_curve(self):
        """Whether it is a regression of one number on one number, which can be drawn."""
        return self.classes == 0 and self.train.x[0].size == self.train.y[0].size == 1


def epoch_order(examples, batch_size, seed, epoch, steps=None):
    """The examples that an epoch of so many steps takes, ``[steps * batch_size]`` of int32.

    The batches are those of `batch_order`, pass after pass; what fills no batch sits the pass out.

    Args:
        examples, batch_size, seed: int.
        epoch: int, from 1.
        steps: int. Default None: as many as a pass has, so that an epoch is a pass.

    >>> epoch_order(5, 2, seed=0, epoch=1).size, epoch_order(5, 2, seed=0, epoch=1, steps=7).size
    (4, 14)
    """
    in_a_pass = examples // batch_size
    steps = steps or in_a_pass
    first = (epoch - 1) * steps
    passes = range(first // in_a_pass, -(-(first + steps) // in_a_pass))
    whole = [batch_order(examples, seed, 1 + index)[: in_a_pass * batch_size] for index in passes]
    skipped = first - passes[0] * in_a_pass
    return np.concatenate(whole)[skipped * batch_size : (skipped + steps) * batch_size]


def batch_order(examples, seed, epoch):
    """The order in which an epoch takes the examples, a permutation ``[examples]`` of int32.

    It depends on the seed and the epoch alone, so that several networks can be given the same.

    >>> batch_order(4, seed=0, epoch=1).tolist() == batch_order(4, seed=0, epoch=1).tolist()
    True
    """
    return np.random.default_rng([seed, epoch]).permutation(examples).astype("int32")


def check_batch_size(batch_size, examples=None):
    """`batch_size` as an int, or an error if it is none, below 1 or over `examples`."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
        raise TypeError(f"`batch_size` must be an integer. Received: batch_size={batch_size!r}.")
    if batch_size < 1 or (examples is not None and batch_size > examples):
        limit = "1 or more" if examples is None else f"from 1 to {examples:,}, the training examples"
        raise ValueError(f"`batch_size` must be {limit}. Received: batch_size={batch_size}.")
    return int(batch_size)


def check_examples(x, y, classes, what=""):
    """Arrays of examples and their labels, checked, the labels as int32 ``[N]``.

    Args:
        x: array ``[N, ...]``.
        y: labels ``[N]`` or ``[N, 1]``, or one-hot ``[N, classes]``; or any targets if `classes` is None.
        classes: int or None.
        what: str, what to call them in an error.

    Raises:
        ValueError: they are empty, differ in length, are not finite, or a label is no class.
    """
    x, y = _standard(x), _standard(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"{what}x and y must hold as many examples, one or more. "
            f"Received the shapes {x.shape} and {y.shape}."
        )
    for name, values in (("x", x), ("y", y)):
        if values.dtype.kind not in "buif":
            raise ValueError(f"{what}{name} must be real numbers. Received the dtype {values.dtype}.")
        if values.dtype.kind in "iu" and values.dtype != "int32":
            raise ValueError(f"{what}{name} has integers beyond int32. Give them as floats, or scale them.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            raise ValueError(
                f"{what}{name} has NaN or infinity in {int((~finite).sum()):,} of {len(x):,} examples, the "
                f"first at {int(np.argmin(finite))} (as float32). Remove or replace them."
            )
    return x, (y if classes is None else as_classes(y, classes, what))


def _standard(values):
    """An array in the dtypes that Keras computes in: float64 as float32, int64 as int32."""
    values = np.asarray(values)
    dtype = {"f": "float32", "i": "int32", "u": "int32"}.get(values.dtype.kind, values.dtype)
    if values.dtype.kind in "iu" and values.size:
        limits = np.iinfo("int32")
        if not limits.min <= values.min() <= values.max() <= limits.max:
            return values  # Which the check refuses.
    with np.errstate(over="ignore"):  # What becomes infinite is found by the check.
        return values.astype(dtype, copy=False)


def as_classes(y, classes, what=""):
    """Labels as int32 ``[N]``, from integers or one-hot rows; `check_examples` for the labels alone."""
    if y.ndim == 2 and y.shape[1] == classes > 1:
        one_hot = (y.sum(axis=1) == 1) & (y.max(axis=1) == 1) & (y.min(axis=1) == 0)
        if not one_hot.all():
            raise ValueError(
                f"{what}y of the shape {y.shape} must be one-hot, a single 1 a row. Row "
                f"{int(np.argmin(one_hot))} is not. For soft labels give the solver "
                "loss=keras.losses.CategoricalCrossentropy(from_logits=True)."
            )
        return y.argmax(axis=1).astype("int32")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"{what}y must be integers [N] or one-hot [N, {classes}]. Received the shape {y.shape}."
        )
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        raise ValueError(
            f"{what}y must be integers from 0 to {classes - 1}. Received fractions. For other "
            "targets give the solver a `loss`, and `Data` classes=0."
        )
    if not 0 <= y.min() <= y.max() < classes:
        raise ValueError(
            f"{what}y must be within {classes} classes, 0 to {classes - 1}. Received labels from "
            f"{y.min():g} to {y.max():g}."
        )
    return y.astype("int32")
