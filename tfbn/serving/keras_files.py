"""Models in and out of `.keras` files."""

import os
import zipfile
from pathlib import Path

import keras

from tfbn.foundation.errors import first_line
from tfbn.foundation.files import check_new_file, staged


def load(path: str | os.PathLike) -> keras.Model:
    """Load the model in a `.keras` file, or raise ValueError; code that the file holds does not run."""
    advice = "Name a file that was saved by model.save('NAME.keras')."
    if not Path(path).exists():
        raise ValueError(f"There is no file {path}. {advice}")
    if Path(path).suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a .keras file. {advice}")
    try:
        return keras.models.load_model(path)
    except Exception as error:
        # The error may be what zip, JSON or the model's own classes raise.
        raise ValueError(
            f"{path} holds no model that Keras can read: {first_line(error)} A model with layers of your "
            "own can be used in Python, where they are imported."
        ) from error


def save(model: keras.Model, path: str | os.PathLike) -> Path:
    """Write `model` to the new file `path`: whole, or not at all."""
    path = check_new_file(path, ".keras")
    with staged(path) as staging:
        model.save(staging)
    return path
