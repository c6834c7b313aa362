"""The data that need no download: the wave and the sample of MNIST."""

import numpy as np

from tfbn import data


def test_wave_is_the_formula_of_its_source():
    """Against the source's formula, whose argument is the index of the point."""
    wave = data.load("wave")
    for x, y in wave.splits().values():
        index = (x.astype("float64") + 1) / 2 * 99
        expected = np.sin(index * np.pi * 5 / 100) * np.exp(1 - 2 / 100 * index) + 0.5 + 1.5 * x
        np.testing.assert_allclose(y, expected, atol=1e-5)
    points = [split.x.ravel() for split in wave.splits().values()]
    assert [len(x) for x in points] == [100, 99, 99]
    assert len(np.unique(np.concatenate(points))) == 298, "no point is in two splits"


def test_sample_is_shuffled_and_split_by_a_fixed_seed():
    sample = data.sample()
    assert [split.x.shape for split in sample.splits().values()] == [(4000, 784), (500, 784), (500, 784)]
    assert sample.title == "MNIST sample (5,000)"
    assert "sample" in sample.source
    for x, y in sample.splits().values():
        assert x.min() == 0
        assert x.max() == 1
        assert np.bincount(y).min() > len(y) / 16, "shuffled: the source is sorted by class"
    rows = {row.tobytes() for split in sample.splits().values() for row in split.x}
    assert len(rows) == 5000
    assert data.sample(flatten=False, validation_size=100).validation.x.shape == (100, 28, 28, 1)
    assert data.sample().sha256 == sample.sha256
    assert data.sample(validation_size=100).sha256 != sample.sha256
