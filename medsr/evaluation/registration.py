"""Whether a prediction lies where its reference lies: their shift against each other, to a fraction of a voxel.

Half-voxel shifts are a common fault of upscaled volumes, and cost more than most methods gain.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsr.evaluation.blocks import blocks, on_cores
from medsr.evaluation.metrics import Voxels

MISALIGNED = 0.2  # voxels: more than what blur, ringing and aliasing of an upscaled scan were measured to feign
SMOOTHING = 3.0  # voxels: standard deviation of the Gaussian that leaves what both volumes can hold
MARGIN = 6  # voxels at the edges of the picture that are not looked at: one volume has there what the other has not
SHORTEST = 12  # voxels: along a shorter axis no shift can be told
_TRUNCATED = 3.0  # standard deviations
_RIDGE = 1e-4  # of the mean energy of the gradients: an axis along which nothing changes has shift 0
_ROUNDS = 8  # of whole voxels; a volume that has not been found by then is elsewhere altogether
_FEWEST = 64  # sampled voxels
_BLOCK = 1 << 20

Mask = NDArray[np.bool_]
Smooth = NDArray[np.float32]
Triple = tuple[float, float, float]


def shift(reference: Voxels, prediction: Voxels, *, mask: Mask) -> Triple:
    """Voxels along i, j, k by which the content of ``prediction`` lies further on than that of ``reference``.

    All arrays (I, J, K); voxels of the mask count. Least squares on the smoothed volumes r and p (Lucas & Kanade 1981):
    ``p - r = - s . grad m + g m + c + sum_a b_a d^2m/da^2`` with m = (p + r) / 2, solved for the shift s. The mean of
    both volumes in place of the reference makes the linearisation exact to third order and keeps the noise of either
    from having a say; g and c let the intensities differ, and the second derivatives take up what another blur does to
    edges, which would otherwise look like a shift wherever an object has more of them on one side. Whole voxels are
    taken out first and the rest is measured again.

    Axes shorter than 12 voxels have shift 0. Raises ValueError for unequal shapes or a mask or volume that shows too
    little to tell. (Measured against phase correlation, which is exact for a mere shift: on scans upscaled 4 times it
    errs by up to a voxel, this by less than a tenth in most cases.)
    """
    if not reference.shape == prediction.shape == mask.shape:
        raise ValueError(
            f"reference {reference.shape}, prediction {prediction.shape} and mask {mask.shape} need one shape"
        )
    return shift_of_smoothed(smoothed(reference), smoothed(prediction), mask=mask)


def smoothed(volume: Voxels) -> Smooth:
    """(I, J, K) after a Gaussian of sigma 3 voxels along each axis long enough to be looked at."""
    result = volume.astype(np.float32)
    axes = _axes(volume.shape)
    for group in ([a for a in axes if a != 0], [a for a in axes if a == 0]):
        along = 0 if 0 not in group else 1  # cut where this group does not reach
        slabs, sigma = np.moveaxis(result, along, 0), [SMOOTHING if a in group else 0.0 for a in range(3)]
        sigma.insert(0, sigma.pop(along))

        def smooth(some: slice, slabs: Smooth = slabs, sigma: Sequence[float] = tuple(sigma)) -> None:
            slabs[some] = ndimage.gaussian_filter(slabs[some], sigma, truncate=_TRUNCATED, mode="nearest")

        if group:
            on_cores(smooth, blocks(len(slabs), max(1, _BLOCK // slabs[0].size)))
    return result


def shift_of_smoothed(reference: Smooth, prediction: Smooth, *, mask: Mask) -> Triple:
    """``shift`` for volumes that ``smoothed`` has been through: a reference need be smoothed only once."""
    whole = [0, 0, 0]
    found = np.zeros(3)
    for _ in range(_ROUNDS):
        here = tuple(slice(max(0, -w), n - max(0, w)) for w, n in zip(whole, mask.shape, strict=True))
        there = tuple(slice(max(0, w), n - max(0, -w)) for w, n in zip(whole, mask.shape, strict=True))
        rest = _residual_shift(reference[here], prediction[there], mask[here])
        found = np.array(whole) + rest
        step = np.rint(rest).astype(int)
        if not step.any():
            break
        whole = [int(np.clip(w + s, -(n // 4), n // 4)) for w, s, n in zip(whole, step, mask.shape, strict=True)]
    return float(found[0]), float(found[1]), float(found[2])


def _axes(shape: Sequence[int]) -> list[int]:
    return [axis for axis, n in enumerate(shape) if n >= SHORTEST]


def _residual_shift(reference: Smooth, prediction: Smooth, mask: Mask) -> NDArray[np.float64]:
    """One solution of the equation in ``shift``, (3,), for shifts of about half a voxel at most."""
    axes = _axes(mask.shape)
    if not axes:
        raise ValueError(f"a volume of {mask.shape} voxels is too small to tell a shift; an axis of {SHORTEST} is not")
    grids = [_sampled(n) if a in axes else np.arange(n) for a, n in enumerate(mask.shape)]
    per_row = len(grids[1]) * len(grids[2])
    parts = blocks(len(grids[0]), max(1, _BLOCK // (8 * max(1, per_row))))
    sums = on_cores(lambda part: _moments(reference, prediction, mask, [grids[0][part], *grids[1:]], axes), parts)
    count = sum(n for n, _, _ in sums)
    if count < _FEWEST:
        raise ValueError("the mask holds too few voxels away from the edges to tell a shift")
    normal, right = sum(a for _, a, _ in sums), sum(b for _, _, b in sums)
    scale = np.sqrt(np.diag(normal))
    gradients = np.sqrt(np.mean(scale[: len(axes)] ** 2))
    if gradients == 0:
        raise ValueError("the volumes are flat over the mask; a shift cannot be told")
    scale[: len(axes)] = gradients
    scale[scale == 0] = 1.0
    normal = normal / np.outer(scale, scale) + np.diag([_RIDGE] * len(axes) + [1e-9] * (len(scale) - len(axes)))
    solution = np.linalg.solve(normal, right / scale) / scale
    found = np.zeros(3)
    found[axes] = solution[: len(axes)]
    return found


def _sampled(n: int) -> NDArray[np.int_]:
    """Every second index: what was smoothed over three voxels is all there. Counted from both ends, for flips' sake."""
    half = np.arange(MARGIN, max(MARGIN + 1, (n + 1) // 2), 2)
    return np.unique(np.concatenate([half, n - 1 - half]))


def _moments(
    reference: Smooth, prediction: Smooth, mask: Mask, grids: Sequence[NDArray[np.int_]], axes: Sequence[int]
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Number of voxels, matrix and right side of the normal equations over the masked points of a grid of indices."""
    inside = mask[np.ix_(*grids)]
    points = [grid[index] for grid, index in zip(grids, np.nonzero(inside), strict=True)]

    def mean(offset: Sequence[int]) -> NDArray[np.float64]:
        at = tuple(p + o for p, o in zip(points, offset, strict=True))
        return (reference[at].astype(np.float64) + prediction[at]) / 2

    centre = mean((0, 0, 0))
    slopes, bends = [], []
    for axis in axes:
        beyond2, beyond, before, before2 = (mean(o) for o in _offsets(axis))
        slopes.append(-(8 * (beyond - before) - (beyond2 - before2)) / 12)  # fourth order
        bends.append(beyond - 2 * centre + before)
    columns = np.array([*slopes, *bends, centre, np.ones(len(centre))])
    difference = prediction[tuple(points)].astype(np.float64) - reference[tuple(points)]
    return len(centre), columns @ columns.T, columns @ difference


def _offsets(axis: int) -> Iterator[tuple[int, int, int]]:
    for distance, a in itertools.product((2, 1, -1, -2), [axis]):
        yield (distance * (a == 0), distance * (a == 1), distance * (a == 2))
