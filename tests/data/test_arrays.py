import numpy as np
import pytest

from tfbn.data.arrays import Data, batch_order, epoch_order


def test_batch_orders():
    order = batch_order(1000, seed=1, epoch=2)
    assert sorted(order) == list(range(1000))
    np.testing.assert_array_equal(order, batch_order(1000, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert (order != batch_order(1000, seed, epoch)).any()


@pytest.mark.parametrize(
    ("examples", "batch_size", "steps"), [(10, 3, 1), (10, 3, 3), (10, 3, 7), (6, 6, 4)]
)
def test_steps_cut_one_stream_of_passes(examples, batch_size, steps):
    in_a_pass = examples // batch_size
    passes = [batch_order(examples, 5, 1 + i)[: in_a_pass * batch_size] for i in range(30)]
    stream = np.concatenate(passes).reshape(-1, batch_size)
    cut = [epoch_order(examples, batch_size, 5, epoch, steps) for epoch in (1, 2, 3, 4)]
    np.testing.assert_array_equal(np.concatenate(cut).reshape(-1, batch_size), stream[: 4 * steps])


def test_an_epoch_is_a_pass_by_default():
    np.testing.assert_array_equal(epoch_order(10, 3, 1, 4), batch_order(10, 1, 4)[:9])


def test_targets_of_a_regression_stay_numbers():
    x, y = np.linspace(0, 1, 5)[:, None], np.array([0.5, -1, 2, 3.25, 4])
    data = Data((x, y), (x, y), (x, y), classes=0)
    assert data.train.y.dtype == "float32"
    np.testing.assert_array_equal(data.train.y, y)
    assert data.about()["curve"]["y"] == y.tolist()
    wide = np.zeros([5, 2])
    assert "curve" not in Data((wide, wide), (wide, wide), (wide, wide), classes=0).about()
