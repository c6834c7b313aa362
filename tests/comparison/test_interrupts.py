"""Ctrl-C during a comparison."""

import os
import signal
import time

import keras
import pytest
from small_arms import ARMS

import tfbn
from tfbn.comparison import programs


def test_ctrl_c_keeps_epochs_and_models(blobs):
    seen = []

    def interrupt(record):
        seen.append(record)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    # A shell that runs the tests in the background has them ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.warns(UserWarning, match="Interrupted: kept"):
        result = tfbn.compare(ARMS, blobs, epochs=2000, seeds=3, on_epoch=interrupt)
    assert result.about["interrupted"]
    assert 5 <= len(result.records) < 2000
    assert len(result.records) == len(seen)
    for arm, model in result.models.items():
        last = [r for r in result.records if r["arm"] == arm][-1]
        assert result.about["settings"]["arms"][arm]["model"] == {"seed": 0, "epoch": last["epoch"]}
        loss, _ = tfbn.Solver(model).evaluate(*blobs.validation)
        assert loss == pytest.approx(last["validation_loss"], rel=1e-5)


@pytest.mark.parametrize("method", ["_observe", "_train_epoch"])
def test_ctrl_c_thrice_in_the_first_epoch_loses_no_work(blobs, tmp_path, monkeypatch, method):
    """What began is finished and kept, and goes on from there; nothing is seen twice."""
    keras.backend.clear_session()
    options = dict(epochs=2, seeds=2, observe=["outputs"], checkpoint_dir=tmp_path)
    arms = {"only": ARMS["batchnorm"]}
    whole = tfbn.compare(arms, blobs, **options | {"checkpoint_dir": None})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    known = getattr(programs.Program, method)

    def interrupt(*arguments):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # For it to arrive.
        return known(*arguments)

    monkeypatch.setattr(programs.Program, method, interrupt)
    if method == "_observe":
        with pytest.raises(KeyboardInterrupt):
            tfbn.compare(arms, blobs, **options)
    else:
        with pytest.warns(UserWarning, match="Interrupted: kept 1 epochs"):
            tfbn.compare(arms, blobs, **options)
    monkeypatch.setattr(programs.Program, method, known)
    trained = []

    def train_epoch(*arguments):
        trained.append(arguments)
        return own(*arguments)

    own = programs.Program._train_epoch
    monkeypatch.setattr(programs.Program, "_train_epoch", train_epoch)
    keras.backend.clear_session()
    resumed = tfbn.compare(arms, blobs, **options)
    assert len(trained) == (4 if method == "_observe" else 3)
    for one, other in zip(resumed.records, whole.records, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert resumed.about["observations"] == whole.about["observations"]


def test_ctrl_c_between_two_seeds_keeps_the_first(blobs):
    built = []

    def build():
        built.append(1)
        if len(built) == 2:
            raise KeyboardInterrupt
        return ARMS["plain"]()

    with pytest.warns(UserWarning, match="Interrupted: kept 2 epochs"):
        result = tfbn.compare({"only": build}, blobs, epochs=2, seeds=2)
    assert [record["seed"] for record in result.records] == [0, 0]
    assert len(result.test) == 1 and result.about["interrupted"]
