import io
import logging
import os
import subprocess
import sys
import warnings

from tfbn.foundation.silence import output_captured, stderr_silenced


def test_stderr_silenced_drops_what_is_printed_below_python(capfd):
    with stderr_silenced():
        os.write(2, b"dropped")
        os.write(1, b"output")
    os.write(2, b"back")
    assert capfd.readouterr() == ("output", "back")


def test_stderr_silenced_shows_the_traceback_of_an_error():
    script = (
        "import os, sys\n"
        "from tfbn.foundation.silence import stderr_silenced\n"
        "with stderr_silenced():\n"
        "    os.write(2, b'dropped')\n"
        "    sys.stderr.write('dropped, too')\n"
        "    raise KeyError('shown')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.startswith("Traceback") and "KeyError: 'shown'" in done.stderr
    assert "dropped\n" not in done.stderr and "dropped, too" not in done.stderr.splitlines()


def test_output_captured_keeps_prints_logs_and_warnings(capfd):
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)  # as a notebook has one, away from the file descriptors
    logging.getLogger().addHandler(handler)
    try:
        with output_captured() as printed:
            sys.stdout.write("one\n")
            os.write(1, b"two\n")
            os.write(2, b"three\n")
            logging.getLogger("converter").warning("chatter")
            warnings.warn("chatter", stacklevel=1)
            text = printed()
        assert capfd.readouterr() == ("", "") and heard.getvalue() == ""
        assert {"one", "two", "three"} == set(text.split())
        os.write(2, b"again")
        logging.getLogger("converter").warning("back")
        assert capfd.readouterr().err.startswith("again") and heard.getvalue() == "back\n"
    finally:
        logging.getLogger().removeHandler(handler)


def test_output_captured_leaves_loggers_as_they_were(capfd):
    """Whoever logs first in there would get a handler on a stream that is closed later."""
    own = logging.getLogger("of the caller")
    handlers, level = logging.root.handlers[:], own.level
    logging.root.handlers[:] = []
    try:
        with output_captured():
            logging.basicConfig(level="DEBUG")
            own.setLevel("ERROR")
            made = logging.getLogger("made while captured")
            made.addHandler(logging.StreamHandler())
        assert logging.root.handlers == made.handlers == []
        assert own.level == level and logging.root.level == logging.WARNING
        own.warning("shows")
        made.warning("shows, too")
    finally:
        logging.root.handlers[:] = handlers
    assert capfd.readouterr().err == "shows\nshows, too\n"
