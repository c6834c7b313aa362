"""What the commands write on, and TensorFlow must not."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile

from rich.console import Console


def open_console(stderr):
    """Lines as wide as the terminal, and unbroken where there is none."""
    console = Console(stderr=stderr, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


@contextlib.contextmanager
def hushed():
    """Keep what TensorFlow's C++ prints on standard error as it starts, about CPU and CUDA, to itself."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
