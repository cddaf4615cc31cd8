"""From the places of slices to a regular grid, or the reason why they are none: a gap, a tilted gantry, a jump."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medsr.errors import InputError
from medsr.image.dicom_frames import Frame
from medsr.image.geometry import Geometry
from medsr.image.nifti_affine import SHEAR

Points = NDArray[np.float64]

IRREGULAR = 0.1  # of the slice distance: how far a slice may lie from its place on the regular grid
NOTICEABLE = 0.02  # of the slice distance: from here on it is said
OFF_LINE = 0.1  # of a pixel: how far a slice may lie beside the line through the first pixels of all slices
_SAME_PLACE = 0.01  # mm: slices closer than this are in one place; tags are rounded to 0.001 mm or finer ...
_SAME_PLACE_IN_PIXELS = 0.05  # ... but for the finer grids of small animals and specimens
MAX_FILLED = 2.0  # slices on the filled grid, over slices acquired
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """Slices of one volume, in order along their normal.

    shape: (I, J, K) = columns, rows, slices. axes: (3, 3) LPS unit vectors as columns: growing column index, growing
    row index, their cross product. pixel: mm between columns, between rows. first: (K, 3) LPS mm, first pixel of each
    slice. distance: (K,) mm along the normal from slice 0; the closest even grid is start + step * k. drift: mm that
    the slices slide along the first two axes per mm of distance. gaps: why they are no even grid, or "". names: of
    the slices.
    """

    shape: tuple[int, int, int]
    axes: Points
    pixel: Points
    first: Points
    distance: Points
    start: float
    step: float
    drift: Points
    gaps: str
    names: tuple[str, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def tilt(self) -> float:
        """Degrees between the line of the slices and their normal: a tilted gantry; 0 when it is within rounding."""
        shear = float(np.linalg.norm(self.drift))
        slid = shear * abs(float(self.distance[-1]))
        tilted = shear > SHEAR and slid > OFF_LINE * float(self.pixel.min())
        return float(np.degrees(np.arctan(shear))) if tilted else 0.0

    def geometry(self) -> Geometry:
        """The grid as acquired, RAS+. Only for one without gaps and tilt."""
        slide = self.axes[:, :2] @ self.drift
        step = self.axes[:, 2] + (slide if np.linalg.norm(self.drift) <= SHEAR else 0)
        return self._made(self.shape, self.first[0] + step * self.start, step * self.step)

    def filled(self) -> Grid:
        """The regular grid over the same extent, with the usual distance. Raises InputError where too much is missing.

        Slices may slide along the way, as with a tilted gantry.
        """
        gaps = np.diff(self.distance)
        extent, usual = float(self.distance[-1]), usual_gap(gaps)
        count = round(extent / usual) + 1
        if count > MAX_FILLED * len(self.distance):
            raise InputError(
                f"{self.gaps}. Filling them would make {count} slices out of {len(self.distance)}; choose another "
                "series"
            )
        distance = np.linspace(0, extent, count)
        first = np.stack([np.interp(distance, self.distance, self.first[:, axis]) for axis in range(3)], axis=1)
        shape = (*self.shape[:2], count)
        names = tuple(f"slice {k}" for k in range(count))
        step = extent / (count - 1)
        return Grid(shape, self.axes, self.pixel, first, distance, 0.0, step, self.drift, "", names, self.warnings)

    def upright(self, filled: Grid) -> tuple[Geometry, NDArray[np.float64]]:
        """The grid that holds all slices once they are slid back over each other, RAS+, and where it begins.

        filled: this grid, or ``filled()`` of it: its number of slices and their distance are taken. Second: (K, 2),
        index along i and j of the upright grid's first pixel in each acquired slice's own pixels.
        """
        own = (self.first - self.first[0]) @ self.axes[:, :2] / self.pixel
        low, high = np.floor(own.min(axis=0) + 1e-6), np.ceil(own.max(axis=0) - 1e-6)
        extra = (high - low).astype(int)
        shape = (self.shape[0] + int(extra[0]), self.shape[1] + int(extra[1]), filled.shape[2])
        origin = self.first[0] + self.axes[:, :2] @ (low * self.pixel)
        return self._made(shape, origin, self.axes[:, 2] * filled.step), low - own

    def _made(self, shape: tuple[int, int, int], origin: Points, step: Points) -> Geometry:
        affine = np.eye(4)
        affine[:3, 0] = self.axes[:, 0] * self.pixel[0]
        affine[:3, 1] = self.axes[:, 1] * self.pixel[1]
        affine[:3, 2] = step
        affine[:3, 3] = origin
        return Geometry(shape, _LPS_TO_RAS @ affine)


def usual_gap(gaps: Points) -> float:
    """The distance of most slices in mm: the mean of the gaps that are like the middle one.

    Positions rounded to 0.1 mm have two gaps for one distance, so that no single gap is it.
    """
    middle = np.quantile(gaps, 0.5, method="lower")
    return float(gaps[np.abs(gaps - middle) <= 2 * IRREGULAR * middle].mean())


def same_place(pixel: float) -> float:
    """Distance in mm up to which slices are in one place. pixel: smallest distance of pixels, mm."""
    return min(_SAME_PLACE, _SAME_PLACE_IN_PIXELS * pixel)


def slice_axes(orientation: Sequence[float]) -> Points:
    """(3, 3) unit vectors as columns: along a row, along a column, and their cross product. LPS."""
    row = np.asarray(orientation[:3], float)
    row /= np.linalg.norm(row)
    column = np.asarray(orientation[3:], float)
    column = column - row * (row @ column)
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def grid_of(frames: Sequence[Frame]) -> Grid:
    """The grid of frames that are in order along their normal, one in a place.

    Raises InputError when they do not lie along one line.
    """
    one = frames[0]
    axes = slice_axes(one.orientation)
    pixel = np.array([one.spacing[1], one.spacing[0]])  # PixelSpacing begins with the distance between rows
    first = np.array([frame.position for frame in frames], float)
    names = tuple(frame.name for frame in frames)
    shape = (one.columns, one.rows, len(frames))
    if len(frames) == 1:
        step, warnings = _single(one)
        return Grid(shape, axes, pixel, first, np.zeros(1), 0.0, step, np.zeros(2), "", names, warnings)
    distance = (first - first[0]) @ axes[:, 2]
    step, start = (float(v) for v in np.polyfit(np.arange(len(frames)), distance, 1))
    slid = (first - first[0]) @ axes[:, :2]
    drift = slid[-1] / distance[-1]
    aside = np.linalg.norm(slid - distance[:, None] * drift, axis=1)
    if aside.max() > OFF_LINE * pixel.min():
        worst = int(np.argmax(aside))
        raise InputError(
            f"{names[worst]} lies {aside[worst]:.3g} mm beside the line of the other slices; expected one stack of "
            "slices, each above the one before"
        )
    gaps, warnings = _regularity(distance, start, step, names)
    return Grid(shape, axes, pixel, first, distance, start, step, drift, gaps, names, warnings)


def _single(frame: Frame) -> tuple[float, tuple[str, ...]]:
    step = frame.between or frame.thickness
    if step is None:
        return 1.0, ("one slice without a stated thickness: 1 mm is assumed",)
    return step, ()


def _regularity(distance: Points, start: float, step: float, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Why slices are no regular grid, or "", and warnings."""
    off = np.abs(distance - start - step * np.arange(len(distance)))
    if off.max() <= IRREGULAR * step:
        if off.max() <= NOTICEABLE * step:
            return "", ()
        return "", (f"slices lie up to {off.max():.2g} mm from their place at an even distance of {step:.4g} mm",)
    gaps = np.diff(distance)
    usual = usual_gap(gaps)
    odd = np.flatnonzero(np.abs(gaps - usual) > IRREGULAR * usual)
    if len(odd) == 0:
        return f"the distance between slices drifts from {gaps.min():.4g} to {gaps.max():.4g} mm", ()
    told = [f"{gaps[k]:.4g} mm between {names[k]} and {names[k + 1]}" for k in odd[:3]]
    more = f" and {len(odd) - 3} more places" if len(odd) > 3 else ""
    missing = [round(gaps[k] / usual) - 1 for k in odd]
    whole = all(
        n >= 1 and abs(gaps[k] - (n + 1) * usual) <= IRREGULAR * usual for k, n in zip(odd, missing, strict=True)
    )
    what = f"{sum(missing)} of its slices missing" if whole else "uneven gaps between its slices"
    return f"{what}: {'; '.join(told)}{more}, elsewhere {usual:.4g} mm", ()
