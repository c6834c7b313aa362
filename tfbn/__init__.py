"""Batch normalization for Keras, and an honest comparison of networks with and without it."""

import importlib
from importlib.metadata import version
from types import ModuleType

import lazy_loader
import wrapt

__version__ = version("tfbn")

# The stub beside this file says where each name comes from. A name is imported when it is first used:
# TensorFlow takes seconds to load, which `tfbn --help` need not wait for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _register(keras: ModuleType) -> None:
    """Import the classes that a .keras file of ours can hold, which registers them with Keras."""
    for module in ("tfbn.models", "tfbn.layers.masked_identity"):
        importlib.import_module(module)


# `import tfbn` is enough for keras.models.load_model, whichever of the two is imported first.
wrapt.register_post_import_hook(_register, "keras")
