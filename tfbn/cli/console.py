"""Where the commands print, the progress that they show there, and what TensorFlow must not print."""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tfbn.foundation.signals import exit_on_signal
from tfbn.foundation.silence import stderr_silenced

Record = dict[str, Any]


def open_console(stderr: bool) -> Console:
    """Return a console that wraps lines at the terminal's width, and nowhere without a terminal."""
    console = Console(stderr=stderr, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


@contextlib.contextmanager
def loading(console: Console) -> Iterator[None]:
    """Show that TensorFlow is being imported, which takes seconds, and silence its loggers."""
    with console.status("Loading TensorFlow"), exit_on_signal(), stderr_silenced():
        yield
        from absl import logging as absl_logging

        absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns of every set that is not prepared yet.
        # TensorFlow warns that it traces a program for each network.
        logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())


@contextlib.contextmanager
def live(console: Console, runs: int, epochs: int, swept: bool) -> Iterator[Callable[[Record], None]]:
    """Show the progress of both series, as bars in a terminal and lines elsewhere; give the callback.

    Args:
        runs: the runs of each series.
        epochs: the epochs of a run.
        swept: whether lines are printed for the last epochs only, because there are many runs.
    """
    if not console.is_terminal:
        yield functools.partial(_print_line, console, epochs, swept)
        return
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(6),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as progress:
        for series in ("batchnorm", "plain"):
            progress.add_task(series, total=runs * epochs, text="")
        yield functools.partial(_advance_bar, progress, epochs)


def _print_line(console: Console, epochs: int, swept: bool, record: Record) -> None:
    if not swept or _is_last(record, epochs):
        console.print(
            f"seed {record['seed']} epoch {record['epoch']:>2} {record['arm']:<9} "
            f"{_scores(record)} (training/validation)"
        )


def _advance_bar(progress: Progress, epochs: int, record: Record) -> None:
    series, _, value = record["arm"].partition("-")
    (task,) = (task for task in progress.tasks if task.description == series)
    # A run that diverged leaves out its last epochs.
    advance = epochs - record["epoch"] + 1 if _is_last(record, epochs) else 1
    progress.update(task.id, advance=advance, text=escape(f"{value} {_scores(record)}".strip()))


def _is_last(record: Record, epochs: int) -> bool:
    losses = record["train_loss"], record["validation_loss"]
    return record["epoch"] == epochs or not all(map(math.isfinite, losses))


def _scores(record: Record) -> str:
    return " ".join(
        f"{name} {record[f'train_{name}']:.3f}/{record[f'validation_{name}']:.3f}"
        for name in ("loss", "accuracy")
        if f"train_{name}" in record
    )
