"""The ranges in which networks take the pixels of images. It imports no NumPy: the command reads it."""

from typing import Any

# By name: the numbers that black and white are.
RANGES = {"0..1": (0.0, 1.0), "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
# The limits within which data are pixels of a range: interpolation goes beyond black and white.
LIMITS = {"0..1": (-0.1, 1.5), "-1..1": (-1.2, 1.2), "0..255": (-25.0, 280.0)}


def range_of(x: Any) -> str | None:
    """Return the range of an array of pixels; None if they do not show it, as black images do not.

    Raises:
        ValueError: they are beyond all ranges.

    >>> import numpy as np
    >>> range_of(np.array([0.0, 33.0, 255.0])), range_of(np.array([0.0, 0.7])), range_of(np.zeros(3))
    ('0..255', '0..1', None)
    """
    low, high = float(x.min()), float(x.max())
    if low == high == 0 or (x.dtype.kind in "biu" and 0 <= low <= high <= 1):
        return None
    for name, limits in LIMITS.items():
        if limits[0] <= low <= high <= limits[1]:
            return name
    raise ValueError(
        f"The data must be pixels of {', '.join(RANGES)}. Received: numbers from {low:.3g} to {high:.3g}."
    )


def from_pixels(pixels: Any, scale: str) -> Any:
    """Return floats from 0 to 255, an array or a tensor, in the range `scale`; whole ones exactly.

    >>> import numpy as np
    >>> from_pixels(np.array([0.0, 51.0, 255.0]), "-1..1").round(6).tolist()
    [-1.0, -0.6, 1.0]
    """
    low, high = RANGES[scale]
    return pixels * (high - low) / 255 + low


def to_pixels(x: Any, scale: str) -> Any:
    """Return an array in the range `scale` as uint8 pixels, rounded.

    >>> import numpy as np
    >>> to_pixels(np.array([-1.0, -0.6, 1.0, 1.1]), "-1..1").tolist()
    [0, 51, 255, 255]
    """
    low, high = RANGES[scale]
    return ((x - low) * 255 / (high - low)).clip(0, 255).round().astype("uint8")
