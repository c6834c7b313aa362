"""Time several peers alternately in one process, so that a slow phase of the machine hits all of them."""

import importlib.metadata
import textwrap
import time
from collections.abc import Callable
from typing import Any

from tfbn.foundation.provenance import is_installed, versions
from tfbn.foundation.tables import WIDTH_WITHOUT_TERMINAL, text_table
from tfbn.runtime.devices import describe_device

PAUSE_SECONDS = 0.3


def alternate(
    peers: dict[str, Callable[[], Any]],
    repeats: int,
    pause: float = PAUSE_SECONDS,
    on_run: Callable[[str], object] | None = None,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run all peers in turn, forwards and backwards, so that none always follows the same other peer.

    Args:
        peers: functions without arguments, by name.
        repeats: runs of each peer. One more, which compiles, goes first and is not counted.
        pause: seconds before each run. Default 0.3: the threads of the last peer, which spin for a while,
            go to sleep.
        on_run: called with the name of each run. Default None.

    Returns:
        The seconds of each peer's runs, and what its last run returned.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    results = {}
    for repeat in range(repeats + 1):
        for name, run in list(peers.items())[:: -1 if repeat % 2 else 1]:
            if on_run is not None:
                on_run(name)
            time.sleep(pause)
            start = time.perf_counter()
            results[name] = run()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times, results


def torch_device(device: str) -> str | None:
    """Return PyTorch's name of a device; None where PyTorch is missing or does not see the device.

    >>> torch_device("gpu:99")
    """
    if not is_installed("torch"):
        return None
    kind, number = device.split(":")
    if kind == "cpu":
        return "cpu"
    import torch

    return f"cuda:{number}" if int(number) < torch.cuda.device_count() else None


def provenance(device: str) -> dict[str, Any]:
    """Return the device and the versions of what is timed, with PyTorch and JAX where installed."""
    peers = {name: importlib.metadata.version(name) for name in ("torch", "jax") if is_installed(name)}
    return {"device": describe_device(device), "versions": versions() | peers}


def titled_table(title: str, header: list[str], rows: list[list[str]], labels: int) -> str:
    """Return a text table below its title; all columns after the first `labels` are numbers."""
    title = textwrap.fill(title, WIDTH_WITHOUT_TERMINAL)
    return f"{title}\n{text_table(header, rows, numeric=range(labels, len(header)))}"
