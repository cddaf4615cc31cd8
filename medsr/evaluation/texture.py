"""Texture: how much fine detail a prediction holds beside its reference, wherever it lies, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsr.evaluation.blocks import blocks, on_cores
from medsr.evaluation.metrics import Voxels
from medsr.evaluation.power import Mask, Power, Spectrum, band, boxes, decibels, mean_power, radial, radius

LOG_SIGMA = 1.5  # pixels
LOG_RADIUS = 7  # pixels on each side: a kernel of 15 x 15
_BLOCK = 1 << 20  # values that a thread filters at once


@dataclass(frozen=True)
class BetweenSlices:
    """Power of the differences between neighbouring slices, the prediction's over the reference's; 1 is right.

    whole: of all frequencies in the slices up to Nyquist. fine: of those above the scan's Nyquist frequency, None where
    the scan's pixels were as fine as the reference's.
    """

    whole: float
    fine: float | None


@dataclass(frozen=True, eq=False)
class PowerRatio:
    """Power of a prediction and of its reference at each frequency, over the axes that the scan had coarser.

    low: the scan's Nyquist frequency in cycles per voxel.
    """

    power: Power
    expected: Power
    low: float

    @property
    def error(self) -> float:
        """See ``spectrum_error``."""
        power, expected = radial(self.power, self.low).power, radial(self.expected, self.low).power
        if not expected.all():
            raise ValueError(
                "the reference has no power above the scan's Nyquist frequency; it has no texture to compare"
            )
        return float(np.mean(np.abs(decibels(power, expected))))

    def curve(self, most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Frequencies and 10 log10(P / P_ref) in at most ``most`` bins from 0 to 0.5; bins without P_ref are left out.

        A ratio below -60 dB counts as -60 dB.
        """
        power, expected = radial(self.power, 0.0, most), radial(self.expected, 0.0, most)
        held = expected.power > 0
        return power.frequency[held], decibels(power.power[held], expected.power[held])


@dataclass(frozen=True, eq=False)
class Texture:
    """Measures the texture of any number of predictions; what depends on the reference alone is worked out once.

    reference, mask: (I, J, K). slice_axis: across slices. factors: voxel size of the scan over that of the reference
    along i, j, k. Methods take a prediction (I, J, K) and raise ValueError where the functions they name do.
    """

    reference: Voxels
    mask: Mask
    slice_axis: int
    factors: tuple[float, ...]

    def ratio(self, prediction: Voxels) -> PowerRatio:
        """Power spectra over the axes whose factor is above 1; see ``spectrum_error``."""
        (box,) = boxes(self.mask, prediction)
        low = _scan_nyquist(self.factors, (0, 1, 2))
        return PowerRatio(mean_power(box, self._scaled), self._power, low)

    def hfen(self, prediction: Voxels) -> float:
        """See ``hfen``."""
        boxes(self.mask, self.reference, prediction)
        if self._edges is None:
            raise ValueError("the reference is flat over the mask; its high-frequency error norm has no scale")
        error = _edge_energy(self.mask, self.slice_axis, prediction, self.reference)
        return float(np.sqrt(error / self._edges))

    def between_slices(self, prediction: Voxels) -> BetweenSlices:
        """See ``between_slice_ratio``, which however insists on a factor above 1 within the slices."""
        (box,) = boxes(self.mask, prediction)
        others = _others(self.slice_axis)
        power, expected = mean_power(box, others, differences=True), self._difference_power
        largest, radii = max(self.factors[a] for a in others), radius(expected.shape)
        whole, fine = band(radii, 0.0), band(radii, 0.5 / largest) if largest > 1 else None
        if not expected[whole if fine is None else fine].any():
            raise ValueError("the reference's slices do not differ above the scan's Nyquist frequency")

        def ratio(part: Mask) -> float:
            return float(power[part].sum() / expected[part].sum())

        return BetweenSlices(ratio(whole), None if fine is None else ratio(fine))

    @property
    def _scaled(self) -> list[int]:
        return [axis for axis, factor in enumerate(self.factors) if factor > 1]

    @cached_property
    def _power(self) -> Power:
        (box,) = boxes(self.mask, self.reference)
        return mean_power(box, self._scaled)

    @cached_property
    def _difference_power(self) -> Power:
        (box,) = boxes(self.mask, self.reference)
        return mean_power(box, _others(self.slice_axis), differences=True)

    @cached_property
    def _edges(self) -> float | None:
        if np.ptp(self.reference[self.mask]) == 0:
            return None
        return _edge_energy(self.mask, self.slice_axis, self.reference)


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
    boxes(mask, reference)
    return Texture(reference, mask, 2, tuple(factors)).ratio(prediction).error


def hfen(reference: Voxels, prediction: Voxels, *, mask: Mask, axis: int) -> float:
    """High-frequency error norm ||LoG(x) - LoG(ref)|| / ||LoG(ref)|| over the mask (Ravishankar & Bresler 2011, IV-A).

    reference, prediction, mask: (I, J, K). Each slice across ``axis`` is filtered by a Laplacian of Gaussian of 15 x 15
    pixels, sigma 1.5, mirrored at the picture's edge; the norms are over all slices together. (The paper gives the
    numerator alone.) Raises ValueError for unequal shapes, an empty mask or a reference that is flat there.
    """
    return Texture(reference, mask, axis, (1.0, 1.0, 1.0)).hfen(prediction)


def between_slice_spectrum(volume: Voxels, *, mask: Mask, axis: int) -> Spectrum:
    """Power of the differences between neighbouring slices across ``axis``, by radial frequency within the slices.

    volume, mask: (I, J, K); the bounding box of the mask is looked at. Window, transform and bins as in
    ``spectrum_error``, from 0 to 0.5 cycles per voxel. Slices of independent white noise of variance v have power 2 v
    at every frequency: samples that were drawn slice by slice flicker, and it is here that they show it.
    """
    (box,) = boxes(mask, volume)
    return radial(mean_power(box, _others(axis), differences=True), 0.0)


def between_slice_ratio(
    reference: Voxels, prediction: Voxels, *, mask: Mask, axis: int, factors: Sequence[float]
) -> BetweenSlices:
    """Total power of the between-slice differences, prediction over reference, whole and above the scan's Nyquist.

    Arrays and axis as in ``between_slice_spectrum``, factors as in ``spectrum_error``: at least one axis within the
    slices has a factor above 1. Raises ValueError as those do.
    """
    boxes(mask, reference, prediction)
    _scan_nyquist(factors, _others(axis))
    return Texture(reference, mask, axis, tuple(factors)).between_slices(prediction)


def _others(axis: int) -> list[int]:
    return [a for a in range(3) if a != axis]


def _scan_nyquist(factors: Sequence[float], axes: Sequence[int]) -> float:
    """The lowest Nyquist frequency of the scan along ``axes``, in cycles per voxel of the reference."""
    largest = max(factors[a] for a in axes)
    if largest <= 1:
        raise ValueError(f"no factor of {tuple(factors)} along axes {tuple(axes)} is above 1: no detail was missing")
    return 0.5 / largest


def _edge_energy(mask: Mask, axis: int, volume: Voxels, subtracted: Voxels | None = None) -> float:
    """Sum over the mask of the squared Laplacian of Gaussian of each slice of ``volume``, less another if given."""
    slices, inside = np.moveaxis(volume, axis, 0), np.moveaxis(mask, axis, 0)
    others = None if subtracted is None else np.moveaxis(subtracted, axis, 0)

    def energy(some: slice) -> float:
        block, where = slices[some].astype(np.float64, order="C"), inside[some]
        if others is not None:
            block -= others[some]
        return sum(float(np.sum(_laplacian(image)[seen] ** 2)) for image, seen in zip(block, where, strict=True))

    return sum(on_cores(energy, blocks(len(slices), max(1, _BLOCK // slices[0].size))))


def _laplacian(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ndimage.gaussian_laplace(image, LOG_SIGMA, radius=LOG_RADIUS))
