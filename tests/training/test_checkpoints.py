"""What was cut off goes on to the end that it would have had; what is damaged or foreign is refused."""

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfbn
from tfbn.training import checkpoints
from tfbn.training.checkpoints import Checkpoints, digest, open_folder


@pytest.fixture
def written(tmp_path):
    """Three checkpoints of one variable, of which two are kept."""
    variable = keras.Variable(np.zeros(1000))
    states = Checkpoints([variable])
    for epoch in (1, 2, 3):
        variable.assign(np.full(1000, epoch))
        states.save(tmp_path, {"epoch": epoch})
    return tmp_path


def restored(folder, shape=1000):
    variable = keras.Variable(np.zeros(shape))
    return Checkpoints([variable]).restore(folder), variable.numpy()


def test_the_newest_counts_and_two_are_kept(written):
    record, values = restored(written)
    assert record == {"epoch": 3}
    assert (values == 3).all()
    assert sorted(path.name for path in written.glob("*.index")) == ["ckpt-2.index", "ckpt-3.index"]


def test_no_checkpoint_no_record(tmp_path):
    assert restored(tmp_path / "nothing")[0] is None


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def overwrite(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, overwrite, os.remove], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["ckpt-3.index", "ckpt-3.data-00000-of-00001"])
def test_of_a_damaged_one_it_tells_and_takes_the_one_before(written, damage, name):
    if (damage, name) == (os.remove, "ckpt-3.index"):
        pytest.skip("without its index it is no checkpoint")
    damage(written / name)
    with pytest.warns(UserWarning, match=r"ckpt-3 cannot be read \(.+\), and was ignored"):
        record, values = restored(written)
    assert record == {"epoch": 2}
    assert (values == 2).all()


def test_the_list_of_checkpoints_may_be_damaged(written):
    (written / "checkpoint").write_text("no list")
    assert restored(written)[0] == {"epoch": 3}


def test_of_another_network(written):
    with pytest.warns(UserWarning, match="ckpt-[23] cannot be read"):
        assert restored(written, shape=999)[0] is None
    variable = keras.Variable(np.zeros(1000))
    with pytest.warns(UserWarning, match="ckpt-3 is of another training"):
        found = Checkpoints([variable]).restore(written, lambda record: record["epoch"] == 2)
    assert found == {"epoch": 2}


def test_what_cannot_be_written_is_told_once(tmp_path):
    (tmp_path / "file").touch()
    states = Checkpoints([keras.Variable(np.zeros(3))])
    with pytest.warns(UserWarning, match="training goes on, but cannot be resumed") as warned:
        states.save(tmp_path / "file" / "folder", {})
        states.save(tmp_path / "file" / "folder", {})
    assert len(warned) == 1


def test_digest_tells_values_shapes_and_dtypes_apart():
    arrays = [np.zeros(4), np.zeros([2, 2]), np.zeros(4, "float32"), np.ones(4)]
    assert len({digest([array]) for array in arrays}) == len(arrays)
    assert digest(arrays) == digest(copy.deepcopy(arrays)) != digest(arrays, "text")


def opened(folder, about):
    with contextlib.ExitStack() as held:
        return open_folder(folder, about, held)


def test_a_folder_belongs_to_one_training(tmp_path):
    about = {"epochs": 3, "optimizer": {"name": "adam", "rate": 0.1}, "command": "tfbn compare"}
    assert opened(tmp_path / "state", about) == about
    assert not (tmp_path / "state").exists(), "as there is no checkpoint in it"
    (tmp_path / "state").mkdir()
    assert opened(tmp_path / "state", about) == about
    assert opened(tmp_path / "state", {**about, "command": "tfbn compare --resume"}) == about
    other = {**about, "optimizer": {"name": "adam", "rate": 0.2}}
    with pytest.raises(ValueError, match=r"optimizer\.rate was 0\.1 and is 0\.2.*begun by: tfbn compare"):
        opened(tmp_path / "state", other)
    (tmp_path / "state" / "about.json").write_text("{")
    with pytest.raises(ValueError, match=r"about\.json cannot be read"):
        opened(tmp_path / "state", about)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something else"):
        opened(tmp_path / "other", about)
    for name in ("rate[0.1]", "rates*", "rate?"):  # Which would go for the checkpoints of others, too.
        with pytest.raises(ValueError, match="cannot hold checkpoints: TensorFlow takes"):
            opened(tmp_path / name, about)


@pytest.mark.parametrize("name", ["{x,y}", "Größe 漢", "a b"])
def test_odd_names(tmp_path, name):
    variable = keras.Variable(np.zeros(3))
    states = Checkpoints([variable])
    for epoch in range(12):
        variable.assign(np.full(3, epoch))
        states.save(tmp_path / name, {"epoch": epoch})
    assert len(list((tmp_path / name).glob("*.index"))) == 2
    variable.assign(np.zeros(3))
    assert states.restore(tmp_path / name) == {"epoch": 11}
    assert (variable.numpy() == 11).all()


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
def test_a_comparison_goes_on_to_the_same_end(whole, blobs, tmp_path, after):
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


def test_no_epoch_is_lost_but_the_one_in_progress(blobs, tmp_path, monkeypatch):
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


def test_writing_takes_its_share_of_the_time_and_no_more(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
    states = Checkpoints([keras.Variable(np.zeros(3))])
    assert states.due(), "the first"
    save = checkpoints.tf.train.CheckpointManager.save

    def slowly(*arguments, **options):
        now[0] += 2
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoints.tf.train.CheckpointManager, "save", slowly)
    states.save(tmp_path, {})
    for passed, due in ((0, False), (17, False), (19, True)):
        now[0] = 2 + passed
        assert states.due() == due


def test_finished_it_trains_no_more(whole, blobs, tmp_path, monkeypatch):
    tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path)
    monkeypatch.setattr(tfbn.Solver, "train_epoch", None)
    assert tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path).test == whole.test


def test_a_damaged_checkpoint_costs_epochs_and_no_more(whole, blobs, tmp_path):
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
def test_another_comparison_is_refused(blobs, tmp_path, change, message):
    settings = {"arms": {"dropped": ARMS["dropped"], "plain": ARMS["plain"]}, **SETTINGS}
    tfbn.compare(data=blobs, **settings, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=message):
        tfbn.compare(data=blobs, **{**settings, **change}, checkpoint_dir=tmp_path)


def test_other_networks_of_the_same_names_are_not_taken_for_these(blobs, tmp_path):
    tfbn.compare({"a": build(seed=1)}, blobs, **SETTINGS, checkpoint_dir=tmp_path)
    for other in (build(seed=2), build(activation="tanh", seed=1)):
        with pytest.raises(ValueError, match=r"network\.a was .+ and is "):
            tfbn.compare({"a": other}, blobs, **SETTINGS, checkpoint_dir=tmp_path)


def test_a_folder_that_goes_away_costs_the_checkpoints_and_not_the_run(whole, blobs, tmp_path):
    keras.backend.clear_session()

    def remove(record):
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        (tmp_path / "state").touch()  # In whose place nothing can be written.

    with pytest.warns(UserWarning, match="cannot be written"):
        result = tfbn.compare(ARMS, blobs, **SETTINGS, checkpoint_dir=tmp_path / "state", on_epoch=remove)
    assert contents(result) == contents(whole)


@pytest.mark.parametrize("optimizer", ["adam", "ema"])
def test_fit_goes_on_to_the_same_end(blobs, tmp_path, optimizer):
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


def test_fit_takes_no_other_training_for_its_own(blobs, tmp_path):
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


def test_fit_trains_on_where_more_epochs_are_asked_for(blobs, tmp_path):
    solver = tfbn.Solver(build(seed=1)(), "adam")
    solver.fit(blobs, epochs=2, checkpoint_dir=tmp_path)
    more = tfbn.Solver(build(seed=1)(), "adam").fit(blobs, epochs=3, checkpoint_dir=tmp_path)
    assert more["loss"] == tfbn.Solver(build(seed=1)(), "adam").fit(blobs, epochs=3)["loss"]


def test_fit_that_ended_early_stays_ended(blobs, tmp_path):
    def fit():
        stop = keras.callbacks.TerminateOnNaN()
        stop.on_epoch_end = lambda epoch, logs: setattr(stop.model, "stop_training", epoch == 1)
        return tfbn.Solver(build(seed=1)()).fit(blobs, epochs=4, callbacks=[stop], checkpoint_dir=tmp_path)[
            "epoch"
        ]

    assert fit() == fit() == [1, 2]


ELSEWHERE = """
import sys, numpy as np, keras, tfbn
print("begins", flush=True)
x, y = np.eye(4, dtype="float32"), np.arange(4)
model = keras.Sequential([keras.Input([4]), keras.layers.Dense(4)])
wait = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: (print("trains", flush=True), input()))
tfbn.Solver(model).fit(x, y, batch_size=2, checkpoint_dir=sys.argv[1], callbacks=[wait])
"""


@pytest.mark.slow
def test_a_folder_is_of_one_process_while_it_trains(blobs, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    while process.stdout.readline() != "trains\n":
        assert process.poll() is None
    about = checkpoints.read_json(tmp_path / "about.json")
    with pytest.raises(ValueError, match="holds the state of a training that is under way"):
        opened(tmp_path, about)
    process.kill()
    process.wait()
    opened(tmp_path, about)
    opened(tmp_path, about)
