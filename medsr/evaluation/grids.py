"""Files that lie on the grid of a reference, however they store its axes; anything else is refused, never resampled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsr.errors import InputError
from medsr.image.files import display_name
from medsr.image.geometry import Geometry
from medsr.image.nifti import inspect, read_scan
from medsr.image.volume import Array, Modality

TOLERANCE = 0.01  # of the smallest voxel side: rounding in headers, and far below what a shift can be told from


@dataclass(frozen=True)
class Turn:
    """How to store an array in another order of axes: ``flip(transpose(array, order), flips)``. No value changes."""

    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[int, ...] = ()

    def array(self, array: Array) -> Array:
        """(I, J, K), turned."""
        return np.ascontiguousarray(np.flip(array.transpose(self.order), self.flips))

    def geometry(self, geometry: Geometry) -> Geometry:
        """The grid of the turned array; every voxel stays where it is."""
        i, j, k = (geometry.shape[a] for a in self.order)
        affine = geometry.affine[:, [*self.order, 3]].copy()
        for axis in self.flips:
            affine[:3, 3] += affine[:3, axis] * ((i, j, k)[axis] - 1)
            affine[:3, axis] *= -1
        return Geometry((i, j, k), affine)


@dataclass(frozen=True, eq=False)
class Read:
    """Voxels in the reference's order of axes, (I, J, K) float32; warnings: one line each."""

    array: Array
    warnings: tuple[str, ...]


def turn_onto(reference: Geometry, geometry: Geometry) -> Turn | None:
    """The turn that lays every voxel of ``geometry`` on the reference's voxel of the same index; None if none does.

    Corners may differ by a hundredth of the smallest voxel side.
    """
    along = np.linalg.solve(reference.affine[:3, :3], geometry.affine[:3, :3])
    i, j, k = (int(a) for a in np.abs(along).argmax(axis=1))
    if {i, j, k} != {0, 1, 2}:
        return None
    turn = Turn((i, j, k), tuple(axis for axis, own in enumerate((i, j, k)) if along[axis, own] < 0))
    close = turn.geometry(geometry).same_grid(reference, TOLERANCE * min(reference.spacing))
    return turn if close else None


def checked_turn(path: Path, reference: Geometry, name: str) -> Turn:
    """``turn_onto`` for a file, from its header. Raises InputError, naming both grids, where there is none.

    name: of the reference, for the message.
    """
    own = inspect(path).geometry
    turn = turn_onto(reference, own)
    if turn is None:
        raise InputError(
            f"{display_name(path)} lies on another grid than the reference {name}: {grid_in_words(own)} against "
            f"{grid_in_words(reference)}{_apart(own, reference)}; nothing is resampled here, so write it on the "
            "reference's grid first"
        )
    return turn


def read_onto(path: Path, reference: Geometry, name: str, modality: Modality, volume: int | None = None) -> Read:
    """Voxels of a file on the reference's grid. volume: which one, if the file is 4-D.

    Raises InputError for another grid and for a file that cannot be read.
    """
    header = inspect(path)
    turn = checked_turn(path, reference, name)
    scan = read_scan(path, volume=volume if header.volumes > 1 else None, modality=modality, header=header)
    if turn == Turn():
        return Read(scan.volume.array, scan.warnings)
    stored = f"its axes are stored as {header.geometry.axis_codes}; turned to {reference.axis_codes}, no value changed"
    return Read(turn.array(scan.volume.array), (*scan.warnings, stored))


def grid_in_words(geometry: Geometry) -> str:
    """``96x96x64 RAS, 1.5x1.5x1.5 mm, first voxel at -71.2, -70, 12.5``."""
    shape, spacing = "x".join(map(str, geometry.shape)), "x".join(f"{s:.4g}" for s in geometry.spacing)
    # A difference of a half voxel must be seen in the words.
    origin = ", ".join(f"{v + 0.0:.2f}".rstrip("0").rstrip(".") for v in geometry.affine[:3, 3])
    return f"{shape} {geometry.axis_codes}, {spacing} mm, first voxel at {origin}"


def _apart(own: Geometry, reference: Geometry) -> str:
    """How far grids of one shape lie from each other, which their words may not show: rotations, hundredths of mm."""
    if own.shape != reference.shape:
        return ""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in own.shape], [1], indexing="ij")).reshape(4, -1)
    distance = np.linalg.norm(((own.affine - reference.affine) @ corners)[:3], axis=0).max()
    return f", corners up to {distance:.3g} mm apart"
