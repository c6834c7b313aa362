"""Files: strict JSON and CSV, and new files and folders that are written whole or not at all."""

import contextlib
import csv
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfbn.foundation.errors import first_line


def to_json(content: Any) -> str:
    """Return `content` as strict JSON; numbers that are not finite become null.

    >>> print(to_json({"loss": float("nan")}))
    {
      "loss": null
    }
    """
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` to the file `path` as strict JSON."""
    Path(path).write_text(to_json(content) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path: str | os.PathLike, records: list[dict]) -> None:
    """Write `records`, dicts of the same keys, to the file `path`: a header and a row each."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]) if records else [])
        writer.writeheader()
        writer.writerows(records)


def check_new_file(path: str | os.PathLike, suffix: str) -> Path:
    """Return `path` as a Path; raise ValueError unless a new file with this suffix can be written there."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"The file must end in {suffix}. Received: {path}.")
    if path.exists():
        raise ValueError(f"{path} exists already. Choose another name, or remove it.")
    _check_writable(path, path.parent)
    return path


def check_new_folder(path: str | os.PathLike) -> Path:
    """Return `path` as `resolved` does; raise ValueError unless it can be written and holds nothing yet."""
    path = resolved(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists already. Choose another folder, or remove it.")
    _check_writable(path, nearest_folder(path))
    return path


def resolved(path: str | os.PathLike) -> Path:
    """Return an absolute Path without links and "..", which would lead a staging folder astray."""
    try:
        path = Path(path).resolve()
        path.exists()
    except OSError as error:
        raise _cannot_write(path, error) from None
    return path


def nearest_folder(path: Path) -> Path:
    """Return the nearest folder above `path` that exists."""
    return next(folder for folder in path.parents if folder.exists())


def _check_writable(path: Path, folder: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: str | os.PathLike, error: OSError) -> ValueError:
    return ValueError(f"{path} cannot be written: {first_line(error)}. Choose another folder.")


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a path beside `path`; what is written there takes the place of `path` at the end of the block.

    After an error, `path` is as it was before. A missing folder above it is created at the end.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with staged(Path(folder, "result.txt")) as staging:
    ...         _ = staging.write_text("whole")
    ...     Path(folder, "result.txt").read_text()
    'whole'
    """
    with tempfile.TemporaryDirectory(prefix=".tfbn-", dir=nearest_folder(path)) as scratch:
        staging, former = Path(scratch, path.name), Path(scratch, f"{path.name}-former")
        yield staging
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Only a file takes the place of a file.
            if path.is_dir() or (path.exists() and staging.is_dir()):
                os.replace(path, former)
            os.replace(staging, path)
        except BaseException:
            if former.exists() and not path.exists():
                os.replace(former, path)
            raise
