"""Power spectra of the box around a mask: windowed, averaged over lines or slices, then over bins of frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from medsr.evaluation.blocks import blocks, on_cores
from medsr.evaluation.metrics import Voxels

FLOOR = 1e-6  # of the reference's power: a frequency that is missing altogether costs 60 dB
_BLOCK = 1 << 20  # values that a thread transforms at once
_ROUNDING = 1e-9  # of a frequency

Mask = NDArray[np.bool_]
Power = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A radially averaged power spectrum: (N,) centres of the bins in cycles per voxel, (N,) mean power in each."""

    frequency: NDArray[np.float64]
    power: Power


def boxes(mask: Mask, *volumes: Voxels) -> list[Voxels]:
    """The bounding box of the mask, cut from each volume. Raises ValueError for unequal shapes or an empty mask."""
    for volume in volumes:
        if volume.shape != mask.shape:
            raise ValueError(f"reference, prediction and mask need one shape, not {volume.shape} and {mask.shape}")
    if not mask.any():
        raise ValueError("the mask is empty; texture needs a region to look at")
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    return [volume[box] for volume in volumes]


def mean_power(box: Voxels, axes: Sequence[int], *, differences: bool = False) -> Power:
    """Power at each frequency over ``axes``, averaged over the other axes; that of white noise is its variance.

    box: (I, J, K). differences: of the differences between neighbours along the one axis that is left. Each line or
    slice is multiplied by a Hann window first. Returns the lengths of ``axes``, in the order of the transform.
    """
    others = [a for a in range(3) if a not in axes]
    pieces = box.transpose(*others, *axes)
    if not others:
        pieces = pieces[np.newaxis]
    if differences and len(pieces) < 2:
        raise ValueError(f"the mask spans one slice across axis {others[0]}; differences need two")
    lengths, last = [box.shape[a] for a in axes], tuple(range(-len(axes), 0))
    window = reduce(np.multiply.outer, [hann(n) for n in lengths])

    def total(some: slice) -> Power:
        if differences:
            values = np.diff(pieces[some.start : some.stop + 1].astype(np.float64, order="C"), axis=0)
        else:
            values = pieces[some].astype(np.float64, order="C")
        values *= window
        spectrum = fft.rfftn(values, axes=last, overwrite_x=True)
        return np.asarray(np.sum(spectrum.real**2 + spectrum.imag**2, axis=tuple(range(spectrum.ndim - len(axes)))))

    count = len(pieces) - int(differences)
    sums = on_cores(total, blocks(count, max(1, _BLOCK // pieces[0].size)))
    averaged = count * (pieces[0].size // window.size) * np.sum(window**2)
    return _both_halves(reduce(np.add, sums) / averaged, lengths[-1])


def _both_halves(half: Power, n: int) -> Power:
    """The power of a real transform at its negative frequencies too; ``n``: length of the last axis."""
    mirrored = half[..., n - half.shape[-1] : 0 : -1]
    for axis in range(half.ndim - 1):
        mirrored = np.take(mirrored, -np.arange(half.shape[axis]), axis=axis)
    return np.concatenate([half, mirrored], axis=-1)


def hann(n: int) -> NDArray[np.float64]:
    """The window between its zeros, symmetric in the box: a flipped volume has the same spectrum."""
    return np.asarray(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2)


def radius(lengths: Sequence[int]) -> NDArray[np.float64]:
    """Radial frequency in cycles per voxel at each point of a transform."""
    return np.asarray(np.sqrt(reduce(np.add.outer, [np.fft.fftfreq(n) ** 2 for n in lengths])))


def band(radii: NDArray[np.float64], low: float) -> Mask:
    """From ``low`` to 0.5, both included whatever rounding did to them."""
    return (radii > low - _ROUNDING) & (radii < 0.5 + _ROUNDING)


def radial(power: Power, low: float, most: int | None = None) -> Spectrum:
    """Mean power in equal bins, at most ``most``, of radial frequency from ``low`` to 0.5 cycles per voxel.

    Each bin is at least one step of the shortest transform wide. Raises ValueError where there is no frequency.
    """
    count = int((0.5 - low) * min(power.shape) + _ROUNDING)
    if count < 1:
        raise ValueError(f"a box of {power.shape} voxels has no frequency between {low:g} and 0.5 cycles per voxel")
    count = count if most is None else min(count, most)
    radii = radius(power.shape)
    inside = band(radii, low)
    # A frequency on the lower edge of a bin must not fall into the bin below, or this one may be empty.
    index = np.minimum(((radii[inside] - low) / (0.5 - low) * count + _ROUNDING).astype(int), count - 1)
    mean = np.bincount(index, power[inside], count) / np.bincount(index, minlength=count)
    return Spectrum(low + (np.arange(count) + 0.5) * (0.5 - low) / count, mean)


def decibels(power: Power, expected: Power) -> Power:
    """10 log10(power / expected), at least -60."""
    return np.asarray(10 * np.log10(np.maximum(power / expected, FLOOR)))
