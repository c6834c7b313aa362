"""Models in and out of `.keras` files."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import keras


def load(path):
    """The model in the `.keras` file `path`. No code of the file's own is run.

    Raises:
        ValueError: there is no such file, or it holds no model that Keras can read.
    """
    advice = "Give a file saved by model.save('NAME.keras')."
    if not Path(path).exists():
        raise ValueError(f"There is no file {path}. {advice}")
    if Path(path).suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .keras file. {advice}")
    try:
        return keras.models.load_model(path)
    except Exception as error:
        # It may be what zip, JSON or the model's own classes raise.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} holds no model that Keras can read: {reason} A model with layers of your own can be "
            "used in Python, where they are imported."
        ) from error


def check_new_file(path, suffix=".keras"):
    """`path` as a Path, if a file of that suffix can be written there.

    Raises:
        ValueError: it has another suffix, something is there, or nothing can be written there.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"{path} must end in {suffix}.")
    if path.exists():
        raise ValueError(f"{path} is there already. Choose another name, or remove it.")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent):
            return path
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}. Choose another folder.") from None


def save(model, path):
    """Write `model` to the new file `path`: whole, or not at all."""
    path = check_new_file(path)
    with tempfile.TemporaryDirectory(prefix=".tfbn-", dir=path.parent) as staging:
        staged = Path(staging, path.name)
        model.save(staged)
        os.replace(staged, path)
    return path
