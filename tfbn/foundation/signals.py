"""Ctrl-C and SIGTERM: how a command ends by them, and when it must not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading


def exit_code():
    """What a command that a signal ended returns: 128 and the signal's number."""
    return 128 + _received[-1] if _received else 130


_received = []


def sigterm_as_interrupt():
    """Let SIGTERM end a command as Ctrl-C does: in order."""

    def interrupt(number, frame):
        _received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextlib.contextmanager
def _handled(handler):
    """Give both to a handler, and back to what had them before, whoever took them in between."""
    kept = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in kept.items():
            signal.signal(number, former)


@contextlib.contextmanager
def exit_on_signal():
    """Let either end the command on the spot: an exception amid an import gets lost, or crashes it."""
    error = os.dup(2)  # That may lead elsewhere by then.

    def end(number, frame):
        cursor = b"\x1b[?25h" if os.isatty(error) else b""  # Which a spinner hides.
        os.write(error, cursor + b"Interrupted: nothing was written.\n")
        os._exit(128 + number)

    try:
        with _handled(end):
            yield
    finally:
        os.close(error)


def signals_left_to_system():
    """Let Ctrl-C kill the process, where TensorFlow waits in C++ and no handler of Python's would run.

    TensorFlow's workers take SIGTERM for themselves there; the command has it back afterwards.
    """
    return _handled(signal.SIG_DFL)


def ignore():
    """Let neither have an effect any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def signals_deferred():
    """Let neither Ctrl-C nor SIGTERM come in between, where they come to this thread."""
    if threading.current_thread() is threading.main_thread():
        return _handled(signal.SIG_IGN)
    return contextlib.nullcontext()
