"""Where voxels are in space: shape and affine, and the two exact ways to change the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Triple = tuple[float, float, float]


def slice_axis_by_spacing(spacing: Sequence[float]) -> int:
    """The axis across slices where nothing states it: the one coarser than both others by a tenth, else k."""
    coarsest = int(np.argmax(spacing))
    others = max(s for axis, s in enumerate(spacing) if axis != coarsest)
    return coarsest if spacing[coarsest] >= 1.1 * others else 2


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular voxel grid in patient space.

    shape: (I, J, K) voxels. affine: (4, 4), voxel index -> RAS+ mm, index 0 being the *centre* of the first voxel.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing(self) -> Triple:
        """Distance between neighbouring voxel centres along i, j, k in mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def field_of_view(self) -> Triple:
        """Extent in mm from voxel edge to voxel edge along i, j, k."""
        (ni, nj, nk), (si, sj, sk) = self.shape, self.spacing
        return ni * si, nj * sj, nk * sk

    @property
    def axis_codes(self) -> str:
        """Anatomical direction in which each axis grows most, such as ``"RAS"``."""
        cosines = self.affine[:3, :3] / np.asarray(self.spacing)
        codes, free = ["", "", ""], [0, 1, 2]
        for axis in np.argsort(-np.abs(cosines).max(axis=0)):
            world = max(free, key=lambda w: abs(cosines[w, axis]))
            free.remove(world)
            codes[axis] = "RAS"[world] if cosines[world, axis] > 0 else "LPI"[world]
        return "".join(codes)

    def with_shape(self, shape: Sequence[int]) -> Geometry:
        """Same field of view, edge to edge, cut into another number of voxels per axis."""
        scale = np.asarray(self.shape, float) / np.asarray(shape, float)
        affine = self.affine.copy()
        affine[:3, :3] *= scale
        affine[:3, 3] = self.affine[:3, :3] @ ((scale - 1) / 2) + self.affine[:3, 3]
        return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)

    def with_scale(self, scale: Sequence[float]) -> Geometry:
        """Grid with ``scale`` times as many voxels per axis, rounded half up; the field of view is kept exactly."""
        return self.with_shape([max(1, int(np.floor(n * f + 0.5))) for n, f in zip(self.shape, scale, strict=True)])

    def with_spacing(self, spacing: Sequence[float]) -> Geometry:
        """Grid with exactly this spacing in mm; the field of view stays centred and changes by less than a voxel."""
        old = np.asarray(self.spacing)
        new = np.asarray(spacing, float)
        fov = np.asarray(self.field_of_view)
        shape = np.maximum(1, np.floor(fov / new + 0.5 - 1e-9)).astype(int)
        ratio = new / old
        affine = self.affine.copy()
        affine[:3, :3] *= ratio
        first = (np.asarray(self.shape) - shape * ratio) / 2 + (ratio - 1) / 2
        affine[:3, 3] = self.affine[:3, :3] @ first + self.affine[:3, 3]
        return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)

    def cropped(self, box: Sequence[slice]) -> Geometry:
        """Grid of ``array[box]``; box: a slice with start and stop for each of i, j, k. Voxels stay where they are."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
        i, j, k = (part.stop - part.start for part in box)
        return Geometry((i, j, k), affine)

    def index_of(self, other: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Step and first index per axis of ``other``'s voxels in this grid's index coordinates.

        ``self_index = first + step * other_index`` along each axis. Raises ValueError when the two grids do not
        share their axes (rotated or permuted against each other, by more than 1e-3 voxel across the volume).
        """
        relative = np.linalg.inv(self.affine) @ other.affine
        step = np.diag(relative)[:3].copy()
        off_axis = np.abs(relative[:3, :3] - np.diag(step)) * (np.asarray(other.shape) - 1)
        if off_axis.max() > 1e-3:
            raise ValueError("the two grids do not share their axes")
        return step, relative[:3, 3].copy()

    def same_grid(self, other: Geometry, tolerance_mm: float = 1e-3) -> bool:
        """True when shapes are equal and every corner voxel agrees within ``tolerance_mm``."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1)
        corners = np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.abs((self.affine - other.affine) @ corners).max() <= tolerance_mm)

    def to_json(self) -> dict[str, Any]:
        """Shape, spacing in mm, axis codes and affine as JSON values."""
        return {
            "shape": list(self.shape),
            "spacing_mm": [round(s, 6) for s in self.spacing],
            "axes": self.axis_codes,
            "affine": [[float(v) for v in row] for row in self.affine],
        }
