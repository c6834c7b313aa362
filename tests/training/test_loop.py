"""The loop over epochs: callbacks, early ends and records."""

import keras
import numpy as np
import pytest

import tfbn
from tfbn.training.loop import History


def net(classes=3, **options):
    return tfbn.Model(8, classes, (6,), seed=0, use_bias=False, **options)


def assert_same_weights(one, other, tolerance=1e-5):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


def test_fit_continues_after_an_early_stop(blobs):
    solver = tfbn.Solver(net(), jit=False)
    stop = keras.callbacks.EarlyStopping(monitor="loss", patience=0, min_delta=100)
    assert solver.fit(blobs, epochs=9, callbacks=[stop])["epoch"] == [1, 2]
    assert solver.fit(blobs, epochs=5, initial_epoch=2)["epoch"] == [3, 4, 5]
    whole = tfbn.Solver(net(), jit=False)
    whole.fit(blobs, epochs=5)
    assert_same_weights(solver.model, whole.model, tolerance=0)


def test_keras_callbacks_work_at_epochs(blobs, tmp_path):
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}.keras", save_best_only=False),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
        keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=0, min_delta=100),
        keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=2, min_delta=100, restore_best_weights=True
        ),
    ]
    solver = tfbn.Solver(net(), "adam", learning_rate=0.01, jit=False)
    history = solver.fit(blobs, epochs=9, callbacks=callbacks)
    assert len(history.records) == 3, "EarlyStopping: no epoch but the first is better by 100"
    rate = float(solver.model.optimizer.learning_rate)
    assert rate == pytest.approx(1e-4, rel=1e-3), "ReduceLROnPlateau: the 2nd and the 3rd were no better"
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == ["01.keras", "02.keras", "03.keras"]
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 4
    assert {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"} <= set(rows[0].split(","))
    assert float(dict(zip(rows[0].split(","), rows[2].split(","), strict=True))["loss"]) == pytest.approx(
        history["loss"][1]
    )
    assert list(tmp_path.glob("board/*/events*"))
    best = keras.models.load_model(tmp_path / "01.keras")
    assert_same_weights(best, solver.model, tolerance=0)


def test_callback_that_waits_for_batches_gives_a_warning(blobs, tmp_path):
    class Counter(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise AssertionError

    of_batches = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    for callback in (
        Counter(),
        of_batches,
        keras.callbacks.ModelCheckpoint(tmp_path / "a.keras", save_freq=5),
    ):
        with pytest.warns(UserWarning, match="waits for batches"):
            tfbn.Solver(net(), jit=False).fit(blobs, callbacks=[callback])


def test_infinite_loss_ends_training(blobs):
    model = net(kernel_initializer=1e30, use_batchnorm=False)
    with pytest.warns(UserWarning, match="training ends there"):
        history = tfbn.Solver(model).fit(blobs, epochs=5)
    assert len(history.records) == 1
    assert not np.isfinite(history["loss"][0])


def test_interrupted_fit_returns_the_finished_epochs(blobs):
    def interrupt(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
    with pytest.warns(UserWarning, match="Interrupted after 2 epochs"):
        history = tfbn.Solver(net(), jit=False).fit(blobs, epochs=5, callbacks=callback)
    assert history["epoch"] == [1, 2]


def test_verbose_prints_keras_line(blobs, capsys):
    tfbn.Solver(net(), jit=False).fit(blobs, epochs=2, verbose=2)
    printed = capsys.readouterr().out
    assert "Epoch 2/2" in printed
    assert "7/7" in printed, "steps of 32 for 203 examples"
    assert "val_accuracy" in printed


def test_history_of_fit_survives_a_file(blobs, tmp_path):
    history = tfbn.Solver(net(), jit=False).fit(blobs, epochs=2)
    history.save(tmp_path / "history.json")
    again = History.load(tmp_path / "history.json")
    assert again == history


def test_fit_accepts_numpy_integers(blobs):
    numbers = dict(epochs=np.int64(3), initial_epoch=np.int8(1), batch_size=np.uint8(20), seed=np.int32(4))
    history = tfbn.Solver(net(), jit=False).fit(blobs, **numbers)
    assert history["epoch"] == [2, 3]
    plain = {name: int(number) for name, number in numbers.items()}
    assert history["loss"] == tfbn.Solver(net(), jit=False).fit(blobs, **plain)["loss"]


def test_history_is_saved_and_loaded(tmp_path):
    records = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-20}]
    run = History(records, {"device": "cpu:0"})
    run.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == run
    assert History().history == {}
