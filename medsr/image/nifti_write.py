"""``write`` for NIfTI: atomic, reproducible byte for byte, and with the fields of the source that still hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from isal import igzip
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from medsr.errors import JobError, PlanError
from medsr.image.files import atomic_write, display_name
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.nifti_affine import corner_distance
from medsr.image.nifti_header import Layout
from medsr.image.volume import Volume

MARK = "AI SR, not acquired"
QFORM_MM = 0.01  # a qform further off than this at a corner is left out: near half turns float32 cannot hold it
_SLAB = 1 << 20  # voxels that are converted and packed at a time
_ESTIMATE = 1001
_ALIGNED = 2  # form code for a grid whose place in the patient the source did not state

Stored = np.dtype[np.int16] | np.dtype[np.float32]
Mask = NDArray[np.bool_]
Store = Literal["auto", "int16", "float32"]


def write(
    path: Path,
    volume: Volume | Sequence[Volume],
    *,
    header: Header | None = None,
    mark: str = MARK,
    description: str = "",
    estimate: str = "",
    dtype: Store = "auto",
    invalid: Mask | Sequence[Mask | None] | None = None,
    overwrite: bool = False,
) -> None:
    """Write one volume, or several of one grid as 4-D, to ``path`` (.nii or .nii.gz).

    header: of the source; its units of time, TR, form codes and comments are kept. mark: what the voxels are, in
    ``descrip`` after "medsr: ", never cut. description: follows it, cut to 79 bytes in all. estimate: name of a
    derived map ("std"), marked with intent code 1001. dtype: ``auto`` writes CT as int16 HU, rounded, and MR and
    estimates as float32; CT goes to float32 too when it holds invalid voxels or exceeds int16. invalid: (I, J, K)
    True where NaN is written, one mask a volume.

    The same arguments give the same bytes. Raises PlanError when the file exists or has another suffix, JobError when
    it cannot be written, ValueError for volumes on different grids.
    """
    volumes = [volume] if isinstance(volume, Volume) else list(volume)
    masks = [invalid] * len(volumes) if invalid is None or isinstance(invalid, np.ndarray) else list(invalid)
    if not volumes or len(masks) != len(volumes):
        raise ValueError(f"{len(volumes)} volumes and {len(masks)} masks: expected at least one, and a mask for each")
    geometry = volumes[0].geometry
    if not all(v.geometry.same_grid(geometry) for v in volumes):
        raise ValueError("the volumes of one file must share their grid")
    packed = path.name.lower().endswith(".nii.gz")
    if not packed and not path.name.lower().endswith(".nii"):
        raise PlanError(f"the output {display_name(path)} ends in neither .nii nor .nii.gz; choose one of the two")
    for v in volumes:
        if not np.isfinite(v.array).all():
            raise JobError(f"{display_name(path)} was not written: the result holds NaN or Inf, a fault of medsr")
    stored = _stored_type(volumes, masks, dtype, estimate)
    layout = header.extra if header is not None and isinstance(header.extra, Layout) else None
    slice_axis = header.slice_axis if header is not None else 2
    raw = make_header(geometry, len(volumes), stored, layout, slice_axis, _description(mark, description), estimate)
    with atomic_write(path, overwrite=overwrite) as file:
        if packed:
            with igzip.IGzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as stream:
                _write_stream(stream, raw, layout, volumes, masks, stored)
        else:
            _write_stream(file, raw, layout, volumes, masks, stored)


def _stored_type(volumes: list[Volume], masks: Sequence[Mask | None], dtype: Store, estimate: str) -> Stored:
    limits = np.iinfo(np.int16)
    fits = all(m is None or not m.any() for m in masks) and all(
        v.array.min() >= limits.min - 0.5 and v.array.max() < limits.max + 0.5 for v in volumes
    )
    wanted = dtype == "int16" or (dtype == "auto" and not estimate and all(v.modality == "CT" for v in volumes))
    if dtype == "int16" and not fits:
        raise ValueError("int16 cannot hold these values, or NaN")
    return np.dtype("<i2") if wanted and fits else np.dtype("<f4")


def make_header(
    geometry: Geometry,
    volumes: int,
    stored: Stored,
    source: Layout | None,
    slice_axis: int,
    description: bytes,
    estimate: str,
) -> Nifti1Header:
    """A NIfTI-1 header for the new grid (NIfTI-2 where an axis exceeds 32767 voxels), little-endian."""
    kind = Nifti2Header if max(*geometry.shape, volumes) > np.iinfo(np.int16).max else Nifti1Header
    new = kind(endianness="<")
    new.set_data_dtype(stored)
    new.set_data_shape((*geometry.shape, volumes) if volumes > 1 else geometry.shape)
    new["pixdim"][1:4] = geometry.spacing
    new["scl_slope"], new["scl_inter"] = 1, 0
    new["xyzt_units"] = 2
    new["descrip"] = description
    if estimate:
        new["intent_code"], new["intent_name"] = _ESTIMATE, estimate.encode("ascii", "replace")[:15]
    if source is not None and source.raw is not None:
        _keep(new, source.raw, volumes, slice_axis)
    _set_forms(new, geometry, source)
    new["vox_offset"] = int(new["sizeof_hdr"]) + 4 + sum(len(e) for e in _extensions(source))
    return new


def _description(mark: str, text: str) -> bytes:
    """The mark first: the text is cut, never the mark."""
    whole = f"medsr: {mark}" + (f"; {text}" if text else "")
    return whole.encode("ascii", "replace")[:79]


def _keep(new: Nifti1Header, old: Nifti1Header, volumes: int, slice_axis: int) -> None:
    """Copy what still holds: names of axes, time, and slice timing if the slices are the same ones.

    Not kept: cal_min, cal_max and intent (they speak of other values), aux_file, and slice timing of other slices.
    """
    new["dim_info"] = old["dim_info"]
    time_unit = int(old["xyzt_units"]) & 0x38
    new["xyzt_units"] = 2 | time_unit
    new["toffset"] = old["toffset"] if np.isfinite(old["toffset"]) else 0
    step = float(old["pixdim"][4])
    new["pixdim"][4] = step if np.isfinite(step) and step > 0 and volumes > 1 else 0
    if _kind_of(old) is Nifti1Header and _kind_of(new) is Nifti1Header:
        new["db_name"] = old["db_name"]
    slices = int(new["dim"][1 + slice_axis])
    stated = (int(old["dim_info"]) >> 4 & 3) - 1
    if stated == slice_axis and slices == int(old["dim"][1 + slice_axis]):
        for field in ("slice_start", "slice_end", "slice_duration", "slice_code"):
            new[field] = old[field]


def _kind_of(header: Nifti1Header) -> type[Nifti1Header]:
    """NIfTI-2 is a subclass of NIfTI-1 in nibabel."""
    return Nifti2Header if isinstance(header, Nifti2Header) else Nifti1Header  # type: ignore[no-any-return]


def _set_forms(new: Nifti1Header, geometry: Geometry, source: Layout | None) -> None:
    """The exact affine as sform, always with a code above 0; as qform too where float32 can hold it."""
    placement = source.placement if source is not None else None
    code = placement.code if placement is not None and placement.code > 0 else _ALIGNED
    qform_code = placement.qform_code if placement is not None else _ALIGNED
    new.set_sform(geometry.affine, code)
    new.set_qform(geometry.affine, max(qform_code, 1))
    error = corner_distance(np.asarray(new.get_qform(), float), geometry.affine, geometry.shape)
    if error > QFORM_MM or qform_code <= 0:
        new["qform_code"] = 0


def _extensions(source: Layout | None) -> list[bytes]:
    """Comment extensions of the source (code 6), each padded to a multiple of 16 bytes, with size and code in front."""
    blocks = []
    for text in source.comments if source is not None else ():
        size = (8 + len(text) + 15) // 16 * 16
        blocks.append(size.to_bytes(4, "little") + (6).to_bytes(4, "little") + text.ljust(size - 8, b"\0"))
    return blocks


def _write_stream(
    stream: BinaryIO,
    raw: Nifti1Header,
    source: Layout | None,
    volumes: list[Volume],
    masks: Sequence[Mask | None],
    stored: Stored,
) -> None:
    extensions = _extensions(source)
    stream.write(raw.binaryblock)
    stream.write(b"\1\0\0\0" if extensions else b"\0\0\0\0")
    for block in extensions:
        stream.write(block)
    for volume, mask in zip(volumes, masks, strict=True):
        for slab in _slabs(volume, mask, stored):
            stream.write(slab)


def _slabs(volume: Volume, mask: Mask | None, stored: Stored) -> Iterator[memoryview]:
    """Voxels in file order (i fastest), some slices of k at a time."""
    ni, nj, nk = volume.array.shape
    depth = max(1, _SLAB // (ni * nj))
    for k in range(0, nk, depth):
        part = volume.array[:, :, k : k + depth]
        slab = np.empty(part.shape, stored, order="F")
        for j in range(nj):  # a transposition by planes is several times faster than one of the whole
            slab[:, j] = np.rint(part[:, j]) if stored.kind == "i" else part[:, j]
        if mask is not None and stored.kind == "f":
            slab[mask[:, :, k : k + depth]] = np.nan
        yield slab.reshape(-1, order="F").data.cast("B")
