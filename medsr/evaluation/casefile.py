"""Cases: small crops of what was compared, left by a study beside its figures, for the viewer of its report."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsr.errors import InputError
from medsr.image.files import atomic_write, display_name

IMAGES = ("scan", "cubic", "medsr", "sample", "reference", "std")
MOST_PIXELS, MOST_SLICES = 128, 64  # that a case holds along each axis in plane, and along the slice axis

Image = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Case:
    """One volume under one protocol. images: by names of IMAGES, each (I, J, K) on the reference's grid.

    scan is the coarse scan by nearest neighbour, std what medsr states. spacing in mm. axes: the anatomical direction
    of each voxel axis such as "LPS" (Geometry.axis_codes), None where it is not known.
    """

    images: Mapping[str, Image]
    spacing: tuple[float, float, float]
    slice_axis: int
    axes: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        i, j, k = next(iter(self.images.values())).shape
        return i, j, k


def case_path(folder: Path, protocol: str, volume: str) -> Path:
    """Where a study in ``folder`` keeps the case of a volume, whose name may hold slashes."""
    return folder / "cases" / protocol / f"{volume.replace('/', '__')}.npz"


def crop_of_case(mask: NDArray[np.bool_], slice_axis: int) -> tuple[slice, slice, slice]:
    """The middle of the box around ``mask`` (I, J, K), 128 x 128 pixels of 64 slices at most."""
    cut = []
    for axis in range(3):
        most = MOST_SLICES if axis == slice_axis else MOST_PIXELS
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, mask.shape[axis])
        start = max(0, min((first + last - most) // 2, mask.shape[axis] - most))
        cut.append(slice(start, min(start + most, mask.shape[axis])))
    return cut[0], cut[1], cut[2]


def write_case(case: Case, path: Path) -> None:
    """Write a case as .npz of float16, divided by the power of two that keeps the largest value far from overflow."""
    largest = max(float(np.abs(image).max(initial=0.0)) for image in case.images.values())
    unit = 2.0 ** np.ceil(np.log2(largest / 32768)) if largest > 32768 else 1.0
    contents: dict[str, Any] = {name: (image / unit).astype(np.float16) for name, image in case.images.items()}
    contents |= {"spacing": case.spacing, "slice_axis": case.slice_axis, "axes": case.axes or "", "unit": unit}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, overwrite=True) as stream:
        np.savez_compressed(stream, **contents)


def read_case(path: Path) -> Case:
    """The case in a file. Raises InputError for one that is damaged or holds something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            unit = float(file["unit"]) if "unit" in file else 1.0
            images = {name: file[name].astype(np.float32) * np.float32(unit) for name in IMAGES if name in file}
            i, j, k = (float(s) for s in file["spacing"])
            axes = str(file["axes"]) if "axes" in file else ""
            slice_axis = int(file["slice_axis"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{display_name(path)} is no case of a study: {error}; run the study again") from error
    shapes = {image.shape for image in images.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise InputError(f"{display_name(path)} is no case of a study: its images have the shapes {sorted(shapes)}")
    return Case(images, (i, j, k), slice_axis, axes or None)
