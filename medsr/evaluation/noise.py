"""The noise of a reference scan, and the PSNR beyond which a score against it says no more about a method."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medsr.evaluation.blocks import blocks, on_cores
from medsr.evaluation.metrics import Voxels

BLOCK = 6  # pixels a side
QUANTILE = 0.1  # the quietest blocks hold noise and little else
QUANTILE_BIAS = 0.75  # mean absolute value in the quietest tenth of such blocks of white noise over that of all
GAIN = 6.0  # of the mask [1 -2 1; -2 4 -2; 1 -2 1] on white noise
_VOXELS = 1 << 20  # looked at at once

Mask = NDArray[np.bool_]


def noise_level(volume: Voxels, *, mask: Mask, slice_axis: int) -> float | None:
    """Standard deviation of white noise, in the scan's units, from the quietest tenth of 6 x 6 blocks in the mask.

    volume, mask: (I, J, K). The mean absolute value of the mask [1 -2 1; -2 4 -2; 1 -2 1] in each slice (Immerkaer
    1996) over a block, divided by its gain; what the network is told of a scan's noise is measured alike. None where
    no block lies in the mask with the pixel around it.

    An estimate. Noise that is smooth (a soft CT kernel, zero-filled or resampled MR) shows less of itself to the mask
    than it is, and noise that grows towards the middle of the body is taken where it is least: both give too low a
    figure. Fine structure in every block gives too high a one.
    """
    slices, inside = np.moveaxis(volume, slice_axis, 0), np.moveaxis(mask, slice_axis, 0)

    def quiet(some: slice) -> NDArray[np.float64]:
        return _block_means(slices[some].astype(np.float64, order="C"), inside[some])

    found = np.concatenate(on_cores(quiet, blocks(len(slices), max(1, _VOXELS // slices[0].size))))
    if not found.size:
        return None
    value = np.partition(found, pick := int((found.size - 1) * QUANTILE))[pick]
    return float(value) * math.sqrt(math.pi / 2) / (GAIN * QUANTILE_BIAS)


def noise_ceiling(volume: Voxels, *, mask: Mask, slice_axis: int, data_range: float) -> float | None:
    """PSNR in dB that the truth without noise would have against this reference: 10 log10(data_range^2 / noise^2).

    Nobody can do better against it but by its own noise. As ``noise_level``, whose faults it has, an estimate; where
    that is too low, this is too high. None where no noise can be measured, or there is none.
    """
    level = noise_level(volume, mask=mask, slice_axis=slice_axis)
    return 10 * math.log10(data_range**2 / level**2) if level else None


def _block_means(slices: NDArray[np.float64], inside: Mask) -> NDArray[np.float64]:
    """Mean absolute response in each block of (N, H, W) that lies in ``inside`` with the pixel around it."""
    response = slices
    for axis in (1, 2):
        along = np.moveaxis(response, axis, 0)
        response = np.moveaxis(along[:-2] + along[2:] - 2 * along[1:-1], 0, axis)
    n, high, wide = (s // size for s, size in zip(response.shape, (1, BLOCK, BLOCK), strict=True))
    cut = np.abs(response[:, : high * BLOCK, : wide * BLOCK]).reshape(n, high, BLOCK, wide, BLOCK)
    whole = np.ones((n, high, wide), bool)
    for row in range(BLOCK + 2):
        for column in range(BLOCK + 2):
            seen = inside[:, row : row + high * BLOCK : BLOCK, column : column + wide * BLOCK : BLOCK]
            whole &= seen[:, :high, :wide]
    return np.asarray(cut.mean(axis=(2, 4))[whole])
