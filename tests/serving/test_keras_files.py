"""`.keras` files that hold classes of tfbn's, in fresh processes that know of them by the import alone."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L

import tfbn
from tfbn.layers.masked_identity import MaskedIdentity
from tfbn.serving import keras_files


def masked_twin():
    """A twin without batch norm, whose norm alone was called with the mask."""
    inputs = keras.Input((5, 3))
    mask = L.Masking().compute_mask(inputs)
    x = tfbn.BatchNormalization(name="norm")(L.Conv1D(4, 1)(inputs), mask=mask)
    twin = tfbn.without_batchnorm(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x))))
    assert type(twin.get_layer("norm")) is MaskedIdentity
    return twin


def test_command_exports_a_twin_that_holds_masked_identity(tmp_path):
    masked_twin().save(tmp_path / "twin.keras")
    command = [sys.executable, "-m", "tfbn", "export", "twin.keras", "--out", "served"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "served" / "export.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["keras", "savedmodel"]


def test_load_in_a_fresh_process_knows_the_classes(tmp_path, python):
    model = masked_twin()
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=[6, 5, 3])
    x[::2, 1:] = 0  # what Masking masks
    np.save(tmp_path / "x.npy", x)
    python(
        "import keras, tfbn\n"
        "import numpy as np\n"
        "from tfbn.serving import keras_files\n"
        "np.save('y.npy', keras_files.load('model.keras')(np.load('x.npy')))\n"
    )
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(x))


def test_load_rejects_what_is_not_a_keras_file(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        keras_files.load(tmp_path / "nothing.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match=r"text\.keras is not a \.keras file"):
        keras_files.load(tmp_path / "text.keras")


def test_save_writes_a_new_file_only(tmp_path):
    path = keras_files.save(tfbn.Model(4, 2), tmp_path / "model.keras")
    assert keras.models.load_model(path).output_shape == (None, 2)
    with pytest.raises(ValueError, match="exists already"):
        keras_files.save(tfbn.Model(4, 2), path)
