"""Data in memory: three checked splits of arrays, and the order of the batches. NumPy only."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfbn.foundation.arguments import integer

# Keras computes in these dtypes: float64 becomes float32, int64 becomes int32.
KERAS_DTYPES = {"f": "float32", "i": "int32", "u": "int32"}


class Split(NamedTuple):
    """Examples `x` ``[N, ...]`` as float32 and their labels `y` ``[N]`` as int32, or targets as float32."""

    x: np.ndarray
    y: np.ndarray


class Labels(NamedTuple):
    """The form of class labels: integers ``[N]``, or one-hot ``[N, classes]``."""

    classes: int
    one_hot: bool = False

    @property
    def dtype(self) -> str:
        return "float32" if self.one_hot else "int32"

    def convert(self, y: np.ndarray, what: str = "") -> np.ndarray:
        """Return labels of either form in this one; errors as in `as_classes`."""
        classes = as_classes(y, self.classes, what)
        return np.eye(self.classes, dtype=self.dtype)[classes] if self.one_hot else classes


@dataclass(frozen=True, init=False)
class Data:
    """Three splits and where they came from.

    Args:
        train, validation, test: `Split`, or pairs of arrays ``(x, y)``.
        name: the set's name, such as "mnist". Default "arrays".
        source: where the arrays came from, such as "TFDS mnist/3.0.1". Default "arrays".
        title: the name to put on a figure. Default None: `name`.
        classes: the number of classes; 0 for a regression, whose `y` are numbers of any shape.
            Default None: one more than the largest label.

    Raises:
        ValueError: a split is empty or does not fit the others, an input is NaN or infinite, or a
            label is outside the classes.
        TypeError: a split is not a pair of arrays, or `classes` is not an integer.

    >>> x, y = np.zeros([6, 2]), [0, 1, 2, 0, 1, 2]
    >>> data = Data(train=(x, y), validation=(x, y), test=(x, y), name="zeros")
    >>> data.input_shape, data.classes, data.train.x.dtype.name
    ((2,), 3, 'float32')
    """

    train: Split
    validation: Split
    test: Split
    name: str
    source: str
    title: str
    classes: int

    def __init__(
        self,
        train: Split | tuple[ArrayLike, ArrayLike],
        validation: Split | tuple[ArrayLike, ArrayLike],
        test: Split | tuple[ArrayLike, ArrayLike],
        name: str = "arrays",
        source: str = "arrays",
        title: str | None = None,
        classes: int | None = None,
    ) -> None:
        pairs = {"train": train, "validation": validation, "test": test}
        splits = {split: _check_split(split, pair) for split, pair in pairs.items()}
        if classes is None:  # The width of one-hot labels, or one more than the largest label.
            shape = splits["train"].y.shape
            is_one_hot = len(shape) == 2 and shape[1] > 1
            classes = shape[1] if is_one_hot else 1 + int(max(y.max() for _, y in splits.values()))
        classes = integer("classes", classes, at_least=0)
        for split, (x, y) in splits.items():
            y = as_classes(y, classes, what=f"{split} ") if classes else y.astype("float32", copy=False)
            splits[split] = Split(x.astype("float32", copy=False), y)
        shapes = {split: x.shape[1:] for split, (x, _) in splits.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"The splits must hold examples of one shape. Received: {shapes}.")
        self.__dict__.update(splits, name=name, source=source, title=title or name, classes=classes)

    def splits(self) -> dict[str, Split]:
        """Return the splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train.x.shape[1:]

    @property
    def is_curve(self) -> bool:
        """Whether this is a regression of one number on one number, which can be drawn."""
        return self.classes == 0 and self.train.x[0].size == self.train.y[0].size == 1

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes of all arrays: train, validation, test; `x` before `y`."""
        digest = hashlib.sha256()
        for split in self.splits().values():
            for array in split:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def about(self) -> dict[str, Any]:
        """Return what a result records of its data."""
        origin = {"name": self.name, "title": self.title, "source": self.source}
        sizes = {name: len(split.y) for name, split in self.splits().items()}
        record = {**origin, **sizes, "classes": self.classes, "sha256": self.sha256}
        if self.is_curve:
            arrays = {"x": self.train.x, "y": self.train.y, "validation_x": self.validation.x}
            record["curve"] = {name: array.ravel().tolist() for name, array in arrays.items()}
        return record


def _check_split(name: str, pair: Any) -> Split:
    is_sequence = isinstance(pair, (tuple, list))
    if is_sequence and len(pair) == 2:
        return Split(*check_examples(pair[0], pair[1], None, what=f"{name} "))
    received = f"{type(pair).__name__} of length {len(pair)}" if is_sequence else type(pair).__name__
    raise (ValueError if is_sequence else TypeError)(
        f"`{name}` must be a pair of arrays (x, y). Received: {received}. "
        "A tf.data.Dataset of batches goes to Solver.fit."
    )


def epoch_order(
    examples: int, batch_size: int, seed: int, epoch: int, steps: int | None = None
) -> np.ndarray:
    """Return the examples that the steps of an epoch take, ``[steps * batch_size]`` of int32.

    The batches are those of `batch_order`, pass after pass. The last incomplete batch of a pass is dropped.
    `epoch` counts from 1; `steps` are those of an epoch. Default None: an epoch is a pass.

    >>> epoch_order(5, 2, seed=0, epoch=1).size, epoch_order(5, 2, seed=0, epoch=1, steps=7).size
    (4, 14)
    """
    steps_a_pass = examples // batch_size
    steps = steps or steps_a_pass
    first = (epoch - 1) * steps
    passes = range(first // steps_a_pass, -(-(first + steps) // steps_a_pass))
    orders = [batch_order(examples, seed, 1 + index)[: steps_a_pass * batch_size] for index in passes]
    skipped = first - passes[0] * steps_a_pass
    return np.concatenate(orders)[skipped * batch_size : (skipped + steps) * batch_size]


def batch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch takes the examples, a permutation ``[examples]`` of int32.

    The order depends on the seed and the epoch alone, so that several networks can train on the same one.

    >>> batch_order(4, seed=0, epoch=1).tolist() == batch_order(4, seed=0, epoch=1).tolist()
    True
    """
    return np.random.default_rng([seed, epoch]).permutation(examples).astype("int32")


def check_batch_size(batch_size: Any, examples: int | None = None) -> int:
    """Return `batch_size` as an int from 1 to the number of `examples`, or raise as `integer` does."""
    return integer("batch_size", batch_size, 1, examples, "the training examples" if examples else "")


def check_examples(
    x: ArrayLike, y: ArrayLike, labels: Labels | None, what: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return examples ``[N, ...]`` and their labels, checked, in the dtypes that Keras computes in.

    The labels take the form `labels`; if that is None, `y` has any targets. `what` is the name of the
    arrays in an error, such as "train ". Raise ValueError for arrays that are empty, differ in length or
    are not finite, and for a label outside the classes.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"{what}x and y must be arrays of the same number of examples, one or more. "
            f"Received the shapes {x.shape} and {y.shape}."
        )
    x, y = _as_finite_numbers(x, f"{what}x"), _as_finite_numbers(y, f"{what}y")
    return x, (y if labels is None else labels.convert(y, what))


def _as_finite_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Return real numbers in the dtypes that Keras computes in, or raise ValueError."""
    kind = values.dtype.kind
    if kind not in "buif":
        raise ValueError(f"{name} must be real numbers. Received the dtype {values.dtype}.")
    limits = np.iinfo("int32")
    if kind in "iu" and values.size and not limits.min <= values.min() <= values.max() <= limits.max:
        raise ValueError(f"{name} has integers beyond int32. Convert them to floats, or scale them.")
    with np.errstate(over="ignore"):  # What becomes infinite is rejected below.
        values = values.astype(KERAS_DTYPES.get(kind, values.dtype), copy=False)
    if kind == "f" and not np.isfinite(values).all():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        raise ValueError(
            f"{name} has NaN or infinity in {int((~finite).sum()):,} of {len(values):,} examples, the "
            f"first at {int(np.argmin(finite))} (as float32). Remove or replace them."
        )
    return values


def as_classes(y: np.ndarray, classes: int, what: str = "") -> np.ndarray:
    """Return labels as int32 ``[N]``, from integers ``[N]`` or ``[N, 1]`` or one-hot ``[N, classes]``.

    Raise ValueError for other shapes, and for labels outside the classes; `what` as in `check_examples`.

    >>> as_classes(np.array([[0.0, 1.0], [1.0, 0.0]]), classes=2)
    array([1, 0], dtype=int32)
    """
    if y.ndim == 2 and y.shape[1] == classes > 1:
        one_hot = (y.sum(axis=1) == 1) & (y.max(axis=1) == 1) & (y.min(axis=1) == 0)
        if not one_hot.all():
            raise ValueError(
                f"{what}y of the shape {y.shape} must be one-hot, a single 1 a row. Row "
                f"{int(np.argmin(one_hot))} is not. For soft labels use the loss CategoricalCrossentropy, "
                "for several labels an example BinaryCrossentropy, and in `Data` classes=0 for both."
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
