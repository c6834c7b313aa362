"""`RunFolder`: where the results and the training state of a run lie."""

import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from tfbn.comparison.results import Comparison
from tfbn.comparison.storage import check_destination

UNFINISHED = ".unfinished"


class RunFolder(NamedTuple):
    """The folder of a run.

    Attributes:
        results: the path of the folder OUT.
        finished: whether a finished run of the same recipe and settings is there.
    """

    results: str
    finished: bool = False

    @property
    def state(self) -> Path:
        """The folder of the training state, which goes when the results are written."""
        return Path(self.results + UNFINISHED)

    def remove_state(self) -> None:
        """Remove the training state, unless the folder holds something else."""
        if (self.state / "about.json").exists():
            shutil.rmtree(self.state, ignore_errors=True)


def find_run_folder(name: str, out: str | None, resume: bool, changed: str) -> RunFolder:
    """Return the folder of a run that can start, can resume, or is finished.

    Without `out`, `resume` takes the newest unfinished run of `name`. A finished run must be of the recipe
    `name` with the settings `changed`, as `Recipe.changed` says.

    Raises:
        ValueError: the folder holds something else, or cannot be written.
    """
    out = out or (resume and _newest_unfinished(name)) or time.strftime(f"runs/{name}-%Y%m%d-%H%M%S")
    results = Path(out) if Path(out).name else Path(out).resolve()  # "." has no name.
    if resume and _is_finished(results, name, changed):
        return RunFolder(str(results), finished=True)
    folder = RunFolder(str(results))
    if folder.state.exists() and not resume:
        raise ValueError(
            f"{folder.state} holds an unfinished run, which may still be going on. Add --resume, or choose "
            "another --out."
        )
    check_destination(results, replace=resume)
    return folder


def _newest_unfinished(name: str) -> str | None:
    def last_written(state: Path) -> float:
        return max(map(os.path.getmtime, [state, *state.rglob("ckpt-*.index")]))

    states = list(Path("runs").glob(f"{name}-*{UNFINISHED}"))
    return str(max(states, key=last_written)).removesuffix(UNFINISHED) if states else None


def _is_finished(results: Path, name: str, changed: str) -> bool:
    if not results.is_dir() or not any(results.iterdir()):
        return False
    about = Comparison.load(results).about
    recipe = about["recipe"] or {}
    if not about["interrupted"] and (recipe.get("name"), recipe.get("changed")) != (name, changed):
        raise ValueError(f"{results} holds a finished run of another recipe or other settings.")
    return not about["interrupted"]
