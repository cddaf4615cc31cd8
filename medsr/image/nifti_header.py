"""Headers of NIfTI-1, NIfTI-2 and MGH files, field by field, to one layout of the voxels in the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from medsr.errors import InputError
from medsr.image.files import display_name
from medsr.image.nifti_affine import Placement, Prefer, affine_or_fault, check_plausible, place
from medsr.image.nifti_stream import opened, refuse_format

_NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_REFUSED_TYPES = {
    1: "binary", 32: "complex64", 128: "RGB24", 1536: "float128", 1792: "complex128", 2048: "complex256",
    2304: "RGBA32",
}  # fmt: skip
_MGH_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_MGH_DATA = 284
_UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
_COMMENT = 6  # extension code: free text; all others describe the grid or the series the file came from
_MAX_EXTENSIONS = 16 << 20


@dataclass(frozen=True, eq=False)
class Layout:
    """How the voxels lie in the file, and the header fields that a written copy may keep.

    shape: (I, J, K); values = slope * stored + inter when slope is not None. raw: nibabel's header, None for MGH.
    trailer: bytes that the format may append to the voxels.
    """

    data: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    volumes: int
    slope: float | None
    inter: float
    placement: Placement
    raw: Nifti1Header | None = None
    comments: tuple[bytes, ...] = ()
    trailer: int = 0

    @property
    def volume_bytes(self) -> int:
        """Stored size of one 3-D volume."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_layout(
    path: Path, warnings: list[str], *, prefer: Prefer | None, assume_spacing: Sequence[float] | None
) -> Layout:
    """Read the header of one file (of a pair: the .hdr or the .img) and check every field that reading relies on.

    warnings: one line is appended for each oddity that does not keep the scan from being read. Raises InputError.
    """
    header_path = partner(path, "img", "hdr")
    with opened(header_path) as stream, np.errstate(all="ignore"):
        head = stream.read(540)
        if head[:4] == b"\0\0\0\1" and len(head) >= _MGH_DATA:
            return _mgh_layout(header_path, head, warnings)
        raw = _nifti_header(header_path, head)
        return _nifti_layout(header_path, raw, head, stream, warnings, prefer, assume_spacing)


def partner(path: Path, own: str, other: str) -> Path:
    """The file that makes a pair with ``path`` when ``path`` ends in ``own`` (also .gz), else ``path`` itself."""
    lower = path.name.lower()
    packed = lower.endswith(".gz")
    if not lower.removesuffix(".gz").endswith(f".{own}"):
        return path
    base = path.name[: -len(own) - 1 - 3 * packed]
    for suffix in dict.fromkeys((f"{other}.gz" if packed else other, other, f"{other}.gz")):
        for candidate in (path.with_name(f"{base}.{suffix}"), path.with_name(f"{base}.{suffix.upper()}")):
            if candidate.is_file():
                return candidate
    name = display_name(path)
    raise InputError(f"{name} is one half of a .hdr/.img pair and its .{other} is missing; put both in one folder")


def _nifti_header(path: Path, head: bytes) -> Nifti1Header:
    """nibabel's structured header, its fields as they are in the file."""
    name = display_name(path)
    for order, mark in (("little", "<"), ("big", ">")):
        size = int.from_bytes(head[:4], "little" if mark == "<" else "big")
        if size == 348 and len(head) >= 348:
            magic = head[344:348]
            if magic not in (b"n+1\0", b"ni1\0"):
                what = (
                    "an Analyze 7.5 header, which has no orientation" if not magic.strip(b"\0") else "no NIfTI header"
                )
                raise InputError(
                    f"{name} has {what} (magic {magic!r}, expected 'n+1' or 'ni1'); convert with mri_convert"
                )
            return Nifti1Header(head[:348], endianness=mark, check=False)
        if size == 540 and len(head) >= 540:
            if head[4:12] not in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n"):
                raise InputError(f"{name} is damaged: NIfTI-2 magic {head[4:12]!r}; copy or download it again")
            return Nifti2Header(head[:540], endianness=mark, check=False)
        if size in (348, 540):
            raise InputError(f"{name} is truncated: {len(head)} bytes of a {size}-byte {order}-endian header")
    raise refuse_format(path, head)


def _nifti_layout(
    path: Path,
    raw: Nifti1Header,
    head: bytes,
    stream: BinaryIO,
    warnings: list[str],
    prefer: Prefer | None,
    assume_spacing: Sequence[float] | None,
) -> Layout:
    name = display_name(path)
    if 3000 <= int(raw["intent_code"]) < 3100:
        raise InputError(f"{name} is CIFTI, not a volume; convert with wb_command -cifti-separate")
    shape, volumes = _dimensions(raw, name)
    dtype = _stored_type(raw, name, warnings)
    slope, inter = _scaling(raw, name, warnings)
    placement = place(raw, shape, _unit(raw, warnings), name, prefer=prefer, assume_spacing=assume_spacing)
    warnings.extend(placement.warnings)
    single = b"+" in bytes(raw["magic"].tobytes())
    offset = _data_offset(raw, name, single=single)
    if not single:
        return Layout(_partner_of_header(path), offset, dtype, shape, volumes, slope, inter, placement, raw)
    comments = _comments(raw, head, stream, offset)
    return Layout(path, offset, dtype, shape, volumes, slope, inter, placement, raw, comments)


def _partner_of_header(path: Path) -> Path:
    image = partner(path, "hdr", "img")
    if image == path:
        raise InputError(f"{display_name(path)} says that its voxels are in an .img file, but it is not named .hdr")
    return image


def _dimensions(raw: Nifti1Header, name: str) -> tuple[tuple[int, int, int], int]:
    dim = [int(n) for n in raw["dim"]]
    if not 1 <= dim[0] <= 7:
        raise InputError(f"{name} declares {dim[0]} dimensions; expected 3 or 4. The header is damaged")
    sizes = dim[1 : dim[0] + 1]
    if min(sizes) < 1:
        raise InputError(f"{name} declares dimensions {tuple(sizes)}; expected positive ones. The header is damaged")
    sizes += [1] * (3 - len(sizes))
    if sizes[0] * sizes[1] * sizes[2] == max(sizes[:3]):
        raise InputError(f"{name} is a single line of voxels {tuple(sizes)}; medsr needs an image of at least 2 axes")
    return (sizes[0], sizes[1], sizes[2]), math.prod(sizes[3:])


def _stored_type(raw: Nifti1Header, name: str, warnings: list[str]) -> np.dtype[Any]:
    code = int(raw["datatype"])
    if code in _REFUSED_TYPES:
        raise InputError(f"{name} holds {_REFUSED_TYPES[code]} voxels; medsr reads one real number a voxel")
    if code not in _NIFTI_TYPES:
        raise InputError(f"{name} declares the unknown data type {code}; the header is damaged")
    dtype: np.dtype[Any] = np.dtype(raw.endianness + _NIFTI_TYPES[code])
    if int(raw["bitpix"]) != 8 * dtype.itemsize:
        warnings.append(f"bitpix {int(raw['bitpix'])} contradicts the data type {dtype.name}; used the type")
    return dtype


def _scaling(raw: Nifti1Header, name: str, warnings: list[str]) -> tuple[float | None, float]:
    slope, inter = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0:
        return None, 0.0
    if not math.isfinite(slope):
        # nibabel itself writes NaN, NaN for "not scaled": nothing to warn of.
        if not (math.isnan(slope) and math.isnan(inter)):
            warnings.append(f"scl_slope is {slope}; voxels are taken as stored")
        return None, 0.0
    if not math.isfinite(inter):
        raise InputError(f"{name}: scl_inter is {inter} beside a slope of {slope:g}; the intensities are unknown")
    return (None, 0.0) if (slope, inter) == (1.0, 0.0) else (slope, inter)


def _unit(raw: Nifti1Header, warnings: list[str]) -> float:
    code = int(raw["xyzt_units"]) & 7
    if code not in _UNIT_MM:
        warnings.append(f"spatial unit code {code} is unknown; taken as mm")
    elif _UNIT_MM[code] != 1:
        warnings.append(f"lengths are in {'metres' if code == 1 else 'micrometres'}; converted to mm")
    return _UNIT_MM.get(code, 1.0)


def _data_offset(raw: Nifti1Header, name: str, *, single: bool) -> int:
    offset, least = float(raw["vox_offset"]), 0
    if single:
        least = 544 if int(raw["sizeof_hdr"]) == 540 else 352
    if not math.isfinite(offset) or offset < least or offset != int(offset):
        raise InputError(
            f"{name}: vox_offset is {offset:g}; expected a whole number from {least} up. The voxels cannot be found"
        )
    return int(offset)


def _comments(raw: Nifti1Header, head: bytes, stream: BinaryIO, offset: int) -> tuple[bytes, ...]:
    """The text of comment extensions."""
    start = int(raw["sizeof_hdr"]) + 4
    if offset - start < 16 or offset > _MAX_EXTENSIONS:
        return ()
    block = (head + stream.read(max(0, offset - len(head))))[start - 4 : offset]
    if not block or block[0] == 0:
        return ()
    order: Literal["little", "big"] = "little" if raw.endianness == "<" else "big"
    found, at = [], 4
    while at + 8 <= len(block):
        size, code = (int.from_bytes(block[at + n : at + n + 4], order) for n in (0, 4))
        if size < 16 or at + size > len(block):
            break
        if code == _COMMENT:
            found.append(block[at + 8 : at + size].rstrip(b"\0"))
        at += size
    return tuple(found)


def _mgh_layout(path: Path, head: bytes, warnings: list[str]) -> Layout:
    name = display_name(path)
    raw = MGHHeader(head[:_MGH_DATA], check=False)
    dims = [int(n) for n in raw["dims"]]
    if min(dims) < 1:
        raise InputError(f"{name} declares dimensions {tuple(dims)}; expected positive ones. The header is damaged")
    code = int(raw["type"])
    if code not in _MGH_TYPES:
        raise InputError(f"{name} holds MGH voxel type {code}; medsr reads types {sorted(_MGH_TYPES)}")
    if not int.from_bytes(head[28:30], "big"):
        warnings.append("the MGH file does not say how the voxels lie in the patient; FreeSurfer's default is used")
    with np.errstate(all="ignore"):
        affine = np.asarray(raw.get_affine(), float)
    placement = Placement(_checked_mgh(affine, name), "mgh", 1, 1)
    shape = (dims[0], dims[1], dims[2])
    # After the voxels come TR, angle, TE, TI and tags of no fixed length.
    return Layout(path, _MGH_DATA, np.dtype(_MGH_TYPES[code]), shape, dims[3], None, 0.0, placement, trailer=16 << 20)


def _checked_mgh(affine: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    checked, fault = affine_or_fault(affine)
    if checked is None:
        raise InputError(f"{name}: the affine {fault}; expected rectangular voxels. Correct it with mri_convert")
    check_plausible(checked, name)
    return checked
