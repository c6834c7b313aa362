"""The batch norm layer: its mathematics, its kernels, and how to inspect it in a model."""

# First, here: the hook of `tfbn/__init__.py` then runs before a module of this room is half imported.
import keras  # noqa: F401
