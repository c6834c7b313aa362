"""Whether the network answers, by a `urlopen` that fails in many ways."""

import contextlib
import threading
import urllib.error
import urllib.request

import pytest

from tfbn.data import image_sets


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (TimeoutError(), "TimeoutError"),
        (TimeoutError("timed out"), "timed out"),
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
        (urllib.error.URLError("no host given"), "no host given"),
        (urllib.error.URLError(TimeoutError()), "TimeoutError"),
        (urllib.error.URLError(OSError(-2, "Name or service not known")), "Name or service not known"),
        (urllib.error.HTTPError("https://x", 404, "Not Found", None, None), "Not Found"),
        (urllib.error.HTTPError("https://x", 404, "", None, None), "HTTP Error 404:"),
        (ValueError("unknown url type\nand more"), "unknown url type"),
    ],
    ids=repr,
)
def test_unreachable_gives_the_reason(monkeypatch, error, problem):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    assert image_sets.unreachable("https://x") == problem


def test_unreachable_is_none_where_the_network_answers(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: contextlib.nullcontext())
    assert image_sets.unreachable("https://x") is None


def test_unreachable_does_not_wait_for_a_silent_network(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(image_sets, "NETWORK_SECONDS", 0.1)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: over.wait(60))
    assert image_sets.unreachable("https://x") == "no answer within 0.1 s"
    over.set()
