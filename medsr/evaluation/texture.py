"""Texture: how much fine detail a prediction holds beside its reference, wherever it lies, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsr.evaluation.metrics import Voxels

FLOOR = 1e-6  # of the reference's power: a frequency that is missing altogether costs 60 dB
LOG_SIGMA = 1.5  # pixels
LOG_RADIUS = 7  # pixels on each side: a kernel of 15 x 15
_BLOCK = 1 << 22  # values that are transformed at once
_ROUNDING = 1e-9  # of a frequency

Mask = NDArray[np.bool_]
Power = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A radially averaged power spectrum: (N,) centres of the bins in cycles per voxel, (N,) mean power in each."""

    frequency: NDArray[np.float64]
    power: Power


@dataclass(frozen=True)
class BetweenSlices:
    """Power of the differences between neighbouring slices, the prediction's over the reference's; 1 is right.

    whole: of all frequencies in the slices up to Nyquist. fine: of those above the scan's Nyquist frequency.
    """

    whole: float
    fine: float


def spectrum_error(reference: Voxels, prediction: Voxels, *, mask: Mask, factors: Sequence[float]) -> float:
    """Mean of |10 log10(P / P_ref)| in dB over the frequencies that the reference can hold and the scan could not.

    reference, prediction, mask: (I, J, K); the bounding box of the mask is looked at. factors: voxel size of the scan
    over that of the reference along i, j, k, 1 on axes that were left alone.

    P is the power over the axes whose factor is above 1: a 1-D spectrum of lines for one such axis, a 2-D spectrum of
    slices for two. Each line or slice is multiplied by a Hann window, sin^2(pi (m + 1/2) / n) along each transformed
    axis, which leaks into neighbouring frequencies alone; its squared magnitudes are averaged over all lines or slices
    of the box, then over bins of radial frequency in cycles per voxel. The bins divide the band from
    0.5 / max(factors) to 0.5 evenly, each at least one step of the shortest transform wide. The logarithm of the ratio
    comes last, and a ratio below -60 dB counts as -60 dB.

    Raises ValueError for unequal shapes, an empty mask, a band without frequencies or a reference without power in it.
    """
    truth, made = _boxes(mask, reference, prediction)
    axes = [axis for axis, factor in enumerate(factors) if factor > 1]
    low = _scan_nyquist(factors, (0, 1, 2))
    power, expected = (_radial(_power(box, axes), low).power for box in (made, truth))
    if not expected.all():
        raise ValueError("the reference has no power above the scan's Nyquist frequency; it has no texture to compare")
    return float(np.mean(np.abs(10 * np.log10(np.maximum(power / expected, FLOOR)))))


def hfen(reference: Voxels, prediction: Voxels, *, mask: Mask, axis: int) -> float:
    """High-frequency error norm ||LoG(x) - LoG(ref)|| / ||LoG(ref)|| over the mask (Ravishankar & Bresler 2011, IV-A).

    reference, prediction, mask: (I, J, K). Each slice across ``axis`` is filtered by a Laplacian of Gaussian of 15 x 15
    pixels, sigma 1.5, mirrored at the picture's edge; the norms are over all slices together. (The paper gives the
    numerator alone.) Raises ValueError for unequal shapes, an empty mask or a reference that is flat there.
    """
    _boxes(mask, reference, prediction)
    if np.ptp(reference[mask]) == 0:
        raise ValueError("the reference is flat over the mask; its high-frequency error norm has no scale")
    edges = error = 0.0
    for truth, made, inside in zip(*(np.moveaxis(a, axis, 0) for a in (reference, prediction, mask)), strict=True):
        if inside.any():
            exact = truth.astype(np.float64)
            edges += float(np.sum(_laplacian(exact)[inside] ** 2))
            error += float(np.sum(_laplacian(made - exact)[inside] ** 2))
    return float(np.sqrt(error / edges))


def between_slice_spectrum(volume: Voxels, *, mask: Mask, axis: int) -> Spectrum:
    """Power of the differences between neighbouring slices across ``axis``, by radial frequency within the slices.

    volume, mask: (I, J, K); the bounding box of the mask is looked at. Window, transform and bins as in
    ``spectrum_error``, from 0 to 0.5 cycles per voxel. Slices of independent white noise of variance v have power 2 v
    at every frequency: samples that were drawn slice by slice flicker, and it is here that they show it.
    """
    (box,) = _boxes(mask, volume)
    return _radial(_difference_power(box, axis), 0.0)


def between_slice_ratio(
    reference: Voxels, prediction: Voxels, *, mask: Mask, axis: int, factors: Sequence[float]
) -> BetweenSlices:
    """Total power of the between-slice differences, prediction over reference, whole and above the scan's Nyquist.

    Arrays and axis as in ``between_slice_spectrum``, factors as in ``spectrum_error``: at least one axis within the
    slices has a factor above 1. Raises ValueError as those do.
    """
    truth, made = _boxes(mask, reference, prediction)
    low = _scan_nyquist(factors, _others(axis))
    expected, power = _difference_power(truth, axis), _difference_power(made, axis)
    whole, fine = (_band(_radius(expected.shape), lowest) for lowest in (0.0, low))
    if not expected[fine].any():
        raise ValueError("the reference's slices do not differ above the scan's Nyquist frequency")
    return BetweenSlices(*(float(power[band].sum() / expected[band].sum()) for band in (whole, fine)))


def _boxes(mask: Mask, *volumes: Voxels) -> list[Voxels]:
    """The bounding box of the mask, cut from each volume."""
    for volume in volumes:
        if volume.shape != mask.shape:
            raise ValueError(f"reference, prediction and mask need one shape, not {volume.shape} and {mask.shape}")
    if not mask.any():
        raise ValueError("the mask is empty; texture needs a region to look at")
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return [volume[box] for volume in volumes]


def _others(axis: int) -> list[int]:
    return [a for a in range(3) if a != axis]


def _scan_nyquist(factors: Sequence[float], axes: Sequence[int]) -> float:
    """The lowest Nyquist frequency of the scan along ``axes``, in cycles per voxel of the reference."""
    largest = max(factors[a] for a in axes)
    if largest <= 1:
        raise ValueError(f"no factor of {tuple(factors)} along axes {tuple(axes)} is above 1: no detail was missing")
    return 0.5 / largest


def _power(box: Voxels, axes: Sequence[int]) -> Power:
    """Power at each frequency over ``axes``, averaged over the other axes; that of white noise is its variance."""
    lengths, last = [box.shape[a] for a in axes], range(-len(axes), 0)
    pieces = np.moveaxis(box, axes, last).reshape(-1, *lengths)
    window = reduce(np.multiply.outer, [_hann(n) for n in lengths])
    total = np.zeros(lengths)
    step = max(1, _BLOCK // window.size)
    for start in range(0, len(pieces), step):
        spectrum = np.fft.fftn(pieces[start : start + step] * window, axes=last)
        total += np.sum(spectrum.real**2 + spectrum.imag**2, axis=0)
    return np.asarray(total / (len(pieces) * np.sum(window**2)))


def _hann(n: int) -> NDArray[np.float64]:
    """The window between its zeros, symmetric in the box: a flipped volume has the same spectrum."""
    return np.asarray(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2)


def _difference_power(box: Voxels, axis: int) -> Power:
    if box.shape[axis] < 2:
        raise ValueError(f"the mask spans one slice across axis {axis}; differences need two")
    return _power(np.diff(box.astype(np.float64), axis=axis), _others(axis))


def _radius(lengths: Sequence[int]) -> NDArray[np.float64]:
    """Radial frequency in cycles per voxel at each point of a transform."""
    return np.asarray(np.sqrt(reduce(np.add.outer, [np.fft.fftfreq(n) ** 2 for n in lengths])))


def _band(radius: NDArray[np.float64], low: float) -> Mask:
    """From ``low`` to 0.5, both included whatever rounding did to them."""
    return (radius > low - _ROUNDING) & (radius < 0.5 + _ROUNDING)


def _radial(power: Power, low: float) -> Spectrum:
    """Mean power in equal bins of radial frequency from ``low`` to 0.5 cycles per voxel."""
    count = int((0.5 - low) * min(power.shape) + _ROUNDING)
    if count < 1:
        raise ValueError(f"a box of {power.shape} voxels has no frequency between {low:g} and 0.5 cycles per voxel")
    radius = _radius(power.shape)
    band = _band(radius, low)
    # A frequency on the lower edge of a bin must not fall into the bin below, or this one may be empty.
    index = np.minimum(((radius[band] - low) / (0.5 - low) * count + _ROUNDING).astype(int), count - 1)
    mean = np.bincount(index, power[band], count) / np.bincount(index, minlength=count)
    return Spectrum(low + (np.arange(count) + 0.5) * (0.5 - low) / count, mean)


def _laplacian(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ndimage.gaussian_laplace(image, LOG_SIGMA, radius=LOG_RADIUS))
