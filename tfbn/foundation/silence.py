"""Silence: drop or capture what other libraries print, also past Python."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import IO

LONGEST_OUTPUT = 1000  # characters


@contextlib.contextmanager
def stderr_silenced() -> Iterator[None]:
    """Drop what is printed on standard error, such as the lines of TensorFlow's C++ about CPU and CUDA.

    An error leaves the block after standard error is back, so that its traceback shows.

    >>> with stderr_silenced():
    ...     _ = os.write(2, b"dropped")
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink, _redirected(sink, 2):
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            raise


@contextlib.contextmanager
def output_captured() -> Iterator[Callable[[], str]]:
    """Capture what is printed, and drop warnings and log records up to that level.

    The function that is yielded returns the end of what was printed so far, 1,000 characters at most.

    >>> with output_captured() as printed:
    ...     print("converting")
    ...     text = printed()
    >>> text
    'converting'
    """
    with tempfile.TemporaryFile("w+", errors="replace") as log, contextlib.ExitStack() as stack:

        def end() -> str:
            log.seek(0)
            return log.read().strip()[-LONGEST_OUTPUT:]

        stack.enter_context(_loggers_restored())
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_redirected(log, 1, 2))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        yield end


@contextlib.contextmanager
def _loggers_restored() -> Iterator[None]:
    """Undo what happens to loggers: a handler made in between would keep a stream that is closed later."""
    before = {name: (logger.level, logger.propagate, logger.handlers[:]) for name, logger in _loggers()}
    try:
        yield
    finally:
        for name, logger in _loggers():
            level, propagate, handlers = before.get(name, (logger.level, logger.propagate, []))
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers[:] = handlers


def _loggers() -> list[tuple[str, logging.Logger]]:
    loggers: list[tuple[str, logging.Logger]] = [("root", logging.root)]
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):  # It may be the placeholder of one.
            loggers.append((name, logger))
    return loggers


@contextlib.contextmanager
def _redirected(sink: IO, *descriptors: int) -> Iterator[None]:
    """Write to the file `sink` what C++ or Python writes to these file descriptors."""
    with contextlib.ExitStack() as stack:
        for number in descriptors:
            original = os.dup(number)
            stack.callback(os.close, original)
            stack.callback(os.dup2, original, number)
            os.dup2(sink.fileno(), number)
        yield
