"""Errors of other libraries, in one line."""

from __future__ import annotations

LONGEST_LINE = 200  # characters


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, without the place in TensorFlow's graph.

    An error without a message is its class's name.

    >>> first_line(OSError(28, "No space left on device")), first_line(TimeoutError())
    ('No space left on device', 'TimeoutError')
    """
    text = error if isinstance(error, str) else getattr(error, "strerror", None) or str(error)
    text = text.rpartition("}} ")[2].split(" [Op:")[0]
    lines = text.strip().splitlines() or [type(error).__name__ if not isinstance(error, str) else ""]
    return lines[0][:LONGEST_LINE]


def last_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Return the last line of what a process printed, where Python puts the error's message."""
    return (text.strip().splitlines() or ["it gave no reason"])[-1][:longest]
