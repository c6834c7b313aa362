"""Whether the network answers, within seconds."""

import threading
import urllib.request

from tfbn.foundation.errors import first_line

NETWORK_SECONDS = 8


def unreachable(url: str) -> str | None:
    """Return why `url` does not answer within NETWORK_SECONDS, or None if it does."""
    problem: str | None = f"no answer within {NETWORK_SECONDS} s"

    def ask() -> None:
        nonlocal problem
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=NETWORK_SECONDS):
                problem = None
        except Exception as error:
            problem = first_line(getattr(error, "reason", None) or error)

    # A thread, because name resolution has no time-out of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    return problem
