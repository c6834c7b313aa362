"""The state of a training on disk, from which it resumes to the same end as if it had never stopped."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np
import tensorflow as tf

from tfbn.foundation.errors import first_line, warn_caller
from tfbn.foundation.files import read_json, staged, write_json
from tfbn.runtime.strategies import broadcast_bytes, broadcast_from_chief, is_chief, workers

CHECKPOINT_TIME_SHARE = 0.1  # of the run time: checkpoints after each epoch, but no more often than that
# What TensorFlow raises over a damaged file, or one of other variables.
DAMAGE_ERRORS = (tf.errors.OpError, OSError, ValueError, TypeError, LookupError, AssertionError)
STAGING_PREFIXES = (".about.json", ".tfbn-")  # of files that an interrupted write leaves behind


class _Record(tf.train.experimental.PythonState):
    """A dict as JSON, in the same checkpoint as the variables, so that neither can be newer.

    Bytes become strings, as base64.
    """

    content: Any = None

    def serialize(self):
        return json.dumps(self.content, default=lambda content: base64.b64encode(content).decode())

    def deserialize(self, text):
        self.content = json.loads(text)


class Checkpoints:
    """Checkpoints of a training: its variables and a record of its progress.

    Each is written whole before it counts (`tf.train.CheckpointManager`) and contains checksums. The
    last two stay. Of a `strategy` the chief alone reads and writes. The other workers must make the same
    calls, and receive what the chief restores.
    """

    def __init__(
        self, variables: list[keras.Variable], strategy: tf.distribute.Strategy | None = None
    ) -> None:
        self._variables, self._strategy = variables, strategy
        self._record = _Record()
        values = [variable.value for variable in variables]
        self._checkpoint = tf.train.Checkpoint(record=self._record, variables=values)
        self._cost, self._end = 0.0, -float("inf")  # Of the last checkpoint, in seconds.
        self._failed = False

    def due(self) -> bool:
        """Return whether another checkpoint keeps within CHECKPOINT_TIME_SHARE of the run time."""
        return time.perf_counter() - self._end >= self._cost * (1 / CHECKPOINT_TIME_SHARE - 1)

    def save(self, folder: str | os.PathLike, record: dict[str, Any]) -> None:
        """Write the variables and `record`, plain data and bytes, into `folder`.

        The first time that this fails, as on a full disk, it warns. Older checkpoints stay.
        """
        if not is_chief(self._strategy):
            return
        start = time.perf_counter()
        self._record.content = record
        number = max(_paths(folder), default=0) + 1
        try:
            manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=2)
            manager.save(checkpoint_number=number)
        except (tf.errors.OpError, OSError) as error:
            if not self._failed:
                warn_caller(
                    f"The state of the training cannot be written to {folder} ({first_line(error)}): "
                    "training goes on, but cannot be resumed from here."
                )
            self._failed = True
        self._end = time.perf_counter()
        self._cost = self._end - start

    def restore(
        self, folder: str | os.PathLike, accepts: Callable[[dict], bool] = lambda record: True
    ) -> dict[str, Any] | None:
        """Assign the values of the newest checkpoint in `folder` to the variables, and return its record.

        A checkpoint that is damaged, or that `accepts` rejects by its record as another training's, is
        ignored with a warning, and the one before is tried. Without any, variables keep their values, and
        the result is None.
        """
        record = broadcast_from_chief(self._strategy, lambda: self._restore(folder, accepts))
        if record is not None and workers(self._strategy) > 1:
            content = b"".join(variable.numpy().tobytes() for variable in self._variables)
            content = broadcast_bytes(self._strategy, content)
            for variable in self._variables:
                value = variable.numpy()
                own, content = content[: value.nbytes], content[value.nbytes :]
                variable.assign(np.frombuffer(own, value.dtype).reshape(value.shape))
        return record

    def _restore(self, folder, accepts):
        before = self._values()
        for _, path in sorted(_paths(folder).items(), reverse=True):
            try:
                self._checkpoint.restore(str(path)).assert_consumed()
            except DAMAGE_ERRORS as error:
                problem = f"cannot be read ({first_line(error)})"
            else:
                if accepts(self._record.content):
                    return self._record.content
                problem = "is of another training"
            warn_caller(f"{path} {problem}, and was ignored.")
        self._assign(before)  # A damaged checkpoint may have changed some.
        return None

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Give the variables at the end of the block the values from before."""
        values = self._values()
        yield
        self._assign(values)

    def _values(self):
        return [variable.numpy() for variable in self._variables]

    def _assign(self, values):
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


def _paths(folder):
    """Return the checkpoints in `folder` by number, whether or not TensorFlow's list of them is damaged."""
    numbers = {path: path.stem.removeprefix("ckpt-") for path in Path(folder).glob("ckpt-*.index")}
    return {int(number): path.with_suffix("") for path, number in numbers.items() if number.isdecimal()}


def holds_checkpoints(folder: str | os.PathLike) -> bool:
    """Return whether there is a checkpoint in `folder` or below."""
    return any(Path(folder).rglob("ckpt-*.index"))


def digest(variables: Iterable, text: str = "") -> str:
    """Return the first 16 digits of the SHA-256 of shapes and values, and of a string."""
    sha256 = hashlib.sha256(text.encode())
    for variable in variables:
        values = np.ascontiguousarray(variable)
        sha256.update(f"{values.dtype} {values.shape}".encode())
        sha256.update(values.tobytes())
    return sha256.hexdigest()[:16]


def open_folder(
    folder: str | os.PathLike, about: dict[str, Any], stack: contextlib.ExitStack
) -> dict[str, Any]:
    """Make a new `folder` the place of a training, or check that it is, and return `about` of its start.

    `about`, plain data, describes the training; its "command" may differ from the one before. Until `stack`
    ends, no other process can open the folder. At its end, a new folder without a checkpoint is removed.
    ValueError is raised for the folder of another training, saying in what they differ, or of a process
    that is training there.
    """
    folder = Path(folder)
    if set("*?[]") & set(str(folder)):
        raise ValueError(
            f"{folder} cannot hold checkpoints: TensorFlow takes * ? [ ] in a path for a pattern. Choose "
            "another folder."
        )
    existed = folder.exists()
    about = _open(folder, json.loads(json.dumps(about)))
    try:
        stack.enter_context(filelock.FileLock(folder / ".lock", blocking=False))
    except filelock.Timeout:
        raise ValueError(
            f"{folder} holds the state of a training that is under way. Wait for its end, or choose "
            "another folder."
        ) from None
    if not existed:
        stack.callback(_remove_unless_used, folder)
    return about


def _remove_unless_used(folder):
    if not holds_checkpoints(folder):
        shutil.rmtree(folder, ignore_errors=True)


def check_workers_agree(about: dict[str, Any], strategy: tf.distribute.Strategy | None) -> None:
    """Raise ValueError on a worker whose `about`, plain data, differs from the chief's."""
    about = json.loads(json.dumps(about))
    before = broadcast_from_chief(strategy, lambda: about)
    differences = "; ".join(list(_differences(before, about))[:3])
    if differences:
        raise ValueError(
            f"This worker was not started as the chief was: {differences}. Start all of them with the same "
            "command and the same data."
        )


def _open(folder, about):
    path = folder / "about.json"
    if not path.exists():
        if folder.exists() and not all(path.name.startswith(STAGING_PREFIXES) for path in folder.iterdir()):
            raise ValueError(f"{folder} holds something else. Choose a folder that is empty or new.")
        folder.mkdir(parents=True, exist_ok=True)
        with staged(path) as staging:
            write_json(staging, about)
        return about
    try:
        before = dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)}). Remove {folder}.") from None
    command = before.get("command")
    differences = "; ".join(list(_differences({**before, "command": about.get("command")}, about))[:3])
    if differences:
        raise ValueError(
            f"{folder} holds the state of another training: {differences}. Use its settings, or choose "
            "another folder." + (f" It was begun by: {command}" if command else "")
        )
    return before


def _differences(before, now, name=""):
    """Yield the differences between two dicts, a string each."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        old, new = (text if len(text) <= 60 else f"{text[:57]}..." for text in (str(before), str(now)))
        yield f"{name} was {old} and is {new}"
