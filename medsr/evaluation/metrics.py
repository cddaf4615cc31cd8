"""PSNR and SSIM of a prediction against its reference, as the evaluation protocol fixes them, in float64.

The range always comes from the reference, the prediction is never clipped, and windows never reach over an edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from medsr.image.foreground import foreground
from medsr.image.volume import Modality

CT_RANGE_HU = 4095.0  # the 12 bits that CT is stored in
SSIM_WINDOW = 11  # voxels
SSIM_SIGMA = 1.5  # voxels
_SLAB = 24  # window positions per slab: bounds scikit-image's dozen float64 copies

Voxels = NDArray[np.floating] | NDArray[np.integer]


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
    if mask is not None:
        if mask.shape != reference.shape:
            raise ValueError(f"the mask has shape {mask.shape}; the reference has {reference.shape}")
        if not mask.any():
            raise ValueError("the mask is empty; PSNR needs at least one voxel")
        reference, prediction = reference[mask], prediction[mask]
    error = prediction.astype(np.float64) - reference
    mse = float(np.mean(np.square(error, out=error)))
    return float("inf") if mse == 0 else 10 * float(np.log10(data_range**2 / mse))


def psnr_whole(reference: Voxels, prediction: Voxels) -> float:
    """PSNR in dB over every voxel, with the reference's max - min as range: for comparison with published numbers."""
    return psnr(reference, prediction, data_range=float(reference.max()) - float(reference.min()))


def ssim_3d(reference: Voxels, prediction: Voxels, *, data_range: float) -> float:
    """Mean structural similarity over all 3-D windows that lie inside the volume (Wang et al. 2004, equation 13).

    Arrays (I, J, K). Gaussian window of 11 voxels, sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance. Raises
    ValueError when an axis is shorter than the window: there is no 3-D SSIM of such a volume, take ``ssim_2d``.
    """
    _check(reference, prediction, data_range)
    if reference.ndim != 3 or min(reference.shape) < SSIM_WINDOW:
        raise ValueError(
            f"3-D SSIM needs {SSIM_WINDOW} voxels on each of three axes, not {reference.shape}: take ssim_2d"
        )
    positions = reference.shape[0] - SSIM_WINDOW + 1
    total = 0.0
    for start in range(0, positions, _SLAB):
        slab = slice(start, min(start + _SLAB, positions) + SSIM_WINDOW - 1)
        total += float(_valid_ssim(reference[slab], prediction[slab], data_range).sum())
    windows: int = math.prod(n - SSIM_WINDOW + 1 for n in reference.shape)
    return total / windows


def ssim_2d(reference: Voxels, prediction: Voxels, *, data_range: float, axis: int) -> float:
    """Mean over slices across ``axis`` of their 2-D SSIM; window and constants as in ``ssim_3d``.

    Raises ValueError when a slice is smaller than the 11-voxel window.
    """
    _check(reference, prediction, data_range)
    slices, predicted = np.moveaxis(reference, axis, 0), np.moveaxis(prediction, axis, 0)
    if slices.ndim != 3 or min(slices.shape[1:]) < SSIM_WINDOW:
        raise ValueError(f"2-D SSIM needs slices of at least {SSIM_WINDOW} voxels a side; these are {slices.shape[1:]}")
    means = [float(_valid_ssim(a, b, data_range).mean()) for a, b in zip(slices, predicted, strict=True)]
    return float(np.mean(means))


def _valid_ssim(reference: Voxels, prediction: Voxels, span: float) -> NDArray[np.float64]:
    """The SSIM of every window position that lies inside the array."""
    _, values = structural_similarity(
        reference.astype(np.float64),
        prediction.astype(np.float64),
        data_range=span,
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        win_size=SSIM_WINDOW,
        use_sample_covariance=False,
        full=True,
    )
    margin = SSIM_WINDOW // 2
    inner: NDArray[np.float64] = values[(slice(margin, -margin),) * values.ndim]
    return inner


def _check(reference: Voxels, prediction: Voxels, span: float) -> None:
    if reference.shape != prediction.shape:
        raise ValueError(f"the prediction has shape {prediction.shape}; the reference has {reference.shape}")
    if not span > 0:
        raise ValueError(f"the data range is {span}; a constant reference has no PSNR and no SSIM")
