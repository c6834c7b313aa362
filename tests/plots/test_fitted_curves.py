"""Fits draw the data and the curves of one seed."""

import numpy as np
from observations import ARMS, observed

from tfbn import plots

NAN = float("nan")


def test_fits_draw_data_and_curves_darker_with_each_step():
    x, points = [0.0, 0.5, 1.0], ([0.1, 0.2], [-1.0, 3.0])

    def outputs(arm, seed, epoch):
        return [None] * 3 if (arm, epoch) == ("plain", 2) else [seed, epoch, 1e6]

    observations = observed("outputs", outputs)
    figure = plots.figure("Title", plots.fits, observations, ARMS, x, points, steps_per_epoch=50)
    batchnorm, plain, bar = figure.axes
    for ax, last in ((batchnorm, [0, 2, 1e6]), (plain, [NAN] * 3)):
        data, *curves = ax.lines
        np.testing.assert_allclose(data.get_xydata(), np.transpose(points))
        np.testing.assert_allclose([line.get_xdata() for line in curves], [x] * 3)
        np.testing.assert_allclose([line.get_ydata() for line in curves], [[0, 0, 1e6], [0, 1, 1e6], last])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["data", "step 100"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
        assert ax.get_ylim() == (-2.2, 4.2), "the data and a third of them, whatever runs away"
        grey = [np.dot(line.get_color()[:3], [0.299, 0.587, 0.114]) for line in curves]
        assert grey[0] > grey[1] + 0.1 > grey[2] + 0.2, "darker with each step"
    assert [ax.get_title() for ax in (batchnorm, plain)] == ["batchnorm, seed 0", "plain, seed 0"]
    assert bar.get_ylabel() == "Step"
    assert bar.get_ylim() == (0, 100)


def test_fits_draw_observations_from_before_training_only():
    observations = observed("outputs", lambda *_: [1.0, 2.0], epochs=[0])
    figure = plots.figure("Title", plots.fits, observations, ARMS, [0, 1], ([0, 1], [0, 1]))
    figure.draw_without_rendering()
    assert figure.axes[-1].get_ylabel() == "Epoch"
