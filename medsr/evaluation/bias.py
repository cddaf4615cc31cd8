"""Bias of CT numbers: the mean error in HU, by tissue, so that a shift of one of them cannot hide in the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsr.evaluation.blocks import blocks, on_cores
from medsr.evaluation.metrics import Voxels

SMOOTHING = 2.0  # pixels: standard deviation of the Gaussian that takes the noise off before classes are told apart
EROSION = 2  # pixels
MIN_VOXELS = 1000

# HU, the lower limit included. Between classes lie mixtures, which belong to none.
LUNG = (-950.0, -500.0)  # from emphysema (Gevenois et al. 1996) to poorly aerated lung (Gattinoni et al. 2001)
FAT = (-190.0, -30.0)  # adipose tissue (Kvist et al. 1988)
SOFT = (-29.0, 150.0)  # skeletal muscle (Mitsiopoulos et al. 1998), which holds blood and organs without contrast too
BONE = (200.0, np.inf)  # clear of soft tissue; vessels full of contrast agent and metal count as well

CLASSES = (LUNG, FAT, SOFT, BONE)
_BLOCK = 1 << 20  # voxels that are looked at at once

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


@dataclass(frozen=True, eq=False)
class Tissues:
    """The classes of one reference. labels (I, J, K): 0 for none, then 1, 2, 3, 4 in the order of CLASSES."""

    labels: NDArray[np.uint8]

    @classmethod
    def of(cls, reference: Voxels, slice_axis: int) -> Tissues:
        """Told apart on the reference, (I, J, K) in HU, after a Gaussian of sigma 2 pixels in each slice; shrunk by 2.

        On the noisy reference itself a threshold would pick voxels by their noise, which an estimate without that
        noise must then miss.
        """
        labels = np.zeros(reference.shape, np.uint8)
        slices, out = np.moveaxis(reference, slice_axis, 0), np.moveaxis(labels, slice_axis, 0)

        def label(some: slice) -> None:
            # Each slice for itself: neighbours may be millimetres away.
            smooth = ndimage.gaussian_filter(slices[some].astype(np.float64), (0, SMOOTHING, SMOOTHING))
            found = np.zeros(smooth.shape, np.uint8)
            for number, (low, high) in enumerate(CLASSES, start=1):
                found[(smooth >= low) & (smooth < high)] = number
            out[some] = _shrunk(found)

        on_cores(label, blocks(len(slices), max(1, _BLOCK // slices[0].size)))
        return cls(labels)

    def bias(self, reference: Voxels, prediction: Voxels, *, mask: Mask) -> Bias:
        """Mean error of ``prediction``; arrays as in ``hu_bias``, which says the rest."""
        if not reference.shape == prediction.shape == mask.shape:
            raise ValueError(
                f"reference {reference.shape}, prediction {prediction.shape} and mask {mask.shape} need one shape"
            )
        if not mask.any():
            raise ValueError("the mask is empty; a mean error needs at least one voxel")

        def sums(rows: slice) -> NDArray[np.float64]:
            error = prediction[rows].astype(np.float64) - reference[rows]
            inside = error[mask[rows]]
            by_class = np.bincount(self.labels[rows].ravel(), error.ravel(), len(CLASSES) + 1)
            return np.array([*by_class[1:], inside.sum(), np.abs(inside).sum()])

        rows = blocks(len(reference), max(1, _BLOCK // max(1, reference[:1].size)))
        total = np.sum(on_cores(sums, rows), axis=0)
        counts = np.bincount(self.labels.ravel(), minlength=len(CLASSES) + 1)[1:]
        lung, fat, soft, bone = (
            float(value / count) if count >= MIN_VOXELS else None for value, count in zip(total, counts, strict=False)
        )
        voxels = np.count_nonzero(mask)
        return Bias(lung, fat, soft, bone, foreground=float(total[-2] / voxels), mae=float(total[-1] / voxels))


def hu_bias(reference: Voxels, prediction: Voxels, *, mask: Mask, slice_axis: int) -> Bias:
    """Mean error of a CT per tissue class, anywhere, and over ``mask``; arrays (I, J, K) in HU.

    Classes: see ``Tissues.of``. No class is cut by the mask: where the lungs reach the edge of the picture, a
    foreground holds their brightest voxels alone. Raises ValueError for unequal shapes or an empty mask.
    """
    return Tissues.of(reference, slice_axis).bias(reference, prediction, mask=mask)


def _shrunk(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, H, W) labels where all within EROSION face neighbours in the slice have the same; its edge is no rim.

    It is the binary erosion of every class by itself, as scipy does it, with shifts of whole arrays for speed.
    """
    for _ in range(EROSION):
        kept = labels.copy()
        for axis in (1, 2):
            here, there = np.moveaxis(labels, axis, 0), np.moveaxis(kept, axis, 0)
            differ = here[1:] != here[:-1]
            there[1:][differ] = 0
            there[:-1][differ] = 0
        labels = kept
    return labels
