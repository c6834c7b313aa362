"""Image classification sets of TensorFlow Datasets: find, prepare and split them."""

import difflib
import os
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import json_format

from tfbn.data.arrays import Data
from tfbn.data.streams import Stream
from tfbn.foundation.arguments import integer
from tfbn.foundation.errors import class_and_line, first_line

NETWORK_SECONDS = 8
VALIDATION_SIZE = 5_000
SHUFFLE_SEED = 0
LARGEST_BYTES = 4 * 2**30


def find_builder(name: str, data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    """Return the builder of an image classification set, or raise ValueError for any other set."""
    if data_dir is not None and Path(data_dir).exists() and not Path(data_dir).is_dir():
        raise ValueError(f"The data folder {data_dir} is a file. Name a folder.")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except json_format.ParseError as error:
        raise ValueError(
            f"The prepared {name} is damaged ({first_line(error)}). Remove its folder, and prepare it anew."
        ) from None
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError, ImportError):
        names = tfds.list_builders(with_community_datasets=False)
        close_names = " or ".join(difflib.get_close_matches(str(name), names, n=3))
        raise ValueError(
            f"Unknown data set {name!r}. {f'Did you mean {close_names}? ' if close_names else ''}Known are "
            "mnist, fashion_mnist, kmnist, cifar10 and the other small image classification sets of "
            "TensorFlow Datasets."
        ) from None
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = features.get("image"), features.get("label")
    has_images = isinstance(image, tfds.features.Image) and None not in image.shape
    if not (has_images and isinstance(label, tfds.features.ClassLabel)):
        raise ValueError(
            f"{name!r} is not an image classification set with one image size. Take mnist, fashion_mnist, "
            "kmnist, cifar10 or a similar set."
        )
    return builder


def prepare(builder: tfds.core.DatasetBuilder) -> str | None:
    """Download and prepare a set; return the reason if that fails, else None."""
    urls = list(builder.url_infos or [])
    manual = folder_of_sets(builder) / "downloads" / "manual"
    if not all((manual / url.rsplit("/", 1)[-1]).exists() for url in urls):
        problem = unreachable(urls[0])  # TFDS itself would retry for minutes before it gave up.
        if problem is not None:
            return f"the network does not answer ({problem})"
    try:
        builder.download_and_prepare()
    except Exception as error:  # The caller reports any error, and uses the sample or ends.
        return f"its download failed ({class_and_line(error)})"
    return None


def unreachable(url: str) -> str | None:
    """Return why `url` does not answer within NETWORK_SECONDS, or None if it does."""
    problem: str | None = f"no answer within {NETWORK_SECONDS} s"

    def ask() -> None:
        nonlocal problem
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=NETWORK_SECONDS):
                problem = None
        except Exception as error:
            problem = first_line(getattr(error, "reason", None) or error)

    # A thread, because name resolution has no time-out of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    return problem


def folder_of_sets(builder: tfds.core.DatasetBuilder) -> Path:
    """Return the folder that holds all sets: .../mnist/3.0.1 -> ..."""
    return Path(builder.data_dir).parents[builder.info.full_name.count("/")]


@dataclass(frozen=True)
class ImageSet:
    """A prepared set and how to split it; the options are those of `load`."""

    builder: tfds.core.DatasetBuilder
    name: str
    flatten: bool
    validation_size: int | None
    train_size: int | None
    pooled: bool

    @property
    def has_own_test(self) -> bool:
        return "test" in self.builder.info.splits and not self.pooled

    def bounds(self) -> tuple[int, int, int]:
        """Return where validation, the examples held out, and train end in the set's order.

        What is held out beyond the validation split is the test split of a set that has none.
        """
        splits = self.builder.info.splits
        if "train" not in splits:
            raise ValueError(f"{self.name} has no training split. It has: {', '.join(splits) or 'none'}.")
        examples = splits["train"].num_examples
        if self.pooled:
            examples += splits["test"].num_examples if "test" in splits else 0
            size = examples // 10
        else:
            size = VALIDATION_SIZE if self.validation_size is None else self.validation_size
        parts = 1 if self.has_own_test else 2
        held_out = parts * check_validation_size(size, examples, parts)
        if self.train_size is None:
            return size, held_out, examples
        reason = "the examples that are not held out"
        train_size = integer("train_size", self.train_size, 1, examples - held_out, reason)
        return size, held_out, held_out + train_size

    def data(self) -> Data:
        """Read the splits into memory."""
        validation, held_out, end = self.bounds()
        info = self.builder.info
        sources = [split for split in ("train", "test") if split in info.splits]
        examples = sum(info.splits[split].num_examples for split in sources)
        size = 4 * examples * np.prod(info.features["image"].shape)
        if size > LARGEST_BYTES:
            raise ValueError(
                f"{self.name} would take {size / 2**30:.0f} GiB of memory; up to {LARGEST_BYTES // 2**30} "
                "GiB are loaded. Take it as a stream, in Python: tfbn.data.load(name, stream=True)."
            )
        if self.pooled:
            x, y = shuffled(*self._arrays("+".join(sources)))
        else:
            x, y = self._arrays(f"train[:{end}]")
        rows = slice(validation, held_out)
        return Data(
            train=(x[held_out:end], y[held_out:end]),
            validation=(x[:validation], y[:validation]),
            test=self._arrays("test") if self.has_own_test else (x[rows], y[rows]),
            **self._origin(""),
        )

    def _arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            examples = self.builder.as_dataset(split=split, batch_size=-1)
        except tf.errors.OpError as error:
            raise ValueError(
                f"{self.builder.data_dir} is damaged ({first_line(error)}). Remove that folder, and "
                f"prepare {self.name} again."
            ) from None
        x = np.divide(examples["image"].numpy(), 255, dtype="float32")
        return (x.reshape(len(x), -1) if self.flatten else x), examples["label"].numpy()

    def stream(self, binary: bool) -> Stream:
        """Open the splits as they lie on disk."""
        validation, held_out, end = self.bounds()

        def convert(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            x = tf.cast(example["image"], "float32") / 255
            x = tf.cast(x >= 0.5, "float32") if binary else x
            return (tf.reshape(x, [-1]) if self.flatten else x), tf.cast(example["label"], "int32")

        def read(split: str) -> tf.data.Dataset:
            return self.builder.as_dataset(split=split).map(convert)

        return Stream(
            train=read(f"train[{held_out}:{end}]"),
            validation=read(f"train[:{validation}]"),
            test=read("test" if self.has_own_test else f"train[{validation}:{held_out}]"),
            **self._origin(", binary" if binary else ""),
        )

    def _origin(self, suffix: str) -> dict[str, Any]:
        """Return what `Data` and `Stream` record of where they came from; the title ends in `suffix`."""
        info = self.builder.info
        how = ", all splits pooled and split 80/10/10" if self.pooled else ", test split held out of train"
        return {
            "name": self.name,
            "source": f"TFDS {info.full_name}{'' if self.has_own_test else how}",
            "title": ("MNIST" if self.name == "mnist" else self.name) + suffix,
            "classes": info.features["label"].num_classes,
        }


def shuffled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return examples and labels in an order that is always the same."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(x))
    return x[order], y[order]


def check_validation_size(size: int, examples: int, splits: int) -> int:
    """Return a validation size that leaves examples to train on when `splits` of that size are held out."""
    reason = f"so that some of the {examples:,} examples are left to train on"
    return integer("validation_size", size, 1, (examples - 1) // splits, reason)
