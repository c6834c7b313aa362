"""The state of a training on disk, from which it goes on to the same end as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from pathlib import Path

import filelock
import numpy as np
import tensorflow as tf

from tfbn.foundation.errors import first_line
from tfbn.foundation.files import read_json, write_json
from tfbn.runtime.strategies import broadcast_bytes, broadcast_from_chief, is_chief, workers

# What training may spend on writing its state after each epoch, as a share of its time.
SHARE = 0.1
KEPT = 2
# What TensorFlow raises over a damaged file, or one of other variables.
DAMAGE = (tf.errors.OpError, OSError, ValueError, TypeError, LookupError, AssertionError)


class _Record(tf.train.experimental.PythonState):
    """A dict as JSON, in the same checkpoint as the variables, so that neither can be newer."""

    content = None

    def serialize(self):
        return json.dumps(self.content)

    def deserialize(self, text):
        self.content = json.loads(text)


class Checkpoints:
    """Checkpoints of the variables of a training, and with them a record of how far it came.

    Each is written whole before it counts (`tf.train.CheckpointManager`), and carries checksums. The last
    two are kept.

    Args:
        variables: list of `keras.Variable`, all that training changes.
        strategy: of `tf.distribute`, whose chief alone reads and writes; the other workers, which have to
            make the same calls, take from it what it restores. Default None.

    >>> import keras, tempfile
    >>> weight = keras.Variable([1.0, 2.0])
    >>> states = Checkpoints([weight])
    >>> folder = tempfile.mkdtemp()
    >>> states.save(folder, {"epoch": 3})
    >>> _ = weight.assign([0.0, 0.0])
    >>> states.restore(folder), weight.numpy().tolist()
    ({'epoch': 3}, [1.0, 2.0])
    """

    def __init__(self, variables, strategy=None):
        self._variables, self._strategy = variables, strategy
        self._record = _Record()
        self._checkpoint = tf.train.Checkpoint(
            record=self._record, variables=[variable.value for variable in variables]
        )
        self._cost, self._end = 0.0, -float("inf")
        self._failed = False

    def due(self):
        """Whether another checkpoint would keep to SHARE of the time."""
        return time.perf_counter() - self._end >= self._cost * (1 / SHARE - 1)

    def save(self, folder, record):
        """Write the variables and `record`, a dict of plain data, into `folder`.

        Where that fails, because the disk is full, say, it warns once, and what was written before stays.
        """
        if not is_chief(self._strategy):
            return
        start = time.perf_counter()
        self._record.content = record
        number = max(_checkpoints(folder), default=0) + 1
        try:
            manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=KEPT)
            manager.save(checkpoint_number=number)
        except (tf.errors.OpError, OSError) as error:
            if not self._failed:
                warnings.warn(
                    f"The state of the training cannot be written to {folder} ({first_line(error)}): "
                    "training goes on, but cannot be resumed from here.",
                    stacklevel=2,
                )
            self._failed = True
        self._end = time.perf_counter()
        self._cost = self._end - start

    def restore(self, folder, suits=lambda record: True):
        """Set the variables as the newest checkpoint in `folder` has them.

        One that is damaged, or of another training, is left out with a warning, and the one before is
        taken; if none is left the variables stay as they are.

        Args:
            folder: path.
            suits: function of a record to whether it is of this training.

        Returns:
            dict, the record; None if there is none.
        """
        known = broadcast_from_chief(self._strategy, lambda: self._restore(folder, suits))
        if known is not None and workers(self._strategy) > 1:
            content = b"".join(variable.numpy().tobytes() for variable in self._variables)
            content = broadcast_bytes(self._strategy, content)
            for variable in self._variables:
                value = variable.numpy()
                own, content = content[: value.nbytes], content[value.nbytes :]
                variable.assign(np.frombuffer(own, value.dtype).reshape(value.shape))
        return known

    def _restore(self, folder, suits):
        found = _checkpoints(folder)
        before = [variable.numpy() for variable in self._variables]
        for number in sorted(found, reverse=True):
            try:
                self._checkpoint.restore(str(found[number])).assert_consumed()
            except DAMAGE as error:
                problem = f"cannot be read ({first_line(error)})"
            else:
                if suits(self._record.content):
                    return self._record.content
                problem = "is of another training"
            warnings.warn(f"{found[number]} {problem}, and was left out.", stacklevel=2)
        for variable, value in zip(self._variables, before, strict=True):
            variable.assign(value)  # Some may have been set.
        return None


def _checkpoints(folder):
    """Those in `folder`, a dict of numbers to paths, whether or not its list of them is whole."""
    found = {}
    for path in Path(folder).glob("ckpt-*.index"):
        number = path.stem.removeprefix("ckpt-")
        if number.isdecimal():
            found[int(number)] = path.with_suffix("")
    return found


def digest(variables, text=""):
    """The first 16 digits of the SHA-256 of shapes and values, and of a text.

    >>> digest([np.zeros(2)]) == digest([np.zeros(3)])
    False
    """
    found = hashlib.sha256(text.encode())
    for variable in variables:
        values = np.ascontiguousarray(variable)
        found.update(f"{values.dtype} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()[:16]


def open_folder(folder, about, held):
    """Make `folder` the place of the training that `about` describes, or check that it is.

    Args:
        folder: path.
        about: dict of plain data. Its "command" may differ.
        held: `contextlib.ExitStack`, until whose end no other process can open the folder; then a new one
            that holds no checkpoint is removed.

    Returns:
        dict, `about` as it was when the training was begun.

    Raises:
        ValueError: it belongs to another training, and in what they differ; or that goes on elsewhere.
    """
    folder = Path(folder)
    if set("*?[]") & set(str(folder)):
        raise ValueError(
            f"{folder} cannot hold checkpoints: TensorFlow takes * ? [ ] in a path for a pattern. Name "
            "another folder."
        )
    was_there = folder.exists()
    about = _open(folder, json.loads(json.dumps(about)))
    try:
        held.enter_context(filelock.FileLock(folder / ".lock", blocking=False))
    except filelock.Timeout:
        raise ValueError(
            f"{folder} holds the state of a training that is under way. Wait for its end, or take another "
            "folder."
        ) from None
    if not was_there:
        held.callback(lambda: holds_checkpoints(folder) or shutil.rmtree(folder, ignore_errors=True))
    return about


def check_workers_agree(about, strategy):
    """Raise ValueError on a worker of which `about`, a dict of plain data, is not the chief's."""
    about = json.loads(json.dumps(about))
    differences = list(_differences(broadcast_from_chief(strategy, lambda: about), about))
    if differences:
        raise ValueError(
            f"This worker was not started as the chief was: {'; '.join(differences[:3])}. Start all of "
            "them with the same command and the same data."
        )


def holds_checkpoints(folder):
    """Whether there is a checkpoint in `folder` or below."""
    return any(Path(folder).rglob("ckpt-*.index"))


def _open(folder, about):
    path = folder / "about.json"
    if path.exists():
        try:
            known = dict(read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({first_line(error)}). Remove {folder}.") from None
        differences = list(_differences({**known, "command": about.get("command")}, about))
        if differences:
            begun = f" It was begun by: {known['command']}" if known.get("command") else ""
            raise ValueError(
                f"{folder} holds the state of another training: {'; '.join(differences[:3])}. Give what it "
                f"was begun with, or another folder.{begun}"
            )
        return known
    if folder.exists() and any(path.name != ".about.json" for path in folder.iterdir()):
        raise ValueError(f"{folder} holds something else. Name a folder that is empty or not there yet.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ".about.json", about)
    os.replace(folder / ".about.json", path)
    return about


def _differences(known, given, name=""):
    if isinstance(known, dict) and isinstance(given, dict):
        for key in dict.fromkeys([*known, *given]):
            yield from _differences(known.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif known != given:
        yield f"{name} was {_short(known)} and is {_short(given)}"


def _short(value):
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
