"""Where a result comes from: Python and the packages that it depends on."""

import platform
from importlib import metadata, util

PACKAGES = ("tfbn", "tensorflow", "keras", "tensorflow-datasets", "numpy", "matplotlib")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on.

    >>> sorted(versions())[:3]
    ['keras', 'matplotlib', 'numpy']
    """
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def is_installed(module: str) -> bool:
    """Return whether Python finds a module, without importing it.

    >>> is_installed("json")
    True
    """
    return util.find_spec(module) is not None
