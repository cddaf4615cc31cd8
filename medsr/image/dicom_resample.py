"""The two repairs that a user can ask for: slices slid back over each other, and missing slices interpolated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medsr.image.volume import Array


def slide(array: Array, start: NDArray[np.float64], shape: tuple[int, int, int], outside: float) -> Array:
    """Shift every slice within its plane onto a common grid, by linear interpolation.

    array: (I, J, K). start: (K, 2), index along i and j of the common grid's first pixel in each slice. shape: of the
    result. outside: the value beyond the slices.
    """
    out = np.empty(shape, np.float32)
    for k in range(array.shape[2]):
        plane = array[:, :, k].astype(np.float64)
        for axis in range(2):
            plane = _shifted(plane, axis, float(start[k, axis]), shape[axis], outside)
        out[:, :, k] = plane
    return out


def _shifted(plane: NDArray[np.float64], axis: int, start: float, count: int, outside: float) -> NDArray[np.float64]:
    """Samples at start, start + 1, ... of a plane along one axis."""
    lines = np.moveaxis(plane, axis, 0)
    below = int(np.floor(start + 1e-6))
    share = max(0.0, start - below)
    padded = np.full((count + 1, lines.shape[1]), outside)
    first, last = max(0, below), min(lines.shape[0], below + count + 1)
    if last > first:
        padded[first - below : last - below] = lines[first:last]
    return np.moveaxis((1 - share) * padded[:-1] + share * padded[1:], 0, axis)


def fill(array: Array, distance: NDArray[np.float64], wanted: NDArray[np.float64]) -> Array:
    """Slices at the distances ``wanted``, linear between those at ``distance`` (both in mm, growing).

    A slice that lies where one is wanted (to a thousandth of a slice) is kept as it is.
    """
    out = np.empty((*array.shape[:2], len(wanted)), np.float32)
    place = np.interp(wanted, distance, np.arange(len(distance)))
    for k, at in enumerate(place):
        below = min(int(np.floor(at + 1e-3)), len(distance) - 1)
        share = at - below
        if share <= 1e-3:
            out[:, :, k] = array[:, :, below]
        else:
            out[:, :, k] = (1 - share) * array[:, :, below] + share * array[:, :, below + 1]
    return out
