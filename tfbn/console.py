"""What the commands write on, and TensorFlow must not."""

from __future__ import annotations

import contextlib
import os
import signal
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


def exit_code():
    """What a command that a signal ended returns: 128 and the signal's number."""
    return 128 + _received[-1] if _received else 130


_received = []


def end_as_by_interrupt():
    """Let SIGTERM end a command as Ctrl-C does: in order."""

    def interrupt(number, frame):
        _received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextlib.contextmanager
def undisturbed():
    """Let neither Ctrl-C nor SIGTERM come in between."""
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
