"""PSNR and SSIM of a prediction against its reference, as the evaluation protocol fixes them, in float64.

The range always comes from the reference, the prediction is never clipped, and windows never reach over an edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsr.evaluation.blocks import blocks, on_cores
from medsr.image.foreground import foreground
from medsr.image.volume import Modality
from medsr.machine import cores

CT_RANGE_HU = 4095.0  # the 12 bits that CT is stored in
SSIM_WINDOW = 11  # voxels
SSIM_SIGMA = 1.5  # voxels
_REACH = SSIM_WINDOW // 2
_STEP = 4  # slices whose moments a thread holds at once, besides the ten that a window looks back on
_FEWEST = 20  # slices of a thread, which has to average ten more
_BLOCK = 1 << 20  # voxels whose errors are taken at once

Voxels = NDArray[np.floating] | NDArray[np.integer]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """Mean structural similarity in 3-D and by slice; None where the volume is too thin for a window."""

    ssim_3d: float | None
    ssim_2d: float | None


@dataclass(frozen=True)
class Scores:
    """One prediction against one reference. PSNR in dB, SSIM without unit; None where the volume is too thin for it."""

    psnr: float  # foreground
    psnr_whole: float  # whole volume, range max - min
    ssim_3d: float | None
    ssim_2d: float | None  # slices across the slice axis


def score(reference: Voxels, prediction: Voxels, modality: Modality, slice_axis: int = 2) -> Scores:
    """The metrics of the protocol for one volume. Both arrays (I, J, K), HU for CT. Raises ValueError."""
    span = data_range(reference, modality)
    shape = reference.shape
    plane = [n for axis, n in enumerate(shape) if axis != slice_axis]
    return Scores(
        psnr=psnr(reference, prediction, data_range=span, mask=foreground(reference, modality, slice_axis)),
        psnr_whole=psnr_whole(reference, prediction),
        ssim_3d=ssim_3d(reference, prediction, data_range=span) if min(shape) >= SSIM_WINDOW else None,
        ssim_2d=ssim_2d(reference, prediction, data_range=span, axis=slice_axis) if min(plane) >= SSIM_WINDOW else None,
    )


def data_range(reference: Voxels, modality: Modality) -> float:
    """Peak-to-peak range of PSNR and SSIM: minimum to 99.9th percentile of the reference (MR), 4095 HU (CT)."""
    if modality == "CT":
        return CT_RANGE_HU
    return float(np.percentile(reference, 99.9)) - float(np.min(reference))


def psnr(reference: Voxels, prediction: Voxels, *, data_range: float, mask: NDArray[np.bool_] | None = None) -> float:
    """10 log10(data_range^2 / mean squared error) in dB, over ``mask`` if given; infinite for equal arrays.

    Arrays of one shape, any number of axes. Raises ValueError for unequal shapes, an empty mask or a range that is
    not positive.
    """
    _check(reference, prediction, data_range)
    mse = _mean_error(reference, prediction, mask, 2)
    return float("inf") if mse == 0 else 10 * float(np.log10(data_range**2 / mse))


def psnr_whole(reference: Voxels, prediction: Voxels) -> float:
    """PSNR in dB over every voxel, with the reference's max - min as range: for comparison with published numbers."""
    return psnr(reference, prediction, data_range=float(reference.max()) - float(reference.min()))


def mean_absolute_error(reference: Voxels, prediction: Voxels, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Mean of |prediction - reference| in the scan's units, over ``mask`` if given. Raises ValueError as ``psnr``."""
    _check(reference, prediction, 1.0)
    return _mean_error(reference, prediction, mask, 1)


def _mean_error(reference: Voxels, prediction: Voxels, mask: NDArray[np.bool_] | None, power: int) -> float:
    """Mean of |prediction - reference| ** power, power 1 or 2, a block of the first axis at a time."""
    if mask is not None:
        if mask.shape != reference.shape:
            raise ValueError(f"the mask has shape {mask.shape}; the reference has {reference.shape}")
        if not mask.any():
            raise ValueError("the mask is empty; an error needs at least one voxel")

    def total(rows: slice) -> float:
        error = prediction[rows].astype(np.float64) - reference[rows]
        if mask is not None:
            error = error[mask[rows]]
        return float(np.sum(np.square(error, out=error) if power == 2 else np.abs(error, out=error)))

    row = max(1, reference[:1].size)
    sums = on_cores(total, blocks(len(reference), max(1, _BLOCK // row)))
    return math.fsum(sums) / (reference.size if mask is None else int(np.count_nonzero(mask)))


def ssim_3d(reference: Voxels, prediction: Voxels, *, data_range: float) -> float:
    """Mean structural similarity over all 3-D windows that lie inside the volume (Wang et al. 2004, equation 13).

    Arrays (I, J, K). Gaussian window of 11 voxels, sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance. Raises
    ValueError when an axis is shorter than the window: there is no 3-D SSIM of such a volume, take ``ssim_2d``.
    """
    similarity = ssim(reference, prediction, data_range=data_range, axis=0)
    if similarity.ssim_3d is None:
        raise ValueError(
            f"3-D SSIM needs {SSIM_WINDOW} voxels on each of three axes, not {reference.shape}: take ssim_2d"
        )
    return similarity.ssim_3d


def ssim_2d(reference: Voxels, prediction: Voxels, *, data_range: float, axis: int) -> float:
    """Mean over slices across ``axis`` of their 2-D SSIM; window and constants as in ``ssim_3d``.

    Raises ValueError when a slice is smaller than the 11-voxel window.
    """
    similarity = ssim(reference, prediction, data_range=data_range, axis=axis)
    if similarity.ssim_2d is None:
        sides = tuple(n for a, n in enumerate(reference.shape) if a != axis)
        raise ValueError(f"2-D SSIM needs slices of at least {SSIM_WINDOW} voxels a side; these are {sides}")
    return similarity.ssim_2d


def ssim(reference: Voxels, prediction: Voxels, *, data_range: float, axis: int) -> Similarity:
    """``ssim_3d`` and ``ssim_2d`` at once, at the cost of the first: a 3-D window is a 2-D one, averaged over slices.

    Arrays (I, J, K); ``axis`` goes across slices. Raises ValueError for unequal shapes or a range that is not
    positive.
    """
    _check(reference, prediction, data_range)
    if reference.ndim != 3:
        raise ValueError(f"SSIM is measured on volumes of three axes, not {reference.shape}")
    x, y = np.moveaxis(reference, axis, 0), np.moveaxis(prediction, axis, 0)
    if min(x.shape[1:]) < SSIM_WINDOW:
        return Similarity(None, None)
    count = len(x)
    share = max(_FEWEST, -(-count // cores()))
    parts = on_cores(lambda owned: _of_slices(x, y, owned, data_range), blocks(count, share))
    by_slice, by_window = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return Similarity(float(by_window.mean()) if by_window.size else None, float(by_slice.mean()))


def _of_slices(x: Voxels, y: Voxels, owned: slice, span: float) -> tuple[Values, Values]:
    """Mean 2-D SSIM of each slice in ``owned``, and mean 3-D SSIM of all windows that begin in each (where any do)."""
    last = min(owned.stop + SSIM_WINDOW - 1, len(x))
    by_slice: list[float] = []
    by_window: list[float] = []
    kept: Values | None = None
    for start in range(owned.start, last, _STEP):
        moments = _plane_moments(x[start : min(start + _STEP, last)], y[start : min(start + _STEP, last)])
        by_slice += list(_index(moments[:, : max(0, owned.stop - start)], span))
        kept = moments if kept is None else np.concatenate([kept, moments], axis=1)
        windows = kept.shape[1] - SSIM_WINDOW + 1
        if windows > 0:
            by_window += list(_index(_slice_means(kept, windows), span))
            kept = kept[:, windows:]
    return np.array(by_slice), np.array(by_window)


def _taps() -> Values:
    taps = np.exp(-((np.arange(SSIM_WINDOW) - _REACH) ** 2) / (2 * SSIM_SIGMA**2))
    return np.asarray(taps / taps.sum())


def _plane_moments(x: Voxels, y: Voxels) -> Values:
    """Means of x, y, x^2 + y^2 and x y under the window in each slice: (4, N, H - 10, W - 10) from (N, H, W)."""
    fields = np.empty((4, *x.shape))
    fields[0], fields[1] = x, y
    np.multiply(fields[0], fields[1], out=fields[3])
    np.square(fields[0], out=fields[2])
    fields[2] += np.square(fields[1])
    inside = slice(_REACH, -_REACH)
    for axis, keep in ((2, (..., inside, slice(None))), (3, (..., inside))):
        fields = ndimage.correlate1d(fields, _taps(), axis=axis)[keep]
    return fields


def _slice_means(moments: Values, windows: int) -> Values:
    """The moments (4, N, H, W) averaged over the window's slices too: (4, windows, H, W)."""
    weights = np.zeros((windows, moments.shape[1]))
    for row in range(windows):
        weights[row, row : row + SSIM_WINDOW] = _taps()
    means = weights @ moments.reshape(4, moments.shape[1], -1)
    return np.asarray(means.reshape(4, windows, *moments.shape[2:]))


def _index(moments: Values, span: float) -> Values:
    """SSIM by the formula, averaged over each slice: (N,)."""
    x, y, squares, product = moments
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    means, both = x * y, x * x + y * y
    values = (2 * means + c1) * (2 * (product - means) + c2) / ((both + c1) * (squares - both + c2))
    return np.asarray(values.mean(axis=(1, 2)))


def _check(reference: Voxels, prediction: Voxels, span: float) -> None:
    if reference.shape != prediction.shape:
        raise ValueError(f"the prediction has shape {prediction.shape}; the reference has {reference.shape}")
    if not span > 0:
        raise ValueError(f"the data range is {span}; a constant reference has no PSNR and no SSIM")
