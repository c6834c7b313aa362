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


def end_as_by_interrupt():
    """Let SIGTERM end a command as Ctrl-C does: in order."""

    def interrupt(number, frame):
        _received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextlib.contextmanager
def ended_at_once():
    """Let either end the command on the spot: an exception amid an import gets lost, or crashes it."""
    error = os.dup(2)  # That may lead elsewhere by then.

    def end(number, frame):
        cursor = b"\x1b[?25h" if os.isatty(error) else b""  # Which a spinner hides.
        os.write(error, cursor + b"Interrupted: nothing was written.\n")
        os._exit(128 + number)

    kept = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        os.close(error)


@contextlib.contextmanager
def left_to_the_system():
    """Let Ctrl-C kill the process, where TensorFlow waits in C++ and no handler of Python's would run."""
    kept = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:  # Also from TensorFlow, whose workers take SIGTERM for themselves.
        for number, handler in kept.items():
            signal.signal(number, handler)


def ignore():
    """Let neither have an effect any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def undisturbed():
    """Let neither Ctrl-C nor SIGTERM come in between, where they come to this thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
