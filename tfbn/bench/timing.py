"""Timing of several peers in one run, so that the machine's moods hit all of them."""

from __future__ import annotations

import importlib.metadata
import time

from tfbn.foundation.provenance import is_installed, versions
from tfbn.runtime.devices import describe_device

PAUSE = 0.3  # seconds


def alternate(peers, repeats, pause=PAUSE, on_run=None):
    """Run all peers in turn, there and back, so that none always follows the same one.

    Args:
        peers: dict of name to function without arguments.
        repeats: int, runs of each. One more, which compiles, goes first and is not counted.
        pause: float, seconds before each run, in which the threads of the last peer, which spin for a
            while, go to sleep. Default 0.3.
        on_run: function that is told the name of each run. Default None.

    Returns:
        dict of name to list of seconds, and dict of name to what the last run returned.

    Raises:
        ValueError: `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be 1 or more. Received: repeats={repeats}.")
    times, results = {name: [] for name in peers}, {}
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


def torch_device(device):
    """PyTorch's name of a device; None where there is no PyTorch, or none that knows the device.

    >>> torch_device("gpu:99")
    """
    if not is_installed("torch"):
        return None
    kind, number = device.split(":")
    if kind == "cpu":
        return "cpu"
    import torch

    return f"cuda:{number}" if int(number) < torch.cuda.device_count() else None


def provenance(device):
    """The device and the versions of what was timed, PyTorch and JAX included where installed."""
    peers = {name: importlib.metadata.version(name) for name in ("torch", "jax") if is_installed(name)}
    return {"device": describe_device(device), "versions": versions() | peers}
