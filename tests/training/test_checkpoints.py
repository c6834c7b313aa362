"""Checkpoints are whole or ignored, and a folder belongs to one training."""

import contextlib
import copy
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

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


def test_newest_checkpoint_is_restored_and_two_stay(written):
    record, values = restored(written)
    assert record == {"epoch": 3}
    assert (values == 3).all()
    assert sorted(path.name for path in written.glob("*.index")) == ["ckpt-2.index", "ckpt-3.index"]


def test_folder_without_a_checkpoint_gives_no_record(tmp_path):
    assert restored(tmp_path / "nothing")[0] is None


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def overwrite(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, overwrite, os.remove], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["ckpt-3.index", "ckpt-3.data-00000-of-00001"])
def test_damaged_checkpoint_is_ignored_for_the_one_before(written, damage, name):
    if (damage, name) == (os.remove, "ckpt-3.index"):
        pytest.skip("without its index it is no checkpoint")
    damage(written / name)
    with pytest.warns(UserWarning, match=r"ckpt-3 cannot be read \(.+\), and was ignored"):
        record, values = restored(written)
    assert record == {"epoch": 2}
    assert (values == 2).all()


def test_damaged_list_of_checkpoints_does_not_matter(written):
    (written / "checkpoint").write_text("no list")
    assert restored(written)[0] == {"epoch": 3}


def test_checkpoint_of_another_network_is_ignored(written):
    with pytest.warns(UserWarning, match="ckpt-[23] cannot be read"):
        assert restored(written, shape=999)[0] is None
    variable = keras.Variable(np.zeros(1000))
    with pytest.warns(UserWarning, match="ckpt-3 is of another training"):
        found = Checkpoints([variable]).restore(written, lambda record: record["epoch"] == 2)
    assert found == {"epoch": 2}


def test_failed_writes_give_one_warning(tmp_path):
    (tmp_path / "file").touch()
    states = Checkpoints([keras.Variable(np.zeros(3))])
    with pytest.warns(UserWarning, match="training goes on, but cannot be resumed") as warned:
        states.save(tmp_path / "file" / "folder", {})
        states.save(tmp_path / "file" / "folder", {})
    assert len(warned) == 1


def test_checkpoints_keep_to_their_share_of_the_time(tmp_path, monkeypatch):
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


def test_digest_depends_on_values_shapes_dtypes_and_text():
    arrays = [np.zeros(4), np.zeros([2, 2]), np.zeros(4, "float32"), np.ones(4)]
    assert len({digest([array]) for array in arrays}) == len(arrays)
    assert digest(arrays) == digest(copy.deepcopy(arrays)) != digest(arrays, "text")


def opened(folder, about):
    with contextlib.ExitStack() as held:
        return open_folder(folder, about, held)


def test_folder_belongs_to_one_training(tmp_path):
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


def test_folder_with_an_interrupted_write_is_new(tmp_path):
    (tmp_path / ".tfbn-x1y2").mkdir()
    (tmp_path / ".about.json").touch()
    assert opened(tmp_path, {"epochs": 3}) == {"epochs": 3}
    assert checkpoints.read_json(tmp_path / "about.json") == {"epochs": 3}


@pytest.mark.parametrize("name", ["{x,y}", "Größe 漢", "a b"])
def test_checkpoints_survive_unusual_folder_names(tmp_path, name):
    variable = keras.Variable(np.zeros(3))
    states = Checkpoints([variable])
    for epoch in range(12):
        variable.assign(np.full(3, epoch))
        states.save(tmp_path / name, {"epoch": epoch})
    assert len(list((tmp_path / name).glob("*.index"))) == 2
    variable.assign(np.zeros(3))
    assert states.restore(tmp_path / name) == {"epoch": 11}
    assert (variable.numpy() == 11).all()


ELSEWHERE = """
import sys, numpy as np, keras, tfbn
print("begins", flush=True)
x, y = np.eye(4, dtype="float32"), np.arange(4)
model = keras.Sequential([keras.Input([4]), keras.layers.Dense(4)])
wait = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: (print("trains", flush=True), input()))
tfbn.Solver(model).fit(x, y, batch_size=2, checkpoint_dir=sys.argv[1], callbacks=[wait])
"""


@pytest.mark.slow
def test_folder_is_locked_while_another_process_trains(blobs, tmp_path):
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
