"""Where a result comes from: Python and the packages that it depends on."""

import importlib.metadata
import importlib.util
import platform

PACKAGES = ("tfbn", "tensorflow", "keras", "tensorflow-datasets", "numpy", "matplotlib")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on.

    >>> sorted(versions())[:3]
    ['keras', 'matplotlib', 'numpy']
    """
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def is_installed(module: str) -> bool:
    """Return whether Python finds a module, without importing it.

    >>> is_installed("json")
    True
    """
    return importlib.util.find_spec(module) is not None
