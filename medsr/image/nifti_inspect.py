"""``inspect`` for NIfTI and MGH: everything a header, a file name and a BIDS sidecar say, and no voxel read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsr.errors import InputError
from medsr.image.files import display_name, why_no_file
from medsr.image.geometry import Geometry, slice_axis_by_spacing
from medsr.image.header import Header
from medsr.image.modality import by_header
from medsr.image.nifti_affine import Prefer
from medsr.image.nifti_header import Layout, read_layout
from medsr.image.nifti_stream import MAX_INFLATION, is_gzip
from medsr.machine import gigabytes, memory_to_hold

_MAX_SIDECAR = 16 << 20


def inspect(path: Path, *, prefer: Prefer | None = None, assume_spacing: Sequence[float] | None = None) -> Header:
    """Read what a scan's header and BIDS sidecar say; no voxels.

    path: .nii, .nii.gz, .hdr or .img (also .gz), .mgz, .mgh; NIfTI-1 and NIfTI-2; gzip is told by content. prefer:
    which of sform and qform counts when they disagree. assume_spacing: one or three numbers in mm, for a header
    without valid ones. Raises InputError for every file that cannot be trusted, saying what to do.
    """
    path = Path(path)
    _check_file(path)
    warnings: list[str] = []
    layout = read_layout(path, warnings, prefer=prefer, assume_spacing=assume_spacing)
    _check_name(path, warnings)
    _check_size(layout, path)
    return _describe(path, layout, warnings)


def stem(path: Path) -> str:
    """File name without .nii.gz, .nii, .mgz and their like."""
    name = path.name
    if name.lower().endswith(".gz"):
        name = name[:-3]
    for suffix in (".nii", ".hdr", ".img", ".mgz", ".mgh"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _check_file(path: Path) -> None:
    name = display_name(path)
    try:
        if path.is_dir():
            raise InputError(f"{name} is a folder; give one NIfTI file")
        if not path.is_file():
            raise InputError(f"{name} {why_no_file(path)}; give the path of a NIfTI file")
        if path.stat().st_size == 0:
            raise InputError(f"{name} is empty; copy or download it again")
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read ({error}); check that it is there and readable") from error


def _check_name(path: Path, warnings: list[str]) -> None:
    named = path.name.lower().endswith((".gz", ".mgz"))
    if is_gzip(path) != named:
        warnings.append("the file is " + ("not gzip, although" if named else "gzip, although not") + " named so")


def _check_size(layout: Layout, path: Path) -> None:
    """Declared size against the file and the memory, before anything is allocated."""
    name = display_name(path)
    needed = layout.offset + layout.volume_bytes * layout.volumes
    size = layout.data.stat().st_size
    if is_gzip(layout.data):
        if needed > size * MAX_INFLATION:
            raise InputError(
                f"{name} is truncated or its header is damaged: it declares {gigabytes(needed)}, "
                f"but {size} bytes of gzip cannot hold more than {gigabytes(size * MAX_INFLATION)}"
            )
    elif size < needed:
        raise InputError(
            f"{name} is truncated: {size} bytes, but its header declares {needed}; copy or download it again"
        )
    memory = memory_to_hold()
    peak = math.prod(layout.shape) * (layout.dtype.itemsize + 4)
    if peak > memory:
        raise InputError(
            f"{name}: one volume {layout.shape} needs {gigabytes(peak)} of memory to read, {gigabytes(memory)} are free"
        )


def _describe(path: Path, layout: Layout, warnings: list[str]) -> Header:
    sidecar = _sidecar(path, warnings)
    raw = layout.raw
    verdict = by_header(
        stem(path),
        sidecar,
        intent=int(raw["intent_code"]) if raw is not None else 0,
        descrip=raw["descrip"].tobytes().decode("latin-1") if raw is not None else "",
        dtype=layout.dtype.name,
    )
    geometry = Geometry(layout.shape, layout.placement.affine)
    dim_info = int(raw["dim_info"]) if raw is not None else 0
    slice_axis = _slice_axis(geometry, dim_info, warnings)
    acquisition = str(sidecar.get("MRAcquisitionType", "")).upper()
    return Header(
        path=path,
        format="mgh" if raw is None else "nifti",
        geometry=geometry,
        dtype=layout.dtype.name,
        modality=verdict.modality,
        modality_evidence=verdict.evidence,
        slice_axis=slice_axis,
        slice_thickness=_positive(sidecar.get("SliceThickness")),
        acquisition_type="2D" if acquisition == "2D" else "3D" if acquisition == "3D" else None,
        acquired=_acquired(sidecar, geometry.shape, slice_axis, dim_info),
        volumes=layout.volumes,
        foreign=verdict.foreign,
        warnings=tuple(warnings),
        extra=layout,
    )


def _slice_axis(geometry: Geometry, dim_info: int, warnings: list[str]) -> int:
    """Axis across slices: as stated; else the one that is coarser than both others by a tenth; else k."""
    spacing = geometry.spacing
    coarsest = int(np.argmax(spacing))
    others = max(s for axis, s in enumerate(spacing) if axis != coarsest)
    stated = (dim_info >> 4 & 3) - 1
    if stated >= 0:
        # Programs that reorient a scan often leave dim_info behind.
        if stated == coarsest or spacing[coarsest] < 2 * others:
            return stated
        warnings.append(f"dim_info names {'ijk'[stated]} as slice axis; used {'ijk'[coarsest]}, which is far coarser")
    return slice_axis_by_spacing(spacing)


def _sidecar(path: Path, warnings: list[str]) -> Mapping[str, Any]:
    beside = path.with_name(stem(path) + ".json")
    try:
        if not beside.is_file() or beside.stat().st_size > _MAX_SIDECAR:
            return {}
        content = json.loads(beside.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        warnings.append(f"the sidecar {display_name(beside)} cannot be read ({type(error).__name__}); ignored")
        return {}
    return content if isinstance(content, dict) else {}


def _positive(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) and value > 0 else None


def _acquired(
    sidecar: Mapping[str, Any], shape: tuple[int, int, int], slice_axis: int, dim_info: int
) -> tuple[int | None, int | None, int | None]:
    """Sampled matrix per axis, from dcm2niix's AcquisitionMatrixPE and Siemens' BaseResolution (readout)."""
    direction = str(sidecar.get("PhaseEncodingDirection", sidecar.get("PhaseEncodingAxis", "")))
    in_plane = str(sidecar.get("InPlanePhaseEncodingDirectionDICOM", ""))
    phase = "ijk".find(direction[:1]) if direction else (dim_info >> 2 & 3) - 1
    if phase < 0 and slice_axis == 2 and in_plane in ("ROW", "COL"):
        phase = 0 if in_plane == "ROW" else 1
    acquired: list[int | None] = [None, None, None]
    if phase < 0 or phase == slice_axis:
        return None, None, None
    for axis, key in ((phase, "AcquisitionMatrixPE"), (3 - phase - slice_axis, "BaseResolution")):
        sampled = _positive(sidecar.get(key))
        if sampled is not None and sampled == int(sampled) and sampled <= shape[axis]:
            acquired[axis] = int(sampled)
    return acquired[0], acquired[1], acquired[2]
