"""How far the grid of a scan is filled: samples truly acquired along each axis, the way back to them, and sharpness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.volume import Array, Volume

Matrix = tuple[int | None, int | None, int | None]
Sharpness = Literal["native", "smooth", "band-limited"]  # truly sampled; filtered; interpolated or zero-filled

# Steps in the power spectrum, in decades, between the frequencies just below an edge and all above it. On 42 MR scans:
# at most 1.0 inside SEARCHED where the axis is truly sampled, 1.6 where a scanner filter softens it, 2.0 to 2.8 where
# phase encoding was zero-filled, 3 to 5 for zero-filling without noise. A false alarm costs true detail.
UNMISTAKABLE = 2.0
PLAUSIBLE = 0.5  # the step that must be seen where a tag says that the acquired samples end
SEARCHED = (0.35, 0.8)  # fractions of Nyquist between which an edge is looked for
LENGTHS = (64, 48)  # voxels in a piece of a line; the longest that enough pieces can be had of
MIN_PIECES = 200
SMOOTH_DECADES, LIMITED_DECADES = -1.7, -2.2  # of ``falloff``
_GUARD = 3  # frequencies on each side of an edge that the window smears
_MAX_LINES = 16384  # lines of voxels that are looked at per axis
_TISSUE = 0.15  # of the 99th percentile

Spectrum = NDArray[np.float64]


def acquired_matrix(array: Array) -> Matrix:
    """Samples acquired along i, j, k as far as the spectrum shows it beyond doubt; None where it shows no edge.

    array: (I, J, K) magnitude image. Beyond the acquired part of k-space a zero-filled scan holds nothing but what
    rounding and taking the magnitude have put there, so its power falls by decades within a few frequencies.
    """
    found = [_edge(array, axis) for axis in range(3)]
    return found[0], found[1], found[2]


def confirmed(array: Array, axis: int, count: int) -> bool:
    """True when the spectrum does not contradict that only ``count`` samples were acquired along ``axis``.

    A tag may be of the scan before it was cropped or resampled; then power goes on beyond.
    """
    power = _spectrum(array, axis)
    return power is None or _step(power, round(count / array.shape[axis] * (len(power) - 1))) >= PLAUSIBLE


def with_acquired(header: Header, volume: Volume, axes: Sequence[bool]) -> Header:
    """The header with the acquired matrix that its tags give and the spectrum does not contradict, else with one that
    the spectrum shows beyond doubt, and a warning for each axis where the two differ.

    axes: along which of i, j, k to look. A CT scan has no such matrix.
    """
    if volume.modality != "MR" or not any(axes):
        return header
    counts, warnings = list(header.acquired), list(header.warnings)
    seen = acquired_matrix(volume.array)
    for axis, (count, stored) in enumerate(zip(header.acquired, volume.array.shape, strict=True)):
        letter = "ijk"[axis]
        if not axes[axis]:
            continue
        if count is not None and count < stored and not confirmed(volume.array, axis, count):
            counts[axis] = None
            warnings.append(f"the header says that {count} of {stored} samples were acquired along {letter}; the "
                            "spectrum goes on beyond that, so k-space was not cropped")  # fmt: skip
        elif count is None and seen[axis] is not None:
            counts[axis] = seen[axis]
            warnings.append(f"axis {letter} is zero-filled: {stored} voxels from about {seen[axis]} samples, by the "
                            "spectrum; k-space is cropped back first (--from-acquired off leaves it)")  # fmt: skip
    return replace(header, acquired=(counts[0], counts[1], counts[2]), warnings=tuple(warnings))


def falloff(array: Array, axis: int) -> float | None:
    """Power at 0.42 to 0.5 cycles per voxel along ``axis`` over that at 0.17 to 0.25, in decades; None for too little
    tissue.

    array: (I, J, K), air near 0. On 52 MR and CT scans -0.4 to -1.6 where the axis is truly sampled, below -1.7 where a
    filter or a soft kernel smooths it, below -2.2 where it was zero-filled or interpolated. Noise raises it.
    """
    power = _spectrum(array, axis)
    if power is None:
        return None
    frequency = np.linspace(0, 0.5, len(power))
    fine, middle = power[frequency >= 0.42], power[(frequency >= 0.17) & (frequency <= 0.25)]
    return float(np.log10(fine.mean() / middle.mean()))


def measured_sharpness(array: Array) -> tuple[Sharpness, Sharpness, Sharpness]:
    """Per axis whether the grid is finer than what it holds, by its spectrum; native where nothing says so.

    array: (I, J, K), air near 0.
    """

    def of(axis: int) -> Sharpness:
        fall = falloff(array, axis)
        if fall is None or fall > SMOOTH_DECADES:
            return "native"
        return "smooth" if fall > LIMITED_DECADES else "band-limited"

    return of(0), of(1), of(2)


def crop_k_space(volume: Volume, grid: Geometry) -> Volume:
    """The scan as it was acquired: k-space beyond the matrix of ``grid`` is cut away, the field of view is kept.

    grid: ``volume.geometry.with_shape(acquired)``. Magnitude is taken again where the scan is one (no value below 0).
    """
    array = volume.array
    for axis, count in enumerate(grid.shape):
        if count != array.shape[axis]:
            rows = crop_rows(array.shape[axis], count).astype(np.float32)
            array = np.moveaxis(np.tensordot(array, rows, axes=([axis], [1])), -1, axis)
    if float(volume.array.min()) >= 0:
        array = np.abs(array)
    provenance = volume.provenance.then(
        "cropped k-space to the acquired matrix", stored=list(volume.geometry.shape), acquired=list(grid.shape)
    )
    return Volume(np.ascontiguousarray(array), grid, volume.modality, provenance)


def crop_rows(stored: int, acquired: int) -> NDArray[np.float64]:
    """(acquired, stored) matrix of the k-space crop along one axis.

    Row m evaluates the band-limited signal at stored index (m + 1/2) stored / acquired - 1/2, which keeps the edges
    of the field of view. An even number of samples has its Nyquist bin split evenly between both signs.
    """
    frequencies = np.arange(-(acquired // 2), acquired // 2 + 1)
    weights = np.ones(frequencies.size)
    if acquired % 2 == 0:
        weights[[0, -1]] = 0.5
    at = (np.arange(acquired) + 0.5) * stored / acquired - 0.5
    there = np.exp(2j * np.pi * np.outer(at, frequencies) / stored)
    back = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(stored)) / stored)
    return np.asarray(((there * weights) @ back).real / stored)


def _spectrum(array: Array, axis: int) -> Spectrum | None:
    """Mean power at 0 to Nyquist of pieces of lines along ``axis`` that lie in tissue; None when there are too few.

    Only in tissue is a magnitude image the band-limited image itself. In air and at its edges, where the image before
    magnitude changes sign, taking the magnitude makes kinks with power at every frequency.
    """
    lines = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    lines = lines[:: max(1, len(lines) // _MAX_LINES)]
    bright = lines[lines > 0]
    threshold = _TISSUE * float(np.percentile(bright, 99)) if bright.size else 0.0
    for length in LENGTHS:
        if lines.shape[1] < length:
            continue
        pieces = np.lib.stride_tricks.sliding_window_view(lines, length, axis=1)[:, :: length // 3].reshape(-1, length)
        pieces = pieces[pieces.min(axis=1) > threshold].astype(np.float64)
        if len(pieces) >= MIN_PIECES:
            pieces = (pieces - pieces.mean(axis=1, keepdims=True)) * np.hanning(length + 1)[:-1]
            power = np.abs(np.fft.rfft(pieces, axis=1)) ** 2
            return np.asarray(power.mean(axis=0)) + np.finfo(np.float32).tiny
    return None


def _levels(power: Spectrum, edge: int) -> tuple[float, float]:
    """Median power just below frequency ``edge``, and the largest power anywhere above it."""
    below, above = power[max(1, edge - _GUARD) : edge], power[edge + _GUARD :]
    if len(below) == 0 or len(above) < 2:
        return 1.0, 1.0
    return float(np.median(below)), float(above.max())


def _step(power: Spectrum, edge: int) -> float:
    below, above = _levels(power, edge)
    return float(np.log10(below / above))


def _edge(array: Array, axis: int) -> int | None:
    power = _spectrum(array, axis)
    if power is None:
        return None
    nyquist, stored = len(power) - 1, int(array.shape[axis])
    edges = range(round(SEARCHED[0] * nyquist), round(SEARCHED[1] * nyquist) + 1)
    best = max(edges, key=lambda edge: _step(power, edge))
    if _step(power, best) < UNMISTAKABLE:
        return None
    below, above = _levels(power, best)
    last = int(np.flatnonzero(power > np.sqrt(below * above))[-1])
    if abs(last / nyquist - 0.5) < 1.5 / nyquist:  # half the matrix, by far the most usual case
        return (stored + 1) // 2
    # The window smears the edge outwards by up to two frequencies, so this errs towards keeping too much.
    return min(stored, math.ceil(stored * last / nyquist))
