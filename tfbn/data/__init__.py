"""Where examples come from, and the order in which they are read."""

from tfbn.data.arrays import Data, Split
from tfbn.data.loading import load, sample, wave
from tfbn.data.streams import Stream

__all__ = ["Data", "Split", "Stream", "load", "sample", "wave"]
