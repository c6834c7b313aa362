"""Where the commands print, the progress that they show there, and what TensorFlow must not print."""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tfbn.foundation.signals import exit_on_signal
from tfbn.foundation.silence import stderr_silenced


def open_console(stderr: bool) -> Console:
    """Return a console that wraps lines at the terminal's width, and nowhere without a terminal."""
    console = Console(stderr=stderr, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


@contextlib.contextmanager
def loading(stderr: bool = False) -> Iterator[Console]:
    """Open a console, show there that TensorFlow is being imported, and silence its loggers."""
    console = open_console(stderr)
    with console.status("Loading TensorFlow"), exit_on_signal(), stderr_silenced():
        yield console
        from absl import logging as absl_logging

        absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns of every set that is not prepared yet.
        # TensorFlow warns that it traces a program for each network.
        logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())


@contextlib.contextmanager
def live(console: Console, runs: int, epochs: int, swept: bool) -> Iterator[Callable[[dict], None]]:
    """Show the progress of both series, as bars in a terminal and lines elsewhere; give the callback.

    A series has `runs` of `epochs`. If `swept`, there are many, and lines are printed for last epochs only.
    """
    if not console.is_terminal:
        yield functools.partial(_print_line, console, epochs, swept)
        return
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(6),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left {task.fields[text]}"),
    )
    with Progress(*columns, console=console) as progress:
        total = runs * epochs
        tasks = {name: progress.add_task(name, total=total, text="") for name in ("batchnorm", "plain")}
        yield functools.partial(_advance_bar, progress, tasks, epochs)


def _print_line(console: Console, epochs: int, swept: bool, record: dict) -> None:
    if not swept or _is_last(record, epochs):
        console.print(
            f"seed {record['seed']} epoch {record['epoch']:>2} {record['arm']:<9} "
            f"{_scores(record)} (training/validation)"
        )


def _advance_bar(progress: Progress, tasks: dict[str, TaskID], epochs: int, record: dict) -> None:
    series, _, value = record["arm"].partition("-")
    # A run that diverged leaves out its last epochs.
    advance = epochs - record["epoch"] + 1 if _is_last(record, epochs) else 1
    progress.update(tasks[series], advance=advance, text=escape(f"{value} {_scores(record)}".strip()))


def _is_last(record: dict, epochs: int) -> bool:
    losses = record["train_loss"], record["validation_loss"]
    return record["epoch"] == epochs or not all(map(math.isfinite, losses))


def _scores(record: dict) -> str:
    return " ".join(
        f"{name} {record[f'train_{name}']:.3f}/{record[f'validation_{name}']:.3f}"
        for name in ("loss", "accuracy")
        if f"train_{name}" in record
    )
