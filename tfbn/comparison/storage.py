"""A comparison as a folder of files, and back; `Metadata` names what results.json holds beside records."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfbn.foundation.files import check_new_folder, read_json, resolved, write_csv, write_json

# What results.json must hold to be that of a comparison; what later versions added may be missing.
REQUIRED_KEYS = {"versions", "device", "vary", "recipe", "figures", "notes", "diverged", "interrupted"}
REQUIRED_DATASET_KEYS = {"title", "source", "classes"}
REQUIRED_SETTINGS_KEYS = {"arms", "reach", "steps_per_epoch"}


@dataclass(kw_only=True)
class Metadata:
    """`Comparison.about` with names: where a comparison comes from and how it ended."""

    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    strategy: dict | None = None
    jit: dict[str, bool] = field(default_factory=dict)  # by arm
    command: str | None = None
    dataset: dict  # of `Data.about`
    settings: dict  # of `Settings.to_dict`, with reach, and arms by name, of `Arm.to_dict`
    vary: Mapping[str, Any] | None
    figures: list[str] = field(default_factory=list)  # those that a report shows
    recipe: dict | None = None
    compiled_programs: int | None = None
    notes: list[str]  # sentences that go with the verdict
    diverged: list[dict]
    interrupted: bool
    observations: list[dict] = field(default_factory=list)

    @classmethod
    def from_dict(cls, about: dict) -> "Metadata":
        """Return the metadata in `about`, of this version or another."""
        return cls(**{item.name: about[item.name] for item in fields(cls) if item.name in about})

    @property
    def arms(self) -> dict[str, dict]:
        """The arms by name."""
        return self.settings["arms"]


def write_results(folder: Path, content: dict, models: dict[str, keras.Model]) -> None:
    """Write results.json, history.csv and the models of a comparison; `content` is its `to_dict`."""
    write_json(folder / "results.json", content)
    write_csv(folder / "history.csv", content["records"])
    logger = tf.get_logger()
    for arm, model in models.items():
        (folder / "models").mkdir(exist_ok=True)
        model.save(folder / "models" / f"{arm}.keras")
        with contextlib.ExitStack() as stack:
            # It would log the path of each export, which here is that of the staging folder.
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel("WARNING")
            model.export(folder / "models" / arm, verbose=False)


def load(path: str | os.PathLike) -> tuple[list[dict], list[dict], dict]:
    """Read records, test and about of a comparison, as `Comparison.load` documents it."""
    path = Path(path)
    try:
        about = read_json(path / "results.json" if path.is_dir() else path)
        records, test = about.pop("records"), about.pop("test")
        del about["verdict"]  # It follows from the rest.
        settings = about["settings"]
        missing = REQUIRED_KEYS - about.keys() | REQUIRED_DATASET_KEYS - about["dataset"].keys()
        if missing := missing | REQUIRED_SETTINGS_KEYS - settings.keys():
            raise KeyError(*sorted(missing))
        for record in (*records, *test):
            settings["arms"][record["arm"]], record["seed"]
    except FileNotFoundError:
        raise ValueError(
            f"{path} holds no results.json. Name a folder that a comparison was saved in."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} holds no results.json of a comparison: {error!r}") from error
    return records, test, about


def check_destination(path: str | os.PathLike, replace: bool = False) -> Path:
    """Return `path` as a Path if results can be written there; `replace` allows an interrupted run's.

    Raises:
        ValueError: something is there already, or the folder cannot be written.
    """
    path = resolved(path)
    if replace and path.is_dir() and any(path.iterdir()) and load(path)[-1]["interrupted"]:
        return path
    return check_new_folder(path)
