"""`fit` resumes to the end that it would have had, and rejects another training's folder."""

import keras
import numpy as np
import pytest

import tfbn


def build(**options):
    return lambda: tfbn.Model(8, 3, **{"hidden_dims": (6,), **options})


class Killed(Exception):
    pass


@pytest.mark.xla
@pytest.mark.parametrize("optimizer", ["adam", "ema"])
def test_resumed_fit_ends_at_the_same_bits(blobs, tmp_path, optimizer):
    def solver():
        keras.utils.set_random_seed(3)
        ema = keras.optimizers.SGD(0.1, use_ema=True)
        return tfbn.Solver(build(dropout=0.2)(), ema if optimizer == "ema" else optimizer, jit=False)

    once = solver()
    whole = once.fit(blobs, epochs=5, batch_size=20)
    stop = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epoch == 3 and kill())

    def kill():
        raise Killed

    with pytest.raises(Killed):
        solver().fit(blobs, epochs=5, batch_size=20, checkpoint_dir=tmp_path, callbacks=[stop])
    again = solver()
    history = again.fit(blobs, epochs=5, batch_size=20, checkpoint_dir=tmp_path)
    assert history["epoch"] == [1, 2, 3, 4, 5]
    for name in ("loss", "accuracy", "val_loss"):
        assert history[name] == whole[name]
    for one, two in zip(once.model.variables, again.model.variables, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="batch_size was 20 and is 10"):
        solver().fit(blobs, epochs=5, batch_size=10, checkpoint_dir=tmp_path)


def test_fit_rejects_the_folder_of_another_training(blobs, tmp_path):
    def fit(folder=tmp_path, data=blobs, loss=None, **options):
        solver = tfbn.Solver(build(**{"seed": 1, **options})(), loss=loss, jit=False)
        return solver.fit(*data.train, epochs=2, checkpoint_dir=folder)["loss"]

    first = fit()
    for change in ({"activation": "tanh"}, {"use_batchnorm": False}, {"hidden_dims": (6, 6)}):
        with pytest.raises(ValueError, match="network was"):
            fit(**change)
    assert fit(seed=2) == first, "whose weights are in the state"
    with pytest.raises(ValueError, match="data was"):
        fit(data=tfbn.data.Data(*[(x[::-1], y[::-1]) for x, y in blobs.splits().values()]))
    with pytest.raises(ValueError, match="loss"):
        fit(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False))
    with pytest.raises(ValueError, match=r"holds a training of 2 epochs.*epochs=1"):
        tfbn.Solver(build(seed=1)(), jit=False).fit(*blobs.train, epochs=1, checkpoint_dir=tmp_path)


def test_resumed_fit_trains_further_for_more_epochs(blobs, tmp_path):
    solver = tfbn.Solver(build(seed=1)(), "adam")
    solver.fit(blobs, epochs=2, checkpoint_dir=tmp_path)
    more = tfbn.Solver(build(seed=1)(), "adam").fit(blobs, epochs=3, checkpoint_dir=tmp_path)
    assert more["loss"] == tfbn.Solver(build(seed=1)(), "adam").fit(blobs, epochs=3)["loss"]


def test_resumed_fit_stays_ended_after_an_early_stop(blobs, tmp_path):
    def fit():
        stop = keras.callbacks.TerminateOnNaN()
        stop.on_epoch_end = lambda epoch, logs: setattr(stop.model, "stop_training", epoch == 1)
        return tfbn.Solver(build(seed=1)()).fit(blobs, epochs=4, callbacks=[stop], checkpoint_dir=tmp_path)[
            "epoch"
        ]

    assert fit() == fit() == [1, 2]
