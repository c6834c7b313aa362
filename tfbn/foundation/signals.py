"""Ctrl-C and SIGTERM: how they end a command, and when they must not."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received_signals: list[int] = []


def exit_code() -> int:
    """Return the exit code of a command that a signal ended: 128 and the signal's number.

    >>> exit_code()
    130
    """
    return 128 + (_received_signals[-1] if _received_signals else signal.SIGINT)


def sigterm_as_interrupt() -> None:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        _received_signals.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextlib.contextmanager
def _handlers_replaced(handler: Callable[[int, FrameType | None], Any] | int) -> Iterator[None]:
    """Handle both signals by `handler`; then restore the former handlers, even over later ones."""
    with contextlib.ExitStack() as stack:
        for number in SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, handler))
        yield


@contextlib.contextmanager
def exit_on_signal() -> Iterator[None]:
    """Let both signals end the process at once: an exception during an import gets lost, or crashes it."""
    stderr = os.dup(2)  # Standard error itself may be redirected when the signal comes.

    def end(number: int, frame: FrameType | None) -> None:
        show_cursor = b"\x1b[?25h" if os.isatty(stderr) else b""  # A spinner hides it.
        os.write(stderr, show_cursor + b"Interrupted: nothing was written.\n")
        os._exit(128 + number)

    try:
        with _handlers_replaced(end):
            yield
    finally:
        os.close(stderr)


def signals_left_to_system() -> AbstractContextManager[None]:
    """Let both signals kill the process: while TensorFlow waits in C++, no handler in Python would run.

    TensorFlow's workers set a handler of their own for SIGTERM. The command's is restored afterwards.
    """
    return _handlers_replaced(signal.SIG_DFL)


def ignore_signals() -> None:
    """Ignore both signals from now on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def signals_ignored() -> AbstractContextManager[None]:
    """Ignore both signals during a block in the main thread, the only thread that receives them."""
    if threading.current_thread() is threading.main_thread():
        return _handlers_replaced(signal.SIG_IGN)
    return contextlib.nullcontext()
