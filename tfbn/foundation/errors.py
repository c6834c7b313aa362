"""Errors of other libraries in one line, and warnings at the caller's line."""

import inspect
import warnings

LONGEST_LINE = 200  # characters


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, without the place in TensorFlow's graph.

    An error without a message is its class's name.

    >>> first_line(OSError(28, "No space left on device")), first_line(TimeoutError())
    ('No space left on device', 'TimeoutError')
    """
    text = error if isinstance(error, str) else getattr(error, "strerror", None) or str(error)
    text = text.rpartition("}} ")[2].split(" [Op:")[0]
    lines = text.strip().splitlines() or ["" if isinstance(error, str) else type(error).__name__]
    return lines[0].strip()[:LONGEST_LINE]


def class_and_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its message.

    >>> class_and_line(ValueError("no such set")), class_and_line(TimeoutError())
    ('ValueError: no such set', 'TimeoutError')
    """
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def last_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Return the last line of what a process printed, where Python puts the error's message.

    >>> last_line("Traceback:\\nValueError: no such set\\n"), last_line("")
    ('ValueError: no such set', 'it gave no reason')
    """
    return (text.strip().splitlines() or ["it gave no reason"])[-1][:longest]


def warn_caller(message: str) -> None:
    """Warn at the line that called into tfbn, however deep within it the problem was met."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "tfbn":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
