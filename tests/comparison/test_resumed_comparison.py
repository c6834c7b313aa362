"""`compare` resumes to the end that it would have had; what is damaged or foreign is rejected."""

import json
import os
import shutil

import keras
import numpy as np
import pytest

import tfbn
from tfbn.training import checkpoints


def build(**options):
    return lambda: tfbn.Model(8, 3, **{"hidden_dims": (6,), **options})


def shared(value):
    return tfbn.Arm(build(kernel_initializer=value), "scaled", value, program="scaled")


ARMS = {
    "dropped": build(dropout=0.3),
    "plain": build(use_batchnorm=False),
    "wild": tfbn.Arm(build(use_batchnorm=False), learning_rate=1e30),
    "narrow": shared(0.1),
    "wide": shared(2.0),
}


SETTINGS = dict(epochs=4, batch_size=20, seeds=2, observe=["histograms"], jit=False)


def contents(result):
    """All but what clocks say."""
    found = json.loads(result.to_json())
    for record in found["records"]:
        del record["seconds"]
    return found


class Killed(Exception):
    pass


def killer(after):
    seen = []

    def on_epoch(record):
        seen.append(record)
        if len(seen) > after:
            raise Killed

    return on_epoch


@pytest.fixture(scope="module")
def whole(blobs):
    keras.backend.clear_session()  # So that layers are numbered from the start, as in a new process.
    return tfbn.compare(ARMS, blobs, **SETTINGS)


@pytest.mark.parametrize("after", [3, 22])
def test_resumed_comparison_ends_at_the_same_bits(whole, blobs, tmp_path, after):
    keras.backend.clear_session()
    with pytest.raises(Killed):
        tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path, on_epoch=killer(after))
    keras.backend.clear_session()
    seen = []
    resumed = tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path, on_epoch=seen.append)
    assert contents(resumed) == contents(whole)
    assert len(seen) == len(whole.records), "of those that were done already, too"
    for arm, model in whole.models.items():
        other = resumed.models[arm]
        for one, two in zip(model.variables, other.variables, strict=True):
            np.testing.assert_array_equal(one, two)
    for one, two in zip(
        whole.models["plain"].optimizer.variables, resumed.models["plain"].optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_interrupted_comparison_loses_the_current_epoch_only(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_TIME_SHARE", 1)  # However little time an epoch takes.
    done = []

    def on_epoch(record):
        if len(done) == 6:
            raise Killed
        done.append((record["arm"], record["seed"], record["epoch"]))

    arms = {"only": build()}
    with pytest.raises(Killed):
        tfbn.compare(arms, blobs, **SETTINGS, checkpoint_dir=tmp_path, on_epoch=on_epoch)
    trained = []
    train_epoch = tfbn.Solver.train_epoch

    def counted(*arguments):
        trained.append(arguments)
        return train_epoch(*arguments)

    monkeypatch.setattr(tfbn.Solver, "train_epoch", counted)
    tfbn.compare(arms, blobs, **SETTINGS, checkpoint_dir=tmp_path)
    assert len(trained) == SETTINGS["epochs"] * SETTINGS["seeds"] - len(done)


def test_finished_comparison_trains_no_more(whole, blobs, tmp_path, monkeypatch):
    tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path)
    monkeypatch.setattr(tfbn.Solver, "train_epoch", None)
    assert tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path).test == whole.test


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def test_damaged_checkpoints_cost_epochs_and_no_more(whole, blobs, tmp_path):
    keras.backend.clear_session()
    with pytest.raises(Killed):
        tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path, on_epoch=killer(25))
    for path in tmp_path.rglob("*.data*"):
        truncate(path)
    keras.backend.clear_session()
    with pytest.warns(UserWarning, match="cannot be read"):
        resumed = tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path)
    assert contents(resumed) == contents(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 5}, "epochs was 4 and is 5"),
        ({"seeds": 3}, r"seeds was \[0, 1\] and is \[0, 1, 2\]"),
        ({"learning_rate": 0.5}, "learning_rate was 0.01 and is 0.5"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy()}, "loss was None and is"),
        ({"arms": {"plain": ARMS["plain"]}}, r"arms\.dropped was"),
    ],
)
def test_folder_of_another_comparison_is_rejected(blobs, tmp_path, change, message):
    settings = {"arms": {"dropped": ARMS["dropped"], "plain": ARMS["plain"]}, **SETTINGS}
    tfbn.compare(data=blobs, **settings, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=message):
        tfbn.compare(data=blobs, **{**settings, **change}, checkpoint_dir=tmp_path)


def test_folder_of_other_networks_with_the_same_names_is_rejected(blobs, tmp_path):
    tfbn.compare({"a": build(seed=1)}, blobs, **SETTINGS, checkpoint_dir=tmp_path)
    for other in (build(seed=2), build(activation="tanh", seed=1)):
        with pytest.raises(ValueError, match=r"network\.a was .+ and is "):
            tfbn.compare({"a": other}, blobs, **SETTINGS, checkpoint_dir=tmp_path)


def test_deleted_folder_costs_the_checkpoints_and_not_the_run(whole, blobs, tmp_path):
    keras.backend.clear_session()

    def remove(record):
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        (tmp_path / "state").touch()  # In whose place nothing can be written.

    with pytest.warns(UserWarning, match="cannot be written"):
        result = tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path / "state", on_epoch=remove)
    assert contents(result) == contents(whole)
