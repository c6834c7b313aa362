"""Models in and out of `.keras` files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras

from tfbn.foundation.errors import first_line
from tfbn.foundation.files import check_new_file, staged


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
        reason = first_line(error)
        raise ValueError(
            f"{path} holds no model that Keras can read: {reason} A model with layers of your own can be "
            "used in Python, where they are imported."
        ) from error


def save(model, path):
    """Write `model` to the new file `path`: whole, or not at all."""
    path = check_new_file(path, ".keras")
    with staged(path) as staging:
        model.save(staging)
    return path
