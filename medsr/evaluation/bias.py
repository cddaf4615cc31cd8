"""Bias of CT numbers: the mean error in HU, by tissue, so that a shift of one of them cannot hide in the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsr.evaluation.metrics import Voxels

SMOOTHING = 2.0  # pixels: standard deviation of the Gaussian that takes the noise off before classes are told apart
EROSION = 2  # pixels
MIN_VOXELS = 1000

# HU, the lower limit included. Between classes lie mixtures, which belong to none.
LUNG = (-950.0, -500.0)  # from emphysema (Gevenois et al. 1996) to poorly aerated lung (Gattinoni et al. 2001)
FAT = (-190.0, -30.0)  # adipose tissue (Kvist et al. 1988)
SOFT = (-29.0, 150.0)  # skeletal muscle (Mitsiopoulos et al. 1998), which holds blood and organs without contrast too
BONE = (200.0, np.inf)  # clear of soft tissue; vessels full of contrast agent and metal count as well

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Bias:
    """Mean of prediction - reference in HU, per class and over the mask (foreground); mae: of its absolute value there.

    None: a class of fewer than 1,000 voxels, which tells nothing.
    """

    lung: float | None
    fat: float | None
    soft: float | None
    bone: float | None
    foreground: float
    mae: float


def hu_bias(reference: Voxels, prediction: Voxels, *, mask: Mask, slice_axis: int) -> Bias:
    """Mean error of a CT per tissue class, anywhere, and over ``mask``; arrays (I, J, K) in HU.

    Classes are told apart on the reference after a Gaussian of sigma 2 pixels in each slice across ``slice_axis``, and
    shrunk by 2 pixels there. On the noisy reference itself a threshold would pick voxels by their noise, which an
    estimate without that noise must then miss. For the same reason no class is cut by the mask: where the lungs reach
    the edge of the picture, a foreground holds their brightest voxels alone. Raises ValueError for unequal shapes or
    an empty mask.
    """
    if not reference.shape == prediction.shape == mask.shape:
        raise ValueError(
            f"reference {reference.shape}, prediction {prediction.shape} and mask {mask.shape} need one shape"
        )
    if not mask.any():
        raise ValueError("the mask is empty; a mean error needs at least one voxel")
    error = prediction.astype(np.float64) - reference
    smooth = _smoothed(reference, slice_axis)

    def of(limits: tuple[float, float]) -> float | None:
        inside = _shrunk((smooth >= limits[0]) & (smooth < limits[1]), slice_axis)
        return float(error[inside].mean()) if np.count_nonzero(inside) >= MIN_VOXELS else None

    return Bias(
        lung=of(LUNG),
        fat=of(FAT),
        soft=of(SOFT),
        bone=of(BONE),
        foreground=float(error[mask].mean()),
        mae=float(np.abs(error[mask]).mean()),
    )


def _smoothed(reference: Voxels, slice_axis: int) -> NDArray[np.float64]:
    """The slices blurred, each for itself: neighbours may be millimetres away."""
    sigma = [0.0 if axis == slice_axis else SMOOTHING for axis in range(3)]
    return np.asarray(ndimage.gaussian_filter(reference.astype(np.float64), sigma))


def _shrunk(mask: Mask, slice_axis: int) -> Mask:
    """The mask without what lies within two face neighbours of its rim in a slice; a picture's edge is no rim."""
    in_plane = ndimage.generate_binary_structure(3, 1)
    np.moveaxis(in_plane, slice_axis, 0)[[0, 2]] = False
    return np.asarray(ndimage.binary_erosion(mask, in_plane, iterations=EROSION, border_value=1))
