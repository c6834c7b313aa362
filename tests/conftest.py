"""Fixtures that several files use; two logical CPUs stand for two devices."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["COLUMNS"] = "100"  # Tables have this width, whatever terminal the tests run in.

import numpy as np
import pytest
import tensorflow as tf

import tfbn

ROOT = Path(__file__).parents[1]
PREPARED = ROOT.parent / "shared" / "tensorflow_datasets"

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def xla_where_marked(request, monkeypatch):
    """Let "auto" leave XLA out, which compiles three times as long, but in tests marked `xla`."""
    if "xla" not in request.keywords:
        monkeypatch.setattr("tfbn.runtime.devices.suits_xla", lambda model, device: False)


@pytest.fixture(scope="session")
def mnist():
    """The sample, which is read in a tenth of a second."""
    return tfbn.data.sample()


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all: the collectives of a second would take the keys of the first."""
    return tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def blobs():
    """Three classes in eight dimensions, easy to tell apart, 203 examples to train on."""
    rng = np.random.default_rng(1)

    def split(size):
        y = rng.integers(0, 3, size)
        return (rng.normal(size=[size, 8]) + 2 * np.eye(8)[y]).astype("float32"), y

    return tfbn.data.Data(train=split(203), validation=split(40), test=split(50), name="blobs")


@pytest.fixture(scope="session")
def result(blobs):
    """A comparison of two small networks and two seeds, which every test leaves as it was."""
    arms = {
        "batchnorm": lambda: tfbn.Model(8, 3, (6,)),
        "plain": lambda: tfbn.Model(8, 3, (6,), use_batchnorm=False),
    }
    return tfbn.compare(arms, blobs, epochs=3, batch_size=20, seeds=2, command="tfbn compare")


@pytest.fixture
def python(tmp_path):
    """Run a script in a fresh process, away from the checkout; its standard output."""

    def run(script, *arguments):
        result = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run
