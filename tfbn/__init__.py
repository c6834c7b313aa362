"""Batch normalization for Keras, and an honest comparison of networks with and without it."""

import sys
from importlib.metadata import version
from pathlib import Path

__version__ = version("tfbn")

# `import tfbn` registers the layer with Keras, for which it has to load TensorFlow: some seconds, and
# a screenful of its notes. The command `tfbn` reads its arguments first; it needs no names from here.
_is_command = Path(sys.argv[0]).stem == "tfbn" or (
    sys.argv[0] == "-m" and sys.orig_argv[-len(sys.argv)] == "tfbn"  # python -m tfbn
)
if not _is_command:
    from tfbn import data
    from tfbn.arms import Arm
    from tfbn.compare import compare
    from tfbn.comparison import Comparison
    from tfbn.experiment import run
    from tfbn.inference.convert import convert, without_batchnorm
    from tfbn.inference.diagnose import Diagnosis, diagnose
    from tfbn.inference.export import Export, export
    from tfbn.inference.fold import Folding, fold
    from tfbn.inference.from_torch import from_torch
    from tfbn.inference.recalibrate import recalibrate
    from tfbn.layers import BatchNormalization
    from tfbn.models import Model
    from tfbn.solver import Solver

__all__ = [
    "Arm",
    "BatchNormalization",
    "Comparison",
    "Diagnosis",
    "Export",
    "Folding",
    "Model",
    "Solver",
    "compare",
    "convert",
    "data",
    "diagnose",
    "export",
    "fold",
    "from_torch",
    "recalibrate",
    "run",
    "without_batchnorm",
]
