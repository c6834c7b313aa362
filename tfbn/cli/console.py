"""What the commands write on, and TensorFlow must not."""

from __future__ import annotations

import contextlib
import math

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tfbn.foundation.signals import exit_on_signal
from tfbn.foundation.silence import stderr_silenced


def open_console(stderr):
    """Lines as wide as the terminal, and unbroken where there is none."""
    console = Console(stderr=stderr, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


@contextlib.contextmanager
def loading(console):
    """While TensorFlow is imported, which takes seconds."""
    with console.status("Loading TensorFlow"), exit_on_signal(), stderr_silenced():
        yield


@contextlib.contextmanager
def live(console, runs, epochs, swept):
    """Progress of both series: bars in a terminal, lines elsewhere. Gives the callback.

    Args:
        runs: int, how many there are of a series.
        epochs: int, how many there are in a run.
        swept: bool, whether there are too many runs for a line an epoch.
    """

    def ends(record):
        losses = record["train_loss"], record["validation_loss"]
        return record["epoch"] == epochs or not all(map(math.isfinite, losses))

    def text(record):
        parts = []
        for name in ("loss", "accuracy"):
            if f"train_{name}" in record:
                parts.append(f"{name} {record[f'train_{name}']:.3f}/{record[f'validation_{name}']:.3f}")
        return " ".join(parts)

    if not console.is_terminal:

        def print_line(record):
            if ends(record) or not swept:
                console.print(
                    f"seed {record['seed']} epoch {record['epoch']:>2} {record['arm']:<9} "
                    f"{text(record)} (training/validation)"
                )

        yield print_line
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
        series = ("batchnorm", "plain")
        tasks = {name: progress.add_task(name, total=runs * epochs, text="") for name in series}

        def advance(record):
            name, _, value = record["arm"].partition("-")
            # A run that diverged leaves out its last epochs.
            done = epochs - record["epoch"] + 1 if ends(record) else 1
            progress.update(tasks[name], advance=done, text=escape(f"{value} {text(record)}".strip()))

        yield advance
