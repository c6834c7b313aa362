"""A comparison as a folder of files, and back."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from tfbn.comparison.figures import save_figures
from tfbn.comparison.records import Record
from tfbn.comparison.report import write_report
from tfbn.foundation.files import check_new_folder, read_json, resolved, staged, write_csv, write_json

if TYPE_CHECKING:
    from tfbn.comparison.results import Comparison

# What results.json must hold to be that of a comparison; what later versions added may be missing.
REQUIRED_KEYS = {"versions", "device", "vary", "recipe", "figures", "notes", "diverged", "interrupted"}
REQUIRED_DATASET_KEYS = {"title", "source", "classes"}
REQUIRED_SETTINGS_KEYS = {"arms", "reach", "steps_per_epoch"}


def save(comparison: "Comparison", path: str | os.PathLike, models: bool, replace: bool) -> Path:
    """Write a comparison to the folder `path`, as `Comparison.save` documents it."""
    path = check_destination(path, replace)
    written = comparison.models if models else {}
    content = _without_models(comparison.to_dict(), set(written))
    with staged(path) as folder:
        folder.mkdir()
        write_json(folder / "results.json", content)
        write_csv(folder / "history.csv", comparison.records)
        figures = save_figures(comparison, folder / "figures")
        write_report(folder / "report.html", comparison, content, figures)
        for arm, model in written.items():
            (folder / "models").mkdir(exist_ok=True)
            model.save(folder / "models" / f"{arm}.keras")
            with _export_paths_hidden():
                model.export(folder / "models" / arm, verbose=False)
    return path


def _without_models(content: Record, written: set[str]) -> Record:
    """Return a copy of `content` in which only the `written` arms have a model."""
    settings = content["settings"]
    unsaved = {
        name: {**arm, "model": None} for name, arm in settings["arms"].items() if name not in written
    }
    return {**content, "settings": {**settings, "arms": settings["arms"] | unsaved}}


def save_report(comparison: "Comparison", path: str | os.PathLike) -> Path:
    """Write a comparison's page, as `Comparison.report` documents it."""
    path = Path(path)
    path = path / "report.html" if path.is_dir() else path
    with tempfile.TemporaryDirectory() as folder:
        write_report(path, comparison, comparison.to_dict(), save_figures(comparison, folder))
    return path


def load(path: str | os.PathLike) -> tuple[list[Record], list[Record], Record]:
    """Read records, test and about from the folder that `save` wrote, or from its results.json.

    Raises:
        ValueError: `path` does not hold a comparison.
    """
    path = Path(path)
    try:
        about = read_json(path / "results.json" if path.is_dir() else path)
        records, test = about.pop("records"), about.pop("test")
        del about["verdict"]  # It follows from the rest.
        _check(about, [*records, *test])
    except FileNotFoundError:
        raise ValueError(
            f"{path} holds no results.json. Name a folder that a comparison was saved in."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} holds no results.json of a comparison: {error!r}") from error
    return records, test, about


def _check(about: Record, records: list[Record]) -> None:
    """Raise where something is missing."""
    settings = about["settings"]
    missing = REQUIRED_KEYS - about.keys() | REQUIRED_DATASET_KEYS - about["dataset"].keys()
    if missing := missing | REQUIRED_SETTINGS_KEYS - settings.keys():
        raise KeyError(*sorted(missing))
    for record in records:
        settings["arms"][record["arm"]], record["seed"]


def check_destination(path: str | os.PathLike, replace: bool = False) -> Path:
    """Return `path` as a Path if results can be written there.

    Args:
        path: a folder.
        replace: whether an interrupted run there may be replaced. Default False.

    Raises:
        ValueError: something is there already, or the folder cannot be written.
    """
    path = resolved(path)
    if replace and path.is_dir() and any(path.iterdir()) and load(path)[-1]["interrupted"]:
        return path
    return check_new_folder(path)


@contextlib.contextmanager
def _export_paths_hidden() -> Iterator[None]:
    """Silence TensorFlow's log of each export's path, which here is that of the staging folder."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)
