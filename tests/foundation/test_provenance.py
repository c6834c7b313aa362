import keras
import tensorflow as tf

from tfbn.foundation.provenance import versions


def test_versions_are_those_installed():
    assert versions()["tensorflow"] == tf.__version__
    assert versions()["keras"] == keras.__version__
