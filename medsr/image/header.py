"""What a scan's file says of it before any voxel is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medsr.errors import InputError
from medsr.image.geometry import Geometry, slice_axis_by_spacing
from medsr.image.volume import Modality, Volume


@dataclass(frozen=True, eq=False)
class Header:
    """The result of ``inspect``: everything that planning needs, from headers and sidecars alone.

    modality: None when only the voxels can tell. slice_axis: 0, 1 or 2. slice_thickness in mm, None when not stated.
    acquired: matrix size that was truly acquired per axis, None where not stated.
    volumes: how many 3-D volumes the file holds. foreign: why the values are not an MR or CT image (label map, ADC
    map, phase, PET, 8-bit windowed CT), or None. warnings: one line each, for the user. extra: what the writer of the
    same format needs to keep header fields that still hold (opaque to every other module).
    """

    path: Path
    format: Literal["nifti", "mgh", "dicom"]
    geometry: Geometry
    dtype: str
    modality: Modality | None
    modality_evidence: str
    slice_axis: int
    slice_thickness: float | None = None
    acquisition_type: Literal["2D", "3D"] | None = None
    acquired: tuple[int | None, int | None, int | None] = (None, None, None)
    volumes: int = 1
    foreign: str | None = None
    warnings: tuple[str, ...] = ()
    extra: Any = field(default=None, repr=False)


def header_of(volume: Volume, *, slice_axis: int | None = None, slice_thickness: float | None = None) -> Header:
    """The header of a volume that is in no file.

    slice_axis: 0, 1 or 2; None: by the spacing. slice_thickness: in mm. Raises InputError for voxels or an axis that
    nothing can be done with.
    """
    array = volume.array
    if not np.isfinite(array).all():
        raise InputError("the volume holds NaN or Inf; fill them first")
    if array.size == 0 or float(array.min()) == float(array.max()):
        raise InputError("the volume is constant or empty; there is nothing to upscale")
    if slice_axis is None:
        slice_axis = slice_axis_by_spacing(volume.geometry.spacing)
    if slice_axis not in (0, 1, 2):
        raise InputError(f"slice_axis {slice_axis} is none of 0, 1, 2")
    return Header(
        path=Path(volume.provenance.source or "volume"),
        format="nifti",
        geometry=volume.geometry,
        dtype="float32",
        modality=volume.modality,
        modality_evidence="given by the caller",
        slice_axis=slice_axis,
        slice_thickness=slice_thickness,
    )
