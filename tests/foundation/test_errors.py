"""Errors in one line, among them those without text."""

import errno
import json
import warnings

import pytest
import tensorflow as tf

from tfbn.foundation.errors import LONGEST_LINE, class_and_line, first_line, last_line, warn_caller

GRAPH_ERROR = "{{function_node __wrapped__Add}} {{node add}} shapes differ [Op:AddV2] name: add\nand more"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one line"), "one line"),
        (ValueError("\n  first \nsecond"), "first"),
        (TimeoutError(), "TimeoutError"),
        (KeyError(), "KeyError"),
        (ValueError(" \n"), "ValueError"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "No such file or directory"),
        (OSError("without a number"), "without a number"),
        (tf.errors.InternalError(None, None, GRAPH_ERROR), "shapes differ"),
        (ValueError("x" * 999), "x" * LONGEST_LINE),
        ("a string\nof two lines", "a string"),
        ("", ""),
    ],
    ids=repr,
)
def test_first_line(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("reset\nand more"), "OSError: reset"),
        (KeyError("task"), "KeyError: 'task'"),
        (TimeoutError(), "TimeoutError"),
        (
            json.JSONDecodeError("Expecting value", "{", 1),
            "JSONDecodeError: Expecting value: line 1 column 2 (char 1)",
        ),
    ],
    ids=repr,
)
def test_class_and_line(error, line):
    assert class_and_line(error) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Traceback\n  x\nValueError: no\n\n", "ValueError: no"),
        ("", "it gave no reason"),
        ("\n", "it gave no reason"),
    ],
)
def test_last_line(text, line):
    assert last_line(text) == line


def test_warn_caller_warns_at_the_line_outside_of_the_package():
    module = {"__name__": "tfbn.nowhere", "warn_caller": warn_caller}
    exec("def deep(levels):\n    deep(levels - 1) if levels else warn_caller('careful')", module)
    for levels in (0, 1, 7):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            module["deep"](levels)
        assert [(str(warning.message), warning.filename) for warning in caught] == [("careful", __file__)]
