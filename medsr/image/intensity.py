"""One invertible affine map of intensities per volume, fitted on the scan alone and never clipping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsr.image.volume import Array, Modality

CT_AIR_HU = -1024.0
CT_RANGE_HU = 2000.0  # one normalised unit


@dataclass(frozen=True)
class Intensity:
    """``normalised = (value - offset) / scale``; air is near 0 and bright tissue near 1."""

    offset: float
    scale: float

    def apply(self, array: Array) -> Array:
        """Scan units to normalised units."""
        return (array - np.float32(self.offset)) / np.float32(self.scale)

    def invert(self, array: Array) -> Array:
        """Normalised units to scan units."""
        return array * np.float32(self.scale) + np.float32(self.offset)


def fit_intensity(array: NDArray[np.float32], modality: Modality) -> Intensity:
    """CT: fixed Hounsfield units. MR: 0 and the 99.5th percentile of the foreground (above a tenth of p99).

    array: (I, J, K), any units. An MR scan with negative values starts at its 0.1th percentile instead of 0.
    """
    if modality == "CT":
        return Intensity(CT_AIR_HU, CT_RANGE_HU)
    sample = array[np.isfinite(array)].ravel()
    sample = sample[:: max(1, sample.size // 2_000_000)]
    low = min(0.0, float(np.percentile(sample, 0.1)))
    foreground = sample[sample - low > 0.1 * (np.percentile(sample, 99) - low)]
    high = float(np.percentile(foreground if foreground.size else sample, 99.5))
    return Intensity(low, max(high - low, 1e-6 * max(abs(low), abs(high), 1e-30)))
