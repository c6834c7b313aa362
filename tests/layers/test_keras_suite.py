"""Keras' own test suite of its batch normalization, run against ours.

The suite ships in Keras' wheel and looks the layer up as `layers.BatchNormalization` when a test runs.
"""

import pytest

import tfbn

suite = pytest.importorskip("keras.src.layers.normalization.batch_normalization_test")


class TestKerasSuite(suite.BatchNormalizationTest):
    @pytest.fixture(autouse=True)
    def ours_in_place_of_keras(self, monkeypatch):
        monkeypatch.setattr(suite.layers, "BatchNormalization", tfbn.BatchNormalization)
